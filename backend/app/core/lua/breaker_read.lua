--[[
breaker_read: the verdicts on some breakers of one group, and on all others of it that are worth knowing.

KEYS     1 index (see breaker_state)
ARGV     1 prefix of the group's keys · 2 most names out of the index · 3… names
Returns  {name, view…, the last failure in words} for each name asked for, then for each other name in the index, the latest change first

Invariant  changes no verdict. A name whose keys are gone leaves the index; so do the oldest beyond 10,000.
]]
local prefix, answer, asked = ARGV[1], {}, {}

local function add(name)
  local b = load_state(prefix .. name .. ":s", prefix .. name .. ":w")
  local row = {name}
  for _, field in ipairs(view(b)) do row[#row + 1] = field end
  row[#row + 1] = b.cause
  answer[#answer + 1] = row
  return b
end

for i = 3, #ARGV do
  asked[ARGV[i]] = true
  add(ARGV[i])
end
for _, name in ipairs(redis.call("ZRANGE", KEYS[1], 0, tonumber(ARGV[2]) - 1, "REV")) do
  if not asked[name] then
    local b = add(name)
    if b.state == "closed" and b.failures == 0 then redis.call("ZREM", KEYS[1], name) end
  end
end
redis.call("ZREMRANGEBYRANK", KEYS[1], 0, -10001)
return answer
