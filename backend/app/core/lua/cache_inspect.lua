--[[
cache_inspect: what the shared tier holds of a key. Changes nothing.

KEYS[1]  prefix of the shard's keys, carrying its hash tag
ARGV     1 key · 2 group
Returns  {server time µs, group's record or "", lease or fence or "", its ms, then for each schema: fingerprint, value, ms}

Invariant  nothing is written. Formats: see cache_lease.
]]
local prefix, key = KEYS[1], ARGV[1]
local time = redis.call("TIME")
local record = redis.call("GET", prefix .. "g:" .. ARGV[2]) or ""
local lease_key = prefix .. "l:" .. key
local found = {
  string.format("%.0f", time[1] * 1000000 + time[2]), record, redis.call("GET", lease_key) or "",
  redis.call("PTTL", lease_key)
}
for fingerprint in string.gmatch(string.sub(record, 17), "|([^|]+)") do
  local value_key = prefix .. "d:" .. fingerprint .. ":" .. key
  local value = redis.call("GET", value_key)
  if value then
    found[#found + 1] = fingerprint
    found[#found + 1] = value
    found[#found + 1] = redis.call("PTTL", value_key)
  end
end
return found
