--[[
minutes: counts of the whole fleet, a hash for each minute of the server's clock.

KEYS[1]  prefix of the hashes, with a hash tag
ARGV     1 'add' · 2 ms to keep a minute · 3… pairs: name, how many more
         1 'read' · 2 how many minutes
Returns  add: 1 · read: {number of the present minute, [name, count, …] of each minute, the present one first}

Invariant  every hash expires.
]]
local prefix = KEYS[1]
local minute = math.floor(redis.call("TIME")[1] / 60)
if ARGV[1] == "add" then
  local key = prefix .. minute
  for i = 3, #ARGV, 2 do redis.call("HINCRBY", key, ARGV[i], ARGV[i + 1]) end
  redis.call("PEXPIRE", key, ARGV[2])
  return 1
end
local answer = { minute }
for i = 0, tonumber(ARGV[2]) - 1 do answer[#answer + 1] = redis.call("HGETALL", prefix .. (minute - i)) end
return answer
