--[[
queue_life: which history of the queue this is.

KEYS[1]  prefix of the shard's keys, carrying its hash tag
Returns  a text that is another one after the shard's data was lost, or after another server took over, which may lack
         the last writes

Invariant  the same text twice: what was stored before the first answer and not yet taken out is still there
Steps
  1 a number that goes with the data: the server's time when it was first asked for
  2 the replication id, which every restart and every promotion changes; providers that do not tell it have step 1 only
]]
local time = redis.call("TIME")
redis.call("SET", KEYS[1] .. "life", string.format("%.0f", time[1] * 1000000 + time[2]), "NX")
local info = redis.pcall("INFO", "replication")
local server = type(info) == "string" and string.match(info, "master_replid:(%x+)") or ""
return redis.call("GET", KEYS[1] .. "life") .. "-" .. server
