--[[
queue_wake: make what a group put off due now: what it waited for is back.

KEYS[1]  prefix of the shard's keys, carrying its hash tag
ARGV     1 group · 2 how many of its later mailboxes to pass over: those that an earlier call left alone
         3 most mailboxes to look at
Returns  {mailboxes made due, mailboxes left alone}; together fewer than ARGV[3]: there are no more

Invariant  see queue_put. A time in the schedule only moves forward to now, never back; leases, bursts and failed attempts
           are not touched. The groups' turns are: a group with ten thousand mailboxes due delays no other one.
Steps
  1 the group's mailboxes that are due later than now, the earliest first
  2 left alone: the head has failed for reasons of its own and is in back-off; a burst is being debounced
  3 the others are due now; the group's earliest time is corrected; a worker is woken
]]
local prefix, group, limit = KEYS[1], ARGV[1], tonumber(ARGV[3])
local ready = prefix .. "r:" .. group
local time = redis.call("TIME")
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local later = redis.call("ZRANGEBYSCORE", ready, "(" .. string.format("%.0f", now), "+inf", "LIMIT", ARGV[2], limit)
if #later == 0 then return {0, 0} end
local failed = redis.call("HMGET", prefix .. "att", unpack(later))
local bursts = redis.call("HMGET", prefix .. "first", unpack(later))
local due = {}
for i, box in ipairs(later) do
  if not failed[i] and not bursts[i] then
    due[#due + 1], due[#due + 2] = now, box
  end
end
if #due > 0 then
  redis.call("ZADD", ready, "XX", unpack(due))
  local head = redis.call("ZRANGE", ready, 0, 0, "WITHSCORES")
  redis.call("ZADD", prefix .. "groups", head[2], group)
  redis.call("RPUSH", prefix .. "wake", 1)
  redis.call("LTRIM", prefix .. "wake", -16, -1)
end
return {#due / 2, #later - #due / 2}
