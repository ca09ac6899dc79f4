-- ARGV: session.
if call('ZSCORE', SESSION, ARGV[3]) then
  end_session(ARGV[3], 'c')
end
return finish({1, revision})
