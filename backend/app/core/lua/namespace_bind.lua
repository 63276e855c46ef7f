--[[
namespace_bind: to which database the keys of a namespace belong.

KEYS[1]  the binding; it has no expiry
ARGV     1 read | bind | rebind · 2 identity of a database, "" to read
Returns  what it was bound to before, "" if to nothing

Invariant  a binding changes only by rebind, which is an operator's word; of several that bind at once the first wins.
]]
local bound = redis.call("GET", KEYS[1]) or ""
if ARGV[1] == "rebind" or (ARGV[1] == "bind" and bound == "") then redis.call("SET", KEYS[1], ARGV[2]) end
return bound
