--[[
pace: may one more message go out now? For one number and one of its peers, shared by the whole fleet.

KEYS[1]  prefix of the number's keys, carrying its hash tag
ARGV     1 'ask' | 'hold' · 2 peer · 3 µs between messages of the number · 4 its burst · 5 µs between messages to one peer
         6 its burst · 7 s after which a hold's history is forgotten
Returns  ask: µs to wait; 0 means go, and the message is counted · hold: µs for which this peer is held

Invariant  over any stretch of t µs at most burst + t / interval messages pass, for the number and for each peer.
Steps
  1 hold: the upstream said "too fast" for this peer, for the n-th time in a row: nothing for 4^n seconds
  2 ask: a peer that is held waits for the rest of the hold
  3 a limit keeps the time at which its debt is paid (GCRA): a message may pass if the debt is less than the burst
    A debt above the burst, or a hold longer than its step, cannot be: the clock was ahead when it was written and has
    been put back. The debt is forgotten, the hold gets its step
  4 both limits must agree before either counts the message
]]
local prefix, peer = KEYS[1], ARGV[2]
local time = redis.call("TIME")
local now = time[1] * 1000000 + time[2]
local held = prefix .. "hold:" .. peer

local function step(times) return math.min(4 ^ times, 3600) * 1000000 end

if ARGV[1] == "hold" then
  local wait = step(redis.call("HINCRBY", held, "times", 1))
  redis.call("HSET", held, "until", string.format("%.0f", now + wait))
  redis.call("EXPIRE", held, math.ceil(wait / 1000000) + ARGV[7])
  return wait
end

local function debt(key, interval, burst)
  local paid = math.max(tonumber(redis.call("GET", key) or 0), now)
  if paid > now + burst * interval then paid = now end
  return paid, math.max(0, paid - now - (burst - 1) * interval)
end

local number_key, peer_key = prefix .. "number", prefix .. "peer:" .. peer
local number_interval, peer_interval = tonumber(ARGV[3]), tonumber(ARGV[5])
local number_paid, number_wait = debt(number_key, number_interval, tonumber(ARGV[4]))
local peer_paid, peer_wait = debt(peer_key, peer_interval, tonumber(ARGV[6]))
local hold = redis.call("HMGET", held, "until", "times")
local hold_wait = math.max(0, tonumber(hold[1] or 0) - now)
if hold_wait > step(tonumber(hold[2] or 0)) then
  hold_wait = step(tonumber(hold[2] or 0))
  redis.call("HSET", held, "until", string.format("%.0f", now + hold_wait))
end
local wait = math.max(number_wait, peer_wait, hold_wait)
if wait > 0 then return wait end
local function count(key, paid, interval)
  local until_paid = paid + interval
  redis.call("SET", key, string.format("%.0f", until_paid), "PX", math.ceil((until_paid - now) / 1000) + 1000)
end
count(number_key, number_paid, number_interval)
count(peer_key, peer_paid, peer_interval)
return 0
