--[[
allowance: so many times in a window that starts with the first.

KEYS[1]  the count
ARGV     1 'take' | 'give_back' · 2 limit · 3 ms of the window
Returns  take: 0 counted; else ms until the window ends, at least 1 · give_back: 0

A window that lasts longer than the one asked for began while the clock was ahead: it is over.
Invariant  a key always has an expiry, and its count is between 0 and the limit.
]]
local count = tonumber(redis.call("GET", KEYS[1]) or "0")
if ARGV[1] == "give_back" then
  if count > 0 then redis.call("DECR", KEYS[1]) end
  return 0
end
local left = redis.call("PTTL", KEYS[1])
if left > tonumber(ARGV[3]) then
  redis.call("SET", KEYS[1], 1, "PX", ARGV[3])
  return 0
end
if count >= tonumber(ARGV[2]) then return math.max(1, left) end
if redis.call("EXISTS", KEYS[1]) == 1 then
  redis.call("INCR", KEYS[1])
else
  redis.call("SET", KEYS[1], 1, "PX", ARGV[3])
end
return 0
