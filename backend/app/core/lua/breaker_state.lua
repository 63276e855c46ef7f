--[[
breaker_state: what the breaker_*.lua scripts share; put in front of each of them before it is sent.

KEYS     a breaker's, all in one slot (n = namespace, g = its name up to the first colon):
  n:breaker:{g}:<name>:s  hash  the verdict: state (closed, open, half_open, forced_open, forced_closed), epoch, life, until (µs),
                                span (µs from its writing to until), rounds (failed probes in a row), failures (at the trip),
                                issued, oks, manual, who, why, at (µs)
  n:breaker:{g}:<name>:w  hash  the window: "<slot>|<replica>" -> "<calls> <failed> <slow>"; `run`, the failures in a row,
                                `since`, when that row began (µs), and `cause`, the last of them in words
  n:breaker:{g}:<name>:p  zset  probe leases, scored by expiry (µs)
  n:breaker:{g}:<name>:c  zset  replicas, scored by their last call (µs): outlives changes of state, or one replica would be alone
                                with its opinion right after each
  n:breaker:{g}:index     zset  names that are not simply closed and free of failures, by their last change (µs), forced ones +inf

No hash: closed, epoch 0, life 0. Nothing is written before there is something to say.
`until` further ahead than `span` was written while the clock was ahead: it is pulled back to `span` from now.
`life` is the server's time when the hash was created: after a flush or a failover it tells one history from another.
Invariant  every change of state raises the epoch by one, empties window and leases, and is published by the script that makes it.
Returns    nothing by itself; the scripts return a
Why        the rule that made the state, then ": " and the last failure in words if there was one; an operator's own words.
           Never a line break
View       {life, epoch, state, µs left while open, failures, rounds, manual 0|1, who, why, µs since the change}, strings and integers
Message    name and the view, joined by newlines
]]
local clock = redis.call("TIME")
local now = clock[1] * 1000000 + clock[2]
local KEEP_MS = 86400000
local FORGET_MS = 3600000

local function text(number) return string.format("%.0f", number) end

local function load_state(s, w)
  local f = redis.call("HMGET", s, "state", "epoch", "life", "until", "rounds", "failures", "issued", "oks", "manual", "who", "why", "at", "span")
  local b = {
    s = s, w = w, state = f[1] or "closed", epoch = tonumber(f[2] or 0), life = f[3] or "0", ends = tonumber(f[4] or 0),
    rounds = tonumber(f[5] or 0), failures = tonumber(f[6] or 0), issued = tonumber(f[7] or 0), oks = tonumber(f[8] or 0),
    manual = f[9] or "0", who = f[10] or "", why = f[11] or "", at = math.min(now, tonumber(f[12] or now)), cause = "",
  }
  if b.state == "open" and f[13] and b.ends > now + tonumber(f[13]) then
    b.ends = now + tonumber(f[13])
    redis.call("HSET", s, "until", text(b.ends))
  end
  if b.state == "closed" then
    local row = redis.call("HMGET", w, "run", "cause")
    b.failures = tonumber(row[1] or 0)
    b.cause = b.failures > 0 and row[2] or ""
  elseif b.manual == "0" then
    b.cause = string.match(b.why, ": (.*)$") or ""
  end
  return b
end

local function because(rule, cause)
  return cause and cause ~= "" and rule .. ": " .. cause or rule
end

local function view(b)
  local left = b.state == "open" and math.max(0, b.ends - now) or 0
  return {b.life, text(b.epoch), b.state, text(left), text(b.failures), text(b.rounds), b.manual, b.who, b.why, text(now - b.at)}
end

-- The verdict outlives its last use by a day; one made by hand stays until an operator takes it back.
local function keep(b)
  if b.state == "forced_open" or b.state == "forced_closed" then
    redis.call("PERSIST", b.s)
  else
    redis.call("PEXPIRE", b.s, text(KEEP_MS + math.max(0, b.ends - now) / 1000))
  end
end

local function publish(channel, name, b)
  redis.call("PUBLISH", channel, name .. "\n" .. table.concat(view(b), "\n"))
end

local function change(b, state, name, channel, p, index)
  if b.life == "0" then b.life = text(now) end
  b.state, b.epoch, b.at, b.issued, b.oks = state, b.epoch + 1, now, 0, 0
  b.ends = math.floor(b.ends + 0.5) -- one rounding for `until` and `span`, or they would differ by a microsecond
  redis.call("HSET", b.s, "state", state, "epoch", text(b.epoch), "life", b.life, "until", text(b.ends), "rounds", text(b.rounds),
    "failures", text(b.failures), "issued", 0, "oks", 0, "manual", b.manual, "who", b.who, "why", b.why, "at", text(now),
    "span", text(math.max(0, b.ends - now)))
  redis.call("DEL", b.w, p)
  if state == "closed" then
    redis.call("ZREM", index, name)
  else
    redis.call("ZADD", index, (state == "open" or state == "half_open") and text(now) or "+inf", name)
  end
  keep(b)
  publish(channel, name, b)
end
