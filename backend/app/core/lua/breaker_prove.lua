--[[
breaker_prove: a look past the circuit found the dependency well. Probes may begin now.

KEYS     1 s · 2 w · 3 p · 4 index (see breaker_state)
ARGV     1 name · 2 channel · 3 replica
Returns  {changed 0|1, view…}

Invariant  only an open circuit changes, and only to half open: calls decide whether it closes. A forced one stays.
]]
local b = load_state(KEYS[1], KEYS[2])
local changed = 0
if b.state == "open" then
  b.who, b.why, b.ends, changed = ARGV[3], because("seen well", b.cause), 0, 1
  change(b, "half_open", ARGV[1], ARGV[2], KEYS[3], KEYS[4])
end
local answer = {changed}
for _, field in ipairs(view(b)) do answer[#answer + 1] = field end
return answer
