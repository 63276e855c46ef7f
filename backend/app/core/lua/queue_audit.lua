--[[
queue_audit: find mailboxes with events that no worker would ever be given, and make them due.

KEYS[1]  prefix of the shard's keys, carrying its hash tag
ARGV     1 most mailboxes to look at; those with the oldest heads, where a forgotten one ends up
Returns  how many were made due again

Invariant  see queue_put; this repairs it. The scripts keep it by themselves, so every repair is a bug or a damaged data set.
Steps
  1 the mailboxes with the oldest heads, and where each one is
  2 in neither `ready` nor `lease`: due now if it has events, forgotten if not
]]
local prefix, repaired = KEYS[1], 0
local boxes = redis.call("ZRANGE", prefix .. "heads", 0, ARGV[1] - 1)
if #boxes == 0 then return 0 end
local time = redis.call("TIME")
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local waiting = redis.call("ZMSCORE", prefix .. "ready", unpack(boxes))
local leased = redis.call("ZMSCORE", prefix .. "lease", unpack(boxes))
for i, box in ipairs(boxes) do
  if not waiting[i] and not leased[i] then
    if redis.call("EXISTS", prefix .. "m:" .. box) == 1 then
      redis.call("ZADD", prefix .. "ready", now, box)
      repaired = repaired + 1
    else
      redis.call("ZREM", prefix .. "heads", box)
    end
  end
end
return repaired
