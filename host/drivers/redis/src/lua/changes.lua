-- ARGV: the revision after which to read, prefix, most changes, most bytes. Status 0 is a gap: something
-- after that revision is no longer known. Else answers the milliseconds until the next session may end (-1:
-- none), the revision up to which this is complete, 1 if there is more, and for each change below the prefix
-- its revision, key, cause and record. Whole revisions only, however large one is.
local after, prefix, most, room = tonumber(ARGV[3]), ARGV[4], tonumber(ARGV[5]), tonumber(ARGV[6])
-- Before the log is read: writing the counter may trim it.
finish()
local wait = -1
local next = call('ZRANGE', SESSION, 0, 0, 'WITHSCORES')
if next[2] then
  wait = math.max(1, next[2] - now)
end
if after < base or after > revision then
  return {0, revision}
end

local reply = {1, revision, wait, revision, 0}
local start, scanned, full = text(after + 1) .. '-0', 0, false
-- The revision being read, the whole one before it, and how long the reply was in between.
local last, whole, mark = after, after, #reply
while not full do
  local entries = call('XRANGE', LOG, start, '+', 'COUNT', 128)
  for _, entry in ipairs(entries) do
    local at, step = string.match(entry[1], '^(%d+)-(%d+)$')
    local key, raw = entry[2][2], entry[2][6]
    if tonumber(at) > last then
      last, whole, mark = tonumber(at), last, #reply
    end
    scanned = scanned + 1
    if string.sub(key, 1, #prefix) == prefix then
      room = room - #raw
      local size = #reply
      reply[size + 1], reply[size + 2], reply[size + 3], reply[size + 4] = last, key, entry[2][4], raw
    end
    if whole > after and (scanned > most or room < 0) then
      for index = #reply, mark + 1, -1 do
        reply[index] = nil
      end
      reply[4], reply[5], full = whole, 1, true
      break
    end
    start = at .. '-' .. text(step + 1)
  end
  full = full or #entries < 128
end
return reply
