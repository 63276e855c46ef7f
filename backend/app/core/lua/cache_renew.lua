--[[
cache_renew: keep the lease of a load that takes long, or give it back.

KEYS[1]  prefix of the shard's keys, carrying its hash tag
ARGV     1 key · 2 id of the load · 3 ms from now, 0 to give it back
Returns  1 done · 0 the lease was no longer ours

Invariant  see cache_lease. The lease of another load, and a fence, are left alone.
]]
local lease_key = KEYS[1] .. "l:" .. ARGV[1]
local lease = redis.call("GET", lease_key)
if not lease or string.sub(lease, 1, 17) ~= "L" .. ARGV[2] then return 0 end
if tonumber(ARGV[3]) > 0 then return redis.call("PEXPIRE", lease_key, ARGV[3]) end
return redis.call("DEL", lease_key)
