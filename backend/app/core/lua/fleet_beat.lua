-- The fleet registry: who lives, on the server's clock.
-- KEYS  1 zset  replica id -> last beat (ms)      2 hash  replica id -> description (JSON)
-- ARGV  1 'beat' | 'leave' | 'list'   2 replica id   3 description   4 silence (ms) after which a replica is dead
-- Returns  leave: number of living replicas · beat, list: flat {id, ms since its beat, description, ...}
-- Invariant: the hash has exactly the members of the sorted set.
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
local op, id, silence = ARGV[1], ARGV[2], tonumber(ARGV[4])
-- 1. Write first, so that a beat is never counted as silent.
if op == 'beat' then
  redis.call('ZADD', KEYS[1], now, id)
  redis.call('HSET', KEYS[2], id, ARGV[3])
elseif op == 'leave' then
  redis.call('ZREM', KEYS[1], id)
  redis.call('HDEL', KEYS[2], id)
  return redis.call('ZCARD', KEYS[1])
end
-- 2. A beat from the future was made while the clock was ahead: it counts as made now. Forget the silent.
for _, ahead in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '(' .. now, '+inf')) do
  redis.call('ZADD', KEYS[1], now, ahead)
end
for _, dead in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', '(' .. (now - silence))) do
  redis.call('ZREM', KEYS[1], dead)
  redis.call('HDEL', KEYS[2], dead)
end
-- 3. List the living.
local out = {}
local alive = redis.call('ZRANGE', KEYS[1], 0, -1, 'WITHSCORES')
for i = 1, #alive, 2 do
  out[#out + 1] = alive[i]
  out[#out + 1] = tostring(now - tonumber(alive[i + 1]))
  out[#out + 1] = redis.call('HGET', KEYS[2], alive[i])
end
return out
