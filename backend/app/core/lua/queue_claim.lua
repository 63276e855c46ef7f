--[[
queue_claim: give a worker the conversations that are due, each under a lease and a new fencing token.

KEYS[1]  prefix of the shard's keys, carrying its hash tag
ARGV     1 most conversations to claim, and to reap · 2 lease ms · 3 most events to show of each · 4 most attempts
         5 block ms · 6 most dead letters · 7 server time in ms after which nobody waits for this reply any more, 0 unknown
Returns  {now ms, ms until the next conversation is due (-1: none), leases reaped, heads parked,
          {mailbox, token, failed attempts, {entry, …}}, …}

Invariant  see queue_put. A token is higher than every earlier one, also after the counter was lost: it starts at the time in µs.
           The first write frees memory (ZREM), which a server at `maxmemory` allows, and the rest of the script with it:
           a full queue can still be worked off.
Steps
  1 too late (the server was frozen and the caller gave up): claim nothing, so that no lease is left without a holder
  2 reap: a lease that ran out cost the head one attempt. At the most: park the head. What is left is due since its lease
    was last extended. The old token dies
  3 oldest due first: take out of `ready`, put into `lease`, peek at the events; only one if the head failed before,
    so that a poisonous one is found alone. The burst, if one was running, ends here
  4 more is due soon than this worker had room for: wake another one. Otherwise old wake tokens have nothing to say
]]
local prefix, limit, lease_ms, peek = KEYS[1], tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local max_attempts, block, max_dead, latest = tonumber(ARGV[4]), tonumber(ARGV[5]), ARGV[6], tonumber(ARGV[7])
local ready, lease, heads, first = prefix .. "ready", prefix .. "lease", prefix .. "heads", prefix .. "first"
local own, att, wake = prefix .. "own", prefix .. "att", prefix .. "wake"
local time = redis.call("TIME")
local now = time[1] * 1000 + math.floor(time[2] / 1000)
if latest > 0 and now > latest then return {now, 0, 0, 0} end

local parked = 0
local function park_head(box, list, attempts)
  redis.call("XADD", prefix .. "dlq", "MAXLEN", "~", max_dead, "*", "mailbox", box, "entry", redis.call("LPOP", list),
    "reason", "no verdict: the worker died or its lease ran out", "attempts", attempts)
  redis.call("HDEL", att, box)
  redis.call("DECR", prefix .. "depth")
  parked = parked + 1
  local head = redis.call("LINDEX", list, 0)
  if head then redis.call("ZADD", heads, tonumber(string.sub(head, 1, 13)), box) end
end

local expired = redis.call("ZRANGEBYSCORE", lease, "-inf", now, "WITHSCORES", "LIMIT", 0, limit)
for i = 1, #expired, 2 do
  local box, list = expired[i], prefix .. "m:" .. expired[i]
  redis.call("ZREM", lease, box)
  redis.call("HDEL", own, box)
  redis.call("HDEL", first, box)
  local attempts = redis.call("HINCRBY", att, box, 1)
  if attempts >= max_attempts and redis.call("EXISTS", list) == 1 then park_head(box, list, attempts) end
  if redis.call("EXISTS", list) == 1 then
    redis.call("ZADD", ready, expired[i + 1] - lease_ms, box)
  else
    redis.call("ZREM", heads, box)
    redis.call("HDEL", att, box)
  end
end

local reply = {now, -1, #expired / 2, parked}
local due = redis.call("ZRANGEBYSCORE", ready, "-inf", now, "LIMIT", 0, limit)
if #due > 0 then
  redis.call("ZREM", ready, unpack(due))
  redis.call("HDEL", first, unpack(due))
  local failed = redis.call("HMGET", att, unpack(due))
  local token = math.max(tonumber(redis.call("GET", prefix .. "tok") or 0) + 1, time[1] * 1000000 + time[2])
  local leases, owners = {}, {}
  for i, box in ipairs(due) do
    local entries = redis.call("LRANGE", prefix .. "m:" .. box, 0, failed[i] and 0 or peek - 1)
    if #entries > 0 then
      leases[#leases + 1], leases[#leases + 2] = now + lease_ms, box
      owners[#owners + 1], owners[#owners + 2] = box, string.format("%.0f", token)
      reply[#reply + 1] = {box, token, tonumber(failed[i] or 0), entries}
      token = token + 1
    end
  end
  if #leases > 0 then
    redis.call("ZADD", lease, unpack(leases))
    redis.call("HSET", own, unpack(owners))
    redis.call("SET", prefix .. "tok", string.format("%.0f", token - 1))
  end
end

local next_due = tonumber(redis.call("ZRANGE", ready, 0, 0, "WITHSCORES")[2] or math.huge)
if #due == limit then
  if next_due <= now + block then
    redis.call("RPUSH", wake, 1)
    redis.call("LTRIM", wake, -16, -1)
  end
else
  redis.call("DEL", wake)
end
next_due = math.min(next_due, tonumber(redis.call("ZRANGE", lease, 0, 0, "WITHSCORES")[2] or math.huge))
if next_due < math.huge then reply[2] = math.max(0, next_due - now) end
return reply
