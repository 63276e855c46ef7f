--[[
cache_bump: forget a whole group at once, or announce a pattern whose values have been deleted one by one.

KEYS[1]  prefix of the shard's keys, carrying its hash tag
ARGV     1 id of the invalidating process · 2 "g" | "p" · 3 group or pattern
Returns  the sequence after

Invariant  a generation never goes back; for the message and the sequence see cache_invalidate.
Values and leases of older generations count for nothing (cache_lease, cache_fill) and go when their time is over.
Steps
  1 group: a generation later than the one before, with no schemas in it
  2 now = max(server time, prev + 1); publish
]]
local prefix, process, kind, text = KEYS[1], ARGV[1], ARGV[2], ARGV[3]
local time = redis.call("TIME")
local now = time[1] * 1000000 + time[2]
if kind == "g" then
  local record = redis.call("GET", prefix .. "g:" .. text)
  local generation = math.max(now, record and tonumber(string.sub(record, 1, 16)) + 1 or 0)
  redis.call("SET", prefix .. "g:" .. text, string.format("%016.0f", generation), "EX", 691200)
end
local seq = tonumber(redis.call("GET", prefix .. "seq") or 0)
local next_seq = math.max(now, seq + 1)
local next_text = string.format("%.0f", next_seq)
redis.call("SET", prefix .. "seq", next_text)
redis.call("PUBLISH", prefix .. "inv", string.format("%.0f|%s|%s|%s|%s", seq, next_text, process, kind, text))
return next_text
