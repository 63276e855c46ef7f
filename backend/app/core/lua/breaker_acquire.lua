--[[
breaker_acquire: ask for a probe's permit. Transition and grant are one round trip.

KEYS     1 s · 2 w · 3 p · 4 index (see breaker_state)
ARGV     1 name · 2 channel · 3 replica · 4 lease, made up by the caller · 5 µs it lasts · 6 most leases alive · 7 successes that close
Returns  {granted 0|1, changed 0|1, view…}

Invariant  leases alive ≤ ARGV[6] and issued ≤ ARGV[7], for any number of replicas; no permit before `until`.
Steps
  1 open and due: half open. Any other state but half open: no permit is needed or possible; the view
  2 leases that ran out give their permits back: their prober died. So do those that end later than one granted now would:
    the clock was ahead
  3 a permit is free: grant it
]]
local s, w, p, index = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local name, channel, lease = ARGV[1], ARGV[2], ARGV[4]
local b = load_state(s, w)
local changed, granted = 0, 0
-- 1
if b.state == "open" and now >= b.ends then
  b.who, b.why, changed = ARGV[3], because("due", b.cause), 1
  change(b, "half_open", name, channel, p, index)
end
if b.state == "half_open" then
  -- 2
  b.issued = b.issued - redis.call("ZREMRANGEBYSCORE", p, "-inf", text(now))
  b.issued = b.issued - redis.call("ZREMRANGEBYSCORE", p, "(" .. text(now + tonumber(ARGV[5])), "+inf")
  -- 3
  if redis.call("ZCARD", p) < tonumber(ARGV[6]) and b.issued < tonumber(ARGV[7]) then
    granted, b.issued = 1, b.issued + 1
    redis.call("ZADD", p, text(now + tonumber(ARGV[5])), lease)
    redis.call("PEXPIRE", p, text(KEEP_MS + tonumber(ARGV[5]) / 1000))
  end
  redis.call("HSET", s, "issued", text(b.issued))
  keep(b)
end
local answer = {granted, changed}
for _, field in ipairs(view(b)) do answer[#answer + 1] = field end
return answer
