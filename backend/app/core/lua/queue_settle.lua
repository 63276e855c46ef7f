--[[
queue_settle: end claims: done, park, retry, defer. Several verdicts share one call; each stands alone.

KEYS[1]  prefix of the shard's keys, carrying its hash tag
ARGV     1 most attempts · 2 block ms · 3 most dead letters · 4 most bytes of them
         5… five for each claim: mailbox, token, verb, number, reason
           done  number events are finished        park   number events go to the dead letters
           retry the attempt failed; again in number ms     defer  not the event's fault; again in number ms
Returns  for each claim: 0 the token is no longer valid, nothing happened · 1 carried out · 2 retry parked the head instead

Invariant  see queue_put, queue_dead. The first write frees memory (ZREM), see queue_claim.
Steps
  1 another token, none, or the same one a second time: 0
  2 the leases end, the tokens die
  3 retry: one more failed attempt of the head, noted in `h:<mailbox>`; at the most it becomes: park one
  4 done and park: copy to the dead letters if parked, each with the last five failures, this one included; trim off the
    front, the new head has no failed attempt
  5 events left: back into the schedule. After retry and defer at their time; after done and park when the burst that
    arrived meanwhile is over, now if there is none. Wake a worker if that is before the next one looks
]]
local prefix, max_attempts, block, max_dead, max_bytes = KEYS[1], tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local groups, lease, heads, first = prefix .. "groups", prefix .. "lease", prefix .. "heads", prefix .. "first"
local own, att, held, weight = prefix .. "own", prefix .. "att", prefix .. "held", prefix .. "weight"
local time = redis.call("TIME")
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local soonest, trimmed, replies, changed, emptied, freed = math.huge, 0, {}, {}, {}, {}

local function make_ready(box, due)
  local group = string.match(box, "^(.*):") or ""
  redis.call("ZADD", prefix .. "r:" .. group, due, box)
  changed[group] = true
  soonest = math.min(soonest, due)
end

local function failure(reason)
  return string.format("%013.0f", now) .. string.sub(reason, 1, 200)
end

local function park(box, list, n, attempts, reason)
  local failures = redis.call("LRANGE", prefix .. "h:" .. box, -4, -1)
  failures[#failures + 1] = failure(reason)
  local fields = {}
  for i, text in ipairs(failures) do
    fields[2 * i - 1], fields[2 * i] = "failure" .. i, text
  end
  for _, entry in ipairs(redis.call("LRANGE", list, 0, n - 1)) do
    bury(prefix, max_dead, max_bytes, {"mailbox", box, "entry", entry, "reason", reason, "attempts", attempts, unpack(fields)})
  end
end

-- How many bytes left the mailbox; its group's part is counted off at the end, once.
local function take_off(box, list, n)
  local gone, bytes = redis.call("LPOP", list, n) or {}, 0
  for _, entry in ipairs(gone) do
    bytes = bytes + #entry
  end
  local group = string.match(box, "^(.*):") or ""
  local sum = freed[group] or {0, 0}
  freed[group], trimmed = {sum[1] + #gone, sum[2] + bytes}, trimmed + #gone
  return bytes
end

local function trim(box, list, n, failed)
  local bytes = take_off(box, list, n)
  if failed > 0 then
    redis.call("HDEL", att, box)
    redis.call("DEL", prefix .. "h:" .. box)
  end
  local head = redis.call("LINDEX", list, 0)
  if head then
    redis.call("HINCRBY", weight, box, -bytes)
    redis.call("ZADD", heads, tonumber(string.sub(head, 1, 13)), box)
    local burst = redis.call("HGET", first, box)
    local start, due = string.match(burst or "", "^(%d+):(%d+)$")
    -- A burst from the future began while the clock was ahead: it is over.
    make_ready(box, start and tonumber(start) <= now and tonumber(due) or now)
  else
    emptied[#emptied + 1] = box
  end
end

local function settle(box, verb, number, reason, failed)
  local list = prefix .. "m:" .. box
  if verb == "retry" and failed + 1 >= max_attempts then
    park(box, list, 1, failed + 1, reason)
    trim(box, list, 1, failed)
    return 2
  elseif verb == "retry" then
    redis.call("HINCRBY", att, box, 1)
    redis.call("RPUSH", prefix .. "h:" .. box, failure(reason))
    redis.call("LTRIM", prefix .. "h:" .. box, -5, -1)
  elseif verb == "park" then
    park(box, list, number, failed + 1, reason)
  end
  if verb == "done" or verb == "park" then
    trim(box, list, number, failed)
  else
    redis.call("HDEL", first, box)
    redis.call("HSET", prefix .. "wait", box, number)
    make_ready(box, now + number)
  end
  return 1
end

local boxes, ended, ends = {}, {}, {}
for i = 5, #ARGV, 5 do
  boxes[#boxes + 1] = ARGV[i]
end
local failed = redis.call("HMGET", att, unpack(boxes))
for i, owner in ipairs(redis.call("HMGET", own, unpack(boxes))) do
  if owner == ARGV[5 * i + 1] and not ends[boxes[i]] then
    ended[#ended + 1], ends[boxes[i]] = boxes[i], i
  end
end
if #ended > 0 then
  redis.call("ZREM", lease, unpack(ended))
  redis.call("HDEL", own, unpack(ended))
end
for i, box in ipairs(boxes) do
  local verb, number, reason = unpack(ARGV, 5 * i + 2, 5 * i + 4)
  replies[i] = ends[box] == i and settle(box, verb, tonumber(number), reason, tonumber(failed[i] or 0)) or 0
end
if #emptied > 0 then
  redis.call("ZREM", heads, unpack(emptied))
  redis.call("HDEL", first, unpack(emptied))
  redis.call("HDEL", weight, unpack(emptied))
end
for group in pairs(changed) do
  local head = redis.call("ZRANGE", prefix .. "r:" .. group, 0, 0, "WITHSCORES")
  redis.call("ZADD", groups, head[2], group)
end
local function count_off(field, amount)
  if redis.call("HINCRBY", held, field, -amount) <= 0 then redis.call("HDEL", held, field) end
end

for group, sum in pairs(freed) do
  count_off("events:" .. group, sum[1])
  count_off("bytes:" .. group, sum[2])
  count_off("bytes", sum[2])
end
if trimmed > 0 then take_depth(prefix, trimmed) end
if soonest - now <= block then
  redis.call("RPUSH", prefix .. "wake", 1)
  redis.call("LTRIM", prefix .. "wake", -16, -1)
end
return replies
