--[[
queue_refresh: show the holder of a conversation what arrived since it looked.

KEYS[1]  prefix of the shard's keys, carrying its hash tag
ARGV     1 mailbox · 2 token · 3 events known already · 4 most events to show in all
Returns  {entry, …} after the known ones, or nil: the token is no longer valid

Invariant  writes nothing. Only the holder trims the list, so what it knows is still the front of it.
Steps
  1 another token, or none: nil
  2 the entries behind the known ones
]]
if redis.call("HGET", KEYS[1] .. "own", ARGV[1]) ~= ARGV[2] then return false end
return redis.call("LRANGE", KEYS[1] .. "m:" .. ARGV[1], ARGV[3], ARGV[4] - 1)
