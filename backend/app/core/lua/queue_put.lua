--[[
queue_put: store events once each and make their mailboxes due. Several puts share one call; each is all or nothing.

KEYS[1]  prefix of the shard's keys, carrying its hash tag
ARGV     1 debounce ms · 2 its cap ms · 3 dedupe s · 4 most events in the shard · 5 most events in a mailbox
         6 block ms, the longest a worker waits without looking
         7… one put after the other: n, then n times (id, mailbox, frame); a frame's first byte is 1 for immediate
Returns  for each put the number of events stored (the rest were duplicates), -1 shard full, -2 mailbox full

Schedule   mailboxes wait in `r:<group>` with the time they are due; a mailbox's group is its name up to the last ":"
           (the account, for a conversation), "" without one. `groups` holds each group that has any, with the earliest of them.
           `wait` holds the ms that a retry was put off by, while it waits: it is due no later than that from now.
Invariant  a list is non-empty <=> its mailbox is in exactly one of its `r:<group>`, `lease`, and in `heads` with the age of
           its head; a group is in `groups` with score s <=> s is the lowest score in its `r:<group>`;
           `first` holds "start:due" of a burst that is still being debounced, and nothing else.
Steps, for each put
  1 for each event: mark its id as seen, unless it is; append (server time .. frame) to the mailbox
  2 one too many for the shard or the mailbox: take back this put's entries and marks, refuse it
  3 for each mailbox that grew:
    a it was empty: due now (only immediate events), else after the debounce: the burst begins
    b a burst is running: due = min(last + debounce, first + cap); a leased mailbox gets that time from queue_settle
    c leased, no burst yet: the burst begins
    d otherwise (in back-off, or due already): its time stays
then, once: correct `groups`, count what was stored, and wake a worker if something new falls due before the next one looks.
]]
local prefix = KEYS[1]
local debounce, cap, dedupe = tonumber(ARGV[1]), tonumber(ARGV[2]), ARGV[3]
local max_pending, max_mailbox, block = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
local groups, heads, first = prefix .. "groups", prefix .. "heads", prefix .. "first"
local time = redis.call("TIME")
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local stamp = string.format("%013.0f", now)
local depth = tonumber(redis.call("GET", prefix .. "depth") or 0)
local before, soonest, replies, changed = depth, math.huge, {}, {}

local function refuse(marks, lists, code)
  for i = #lists, 1, -1 do
    redis.call("RPOP", lists[i])
    redis.call("DEL", marks[i])
  end
  return code
end

local function schedule(box, was_empty, debounced)
  local group = string.match(box, "^(.*):") or ""
  local ready, start, due = prefix .. "r:" .. group, now, now
  if debounced then
    local burst = not was_empty and redis.call("HGET", first, box)
    if burst then
      start = tonumber(string.match(burst, "^%d+"))
    elseif not was_empty and redis.call("ZSCORE", ready, box) then
      return
    end
    due = math.min(now + debounce, start + cap)
    redis.call("HSET", first, box, string.format("%.0f:%.0f", start, due))
  end
  if was_empty then
    redis.call("ZADD", ready, due, box)
    redis.call("ZADD", heads, now, box)
    soonest = math.min(soonest, due)
  elseif debounced then
    redis.call("ZADD", ready, "XX", due, box)
  end
  changed[group] = true
end

local function put(at, n)
  local marks, lists, boxes, size, grown, debounced = {}, {}, {}, {}, {}, {}
  for i = at, at + 3 * n - 1, 3 do
    local mark, box, frame = prefix .. "d:" .. ARGV[i], ARGV[i + 1], ARGV[i + 2]
    if redis.call("SET", mark, "", "NX", "EX", dedupe) then
      local list = prefix .. "m:" .. box
      marks[#marks + 1], lists[#lists + 1] = mark, list
      if not grown[box] then
        boxes[#boxes + 1], grown[box] = box, 0
      end
      size[box], grown[box] = redis.call("RPUSH", list, stamp .. frame), grown[box] + 1
      debounced[box] = debounced[box] or (debounce > 0 and string.byte(frame) == 0)
      if depth + #marks > max_pending then return refuse(marks, lists, -1) end
      if size[box] > max_mailbox then return refuse(marks, lists, -2) end
    end
  end
  for _, box in ipairs(boxes) do
    schedule(box, size[box] == grown[box], debounced[box])
  end
  depth = depth + #marks
  return #marks
end

local at = 7
while ARGV[at] do
  local n = tonumber(ARGV[at])
  replies[#replies + 1] = put(at + 1, n)
  at = at + 1 + 3 * n
end
for group in pairs(changed) do
  local head = redis.call("ZRANGE", prefix .. "r:" .. group, 0, 0, "WITHSCORES")
  if head[1] then redis.call("ZADD", groups, head[2], group) end
end
if depth > before then redis.call("INCRBY", prefix .. "depth", depth - before) end
if soonest - now <= block then
  redis.call("RPUSH", prefix .. "wake", 1)
  redis.call("LTRIM", prefix .. "wake", -16, -1)
end
return replies
