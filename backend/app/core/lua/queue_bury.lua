--[[
queue_bury: make a dead letter of an event that is in no mailbox.

KEYS[1]  prefix of the shard's keys, carrying its hash tag
ARGV     1 most dead letters · 2 most bytes of them · 3 mailbox · 4 entry · 5 reason
Returns  the new letter's id

Invariant  see queue_dead.
]]
local time = redis.call("TIME")
local failure = string.format("%013.0f", time[1] * 1000 + math.floor(time[2] / 1000)) .. string.sub(ARGV[5], 1, 200)
return bury(KEYS[1], tonumber(ARGV[1]), tonumber(ARGV[2]),
  {"mailbox", ARGV[3], "entry", ARGV[4], "reason", ARGV[5], "attempts", 1, "failure1", failure})
