-- Runs a command unless a higher token was seen, and remembers the token.
-- KEYS: where the highest token lies, then the keys of the command. ARGV: the token, then the command.
local function padded(text)
  if type(text) ~= 'string' or #text < 1 or #text > 20 or text:find('%D') then
    return nil
  end
  return string.rep('0', 20 - #text) .. text
end

local token = padded(ARGV[1])
if not token then
  return redis.error_reply('ERR a token is one to twenty digits')
end
if #ARGV < 2 then
  return redis.error_reply('ERR after the token comes the command that writes')
end
local stored = redis.call('GET', KEYS[1])
local seen = stored and padded(stored) or token
if stored and not padded(stored) then
  return redis.error_reply('ERR the first key holds something else than a token')
end
if token < seen then
  return redis.error_reply('STALE ' .. seen)
end
if token ~= stored then
  redis.call('SET', KEYS[1], token)
end
return redis.call(unpack(ARGV, 2))
