-- ARGV: lowest and highest name as ZRANGEBYLEX wants them, most records, most bytes of values.
-- Answers 1 if there is more, then names and records in turn.
local limit, room = tonumber(ARGV[5]), tonumber(ARGV[6])
local names = call('ZRANGEBYLEX', NAME, ARGV[3], ARGV[4], 'LIMIT', 0, limit + 1)
local reply = {1, revision, 0}
local taken, full = 0, #names == 0
while not full do
  -- Few at a time, because each may be as large as the whole page.
  local raws = call('HMGET', RECORD, unpack(names, taken + 1, math.min(taken + 16, #names)))
  for _, raw in ipairs(raws) do
    room = room - (#raw - 64)
    full = taken == limit or (room < 0 and taken > 0)
    if full then
      break
    end
    taken = taken + 1
    reply[#reply + 1] = names[taken]
    reply[#reply + 1] = raw
  end
  full = full or taken == #names
end
if taken < #names then
  reply[3] = 1
end
return finish(reply)
