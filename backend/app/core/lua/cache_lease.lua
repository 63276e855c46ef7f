--[[
cache_lease: the value of a key, or the right to load it.

KEYS[1]  prefix of the shard's keys, carrying its hash tag
ARGV     1 key · 2 fingerprint of the value's schema · 3 group · 4 id of the load (16 characters) · 5 lease ms
         6 "" to load; to refresh, the end of freshness of the copy in hand: only a fresher one is an answer
         7 the longest ms of freshness · 8 the longest ms of a fence (earlier versions: neither)
Returns  {1, value} · {2} load it, then cache_fill · {3, ms} another one loads, for as long as that · {4, ms} a write is
         under way: read past the cache

A value is  generation (16) .. fresh until (16) .. JSON  at d:<fingerprint>:<key>; both are server µs in 16 digits.
A group is  generation (16) .. "|" .. fingerprint, for each schema that has values in it. A lost record loses its values.
A lease is  "L" .. id .. generation, a fence "W" .. (id .. its end) for each writer, both at l:<key>: one or the other.
Invariant   one living lease a key; a value counts only under its group's present generation.
What lasts longer than its longest, a lease longer than twice its own, was written while the clock was ahead: it has ended.
Steps
  1 the group's record, with this schema in it, kept for longer than any value
  2 a fresh value of this generation: that is the answer
  3 writers that have not ended: 4. Another load of this generation: 3. Otherwise, or if the lease is ours already: 2
]]
local prefix, key, fingerprint, group, id = KEYS[1], ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local time = redis.call("TIME")
local micros = time[1] * 1000000 + time[2]
local now = string.format("%016.0f", micros)
local function latest(ms) return ms and string.format("%016.0f", micros + ms * 1000) or "9" end
local latest_fresh, latest_fence = latest(ARGV[7]), latest(ARGV[8])

local record_key = prefix .. "g:" .. group
local record = redis.call("GET", record_key)
local entry = "|" .. fingerprint
if not record then record = now end
if not string.find(record .. "|", entry .. "|", 17, true) then record = record .. entry end
redis.call("SET", record_key, record, "EX", 691200)
local generation = string.sub(record, 1, 16)

local value = redis.call("GET", prefix .. "d:" .. fingerprint .. ":" .. key)
if value and string.sub(value, 1, 16) == generation then
  local fresh_until = string.sub(value, 17, 32)
  if fresh_until > now and fresh_until > ARGV[6] and fresh_until <= latest_fresh then return {1, value} end
end

local lease_key = prefix .. "l:" .. key
local lease = redis.call("GET", lease_key)
local own = "L" .. id .. generation
if lease and string.sub(lease, 1, 1) == "W" then
  for at = 2, #lease, 32 do
    local ends = string.sub(lease, at + 16, at + 31)
    if ends > now and ends <= latest_fence then return {4, redis.call("PTTL", lease_key)} end
  end
elseif lease and lease ~= own and string.sub(lease, 18) == generation then
  local left = redis.call("PTTL", lease_key)
  if left <= 2 * ARGV[5] then return {3, left} end
end
redis.call("SET", lease_key, own, "PX", ARGV[5])
return {2}
