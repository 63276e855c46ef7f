--[[
cache_invalidate: forget keys everywhere; optionally raise or lower a writer's fence on them.

KEYS[1]  prefix of the shard's keys, carrying its hash tag
ARGV     1 id of the invalidating process · 2 id of the writer (16 characters) or "" · 3 fence ms: > 0 raise it (before
         the commit), 0 lower it (after the commit) · 4… two for each key: key, group
Returns  {how many values were deleted, the sequence after}

Message  prev|now|process|k|key on the channel `inv`; prev and now are the sequence (µs) before and after
Invariant  `seq` grows with every message and every message carries the one before: a receiver sees what it missed.
           It does not depend on a schema, so that every deploy's values go and every deploy's processes hear of it.
Steps, for each key
  1 delete the value of every schema
  2 the lease: a load's dies, so its fill will be refused; of a fence, the dead writers' and our own part go, the others
    stay; then our own is added if it is to be raised
  3 now = max(server time, prev + 1); publish
]]
local prefix, process, writer, fence_ms = KEYS[1], ARGV[1], ARGV[2], tonumber(ARGV[3])
local time = redis.call("TIME")
local now = time[1] * 1000000 + time[2]
local now_text = string.format("%016.0f", now)
local seq = tonumber(redis.call("GET", prefix .. "seq") or 0)
local deleted = 0

local function other_writers(lease)
  local kept, longest = {}, 0
  for at = 2, #lease, 32 do
    local id, ends = string.sub(lease, at, at + 15), string.sub(lease, at + 16, at + 31)
    if id ~= writer and ends > now_text then
      kept[#kept + 1] = id .. ends
      longest = math.max(longest, tonumber(ends))
    end
  end
  return table.concat(kept), longest
end

for i = 4, #ARGV, 2 do
  local key, group = ARGV[i], ARGV[i + 1]
  local lease_key = prefix .. "l:" .. key
  local found = redis.call("MGET", prefix .. "g:" .. group, lease_key)
  local record, lease = found[1], found[2]
  for fingerprint in string.gmatch(record and string.sub(record, 17) or "", "|([^|]+)") do
    deleted = deleted + redis.call("DEL", prefix .. "d:" .. fingerprint .. ":" .. key)
  end
  local writers, ends = "", 0
  if lease and string.sub(lease, 1, 1) == "W" then writers, ends = other_writers(lease) end
  if fence_ms > 0 then
    local own_end = now + fence_ms * 1000
    writers, ends = writers .. writer .. string.format("%016.0f", own_end), math.max(ends, own_end)
  end
  if writers ~= "" then
    redis.call("SET", lease_key, "W" .. writers, "PX", math.ceil((ends - now) / 1000))
  elseif lease then
    redis.call("DEL", lease_key)
  end
  local next_seq = math.max(now, seq + 1)
  redis.call("PUBLISH", prefix .. "inv", string.format("%.0f|%.0f|%s|k|%s", seq, next_seq, process, key))
  seq = next_seq
end
local seq_text = string.format("%.0f", seq)
redis.call("SET", prefix .. "seq", seq_text)
return {deleted, seq_text}
