--[[
cache_beat: where the sequence stands, by a server that may write.

KEYS[1]  prefix of the shard's keys, carrying its hash tag
Returns  {sequence, server time}, both µs

Invariant  a data set that was lost begins at another number than it ended with. Fails on a server that is read-only,
           i.e. no longer the primary.
]]
local time = redis.call("TIME")
local now = string.format("%.0f", time[1] * 1000000 + time[2])
redis.call("SET", KEYS[1] .. "seq", now, "NX")
return {redis.call("GET", KEYS[1] .. "seq"), now}
