--[[
breaker_settle: how a probe ended.

KEYS     1 s · 2 w · 3 p · 4 index (see breaker_state)
ARGV     1 name · 2 channel · 3 replica · 4 lease · 5 life · 6 epoch of its grant · 7 ok | fail | release
         8 µs the upstream asked for, 0 = none · 9 µs open · 10 longest µs open · 11 jitter to add, as a share · 12 successes that close
         13 the failure in words (earlier versions: none)
Returns  {settled 0|1, changed 0|1, view…}

Invariant  half open becomes closed only by ARGV[12] ok settles of its own epoch; a reopened breaker stays open for
           [base, cap · (1 + jitter)], or for what the upstream asked, capped.
Steps
  1 another epoch, or a lease that ran out or was settled before: nothing; the view
  2 release: the permit is back. ok: one more success, closed with the last one needed
  3 fail: open for min(cap, base · 2^rounds) · (1 + jitter), or for the upstream's delay
]]
local s, w, p, index = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local name, channel, lease, outcome = ARGV[1], ARGV[2], ARGV[4], ARGV[7]
local hold, base, cap = tonumber(ARGV[8]), tonumber(ARGV[9]), tonumber(ARGV[10])
local b = load_state(s, w)
local changed = 0

local function reply(settled)
  local answer = {settled, changed}
  for _, field in ipairs(view(b)) do answer[#answer + 1] = field end
  return answer
end

-- 1
if b.state ~= "half_open" or b.life ~= ARGV[5] or b.epoch ~= tonumber(ARGV[6]) then return reply(0) end
local expiry = redis.call("ZSCORE", p, lease)
if not expiry or tonumber(expiry) <= now then return reply(0) end
redis.call("ZREM", p, lease)
-- 2
if outcome == "release" then
  redis.call("HINCRBY", s, "issued", -1)
elseif outcome == "ok" then
  b.oks = redis.call("HINCRBY", s, "oks", 1)
  if b.oks >= tonumber(ARGV[12]) then
    b.who, b.why, b.ends, b.failures, b.rounds, changed = ARGV[3], "recovered", 0, 0, 0, 1
    change(b, "closed", name, channel, p, index)
  end
-- 3
else
  b.who, b.failures, changed = ARGV[3], b.failures + 1, 1
  if hold > 0 then
    b.why, b.ends = because("delay", ARGV[13]), now + math.min(hold, cap)
  else
    b.why, b.rounds = because("probe failed", ARGV[13]), b.rounds + 1
    b.ends = now + math.min(cap, base * 2 ^ math.min(b.rounds, 40)) * (1 + tonumber(ARGV[11]))
  end
  change(b, "open", name, channel, p, index)
end
return reply(1)
