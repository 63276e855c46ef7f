--[[
queue_dead: the dead letters of a shard, kept within a number and within bytes, and the count of what waits; put in front
of the scripts that bury or take them.

KEYS       the shard's prefix p:
  p dlq    stream  mailbox, entry, reason, attempts, failure1 … failure5 of each letter
  p dlqn   hash    bytes: of all fields of all letters; lost: how many the limits have cost since the queue began
  p dlqt   string  id of the last letter that a person was told of
Invariant  bytes is the sum over the stream, unless an earlier version took letters away; it is 0 when the stream is empty,
           and counted anew when it is missing. The newest letter stays, however large it is.
]]
-- `depth` after n events left. Never below 0: a server that evicts may have taken the counter (queue_audit counts anew).
local function take_depth(prefix, n)
  if redis.call("DECRBY", prefix .. "depth", n) < 0 then redis.call("SET", prefix .. "depth", 0) end
end

local function letter_bytes(fields)
  local bytes = 0
  for _, text in ipairs(fields) do bytes = bytes + #tostring(text) end
  return bytes
end

local function dead_bytes(prefix)
  local known = redis.call("HGET", prefix .. "dlqn", "bytes")
  if known then return tonumber(known) end
  local bytes, from = 0, "-"
  while true do
    local page = redis.call("XRANGE", prefix .. "dlq", from, "+", "COUNT", 1000)
    if #page == 0 then return bytes end
    for _, letter in ipairs(page) do bytes = bytes + letter_bytes(letter[2]) end
    from = "(" .. page[#page][1]
  end
end

local function keep_bytes(prefix, bytes)
  if redis.call("XLEN", prefix .. "dlq") == 0 then bytes = 0 end
  redis.call("HSET", prefix .. "dlqn", "bytes", string.format("%.0f", math.max(0, bytes)))
end

-- Returns the new letter's id. The oldest go when there is no room.
local function bury(prefix, most, most_bytes, fields)
  local dlq = prefix .. "dlq"
  local bytes = dead_bytes(prefix) + letter_bytes(fields)
  local id, lost = redis.call("XADD", dlq, "*", unpack(fields)), 0
  local length = redis.call("XLEN", dlq)
  while length > 1 and (length > most or bytes > most_bytes) do
    local oldest = redis.call("XRANGE", dlq, "-", "+", "COUNT", 1)[1]
    redis.call("XDEL", dlq, oldest[1])
    bytes, length, lost = bytes - letter_bytes(oldest[2]), length - 1, lost + 1
  end
  if lost > 0 then redis.call("HINCRBY", prefix .. "dlqn", "lost", lost) end
  keep_bytes(prefix, bytes)
  return id
end

-- Returns the letter's fields by name, or nil if there is none of that id.
local function take_letter(prefix, id)
  local found = redis.call("XRANGE", prefix .. "dlq", id, id)[1]
  if not found then return nil end
  local bytes, letter = dead_bytes(prefix) - letter_bytes(found[2]), {}
  for i = 1, #found[2], 2 do letter[found[2][i]] = found[2][i + 1] end
  redis.call("XDEL", prefix .. "dlq", id)
  keep_bytes(prefix, bytes)
  return letter
end
