--[[
cache_fill: store what a load brought, unless something changed since it began. Publishes nothing.

KEYS[1]  prefix of the shard's keys, carrying its hash tag
ARGV     1 key · 2 fingerprint · 3 group · 4 id of the load · 5 ms fresh · 6 ms kept · 7 JSON
Returns  the end of freshness (server µs, 16 digits) · nil: refused, nothing was stored

Invariant  see cache_lease. An invalidation or a fence takes the lease away, a group's invalidation its generation, so
           what was read before either can not be stored after it.
Steps
  1 the lease is ours and of the present generation, or: refused
  2 store value and times; the lease ends
]]
local prefix, key, fingerprint, group, id = KEYS[1], ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local record = redis.call("GET", prefix .. "g:" .. group)
local generation = record and string.sub(record, 1, 16)
local lease_key = prefix .. "l:" .. key
if not generation or redis.call("GET", lease_key) ~= "L" .. id .. generation then return nil end
local time = redis.call("TIME")
local fresh_until = string.format("%016.0f", time[1] * 1000000 + time[2] + ARGV[5] * 1000)
redis.call("SET", prefix .. "d:" .. fingerprint .. ":" .. key, generation .. fresh_until .. ARGV[7], "PX", ARGV[6])
redis.call("DEL", lease_key)
return fresh_until
