-- What a host calls, each as one statement. All but `adopt` begin with the namespace, the incarnation the host
-- knows, the highest revision it has seen and how many milliseconds a lock may be waited for.
-- Status: 1 done, 0 refused, -1 the session has ended, -2 the namespace is another one, -3 a foreign layout,
-- 2 nothing, because a session is due and must be ended first.

-- Takes the namespace into use. It was set back where the timeline is another, or where it has not reached what
-- this incarnation showed before: then the counter goes on above everything seen and above the microseconds since
-- 1970, so that tokens rise even for hosts that saw nothing, and who watched begins anew. Sessions are kept, for
-- a whole lease, because whoever holds them may have been told so by a renewal that is gone.
create or replace function althing.adopt(
  _name bytea, _version int, _fresh text, _known text, _seen bigint, _patience int,
  out status int, out revision bigint, out space int, out incarnation text, out channel text, out layout text
) language plpgsql as $$
declare
  ns althing.namespace;
  floor bigint := (extract(epoch from clock_timestamp()) * 1000000)::bigint;
begin
  perform althing.prepare(_patience);
  select * into ns from althing.namespace n where n.name = _name;
  if not found then
    insert into althing.namespace (name, format, incarnation, timeline, revision, base)
    values (_name, _version, _fresh, althing.timeline(), greatest(floor, _seen + 1), greatest(floor, _seen + 1))
    on conflict (name) do nothing;
  end if;
  -- Locked only where there is something to change: a host comes back also while somebody holds the namespace.
  if ns.id is null or ns.timeline <> althing.timeline() or ns.revision < _seen then
    select * into ns from althing.namespace n where n.name = _name for no key update;
  end if;
  if ns.format <> _version then
    status := -3;
    layout := 'layout version ' || ns.format;
    return;
  end if;
  if ns.timeline <> althing.timeline() or (_known = ns.incarnation and ns.revision < _seen) then
    ns.revision := greatest(ns.revision, _seen, floor) + 1;
    ns.incarnation := _fresh;
    delete from althing.change c where c.space = ns.id;
    update althing.session s set until = clock_timestamp() + s.lease_ms * interval '1 millisecond'
    where s.space = ns.id and s.until > clock_timestamp() - s.lease_ms * interval '1 millisecond';
    update althing.namespace n
    set revision = ns.revision, base = ns.revision, changes = 0, bytes = 0,
      incarnation = _fresh, timeline = althing.timeline()
    where n.id = ns.id;
    perform pg_notify(althing.channel(_name), ns.revision::text);
  elsif ns.revision < _seen then
    -- Another host took it into use before us: only the counter must pass what we saw.
    ns.revision := _seen;
    update althing.namespace n set revision = _seen where n.id = ns.id;
  end if;
  status := 1;
  revision := ns.revision;
  space := ns.id;
  incarnation := ns.incarnation;
  channel := althing.channel(_name);
end $$;

create or replace function althing.open(
  _space int, _known text, _seen bigint, _patience int,
  _session bytea, _lease_ms bigint, _key bytea, _value bytea, out status int, out revision bigint
) language plpgsql as $$
declare
  ns althing.namespace := althing.enter(_space, _known, _seen, _patience);
  before bigint := ns.revision;
begin
  if before is null then
    status := -2;
    return;
  end if;
  ns := althing.reaped(ns);
  ns.revision := ns.revision + 1;
  ns.changes := ns.changes + 1;
  ns.bytes := ns.bytes + octet_length(_key) + octet_length(_value);
  insert into althing.session (space, id, lease_ms, until)
  values (ns.id, _session, _lease_ms, clock_timestamp() + _lease_ms * interval '1 millisecond');
  insert into althing.record (space, key, value, session, created, modified)
  values (ns.id, _key, _value, _session, ns.revision, ns.revision);
  insert into althing.change (space, revision, step, key, cause, created, modified, session, value)
  values (ns.id, ns.revision, 1, _key, 'p', ns.revision, ns.revision, _session, _value);
  perform althing.leave(ns, before);
  status := 1;
  revision := ns.revision;
end $$;

-- Answers the lease in milliseconds and the server's time in microseconds. Does not lock the namespace, unless
-- there is an end to tell of.
create or replace function althing.renew(
  _space int, _known text, _seen bigint, _patience int, _session bytea,
  out status int, out revision bigint, out lease_ms bigint, out time_us bigint
) language plpgsql as $$
declare
  ns althing.namespace;
  before bigint;
begin
  perform althing.prepare(_patience);
  select * into ns from althing.namespace n where n.id = _space;
  if ns.incarnation is distinct from _known or ns.revision < _seen or ns.timeline <> althing.timeline() then
    status := -2;
    return;
  end if;
  revision := ns.revision;
  update althing.session s set until = clock_timestamp() + s.lease_ms * interval '1 millisecond'
  where s.space = _space and s.id = _session and s.until > clock_timestamp()
  returning s.lease_ms into lease_ms;
  time_us := (extract(epoch from clock_timestamp()) * 1000000)::bigint;
  if found then
    status := 1;
    return;
  end if;
  status := -1;
  if exists (select from althing.session s where s.space = _space and s.id = _session) then
    ns := althing.enter(_space, _known, _seen, _patience);
    before := ns.revision;
    if before is null then
      status := -2;
      return;
    end if;
    perform althing.leave(althing.reaped(ns), before);
  end if;
end $$;

create or replace function althing.close(
  _space int, _known text, _seen bigint, _patience int, _session bytea, out status int, out revision bigint
) language plpgsql as $$
declare
  ns althing.namespace := althing.enter(_space, _known, _seen, _patience);
  before bigint := ns.revision;
begin
  if before is null then
    status := -2;
    return;
  end if;
  ns := althing.reaped(ns);
  delete from althing.session s where s.space = ns.id and s.id = _session;
  if found then
    ns := althing.ended(ns, _session, 'c');
  end if;
  perform althing.leave(ns, before);
  status := 1;
  revision := ns.revision;
end $$;

-- Ends the sessions that are due.
create or replace function althing.reap(
  _space int, _known text, _seen bigint, _patience int, out status int, out revision bigint
) language plpgsql as $$
declare
  ns althing.namespace := althing.enter(_space, _known, _seen, _patience);
  before bigint := ns.revision;
begin
  if before is null then
    status := -2;
    return;
  end if;
  ns := althing.reaped(ns);
  perform althing.leave(ns, before);
  status := 1;
  revision := ns.revision;
end $$;

-- Guards: a key and the stamp it must have (nulls for none). Writes: a key, its session (null for none) and its
-- value (null for a deletion). Answers the stamps, or in `place` which guard did not hold or whose session ended.
create or replace function althing.commit(
  _space int, _known text, _seen bigint, _patience int,
  _guards bytea[], _created bigint[], _modified bigint[],
  _keys bytea[], _sessions bytea[], _values bytea[],
  out status int, out revision bigint, out place bigint, out created bigint[], out modified bigint[]
) language plpgsql as $$
declare
  ns althing.namespace := althing.enter(_space, _known, _seen, _patience);
  before bigint := ns.revision;
  there boolean[];
begin
  if before is null then
    status := -2;
    return;
  end if;
  ns := althing.reaped(ns);

  select g.place - 1 into place
  from unnest(_guards, _created, _modified) with ordinality g(key, created, modified, place)
  left join althing.record r on r.space = ns.id and r.digest = sha256(g.key)
  where r.created is distinct from g.created or r.modified is distinct from g.modified
  order by g.place limit 1;
  status := case when found then 0 else 1 end;
  if status = 1 then
    select w.place - 1 into place from unnest(_sessions) with ordinality w(session, place)
    where w.session is not null
      and not exists (select from althing.session s where s.space = ns.id and s.id = w.session)
    order by w.place limit 1;
    status := case when found then -1 else 1 end;
  end if;

  if status = 1 then
    ns.revision := ns.revision + 1;
    select array_agg(case
        when w.value is null then coalesce(r.created, ns.revision)
        when r.created is not null and r.session is not distinct from w.session then r.created
        else ns.revision end order by w.place),
      array_agg(case when w.value is null then coalesce(r.modified, ns.revision) else ns.revision end
        order by w.place),
      array_agg(r.created is not null order by w.place)
    into created, modified, there
    from unnest(_keys, _sessions, _values) with ordinality w(key, session, value, place)
    left join althing.record r on r.space = ns.id and r.digest = sha256(w.key);

    delete from althing.record r using unnest(_keys, _values) w(key, value)
    where w.value is null and r.space = ns.id and r.digest = sha256(w.key);

    insert into althing.record as r (space, key, value, session, created, modified)
    select ns.id, w.key, w.value, w.session, w.created, w.modified
    from unnest(_keys, _sessions, _values, created, modified) w(key, session, value, created, modified)
    where w.value is not null
    on conflict (space, digest) do update
    set value = excluded.value, session = excluded.session,
      created = excluded.created, modified = excluded.modified;

    with told as (
      insert into althing.change (space, revision, step, key, cause, created, modified, session, value)
      select ns.id, ns.revision, w.place, w.key, case when w.value is null then 'd' else 'p' end,
        w.created, w.modified, w.session, w.value
      from unnest(_keys, _sessions, _values, created, modified, there)
        with ordinality w(key, session, value, created, modified, there, place)
      where w.value is not null or w.there
      returning octet_length(key) + coalesce(octet_length(value), 0) as size
    )
    select ns.changes + count(*), ns.bytes + coalesce(sum(t.size), 0) into ns.changes, ns.bytes from told t;
  end if;

  perform althing.leave(ns, before);
  revision := ns.revision;
end $$;

-- Reads see one snapshot and lock nothing: a host that reads slowly holds up nobody. A standby, to which a pooler
-- may lead us, is another store: it lags.

create or replace function althing.get(
  _space int, _known text, _seen bigint, _patience int, _key bytea,
  out status int, out revision bigint,
  out created bigint, out modified bigint, out session bytea, out value bytea
) language plpgsql stable as $$
begin
  select n.revision into revision from althing.namespace n
  where n.id = _space and n.incarnation = _known and n.revision >= _seen and not pg_is_in_recovery();
  if not found then
    status := -2;
    return;
  end if;
  select r.created, r.modified, r.session, r.value into created, modified, session, value
  from althing.record r where r.space = _space and r.digest = sha256(_key);
  status := 1;
  if session is not null and exists (
    select from althing.session s where s.space = _space and s.id = session and s.until <= clock_timestamp()
  ) then
    status := 2;
  end if;
end $$;

-- Lists the keys from `_lowest`, or after it, to below `_highest` (null: no end), at most `_limit`, and no more
-- values than fit in `_room` bytes but for the first.
create or replace function althing.list(
  _space int, _known text, _seen bigint, _patience int,
  _lowest bytea, _after boolean, _highest bytea, _limit int, _room bigint,
  out status int, out revision bigint, out more boolean,
  out keys bytea[], out created bigint[], out modified bigint[], out sessions bytea[], out vals bytea[]
) language plpgsql stable as $$
begin
  select n.revision into revision from althing.namespace n
  where n.id = _space and n.incarnation = _known and n.revision >= _seen and not pg_is_in_recovery();
  if not found then
    status := -2;
    return;
  end if;
  if exists (select from althing.session s where s.space = _space and s.until <= clock_timestamp()) then
    status := 2;
    return;
  end if;
  status := 1;
  with near as (
    select r.* from althing.record r
    where r.space = _space
      and substring(r.key from 1 for 1024) >= substring(_lowest from 1 for 1024)
      and (_highest is null or substring(r.key from 1 for 1024) <= substring(_highest from 1 for 1024))
      and (r.key > _lowest or (not _after and r.key = _lowest))
      and (_highest is null or r.key < _highest)
    order by substring(r.key from 1 for 1024), r.key limit _limit + 1
  ), counted as (
    select near.*, row_number() over (order by near.key) as place,
      sum(octet_length(near.value)) over (order by near.key) as size
    from near
  ), page as (
    select * from counted c where c.place <= _limit and (c.size <= _room or c.place = 1)
  )
  select (select count(*) from near) > count(*),
    array_agg(p.key order by p.place), array_agg(p.created order by p.place),
    array_agg(p.modified order by p.place), array_agg(p.session order by p.place),
    array_agg(p.value order by p.place)
  into more, keys, created, modified, sessions, vals from page p;
end $$;

-- Reads what came after revision `_from` below a prefix: about `_most` changes, in whole revisions. Status 0 is a
-- gap. `upto` is the revision up to which the answer is complete, `wait_ms` the time until a session may be due
-- (0: one is, null: none will be).
create or replace function althing.changes(
  _space int, _known text, _seen bigint, _patience int,
  _from bigint, _prefix bytea, _most int, _room bigint,
  out status int, out revision bigint, out upto bigint, out more boolean, out wait_ms bigint,
  out keys bytea[], out created bigint[], out modified bigint[], out sessions bytea[], out vals bytea[],
  out revisions bigint[], out causes text[]
) language plpgsql stable as $$
declare
  base bigint;
  first bigint;
  past bigint;
begin
  select n.revision, n.base into revision, base from althing.namespace n
  where n.id = _space and n.incarnation = _known and n.revision >= _seen and not pg_is_in_recovery();
  if not found then
    status := -2;
    return;
  end if;
  if _from < base or _from > revision then
    status := 0;
    return;
  end if;
  status := 1;
  select greatest(0, ceil(extract(epoch from s.until - clock_timestamp()) * 1000))::bigint into wait_ms
  from althing.session s where s.space = _space order by s.until limit 1;

  select min(c.revision), min(c.revision) filter (where c.place > _most or c.size > _room) into first, past
  from (
    select n.revision, row_number() over w as place, sum(coalesce(octet_length(n.value), 0)) over w as size
    from (
      select c.revision, c.step, c.value from althing.change c
      where c.space = _space and c.revision > _from
      order by c.revision, c.step limit _most + 1
    ) n
    window w as (order by n.revision, n.step)
  ) c;
  more := past is not null;
  upto := case when past is null then revision when past > first then past - 1 else past end;

  select array_agg(c.key order by c.revision, c.step), array_agg(c.created order by c.revision, c.step),
    array_agg(c.modified order by c.revision, c.step), array_agg(c.session order by c.revision, c.step),
    array_agg(c.value order by c.revision, c.step), array_agg(c.revision order by c.revision, c.step),
    array_agg(c.cause order by c.revision, c.step)
  into keys, created, modified, sessions, vals, revisions, causes
  from althing.change c
  where c.space = _space and c.revision > _from and c.revision <= upto
    and substring(c.key from 1 for octet_length(_prefix)) = _prefix;
end $$;

insert into althing.format (version) values ({FORMAT}) on conflict do nothing;
