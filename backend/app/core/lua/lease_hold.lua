--[[
lease_hold: one holder in the fleet, until it stops renewing.

KEYS[1]  the lease
ARGV     1 holder · 2 ms from now, 0 to give it up
Returns  1 held · 0 another holder's, or given up

A lease that has more than twice the length asked for was taken while the clock was ahead: it is free.
Invariant  at most one holder at any time by the server's clock; who stops renewing has lost it when it runs out.
]]
local holder = redis.call("GET", KEYS[1])
if holder and holder ~= ARGV[1] and redis.call("PTTL", KEYS[1]) <= 2 * ARGV[2] then return 0 end
if tonumber(ARGV[2]) == 0 then
  if holder == ARGV[1] then redis.call("DEL", KEYS[1]) end
  return 0
end
redis.call("SET", KEYS[1], ARGV[1], "PX", ARGV[2])
return 1
