--[[
breaker_report: what one replica has seen since its last report; trips the breaker when the rule says so.

KEYS     1 s · 2 w · 3 p · 4 index · 5 c (see breaker_state)
ARGV     1 name · 2 channel · 3 life · 4 epoch the calls were made in · 5 replica
         6 calls · 7 failed · 8 slow · 9 of the failed, those in a row · 10 µs the upstream asked for, 0 = none
         11 failures in a row that trip · 12 failure rate, 0 = no such rule · 13 slow rate, 0 = no such rule · 14 fewest calls for a rate
         15 window µs · 16 µs open · 17 longest µs open · 18 quorum
         19 µs since the last success among the calls · 20 µs since the replica's present row of failures began
         21 the last failure in words (earlier versions: none) · 22 living replicas that may call (earlier versions: none)
Returns  {changed 0|1, calls, failed, slow, callers, voters, view…}; the numbers are the fleet's, in the window

Invariant  a report of another epoch changes no verdict. Closed becomes open if and only if the rule or the upstream's delay says so;
           below the quorum no rule does. While open, `until` never decreases.
What was written while the clock was ahead, and has been put back since, is forgotten: callers, slots, the row's beginning.
Steps
  0 this replica calls: true in any epoch
  1 another epoch: the view. Open: a delay that reaches further than `until` extends it, nothing else counts; the view
  2 add to this replica's share of the present slot, forget the slots that left the window
  3 failures in a row: a success since the row began ends it, one from before does not, however late it is told; then
    the report's own are added
  4 callers = replicas that called within the window's time, voters = those with failures or slow calls in this epoch;
    needed = min(quorum, callers or living replicas, whichever is more): one that is idle has not seen that it is bad
  5 trip: an upstream's delay at once; with enough voters failures in a row, or a rate once there are enough calls
]]
local s, w, p, index = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local name, channel, replica = ARGV[1], ARGV[2], ARGV[5]
local calls, failed, slow, after, hold = tonumber(ARGV[6]), tonumber(ARGV[7]), tonumber(ARGV[8]), tonumber(ARGV[9]), tonumber(ARGV[10])
local threshold, failure_rate, slow_rate, fewest = tonumber(ARGV[11]), tonumber(ARGV[12]), tonumber(ARGV[13]), tonumber(ARGV[14])
local window, base, cap, quorum = tonumber(ARGV[15]), tonumber(ARGV[16]), tonumber(ARGV[17]), tonumber(ARGV[18])
local ok_age, row_age, cause, living = tonumber(ARGV[19]), tonumber(ARGV[20]), ARGV[21] or "", tonumber(ARGV[22] or 0)
local b = load_state(s, w)

local function reply(changed, seen)
  local answer = {changed, seen.calls, seen.failed, seen.slow, seen.callers, seen.voters}
  for _, field in ipairs(view(b)) do answer[#answer + 1] = field end
  return answer
end
-- 0
if calls > 0 then redis.call("ZADD", KEYS[5], text(now), replica) end
redis.call("ZREMRANGEBYSCORE", KEYS[5], "-inf", text(now - window))
redis.call("ZREMRANGEBYSCORE", KEYS[5], "(" .. text(now), "+inf")
redis.call("PEXPIRE", KEYS[5], text(window / 1000))
local seen = {calls = 0, failed = 0, slow = 0, callers = redis.call("ZCARD", KEYS[5]), voters = 0}

-- 1
if b.life ~= ARGV[3] or b.epoch ~= tonumber(ARGV[4]) then return reply(0, seen) end
if b.state == "open" and hold > 0 and now + math.min(hold, cap) > b.ends then
  b.ends = now + math.min(hold, cap)
  redis.call("HSET", s, "until", text(b.ends), "span", text(b.ends - now))
  keep(b)
  publish(channel, name, b)
end
if b.state ~= "closed" then return reply(0, seen) end

-- 2
local slot = math.floor(now / (window / 10))
local mine = text(slot) .. "|" .. replica
local c, f, l = string.match(redis.call("HGET", w, mine) or "0 0 0", "(%d+) (%d+) (%d+)")
redis.call("HSET", w, mine, text(c + calls) .. " " .. text(f + failed) .. " " .. text(l + slow))
-- 3
local since = tonumber(redis.call("HGET", w, "since") or 0)
if since > now then since = 0 end
if calls > failed and now - ok_age > since then b.failures = 0 end
if b.failures == 0 then since = now - row_age end
b.failures = b.failures + after
redis.call("HSET", w, "run", text(b.failures), "since", text(since))
if cause ~= "" then
  redis.call("HSET", w, "cause", cause)
  b.cause = cause
end
redis.call("PEXPIRE", w, text(math.max(FORGET_MS, window / 1000)))
-- 4
local voters, gone = {}, {}
local fields = redis.call("HGETALL", w)
for i = 1, #fields, 2 do
  local at, who = string.match(fields[i], "^(%d+)|(.*)$")
  if at and (tonumber(at) <= slot - 10 or tonumber(at) > slot) then
    gone[#gone + 1] = fields[i]
  elseif at then
    c, f, l = string.match(fields[i + 1], "(%d+) (%d+) (%d+)")
    seen.calls, seen.failed, seen.slow = seen.calls + c, seen.failed + f, seen.slow + l
    if (tonumber(f) > 0 or tonumber(l) > 0) and not voters[who] then voters[who], seen.voters = true, seen.voters + 1 end
  end
end
for i = 1, #gone, 1000 do redis.call("HDEL", w, unpack(gone, i, math.min(i + 999, #gone))) end
-- 5
local why
if hold > 0 then
  why = "delay"
elseif seen.voters > 0 and seen.voters >= math.min(quorum, math.max(seen.callers, living)) then
  if b.failures >= threshold then
    why = "failures"
  elseif failure_rate > 0 and seen.calls >= fewest and seen.failed >= failure_rate * seen.calls then
    why = "failure rate"
  elseif slow_rate > 0 and seen.calls >= fewest and seen.slow >= slow_rate * seen.calls then
    why = "slow calls"
  end
end
if not why then
  if b.failures > 0 then redis.call("ZADD", index, text(now), name) else redis.call("ZREM", index, name) end
  return reply(0, seen)
end
-- Slow calls have no words of their own. A report without words: what another replica said of the same row of failures.
b.rounds, b.manual, b.who, b.why = 0, "0", replica, because(why, why ~= "slow calls" and b.cause)
b.ends = now + (hold > 0 and math.min(hold, cap) or base)
change(b, "open", name, channel, p, index)
return reply(1, seen)
