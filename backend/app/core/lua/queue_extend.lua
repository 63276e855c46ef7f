--[[
queue_extend: renew the leases that are still held.

KEYS[1]  prefix of the shard's keys, carrying its hash tag
ARGV     1 lease ms · 2… pairs of mailbox and token
Returns  for each pair 1 renewed, 0 lost

Invariant  see queue_put. The first write frees memory (ZREM), see queue_claim: a full server must not cost leases.
Steps
  1 compare every token with the owner's
  2 renew those that match; a lease that ran out but was not reaped yet is still its owner's
]]
local lease, now_held, scores, replies = KEYS[1] .. "lease", {}, {}, {}
local boxes = {}
for i = 2, #ARGV, 2 do
  boxes[#boxes + 1] = ARGV[i]
end
local time = redis.call("TIME")
local ends = time[1] * 1000 + math.floor(time[2] / 1000) + tonumber(ARGV[1])
for i, owner in ipairs(redis.call("HMGET", KEYS[1] .. "own", unpack(boxes))) do
  local held = owner == ARGV[2 * i + 1]
  replies[i] = held and 1 or 0
  if held then
    now_held[#now_held + 1] = boxes[i]
    scores[#scores + 1] = ends
    scores[#scores + 1] = boxes[i]
  end
end
if #now_held > 0 then
  redis.call("ZREM", lease, unpack(now_held))
  redis.call("ZADD", lease, unpack(scores))
end
return replies
