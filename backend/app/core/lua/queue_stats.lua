--[[
queue_stats: the figures of one shard, of one moment.

KEYS[1]  prefix of the shard's keys, carrying its hash tag
Returns  {events waiting or in flight, mailboxes waiting, in `lease`, age of the oldest event in ms, dead letters, their bytes,
          dead letters lost to their limits, bytes of the events}

Invariant  writes nothing. See queue_put: a mailbox in `heads` is either waiting or leased.
]]
local prefix = KEYS[1]
local time = redis.call("TIME")
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local leased = redis.call("ZCARD", prefix .. "lease")
local oldest = tonumber(redis.call("ZRANGE", prefix .. "heads", 0, 0, "WITHSCORES")[2] or now)
return {
  math.max(0, tonumber(redis.call("GET", prefix .. "depth") or 0)),
  math.max(0, redis.call("ZCARD", prefix .. "heads") - leased),
  leased,
  math.max(0, now - oldest),
  redis.call("XLEN", prefix .. "dlq"),
  tonumber(redis.call("HGET", prefix .. "dlqn", "bytes") or 0),
  tonumber(redis.call("HGET", prefix .. "dlqn", "lost") or 0),
  tonumber(redis.call("HGET", prefix .. "held", "bytes") or 0),
}
