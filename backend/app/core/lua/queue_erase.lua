--[[
queue_erase: forget mailboxes whole, also those that a worker holds, and ids of events seen.

KEYS[1]  prefix of the shard's keys, carrying its hash tag
ARGV     1 server time in ms from which on the caller does not wait for this reply any more, 0 unknown
         2 how many mailboxes · 3… their names, then ids of events
Returns  {now ms, claims that were broken, ids seen that are forgotten, {the id of each event that is gone, …}}
         {now ms} alone: too late, see queue_put

Invariant  see queue_put, queue_dead. The first write frees memory (ZREM), see queue_claim.
Steps
  0 too late: forget nothing. The caller has been told that this failed, and what the person has written since would go
then, for each mailbox
  1 its lease ends, its token dies: what its holder says from now on changes nothing
  2 its events go, with the marks of their ids; depth, held and weight are counted off
  3 its place in the schedule goes, and its group's if that was the last
then the marks of the ids.
]]
local prefix, boxes = KEYS[1], tonumber(ARGV[2])
local time = redis.call("TIME")
local now = time[1] * 1000 + math.floor(time[2] / 1000)
if now >= tonumber(ARGV[1]) then return {now} end
local broken, forgotten, gone = 0, 0, {}

local function count_off(field, amount)
  if redis.call("HINCRBY", prefix .. "held", field, -amount) <= 0 then redis.call("HDEL", prefix .. "held", field) end
end

-- An entry is 13 digits, a flag, the length of the id in four bytes, the id, the payload (core/queue/events.py).
local function id_of(entry)
  local a, b, c, d = string.byte(entry, 15, 18)
  return string.sub(entry, 19, 18 + ((a * 256 + b) * 256 + c) * 256 + d)
end

local function empty(box)
  local list, group, bytes = prefix .. "m:" .. box, string.match(box, "^(.*):") or "", 0
  local entries = redis.call("LRANGE", list, 0, -1)
  if #entries == 0 then return end
  for _, entry in ipairs(entries) do
    bytes, gone[#gone + 1] = bytes + #entry, id_of(entry)
    forgotten = forgotten + redis.call("DEL", prefix .. "d:" .. id_of(entry))
  end
  redis.call("DEL", list)
  take_depth(prefix, #entries)
  count_off("events:" .. group, #entries)
  count_off("bytes:" .. group, bytes)
  count_off("bytes", bytes)
end

local function leave_schedule(box)
  local group = string.match(box, "^(.*):") or ""
  if redis.call("ZREM", prefix .. "r:" .. group, box) == 0 then return end
  local head = redis.call("ZRANGE", prefix .. "r:" .. group, 0, 0, "WITHSCORES")
  if head[1] then
    redis.call("ZADD", prefix .. "groups", head[2], group)
  else
    redis.call("ZREM", prefix .. "groups", group)
  end
end

for i = 3, boxes + 2 do
  local box = ARGV[i]
  broken = broken + redis.call("ZREM", prefix .. "lease", box)
  for _, hash in ipairs({"own", "first", "wait", "att", "weight"}) do redis.call("HDEL", prefix .. hash, box) end
  redis.call("ZREM", prefix .. "heads", box)
  redis.call("DEL", prefix .. "h:" .. box)
  leave_schedule(box)
  empty(box)
end
for i = boxes + 3, #ARGV do
  forgotten = forgotten + redis.call("DEL", prefix .. "d:" .. ARGV[i])
end
return {now, broken, forgotten, gone}
