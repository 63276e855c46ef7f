--[[
queue_refresh: show the holders of conversations what arrived since they looked.

KEYS[1]  prefix of the shard's keys, carrying its hash tag
ARGV     for each conversation: mailbox · token · events known already · most events to show in all
Returns  for each {entry, …} after the known ones, or nil: the token is no longer valid

Invariant  writes nothing. Only the holder trims the list, so what it knows is still the front of it.
Steps
  1 another token, or none: nil
  2 the entries behind the known ones
]]
local replies = {}
for i = 1, #ARGV, 4 do
  local box, held = ARGV[i], redis.call("HGET", KEYS[1] .. "own", ARGV[i]) == ARGV[i + 1]
  replies[#replies + 1] = held and redis.call("LRANGE", KEYS[1] .. "m:" .. box, ARGV[i + 2], ARGV[i + 3] - 1)
end
return replies
