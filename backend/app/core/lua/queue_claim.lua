--[[
queue_claim: give a worker the conversations that are due, each under a lease and a new fencing token; the groups in turn.

KEYS[1]  prefix of the shard's keys, carrying its hash tag
ARGV     1 most conversations to claim, and to reap · 2 lease ms · 3 most events to show of each · 4 most attempts
         5 block ms · 6 most dead letters · 7 most bytes of them
         8 server time in ms after which the caller does not wait for this reply any more, 0 unknown
         9 a number that grows with each call: whose turn it is · 10 most conversations of any group
         11… pairs: a group, and the most conversations of it, where that is fewer
Returns  {now ms, ms until the next conversation of a group that is not at its most is due (-1: none), leases reaped,
          {id of a head's dead letter, …}, {mailbox, token, failed attempts, {entry, …}}, …}

Invariant  see queue_put, queue_dead. A token is higher than every earlier one, also after the counter was lost: it starts at the time in µs.
           The first write frees memory (ZREM…), which a server at `maxmemory` allows, and the rest of the script with it:
           a full queue can still be worked off.
Steps
  1 too late (the server was frozen and the caller gave up): claim nothing, so that no lease is left without a holder
  2 reap: a lease that ran out cost the head one attempt, noted in `h:<mailbox>`. At the most: park the head, with the
    last five failures. What is left is due since its lease was last extended. The old token dies
  3 the groups that have something due, at most 64, the longest due first; of each, how much it could be given: one, if
    there are enough of them
  4 shares: the same for each group, what the small ones leave for the others, the odd ones from the group whose turn it is
  5 of each group its share, the longest due first: out of the schedule, into `lease`, peek at the events; only one if the
    head failed before, so that a poisonous one is found alone. The burst, if one was running, ends here
  6 more is due soon than this worker had room for: wake another one, unless this one took nothing: workers without room
    would wake each other in a circle. Otherwise old wake tokens have nothing to say
]]
local prefix, limit, lease_ms, peek = KEYS[1], tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local max_attempts, block, max_dead, max_bytes = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7])
local latest, turn, per_group, max_groups, room, at_most = tonumber(ARGV[8]), tonumber(ARGV[9]), tonumber(ARGV[10]), 64, {}, 0
local groups, lease, heads, first = prefix .. "groups", prefix .. "lease", prefix .. "heads", prefix .. "first"
local own, att, wake = prefix .. "own", prefix .. "att", prefix .. "wake"
local time = redis.call("TIME")
local now = time[1] * 1000 + math.floor(time[2] / 1000)
if latest > 0 and now > latest then return {now, 0, 0, {}} end
for i = 11, #ARGV, 2 do
  room[ARGV[i]] = tonumber(ARGV[i + 1])
  if room[ARGV[i]] == 0 then at_most = at_most + 1 end
end

local function count_off(hash, field, amount)
  if redis.call("HINCRBY", prefix .. hash, field, -amount) <= 0 then redis.call("HDEL", prefix .. hash, field) end
end

local parked = {}
local function fail_head(box, list)
  local reason, history = "no verdict: the worker died or its lease ran out", prefix .. "h:" .. box
  local attempts = redis.call("HINCRBY", att, box, 1)
  redis.call("RPUSH", history, string.format("%013.0f", now) .. reason)
  redis.call("LTRIM", history, -5, -1)
  if attempts < max_attempts then return end
  local fields = {}
  for i, text in ipairs(redis.call("LRANGE", history, 0, -1)) do
    fields[2 * i - 1], fields[2 * i] = "failure" .. i, text
  end
  local entry, group = redis.call("LPOP", list), string.match(box, "^(.*):") or ""
  parked[#parked + 1] = bury(prefix, max_dead, max_bytes, {"mailbox", box, "entry", entry,
    "reason", reason, "attempts", attempts, unpack(fields)})
  redis.call("HDEL", att, box)
  redis.call("DEL", history)
  take_depth(prefix, 1)
  count_off("held", "events:" .. group, 1)
  count_off("held", "bytes:" .. group, #entry)
  count_off("held", "bytes", #entry)
  count_off("weight", box, #entry)
  local head = redis.call("LINDEX", list, 0)
  if head then redis.call("ZADD", heads, tonumber(string.sub(head, 1, 13)), box) end
end

local expired = redis.call("ZRANGEBYSCORE", lease, "-inf", now, "WITHSCORES", "LIMIT", 0, limit)
for i = 1, #expired, 2 do
  local box, list = expired[i], prefix .. "m:" .. expired[i]
  redis.call("ZREM", lease, box)
  redis.call("HDEL", own, box)
  redis.call("HDEL", first, box)
  if redis.call("EXISTS", list) == 1 then fail_head(box, list) end
  if redis.call("EXISTS", list) == 1 then
    local group, due = string.match(box, "^(.*):") or "", expired[i + 1] - lease_ms
    redis.call("ZADD", prefix .. "r:" .. group, due, box)
    redis.call("ZADD", groups, "LT", due, group)
  else
    redis.call("ZREM", heads, box)
  end
end

local looked_at = {}
for _, group in ipairs(redis.call("ZRANGEBYSCORE", groups, "-inf", now, "LIMIT", 0, max_groups + at_most)) do
  if room[group] ~= 0 and #looked_at < max_groups then
    looked_at[#looked_at + 1] = {name = group, wants = 1, share = 0}
  end
end
local chosen, left = {}, limit
for i = 1, #looked_at do
  local group = looked_at[(turn + i) % #looked_at + 1]
  if #looked_at < limit then
    -- Never none: a group that is in `groups` by damage would otherwise stay there, due for ever.
    local ready = math.max(1, redis.call("ZCOUNT", prefix .. "r:" .. group.name, "-inf", now))
    group.wants = math.min(ready, room[group.name] or per_group)
  end
  chosen[i] = group
end
local hungry = chosen
while left > 0 and #hungry > 0 do
  local each, still_hungry = math.max(1, math.floor(left / #hungry)), {}
  for _, group in ipairs(hungry) do
    local more = math.min(each, group.wants - group.share, left)
    group.share, left = group.share + more, left - more
    if group.share < group.wants then still_hungry[#still_hungry + 1] = group end
  end
  hungry = still_hungry
end

local due, behind, emptied = {}, {}, {}
for _, group in ipairs(chosen) do
  local name, share = group.name, group.share
  if share > 0 then
    local ready = prefix .. "r:" .. name
    local front = redis.call("ZRANGE", ready, 0, share, "WITHSCORES")
    redis.call("ZREMRANGEBYRANK", ready, 0, share - 1)
    for i = 1, 2 * share, 2 do
      due[#due + 1] = front[i]
    end
    if front[2 * share + 1] then
      behind[#behind + 1], behind[#behind + 2] = front[2 * share + 2], name
    else
      emptied[#emptied + 1] = name
    end
    room[name] = (room[name] or per_group) - share
    if room[name] == 0 then at_most = at_most + 1 end
  end
end
if #emptied > 0 then redis.call("ZREM", groups, unpack(emptied)) end
if #behind > 0 then redis.call("ZADD", groups, unpack(behind)) end

local reply = {now, -1, #expired / 2, parked}
if #due > 0 then
  redis.call("HDEL", first, unpack(due))
  redis.call("HDEL", prefix .. "wait", unpack(due))
  local failed = redis.call("HMGET", att, unpack(due))
  local token = math.max(tonumber(redis.call("GET", prefix .. "tok") or 0) + 1, time[1] * 1000000 + time[2])
  local leases, owners = {}, {}
  for i, box in ipairs(due) do
    local entries = redis.call("LRANGE", prefix .. "m:" .. box, 0, failed[i] and 0 or peek - 1)
    if #entries > 0 then
      leases[#leases + 1], leases[#leases + 2] = now + lease_ms, box
      owners[#owners + 1], owners[#owners + 2] = box, string.format("%.0f", token)
      reply[#reply + 1] = {box, token, tonumber(failed[i] or 0), entries}
      token = token + 1
    end
  end
  if #leases > 0 then
    redis.call("ZADD", lease, unpack(leases))
    redis.call("HSET", own, unpack(owners))
    redis.call("SET", prefix .. "tok", string.format("%.0f", token - 1))
  end
end

local next_due, no_room = math.huge, math.huge
local waiting = redis.call("ZRANGE", groups, 0, at_most, "WITHSCORES")
for i = 1, #waiting, 2 do
  local at = tonumber(waiting[i + 1])
  if room[waiting[i]] == 0 then
    no_room = math.min(no_room, at)
  else
    next_due = math.min(next_due, at)
  end
end
if #due == limit then no_room = math.min(no_room, next_due) end
if no_room > now + block then
  redis.call("DEL", wake)
elseif #due > 0 then
  redis.call("RPUSH", wake, 1)
  redis.call("LTRIM", wake, -16, -1)
end
next_due = math.min(next_due, tonumber(redis.call("ZRANGE", lease, 0, 0, "WITHSCORES")[2] or math.huge))
if next_due < math.huge then reply[2] = math.max(0, next_due - now) end
return reply
