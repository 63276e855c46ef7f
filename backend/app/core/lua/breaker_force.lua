--[[
breaker_force: an operator's word.

KEYS     1 s · 2 w · 3 p · 4 index (see breaker_state)
ARGV     1 name · 2 channel · 3 forced_open | forced_closed | closed (back to automatic, nothing counted) · 4 who · 5 why
Returns  {1, view…}

Invariant  a forced state stays until the next word, over restarts of replicas and of a server that persists.
Step       the state as told, one epoch on: everything under way is late.
]]
local b = load_state(KEYS[1], KEYS[2])
b.manual, b.who, b.why, b.ends, b.rounds, b.failures = "1", ARGV[4], ARGV[5], 0, 0, 0
change(b, ARGV[3], ARGV[1], ARGV[2], KEYS[3], KEYS[4])
local answer = {1}
for _, field in ipairs(view(b)) do answer[#answer + 1] = field end
return answer
