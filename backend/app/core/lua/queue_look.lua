--[[
queue_look: what waits in one mailbox, or is being handled.

KEYS[1]  prefix of the shard's keys, carrying its hash tag
ARGV     1 mailbox · 2 most entries
Returns  its newest entries, oldest first

Invariant  writes nothing.
]]
return redis.call("LRANGE", KEYS[1] .. "m:" .. ARGV[1], -tonumber(ARGV[2]), -1)
