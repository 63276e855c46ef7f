--[[
queue_audit: find what no script would mend by itself: mailboxes that no worker would ever be given, times that a clock
which was ahead has left, a wrong count.

KEYS[1]  prefix of the shard's keys, carrying its hash tag
ARGV     1 how many mailboxes to pass over, those with the oldest heads first · 2 how many to look at · 3 lease ms
         4 the longest lease ms that any replica may use · 5 the longest ms of a debounce
Returns  {mailboxes looked at, put back into the schedule or groups corrected, times pulled back, events by which `depth` was wrong}

Invariant  see queue_put; this repairs it. The scripts keep it by themselves, so that a repair is a bug or a damaged data set;
           a time that is pulled back was written while the clock was ahead, and the clock has been put back since.
Rules      a retry is due at most what it was put off by (`wait`) from now, anything else at most a debounce from now, and a
           lease ends at most the longest lease from now: times were written at `now` or before. (A retry that an earlier
           version put off has no `wait`: it comes early.)
Steps
  1 the mailboxes asked for, and where each one is
  2 neither waiting nor in `lease`: due now if it has events, forgotten if not
  3 in one of them, with a time further ahead than the rule allows: as late as the rule allows; without `wait`, now
  4 a group of theirs that is not in `groups` with the earliest of its times: put it there
  5 these were all: count `depth`, `held` and `weight` anew. A replica of an older version that works beside this one does
    not count by group and by bytes, and what it leaves would take room away for ever
]]
local prefix, from, most = KEYS[1], tonumber(ARGV[1]), tonumber(ARGV[2])
local lease_ms, longest_lease, debounce = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local repaired, pulled, wrong, seen, moved = 0, 0, 0, {}, {}
local time = redis.call("TIME")
local now = time[1] * 1000 + math.floor(time[2] / 1000)

local function count_anew(boxes)
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
  wrong = math.abs(depth - tonumber(redis.call("GET", prefix .. "depth") or 0))
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

local function put_back(box, group)
  if redis.call("EXISTS", prefix .. "m:" .. box) == 1 then
    redis.call("ZADD", prefix .. "r:" .. group, now, box)
    redis.call("ZADD", prefix .. "groups", "LT", now, group)
    repaired = repaired + 1
  else
    redis.call("ZREM", prefix .. "heads", box)
  end
end

local function pull(key, box, at, group)
  redis.call("ZADD", key, at, box)
  pulled, moved[group] = pulled + 1, true
end

local function look(box, leased, wait)
  local group = string.match(box, "^(.*):") or ""
  local ready = prefix .. "r:" .. group
  local due = not leased and redis.call("ZSCORE", ready, box)
  seen[group] = true
  if leased then
    if tonumber(leased) > now + longest_lease then pull(prefix .. "lease", box, now + lease_ms, group) end
  elseif not due then
    put_back(box, group)
  elseif wait and tonumber(due) > now + tonumber(wait) then
    pull(ready, box, now + tonumber(wait), group)
  elseif not wait and tonumber(due) > now + debounce then
    pull(ready, box, now, group)
  end
end

local boxes = redis.call("ZRANGE", prefix .. "heads", from, from + most - 1)
if #boxes > 0 then
  local leased = redis.call("ZMSCORE", prefix .. "lease", unpack(boxes))
  local waits = redis.call("HMGET", prefix .. "wait", unpack(boxes))
  for i, box in ipairs(boxes) do
    look(box, leased[i], waits[i])
  end
end
for group in pairs(seen) do
  local head = redis.call("ZRANGE", prefix .. "r:" .. group, 0, 0, "WITHSCORES")
  if head[1] and redis.call("ZSCORE", prefix .. "groups", group) ~= head[2] then
    redis.call("ZADD", prefix .. "groups", head[2], group)
    if not moved[group] then repaired = repaired + 1 end
  end
end
if from == 0 and #boxes < most then count_anew(boxes) end
return {#boxes, repaired, pulled, wrong}
