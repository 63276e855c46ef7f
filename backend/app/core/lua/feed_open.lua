--[[
feed_open: a replica has readers of a topic. Keeps its stream, tells all replicas, and answers what was missed.

KEYS[1]  the topic's stream; it exists while there are readers anywhere, and its first entry may be a mark without an event
ARGV     1 channel · 2 topic · 3 ms for which the stream stays without a further call · 4 the last id that is known, or ''
Returns  {1 if nothing between that id and now is lost (or no id was given), newest id, event, data, id, event, data, id …}

Invariant  the stream always expires: nothing is written once all readers are gone.
]]
local stream, channel, topic, last = KEYS[1], ARGV[1], ARGV[2], ARGV[4]
if redis.call("EXISTS", stream) == 0 then redis.call("XADD", stream, "*", "e", "", "d", "") end
redis.call("PEXPIRE", stream, ARGV[3])
redis.call("PUBLISH", channel, topic)
local newest = redis.call("XREVRANGE", stream, "+", "-", "COUNT", 1)[1][1]
if last == "" then return { 1, newest } end
-- An id that is not in the stream is of a stream that has expired, or was cut off its end: what came after it is not known.
if #redis.call("XRANGE", stream, last, last) == 0 then return { 0, newest } end
local answer = { 1, newest }
for _, entry in ipairs(redis.call("XRANGE", stream, "(" .. last, "+")) do
  answer[#answer + 1] = entry[2][2]
  answer[#answer + 1] = entry[2][4]
  answer[#answer + 1] = entry[1]
end
return answer
