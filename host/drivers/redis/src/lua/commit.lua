-- ARGV: number of guards; for each its key and the stamp it must have ('' for none); then for each write its
-- key, session ('' for none, '-' for a deletion) and value. Answers status 0 and the index of the guard that
-- did not hold, or -1 when a session has ended, or the stamps: created and modified for each write.
local former = {}
local place = 4
for guard = 1, tonumber(ARGV[3]) do
  local key, wanted = ARGV[place], ARGV[place + 1]
  local raw = call('HGET', RECORD, key)
  if wanted ~= (raw and string.sub(raw, 1, 32) or '') then
    return finish({0, revision, guard - 1})
  end
  former[key] = raw
  place = place + 2
end

local live = { [''] = true, ['-'] = true }
for write = place, #ARGV, 3 do
  local id = ARGV[write + 1]
  if not live[id] then
    if not alive(id) then
      return finish({-1, revision, id})
    end
    live[id] = true
  end
end

advance()
local reply = {1, revision}
for write = place, #ARGV, 3 do
  local key, id, value = ARGV[write], ARGV[write + 1], ARGV[write + 2]
  local old = former[key]
  if old == nil then
    old = call('HGET', RECORD, key)
  end
  local owner = old and string.sub(old, 33, 64)
  local created, modified = revision, revision
  if id == '-' then
    if old then
      created, modified = tonumber(string.sub(old, 1, 16)), tonumber(string.sub(old, 17, 32))
      call('HDEL', RECORD, key)
      call('ZREM', NAME, key)
      log(key, 'd', string.sub(old, 1, 32))
    end
  else
    if id == '' then
      id = NOBODY
    end
    if owner == id then
      created = tonumber(string.sub(old, 1, 16))
    elseif id ~= NOBODY then
      call('ZADD', OWNED, 0, id .. ':' .. key)
    end
    if not old then
      call('ZADD', NAME, 0, key)
    end
    local raw = stamp(created, modified) .. id .. value
    call('HSET', RECORD, key, raw)
    log(key, 'p', raw)
  end
  if owner and owner ~= NOBODY and owner ~= id then
    call('ZREM', OWNED, owner .. ':' .. key)
  end
  reply[#reply + 1] = created
  reply[#reply + 1] = modified
end
return finish(reply)
