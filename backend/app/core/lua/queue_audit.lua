--[[
queue_audit: find mailboxes with events that no worker would ever be given, and make them due.

KEYS[1]  prefix of the shard's keys, carrying its hash tag
ARGV     1 most mailboxes to look at; those with the oldest heads, where a forgotten one ends up
Returns  how many mailboxes were made due again, and groups corrected

Invariant  see queue_put; this repairs it. The scripts keep it by themselves, so every repair is a bug or a damaged data set.
Steps
  1 the mailboxes with the oldest heads, and where each one is
  2 neither waiting nor in `lease`: due now if it has events, forgotten if not
  3 a group of theirs that is not in `groups` with the earliest of its times: put it there
  4 these were all mailboxes: count anew. A replica of an older version that works beside this one does not count by group
    and by bytes, and what it leaves would take room away for ever
]]
local prefix, repaired, seen = KEYS[1], 0, {}
local boxes = redis.call("ZRANGE", prefix .. "heads", 0, ARGV[1] - 1)
local function count_anew()
  local depth, sums, weights = 0, {}, {}
  local known = #boxes > 0 and redis.call("HMGET", prefix .. "weight", unpack(boxes)) or {}
  for i, box in ipairs(boxes) do
    local length, bytes = redis.call("LLEN", prefix .. "m:" .. box), tonumber(known[i] or 0)
    if length > 0 then
      local group = string.match(box, "^(.*):") or ""
      local sum = sums[group] or {0, 0}
      depth, sums[group] = depth + length, {sum[1] + length, sum[2] + bytes}
      if bytes > 0 then weights[#weights + 1], weights[#weights + 2] = box, bytes end
    end
  end
  redis.call("DEL", prefix .. "weight", prefix .. "held", prefix .. "depth")
  if depth > 0 then redis.call("SET", prefix .. "depth", depth) end
  if #weights > 0 then redis.call("HSET", prefix .. "weight", unpack(weights)) end
  for group, sum in pairs(sums) do
    redis.call("HINCRBY", prefix .. "held", "events:" .. group, sum[1])
    if sum[2] > 0 then
      redis.call("HINCRBY", prefix .. "held", "bytes:" .. group, sum[2])
      redis.call("HINCRBY", prefix .. "held", "bytes", sum[2])
    end
  end
end

if #boxes < tonumber(ARGV[1]) then count_anew() end
if #boxes == 0 then return 0 end
local time = redis.call("TIME")
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local leased = redis.call("ZMSCORE", prefix .. "lease", unpack(boxes))
for i, box in ipairs(boxes) do
  local group = string.match(box, "^(.*):") or ""
  seen[group] = true
  if not leased[i] and not redis.call("ZSCORE", prefix .. "r:" .. group, box) then
    if redis.call("EXISTS", prefix .. "m:" .. box) == 1 then
      redis.call("ZADD", prefix .. "r:" .. group, now, box)
      redis.call("ZADD", prefix .. "groups", "LT", now, group)
      repaired = repaired + 1
    else
      redis.call("ZREM", prefix .. "heads", box)
    end
  end
end
for group in pairs(seen) do
  local head = redis.call("ZRANGE", prefix .. "r:" .. group, 0, 0, "WITHSCORES")
  if head[1] and redis.call("ZSCORE", prefix .. "groups", group) ~= head[2] then
    redis.call("ZADD", prefix .. "groups", head[2], group)
    repaired = repaired + 1
  end
end
return repaired
