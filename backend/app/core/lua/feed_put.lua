--[[
feed_put: what happened in a topic, for its readers on every replica.

KEYS[1]  the topic's stream
ARGV     1 channel · 2 topic · 3 most entries to keep · 4… pairs: event, data; or nothing: something was lost
Returns  how many were told; 0 without readers

Without pairs the stream begins anew: every reader, also one that comes back with an old id, is told to load all again.

Invariant  what is published is in the stream, and a stream that does not exist is never made.
]]
local stream, channel, topic = KEYS[1], ARGV[1], ARGV[2]
if redis.call("EXISTS", stream) == 0 then return 0 end
if #ARGV == 3 then
  local left = redis.call("PTTL", stream)
  redis.call("DEL", stream)
  local id = redis.call("XADD", stream, "*", "e", "", "d", "")
  redis.call("PEXPIRE", stream, left)
  redis.call("PUBLISH", channel, topic .. "|" .. id .. "||")
  return 1
end
for i = 4, #ARGV, 2 do
  local id = redis.call("XADD", stream, "MAXLEN", "~", ARGV[3], "*", "e", ARGV[i], "d", ARGV[i + 1])
  redis.call("PUBLISH", channel, topic .. "|" .. id .. "|" .. ARGV[i] .. "|" .. ARGV[i + 1])
end
return (#ARGV - 3) / 2
