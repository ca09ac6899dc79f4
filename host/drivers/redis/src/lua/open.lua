-- ARGV: session, its key, the lease in milliseconds, the value of its record.
local id, key, value = ARGV[3], ARGV[4], ARGV[6]
advance()
local raw = stamp(revision, revision) .. id .. value
call('HSET', RECORD, key, raw)
call('ZADD', NAME, 0, key)
call('ZADD', OWNED, 0, id .. ':' .. key)
-- `now` was cut to a millisecond: one more, so that the lease is never shorter than granted.
call('ZADD', SESSION, now + 1 + tonumber(ARGV[5]), id)
log(key, 'p', raw)
return finish({1, revision})
