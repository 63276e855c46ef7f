--[[
queue_replay: put dead letters back at the tail of their mailboxes.

KEYS[1]  prefix of the shard's keys, carrying its hash tag
ARGV     stream ids, in the order in which they are to be handled
Returns  how many were put back; an id that is not there (any more) is skipped

Invariant  see queue_put, queue_dead.
Steps, for each id
  1 take the letter out, append its entry, accepted now: its age starts afresh. The ids seen are not consulted: this one is among them
  2 the mailbox was empty: due now; otherwise its time stays. The failed attempts of its head are not touched
then wake a worker.
]]
local prefix, replayed = KEYS[1], 0
local time = redis.call("TIME")
local now = time[1] * 1000 + math.floor(time[2] / 1000)
for _, id in ipairs(ARGV) do
  local letter = take_letter(prefix, id)
  if letter then
    local box, entry = letter.mailbox, string.format("%013.0f", now) .. string.sub(letter.entry, 14)
    local group = string.match(box, "^(.*):") or ""
    if redis.call("RPUSH", prefix .. "m:" .. box, entry) == 1 then
      redis.call("ZADD", prefix .. "r:" .. group, now, box)
      redis.call("ZADD", prefix .. "groups", "LT", now, group)
      redis.call("ZADD", prefix .. "heads", now, box)
    end
    redis.call("INCR", prefix .. "depth")
    redis.call("HINCRBY", prefix .. "weight", box, #entry)
    redis.call("HINCRBY", prefix .. "held", "events:" .. group, 1)
    redis.call("HINCRBY", prefix .. "held", "bytes:" .. group, #entry)
    redis.call("HINCRBY", prefix .. "held", "bytes", #entry)
    replayed = replayed + 1
  end
end
if replayed > 0 then
  redis.call("RPUSH", prefix .. "wake", 1)
  redis.call("LTRIM", prefix .. "wake", -16, -1)
end
return replayed
