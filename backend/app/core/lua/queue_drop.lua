--[[
queue_drop: forget dead letters for good.

KEYS[1]  prefix of the shard's keys, carrying its hash tag
ARGV     stream ids
Returns  how many there were; an id that is not there (any more) is skipped

Invariant  see queue_dead.
]]
local dropped = 0
for _, id in ipairs(ARGV) do
  if take_letter(KEYS[1], id) then dropped = dropped + 1 end
end
return dropped
