-- Takes the namespace into use, once for each connection and whenever a script answered -2.
--
-- ARGV: layout version, a new incarnation, the server's run id ('' if unknown), what another run id than that of
-- before means ('1': it was restarted and has all it acknowledged; '0': it was restarted and may have forgotten;
-- 'r': a replica may have taken over, which has what it was sent), the incarnation the driver knew ('' if none), the
-- highest revision it saw.
--
-- The store was lost or set back when it has no format record, when a server that may forget was restarted,
-- or when the counter is below what this incarnation already showed. Then every session is gone, the
-- incarnation is new, and the counter goes on far above everything seen and above the microseconds since 1970, so
-- that tokens rise even for a driver that saw nothing: no server commits a million times per second.
--
-- Where a replica took over, nobody can know what it was not sent: maybe the end of a session, or of a term. So every
-- session ends then too, but not at once: its host may not know yet, and goes on believing in it for a lease. The
-- server keeps what it holds for another lease, or until its host calls; meanwhile nobody else can have it.
--
-- Answers status -3 on what is not ours, and -4 on a former master, which others have left.
local call = redis.call
local META, RECORD, NAME, SESSION, OWNED, LOG = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]
local version, fresh, run, kept, known, seen = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5], tonumber(ARGV[6])
-- First of all, and for nothing else, so that a user who may not publish is told before anything is written.
call('PUBLISH', LOG, '0')
local time = call('TIME')
local floor = time[1] * 1000000 + time[2]
local now = math.floor(floor / 1000)
-- More commits than a server acknowledges before they reach a replica, or before all hosts have seen one of them: also
-- where clocks differ, no token comes twice, and nobody who saw the former incarnation has seen more than the next shows.
local UNSENT = 1000000

local function begin(revision)
  revision = math.max(math.max(revision, seen) + UNSENT, floor) + 1
  local start = string.format('%.0f', revision)
  call('HSET', META, 'format', version, 'incarnation', fresh, 'run', run,
    'revision', start, 'base', start, 'bytes', '0', 'clock', string.format('%.0f', now))
  call('PUBLISH', LOG, start)
  return {1, revision, fresh}
end

local kind = call('TYPE', META).ok
if kind == 'none' then
  if call('EXISTS', RECORD, NAME, SESSION, OWNED, LOG) > 0 then
    return {-3, 0, 'records without a format record'}
  end
  return begin(0)
end
if kind ~= 'hash' then
  return {-3, 0, 'a ' .. kind .. ' where the format record belongs'}
end
local meta = call('HMGET', META, 'format', 'incarnation', 'revision', 'run')
if meta[1] ~= version then
  return {-3, 0, meta[1] and ('layout version ' .. meta[1]) or 'a foreign hash'}
end

-- Changes nothing and takes no memory, but is a write: a full server lets a script go on that has written.
call('HDEL', META, '')
local revision = tonumber(meta[3])
local restarted = run ~= '' and meta[4] ~= '' and meta[4] ~= run
if restarted and kept == 'r' then
  for _, id in ipairs(call('ZRANGE', SESSION, 0, -1)) do
    local raw = call('HGET', RECORD, 'session/' .. id)
    local lease = raw and string.match(raw, '%d+', 65) or 0
    -- A score that is not whole marks a session that ends when its host calls.
    call('ZADD', SESSION, string.format('%.1f', now + 1 + lease + 0.5), id)
  end
  call('DEL', LOG)
  return begin(revision)
end
if (restarted and kept == '0') or (known == meta[2] and revision < seen) then
  local owned
  repeat
    owned = call('ZRANGE', OWNED, 0, 499)
    if #owned > 0 then
      local keys = {}
      for index, member in ipairs(owned) do
        keys[index] = string.sub(member, 34)
      end
      call('HDEL', RECORD, unpack(keys))
      call('ZREM', NAME, unpack(keys))
      call('ZREM', OWNED, unpack(owned))
    end
  until #owned < 500
  call('DEL', SESSION, LOG)
  return begin(revision)
end

-- Another driver adopted it before us: its sessions live, only the counter must pass what we saw. Not so where replicas
-- take over: there every incarnation begins above what was seen of those before, so one that shows less is a former one,
-- and its sessions are long over elsewhere. Whoever takes its run id away makes it a master that took over.
if revision < seen then
  if kept == 'r' then
    return {-4, 0}
  end
  revision = seen
  call('HSET', META, 'revision', string.format('%.0f', revision))
end
if run ~= '' and run ~= meta[4] then
  call('HSET', META, 'run', run)
end
return {1, revision, meta[2]}
