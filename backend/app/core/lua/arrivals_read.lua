--[[
arrivals_read: the senders that have been quiet, with their usual weeks; see arrivals_note.

KEYS     1 zset of senders · 2 prefix of a sender's hash
ARGV     1 ms of quiet that are worth a look · 2 how many of them to pass over · 3 most senders to return
Returns  {now ms, {sender, last arrival ms, {field, value, …}}, …}, the longest quiet first

Invariant  writes nothing.
]]
local time = redis.call("TIME")
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local answer = {now}
local quiet = redis.call("ZRANGEBYSCORE", KEYS[1], "-inf", now - ARGV[1], "WITHSCORES", "LIMIT", ARGV[2], ARGV[3])
for i = 1, #quiet, 2 do
  answer[#answer + 1] = {quiet[i], quiet[i + 1], redis.call("HGETALL", KEYS[2] .. quiet[i])}
end
return answer
