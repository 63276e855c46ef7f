--[[
queue_forget: forget the dead letters that are too old.

KEYS[1]  prefix of the shard's keys, carrying its hash tag
ARGV     1 ms that a letter is kept · 2 most letters to forget, the oldest first
Returns  how many were forgotten

Invariant  see queue_dead.
]]
local prefix = KEYS[1]
local time = redis.call("TIME")
local last = time[1] * 1000 + math.floor(time[2] / 1000) - tonumber(ARGV[1])
local old = redis.call("XRANGE", prefix .. "dlq", "-", string.format("%.0f", last), "COUNT", ARGV[2])
for _, letter in ipairs(old) do take_letter(prefix, letter[1]) end
return #old
