-- ARGV: session, its key. Answers the lease in milliseconds and the server's time.
local id = ARGV[3]
if not alive(id) then
  return finish({-1, revision})
end
local raw = call('HGET', RECORD, ARGV[4])
local lease = tonumber(string.match(raw, '%d+', 65))
call('ZADD', SESSION, now + 1 + lease, id)
call('HSET', META, 'clock', text(now))
return finish({1, revision, lease, tonumber(time[1]), tonumber(time[2])})
