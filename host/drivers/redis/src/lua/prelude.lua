-- Stands before every script but adopt.lua. HISTORY, HISTORY_BYTES and GROWS are put before it by script.rs.
--
-- ARGV[1] is the incarnation of the store the driver knows, ARGV[2] the highest revision it has seen. If the
-- store is another one, or was set back, nothing is done and the status is -2: the driver adopts it first.
-- A script that fails half-way is not rolled back, so everything that can be refused is looked at before the
-- first write. Numbers reach Redis as %.0f, because Lua's own form of a large one has an exponent.
local call = redis.call
local META, RECORD, NAME, SESSION, OWNED, LOG = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]

-- Changes nothing, but is a write: a server that was made a replica refuses it, and nothing stale is read there. A full
-- server refuses commands that take memory, and those only until a script has written. So this one decides: what makes
-- the store larger begins with one that takes memory and ends here, and all else runs to its end.
if GROWS then
  call('ZADD', SESSION, 'XX', '0', '')
else
  call('ZREM', SESSION, '')
end
local meta = call('HMGET', META, 'incarnation', 'revision', 'base', 'bytes', 'clock')
if meta[1] ~= ARGV[1] or tonumber(meta[2]) < tonumber(ARGV[2]) then
  return {-2, 0}
end
local revision, base, bytes = tonumber(meta[2]), tonumber(meta[3]), tonumber(meta[4])
local written, change = revision, 0
local NOBODY = string.rep('-', 32)
local time = call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

local function text(number)
  return string.format('%.0f', number)
end

-- A record is 16 digits created, 16 digits modified, 32 letters of its session (or dashes), then its value.
local function stamp(created, modified)
  return string.format('%016.0f%016.0f', created, modified)
end

local function advance()
  revision = revision + 1
  change = 0
end

local function log(key, cause, raw)
  change = change + 1
  call('XADD', LOG, text(revision) .. '-' .. change, 'k', key, 'c', cause, 'r', raw)
  bytes = bytes + #key + #raw
end

-- Forgets the oldest changes, some at a time, until the bounds hold. What came after `base` is complete.
local function trim()
  local length = call('XLEN', LOG)
  while length > 0 and (length > HISTORY or bytes > HISTORY_BYTES) do
    local oldest = call('XRANGE', LOG, '-', '+', 'COUNT', 64)
    for _, entry in ipairs(oldest) do
      bytes = bytes - #entry[2][2] - #entry[2][6]
    end
    base = tonumber(string.match(oldest[#oldest][1], '^%d+'))
    length = length - #oldest
    call('XTRIM', LOG, 'MAXLEN', '=', length)
  end
end

-- Writes the counter and wakes the watches, if anything was written. Every return goes through here.
local function finish(reply)
  if revision ~= written then
    trim()
    call('HSET', META, 'revision', text(revision), 'base', text(base), 'bytes', text(bytes), 'clock', text(now))
    call('PUBLISH', LOG, text(revision))
    written = revision
  end
  return reply
end

-- Removes a session and, at one revision, all it owns.
local function end_session(id, cause)
  advance()
  call('ZREM', SESSION, id)
  local owned
  repeat
    owned = call('ZRANGEBYLEX', OWNED, '[' .. id .. ':', '(' .. id .. ';', 'LIMIT', 0, 500)
    if #owned > 0 then
      local keys = {}
      for index, member in ipairs(owned) do
        keys[index] = string.sub(member, 34)
      end
      local raws = call('HMGET', RECORD, unpack(keys))
      call('HDEL', RECORD, unpack(keys))
      call('ZREM', NAME, unpack(keys))
      call('ZREM', OWNED, unpack(owned))
      for index, key in ipairs(keys) do
        log(key, cause, string.sub(raws[index] or '', 1, 32))
      end
    end
  until #owned < 500
end

-- Tells whether a session may be used. One of before a fail-over ends here.
local function alive(id)
  local due = call('ZSCORE', SESSION, id)
  if due and string.find(due, '.', 1, true) then
    end_session(id, 'e')
    return false
  end
  return due
end

-- `clock` is the server's time when it was last written down, at the latest with the last renewal. If the server's
-- clock was set back since, a session has left what it had left then: not more, and never less than its lease.
local clock = tonumber(meta[5] or 0)
if now < clock then
  local due = call('ZRANGE', SESSION, 0, -1, 'WITHSCORES')
  for place = 1, #due, 2 do
    call('ZADD', SESSION, string.format('%.1f', due[place + 1] - (clock - now)), due[place])
  end
  call('HSET', META, 'clock', text(now))
end

for _, id in ipairs(call('ZRANGEBYSCORE', SESSION, '-inf', now)) do
  end_session(id, 'e')
end
