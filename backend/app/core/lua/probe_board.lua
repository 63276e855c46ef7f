-- One look at an upstream for the whole fleet: who looks now, and what was seen last.
-- KEYS  1 hash of one upstream: seen (JSON), at (ms), by, holder, until (ms)
-- ARGV  1 'turn' | 'report'   2 replica id
--       turn: 3 ms for which a finding is fresh · 4 ms the looker has      report: 3 finding (JSON) · 4 ms to keep it
-- Returns  turn: {1 = look yourself and report, 0 = a replica did or does; age of the finding in ms, -1 = none; finding; by}
--          report: 1 taken, 0 the turn was no longer ours
-- Invariant: one looker at a time, and none while the finding is fresh; a looker that died costs its turn's length.
-- A turn that lasts longer than the one asked for began while the clock was ahead: it is over.
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
if ARGV[1] == 'report' then
  if redis.call('HGET', KEYS[1], 'holder') ~= ARGV[2] then return 0 end
  redis.call('HSET', KEYS[1], 'seen', ARGV[3], 'at', now, 'by', ARGV[2])
  redis.call('HDEL', KEYS[1], 'holder', 'until')
  redis.call('PEXPIRE', KEYS[1], ARGV[4])
  return 1
end
local seen = redis.call('HMGET', KEYS[1], 'seen', 'at', 'by', 'until')
local age = seen[2] and (now - tonumber(seen[2])) or -1
local is_fresh = age >= 0 and age < tonumber(ARGV[3])
local is_taken = seen[4] and tonumber(seen[4]) > now and tonumber(seen[4]) <= now + tonumber(ARGV[4])
local mine = 0
if not is_fresh and not is_taken then
  mine = 1
  redis.call('HSET', KEYS[1], 'holder', ARGV[2], 'until', now + tonumber(ARGV[4]))
  -- Without a finding nothing else would ever forget the key.
  if age < 0 then redis.call('PEXPIRE', KEYS[1], ARGV[4]) end
end
return {mine, age, seen[1] or '', seen[3] or ''}
