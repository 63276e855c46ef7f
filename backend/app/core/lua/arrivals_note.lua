--[[
arrivals_note: what arrived from each sender since the last call, into its usual week.

KEYS     1 zset of senders, scored by their last arrival (ms) · 2 prefix of a sender's hash; both carry one hash tag
ARGV     1 most senders to know · 2 ms to remember one without arrivals · 3… pairs: sender, arrivals
Returns  how many senders are known

A sender's hash: "0" to "167" -> arrivals in that hour of the week (UTC, from the epoch); `week` -> the last one counted in.
Invariant  at each new week everything counted so far is halved: an hour yet to come holds its usual number, the sum of
           1/2, 1/4, 1/8 … of what the weeks before had.
]]
local last, prefix, most, keep = KEYS[1], KEYS[2], tonumber(ARGV[1]), tonumber(ARGV[2])
local time = redis.call("TIME")
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local hour = math.floor(time[1] / 3600)
local week = math.floor(hour / 168)
for i = 3, #ARGV, 2 do
  local key = prefix .. ARGV[i]
  local counted = tonumber(redis.call("HGET", key, "week") or week)
  if counted < week then
    local fields = redis.call("HGETALL", key)
    for f = 1, #fields, 2 do
      if fields[f] ~= "week" then
        local left = tonumber(fields[f + 1]) * 0.5 ^ (week - counted)
        if left < 0.05 then
          redis.call("HDEL", key, fields[f])
        else
          redis.call("HSET", key, fields[f], string.format("%.3f", left))
        end
      end
    end
  end
  redis.call("HSET", key, "week", week)
  redis.call("HINCRBYFLOAT", key, hour % 168, ARGV[i + 1])
  redis.call("PEXPIRE", key, keep)
  redis.call("ZADD", last, now, ARGV[i])
end
-- Noted while the clock was ahead: it would hide the sender's silence.
for _, sender in ipairs(redis.call("ZRANGEBYSCORE", last, "(" .. now, "+inf")) do redis.call("ZADD", last, now, sender) end
redis.call("ZREMRANGEBYSCORE", last, "-inf", now - keep)
for _, sender in ipairs(redis.call("ZRANGE", last, 0, -most - 1)) do
  redis.call("ZREM", last, sender)
  redis.call("DEL", prefix .. sender)
end
return redis.call("ZCARD", last)
