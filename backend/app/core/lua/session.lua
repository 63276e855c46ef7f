--[[
session: who is signed in, all sessions of one owner in one hash.

KEYS     1 hash: digest of a session's secret -> "<seen>|<ends>|<renew at>|<data>", times in ms of the server's clock
         2 who renews a session: prefix of a key that holds off the others
ARGV     1 verb · 2 digest
         open      3 idle ms · 4 ms until it ends · 5 most sessions of one owner · 6 ms until it is to be renewed, 0 never · 7 data
         find      3 idle ms · 4 ms for which one caller may renew it · 5 1 if this is a use of it
         replace   3 ms until it is to be renewed, 0 never · 4 data
         close     nothing more
Returns  open: 1 · find: {data, ms until it ends, ms since it was to be renewed or -1, 1 if this caller is to renew it}, or nil
         replace, close, close_all: 1, or 0 when there is none

A session that was not used for the idle time, or whose end has come, is gone: it is deleted by the next call that sees it.
Invariant  a session's end never moves; the key expires no earlier than the newest session ends.
]]
local key, verb, digest = KEYS[1], ARGV[1], ARGV[2]
local time = redis.call("TIME")
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local SEEN_MS = 60000 -- how exactly the last use is known

local function read(value)
  local seen, ends, renew, data = string.match(value, "^(%d+)|(%d+)|(%d+)|(.*)$")
  return tonumber(seen), tonumber(ends), tonumber(renew), data
end

local function write(field, seen, ends, renew, data)
  redis.call("HSET", key, field, string.format("%.0f|%.0f|%.0f|%s", seen, ends, renew, data))
end

if verb == "open" then
  local idle, most, oldest, left = tonumber(ARGV[3]), tonumber(ARGV[5]), nil, 0
  local all = redis.call("HGETALL", key)
  for i = 1, #all, 2 do
    local seen, ends = read(all[i + 1])
    if now >= ends or now - seen > idle then
      redis.call("HDEL", key, all[i])
    else
      left = left + 1
      if oldest == nil or seen < oldest.seen then oldest = { seen = seen, field = all[i] } end
    end
  end
  if left >= most then redis.call("HDEL", key, oldest.field) end
  local renew = tonumber(ARGV[6])
  write(digest, now, now + ARGV[4], renew > 0 and now + renew or 0, ARGV[7])
  if redis.call("PTTL", key) < tonumber(ARGV[4]) then redis.call("PEXPIRE", key, ARGV[4]) end
  return 1
end
if verb == "close" then return redis.call("HDEL", key, digest) end
-- The owner's part of a token can be computed by who knows the owner: the secret must be one of theirs.
if verb == "close_all" then return redis.call("HEXISTS", key, digest) == 1 and redis.call("DEL", key) or 0 end
local value = redis.call("HGET", key, digest)
if not value then return verb == "find" and false or 0 end
local seen, ends, renew, data = read(value)
if verb == "replace" then
  local again = tonumber(ARGV[3])
  write(digest, seen, ends, again > 0 and now + again or 0, ARGV[4])
  return 1
end
if now >= ends or now - seen > tonumber(ARGV[3]) then
  redis.call("HDEL", key, digest)
  return false
end
local late = renew > 0 and now >= renew and now - renew or -1
local mine = 0
if late >= 0 then
  -- The time of the renewal stays what it was, so that a failed one is still late; who renews is held apart.
  local holder = KEYS[2] .. digest
  if redis.call("SET", holder, 1, "NX", "PX", ARGV[4]) then mine = 1 end
end
if ARGV[5] == "1" and now - seen > SEEN_MS then write(digest, now, ends, renew, data) end
return { data, ends - now, late, mine }
