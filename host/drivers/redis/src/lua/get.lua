-- ARGV: key.
return finish({1, revision, call('HGET', RECORD, ARGV[3])})
