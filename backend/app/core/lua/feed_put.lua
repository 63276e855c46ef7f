--[[
feed_put: what happened in some topics, for their readers on every replica.

KEYS     the topics' streams; on a Cluster one
ARGV     1 channel · 2 most entries to keep · then for each stream: topic, how many pairs, the pairs: event, data; without
         pairs something was lost
Returns  for each stream how many were told; 0 without readers

Without pairs the stream begins anew: every reader, also one that comes back with an old id, is told to load all again.

Invariant  what is published is in the stream, and a stream that does not exist is never made.
]]
local channel, most, at, told = ARGV[1], ARGV[2], 3, {}
for n, stream in ipairs(KEYS) do
  local topic, pairs_end = ARGV[at], at + 1 + 2 * ARGV[at + 1]
  if redis.call("EXISTS", stream) == 0 then
    told[n] = 0
  elseif pairs_end == at + 1 then
    local left = redis.call("PTTL", stream)
    redis.call("DEL", stream)
    local id = redis.call("XADD", stream, "*", "e", "", "d", "")
    redis.call("PEXPIRE", stream, left)
    redis.call("PUBLISH", channel, topic .. "|" .. id .. "||")
    told[n] = 1
  else
    for i = at + 2, pairs_end, 2 do
      local id = redis.call("XADD", stream, "MAXLEN", "~", most, "*", "e", ARGV[i], "d", ARGV[i + 1])
      redis.call("PUBLISH", channel, topic .. "|" .. id .. "|" .. ARGV[i] .. "|" .. ARGV[i + 1])
    end
    told[n] = (pairs_end - at - 1) / 2
  end
  at = pairs_end + 1
end
return told
