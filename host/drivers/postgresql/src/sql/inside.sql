-- What the operations are made of. `ns` is the row of the namespace, locked, with what it becomes.

create or replace function althing.channel(_name bytea) returns text language sql immutable as $$
  select 'althing_' || substring(encode(sha256(_name), 'hex') from 1 for 32)
$$;

-- Another one after each fail-over or recovery to a point in time: then the newest commits may be gone.
create or replace function althing.timeline() returns text language sql as $$
  select substring(pg_walfile_name(pg_current_wal_lsn()) from 1 for 8)
$$;

-- Until the end of this transaction: no lock is waited for longer, and it is on disk before it is answered.
create or replace function althing.prepare(_patience int) returns void language plpgsql as $$
begin
  perform set_config('lock_timeout', _patience::text, true);
  if current_setting('synchronous_commit') = 'off' then
    perform set_config('synchronous_commit', 'on', true);
  end if;
end $$;

-- Locks the namespace, or returns null where it is not the one that the host knows.
create or replace function althing.enter(_space int, _known text, _seen bigint, _patience int)
returns althing.namespace language plpgsql as $$
declare
  ns althing.namespace;
begin
  perform althing.prepare(_patience);
  select * into ns from althing.namespace n where n.id = _space for no key update;
  if ns.incarnation is distinct from _known or ns.revision < _seen or ns.timeline <> althing.timeline() then
    return null;
  end if;
  return ns;
end $$;

-- Removes, at one revision, all that a session owned whose own row is gone.
create or replace function althing.ended(ns althing.namespace, _session bytea, _cause text)
returns althing.namespace language plpgsql as $$
begin
  ns.revision := ns.revision + 1;
  with gone as (
    delete from althing.record r where r.space = ns.id and r.session = _session
    returning r.key, r.created, r.modified
  ), told as (
    insert into althing.change (space, revision, step, key, cause, created, modified)
    select ns.id, ns.revision, row_number() over (order by g.key), g.key, _cause, g.created, g.modified
    from gone g
    returning octet_length(key) as size
  )
  select ns.changes + count(*), ns.bytes + coalesce(sum(t.size), 0) into ns.changes, ns.bytes from told t;
  return ns;
end $$;

-- Ends the sessions that are due, in the order in which they became so. A renewal that was under way goes first.
create or replace function althing.reaped(ns althing.namespace) returns althing.namespace language plpgsql as $$
declare
  due bytea;
begin
  for due in
    select s.id from althing.session s where s.space = ns.id and s.until <= clock_timestamp()
    order by s.until, s.id
  loop
    delete from althing.session s where s.space = ns.id and s.id = due and s.until <= clock_timestamp();
    if found then
      ns := althing.ended(ns, due, 'e');
    end if;
  end loop;
  return ns;
end $$;

-- Forgets the `_count` oldest changes, and the rest of the last one's revision.
create or replace function althing.forgotten(ns althing.namespace, _count bigint)
returns althing.namespace language plpgsql as $$
begin
  select c.revision into ns.base from althing.change c where c.space = ns.id
  order by c.revision, c.step offset _count - 1 limit 1;
  if ns.base is null then
    ns.base := ns.revision;
  end if;
  with gone as (
    delete from althing.change c where c.space = ns.id and c.revision <= ns.base
    returning octet_length(c.key) + coalesce(octet_length(c.value), 0) as size
  )
  select ns.changes - count(*), ns.bytes - coalesce(sum(g.size), 0) into ns.changes, ns.bytes from gone g;
  return ns;
end $$;

-- Keeps what the namespace became, if it is more than `_before`, and wakes the watches. They are told how the keys begin
-- that changed, unless these are too many: a watch of others need not look.
create or replace function althing.leave(ns althing.namespace, _before bigint) returns void
language plpgsql as $$
declare
  heads text;
begin
  if ns.revision = _before then
    return;
  end if;
  select string_agg(distinct encode(substring(c.key from 1 for {HEAD_BYTES}), 'hex'), ' ') into heads
  from althing.change c where c.space = ns.id and c.revision > _before;
  if heads is null or length(heads) > {HEADS_BYTES} then
    heads := '';
  end if;
  -- Some at a time, so that not every commit looks for the oldest.
  if ns.changes > {HISTORY_CHANGES} + 1024 then
    ns := althing.forgotten(ns, ns.changes - {HISTORY_CHANGES});
  end if;
  while ns.bytes > {HISTORY_BYTES} and ns.changes > 0 loop
    ns := althing.forgotten(ns, least(ns.changes, 64));
  end loop;
  update althing.namespace n
  set revision = ns.revision, base = ns.base, changes = ns.changes, bytes = ns.bytes
  where n.id = ns.id;
  perform pg_notify(althing.channel(ns.name), concat_ws(' ', ns.revision, heads));
end $$;
