--[[
queue_put: store events once each and make their mailboxes due. Several puts share one call.

KEYS[1]  prefix of the shard's keys, carrying its hash tag
ARGV     1 debounce ms · 2 its cap ms · 3 dedupe s · 4 most events in the shard · 5 most events in a mailbox
         6 block ms, the longest a worker waits without looking · 7 most bytes in the shard · 8 most bytes in a mailbox
         9 kinds that have one share of a group's room, with a space between them
         10 gather ms · 11 kinds whose mailboxes gather, with a space between them
         12 server time in ms from which on the caller does not wait for this reply any more, 0 unknown
         13… one put after the other: n, 1 to refuse it while events are put aside elsewhere, then n times (id, mailbox,
         frame); a frame's first byte is 1 for immediate
Returns  {now ms, for each put the number of events stored, …}; or {that number, position of each event that was diverted,
         from 0} in its place; the rest were duplicates. Or -1: the shard is full, nothing of this put was stored.
         -2: `aside` is there, which says that events are put aside, likewise. {now ms} alone: too late

Schedule   mailboxes wait in `r:<group>` with the time they are due; a mailbox's group is its name up to the last ":"
           (the account, for a conversation), "" without one. `groups` holds each group that has any, with the earliest of them.
           `wait` holds the ms that a retry was put off by, while it waits: it is due no later than that from now.
Room       a share is a group, or the groups `<kind>:<rest>` of one rest and the kinds in ARGV: an account's messages and its
           statuses wait for different turns and take the same room. A share may hold as many events, and bytes, as are still
           free: n shares that want everything end with 1/(n+1) of it each, and there is always room for one more (dynamic
           thresholds, Choudhury and Hahne 1998). What exceeds that, or its mailbox, is diverted: not stored, no mark left,
           and so is what follows it in that mailbox. The counters are those of groups: a version that knew no kinds keeps
           them the same way.
Invariant  a list is non-empty <=> its mailbox is in exactly one of its `r:<group>`, `lease`, and in `heads` with the age of
           its head; a group is in `groups` with score s <=> s is the lowest score in its `r:<group>`;
           `first` holds "start:due" of a burst that is still being debounced, and nothing else.
           `depth` = sum of the lists' lengths; `held` has `events:<group>` and `bytes:<group>`, the sums of a group's lists,
           and `bytes`, that of all; `weight` has the bytes of each list. What is 0 has no field.
Steps
  0 too late: store nothing. Either the server was frozen and the caller gave up: events that it put elsewhere instead may
    wait there behind older ones, which these would overtake. Or the caller did not know the time: it asks again
then, for each put
  1 for each event: mark its id as seen, unless it is. No room in the shard: take back this put's entries and marks, refuse
    it. No room in its share or mailbox: divert it. Otherwise append (server time .. frame) to the mailbox
  2 for each mailbox that grew (one of a kind that gathers: debounce = cap = gather ms, also for immediate events, and due at
    the full twentieth of a second before that: one claim takes what gathers for many mailboxes):
    a it was empty: due now (only immediate events), else after the debounce: the burst begins
    b a burst is running: due = min(last + debounce, first + cap); a leased mailbox gets that time from queue_settle
    c leased, no burst yet: the burst begins
    d otherwise (in back-off, or due already): its time stays
then, once: correct `groups`, count what was stored, and wake a worker if something new falls due before the next one looks.
Of what gathers until the same time, which is in `gathered`, the first wakes one: that worker looks then.
]]
local prefix = KEYS[1]
local debounce, cap, dedupe = tonumber(ARGV[1]), tonumber(ARGV[2]), ARGV[3]
local max_pending, max_mailbox, block = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
local max_bytes, max_mailbox_bytes = tonumber(ARGV[7]), tonumber(ARGV[8])
local groups, heads, first = prefix .. "groups", prefix .. "heads", prefix .. "first"
local held, weight = prefix .. "held", prefix .. "weight"
local time = redis.call("TIME")
local now = time[1] * 1000 + math.floor(time[2] / 1000)
if now >= tonumber(ARGV[12]) then return {now} end
local stamp = string.format("%013.0f", now)
local depth = tonumber(redis.call("GET", prefix .. "depth") or 0)
local bytes = tonumber(redis.call("HGET", held, "bytes") or 0)
local depth_before, bytes_before = depth, bytes
local gather, gathers, TWENTIETH_MS = tonumber(ARGV[10]), {}, 50
local soonest, replies, changed, groups_of, shares, kinds = math.huge, {now}, {}, {}, {}, {}
for kind in string.gmatch(ARGV[9], "%S+") do kinds[#kinds + 1], kinds[kind] = kind, true end
for kind in string.gmatch(ARGV[11], "%S+") do gathers[kind] = gather > 0 end

local function share_of(name)
  local kind, rest = string.match(name, "^([^:]*):(.+)$")
  local fields, key = {"events:" .. name, "bytes:" .. name}, name
  if kinds[kind] then
    fields, key = {}, ":" .. rest
    for _, each in ipairs(kinds) do
      fields[#fields + 1], fields[#fields + 2] = "events:" .. each .. key, "bytes:" .. each .. key
    end
  end
  local share = shares[key]
  if not share then
    share = {events = 0, bytes = 0}
    for i, amount in ipairs(redis.call("HMGET", held, unpack(fields))) do
      local what = i % 2 == 1 and "events" or "bytes"
      share[what] = share[what] + tonumber(amount or 0)
    end
    shares[key] = share
  end
  return share
end

local function group_of(box)
  local name = string.match(box, "^(.*):") or ""
  local group = groups_of[name]
  if not group then
    group = {name = name, share = share_of(name), new_events = 0, new_bytes = 0}
    groups_of[name] = group
  end
  return group
end

local function count(group, events, size)
  local share = group.share
  depth, bytes = depth + events, bytes + size
  share.events, share.bytes = share.events + events, share.bytes + size
  group.new_events, group.new_bytes = group.new_events + events, group.new_bytes + size
end

-- Nil if it does not fit, else the length of the mailbox with it.
local function append(box, group, entry)
  local size, share = #entry, group.share
  if share.events + 1 > max_pending - depth or share.bytes + size > max_bytes - bytes then return end
  local heavy, list = redis.call("HINCRBY", weight, box, size), prefix .. "m:" .. box
  local length = heavy <= max_mailbox_bytes and redis.call("RPUSH", list, entry)
  if length and length <= max_mailbox then
    count(group, 1, size)
    return length
  end
  if length then redis.call("RPOP", list) end
  if redis.call("HINCRBY", weight, box, -size) <= 0 then redis.call("HDEL", weight, box) end
end

local function take_back(marks, boxes_of, sizes)
  for i = #marks, 1, -1 do
    local box, size = boxes_of[i], sizes[i]
    redis.call("RPOP", prefix .. "m:" .. box)
    redis.call("DEL", marks[i])
    if redis.call("HINCRBY", weight, box, -size) <= 0 then redis.call("HDEL", weight, box) end
    count(group_of(box), -1, -size)
  end
end

local function is_known(due)
  local known = redis.call("SET", prefix .. "gathered", string.format("%.0f", due), "PX", gather, "GET")
  return known and tonumber(known) == due
end

local function schedule(box, group, was_empty, debounced)
  local ready, start, due, pause, most = prefix .. "r:" .. group, now, now, debounce, cap
  local is_gathering = gathers[string.match(box, "^[^:]*")]
  if is_gathering then
    debounced, pause, most = true, gather, gather
  end
  if debounced then
    local burst = not was_empty and redis.call("HGET", first, box)
    if burst then
      start = tonumber(string.match(burst, "^%d+"))
    elseif not was_empty and redis.call("ZSCORE", ready, box) then
      return
    end
    due = math.min(now + pause, start + most)
    if is_gathering then due = due - due % TWENTIETH_MS end
    redis.call("HSET", first, box, string.format("%.0f:%.0f", start, due))
  end
  if was_empty then
    redis.call("ZADD", ready, due, box)
    redis.call("ZADD", heads, now, box)
    if not (is_gathering and is_known(due)) then soonest = math.min(soonest, due) end
  elseif debounced then
    redis.call("ZADD", ready, "XX", due, box)
  end
  changed[group] = true
end

local function put(at, n)
  local marks, boxes_of, sizes, boxes, diverted = {}, {}, {}, {}, {}
  local group, length, grown, debounced, over = {}, {}, {}, {}, {}
  for i = 0, n - 1 do
    local mark, box, frame = prefix .. "d:" .. ARGV[at + 3 * i], ARGV[at + 3 * i + 1], ARGV[at + 3 * i + 2]
    if redis.call("SET", mark, "", "NX", "EX", dedupe) then
      local entry = stamp .. frame
      if depth + 1 > max_pending or bytes + #entry > max_bytes then
        redis.call("DEL", mark)
        take_back(marks, boxes_of, sizes)
        return -1
      end
      group[box] = group[box] or group_of(box)
      local longer = not over[box] and append(box, group[box], entry)
      if longer then
        if not grown[box] then
          boxes[#boxes + 1], grown[box] = box, 0
        end
        length[box], grown[box] = longer, grown[box] + 1
        debounced[box] = debounced[box] or (debounce > 0 and string.byte(frame) == 0)
        marks[#marks + 1], boxes_of[#marks + 1], sizes[#marks + 1] = mark, box, #entry
      else
        redis.call("DEL", mark)
        over[box], diverted[#diverted + 1] = true, i
      end
    end
  end
  for _, box in ipairs(boxes) do
    schedule(box, group[box].name, length[box] == grown[box], debounced[box])
  end
  if #diverted == 0 then return #marks end
  return {#marks, unpack(diverted)}
end

local at = 13
while ARGV[at] do
  local n = tonumber(ARGV[at])
  local refused = ARGV[at + 1] == "1" and redis.call("EXISTS", prefix .. "aside") == 1
  replies[#replies + 1] = refused and -2 or put(at + 2, n)
  at = at + 2 + 3 * n
end
for group in pairs(changed) do
  local head = redis.call("ZRANGE", prefix .. "r:" .. group, 0, 0, "WITHSCORES")
  if head[1] then redis.call("ZADD", groups, head[2], group) end
end
if depth > depth_before then
  redis.call("INCRBY", prefix .. "depth", depth - depth_before)
  redis.call("HINCRBY", held, "bytes", bytes - bytes_before)
  for name, group in pairs(groups_of) do
    if group.new_events > 0 then
      redis.call("HINCRBY", held, "events:" .. name, group.new_events)
      redis.call("HINCRBY", held, "bytes:" .. name, group.new_bytes)
    end
  end
end
if soonest - now <= block then
  redis.call("RPUSH", prefix .. "wake", 1)
  redis.call("LTRIM", prefix .. "wake", -16, -1)
end
return replies
