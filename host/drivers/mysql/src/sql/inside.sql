-- What the operations are made of. They run inside a transaction, with what the locked row of the namespace becomes.

-- Microseconds since 1970, by the server's clock.
create procedure if not exists althing_clock(out _now bigint) sql security invoker
begin
  set _now = timestampdiff(microsecond, '1970-01-01 00:00:00', utc_timestamp(6));
end
//
-- Begins a transaction and locks the namespace. `_revision` is null where it is not the one that the host knows, or where
-- the server only reads: it would still let a privileged user write, and whoever takes its place may not get that.
create procedure if not exists althing_enter(
  _space int, _known binary(16), _seen bigint,
  out _revision bigint, out _base bigint, out _changes bigint, out _bytes bigint
) sql security invoker
begin
  declare _incarnation binary(16);
  set transaction isolation level read committed;
  start transaction;
  select n.incarnation, n.revision, n.base, n.changes, n.bytes
  into _incarnation, _revision, _base, _changes, _bytes
  from althing_namespace n where n.id = _space for update;
  if not (_incarnation <=> _known) or _revision < _seen or cast(@@global.read_only as char) not in ('0', 'OFF') then
    set _revision = null;
  end if;
end
//
-- Removes, at one revision, all that a session owned whose own row is gone.
create procedure if not exists althing_ended(
  _space int, _session binary(16), _cause char(1), inout _revision bigint, inout _changes bigint, inout _bytes bigint
) sql security invoker
begin
  declare _count, _size bigint;
  set _revision = _revision + 1;
  insert into althing_change (space, revision, step, cause, name, created, modified, size)
  select _space, _revision, row_number() over (order by r.name), _cause, r.name, r.created, r.modified, length(r.name)
  from althing_record r where r.space = _space and r.session = _session;
  select count(*), sum(c.size) into _count, _size
  from althing_change c where c.space = _space and c.revision = _revision;
  delete from althing_record where space = _space and session = _session;
  set _changes = _changes + _count, _bytes = _bytes + ifnull(_size, 0);
end
//
-- Ends the sessions that are due, in the order in which they became so. A renewal that was under way goes first.
create procedure if not exists althing_reaped(
  _space int, inout _revision bigint, inout _changes bigint, inout _bytes bigint
) sql security invoker
begin
  declare _now bigint;
  declare _due binary(16);
  call althing_clock(_now);
  each_one: loop
    set _due = null;
    select s.id into _due from althing_session s
    where s.space = _space and s.until <= _now order by s.until, s.id limit 1;
    if _due is null then
      leave each_one;
    end if;
    delete from althing_session where space = _space and id = _due and until <= _now;
    if row_count() > 0 then
      call althing_ended(_space, _due, 'e', _revision, _changes, _bytes);
    end if;
  end loop;
end
//
-- Forgets the `_count` oldest changes, and the rest of the last one's revision.
create procedure if not exists althing_forgotten(
  _space int, _count bigint, inout _base bigint, inout _changes bigint, inout _bytes bigint
) sql security invoker
begin
  declare _offset, _gone, _size bigint;
  set _offset = _count - 1;
  select c.revision into _base from althing_change c where c.space = _space
  order by c.revision, c.step limit _offset, 1;
  select count(*), sum(c.size) into _gone, _size from althing_change c where c.space = _space and c.revision <= _base;
  delete from althing_change where space = _space and revision <= _base;
  set _changes = _changes - _gone, _bytes = _bytes - ifnull(_size, 0);
end
//
-- Keeps what the namespace became, and forgets the oldest changes. Some at a time, so that not every commit looks.
create procedure if not exists althing_leave(
  _space int, _revision bigint, _base bigint, _changes bigint, _bytes bigint
) sql security invoker
begin
  if _changes > {HISTORY_CHANGES} + 1024 then
    call althing_forgotten(_space, _changes - {HISTORY_CHANGES}, _base, _changes, _bytes);
  end if;
  while _bytes > {HISTORY_BYTES} and _changes > 0 do
    call althing_forgotten(_space, least(_changes, 64), _base, _changes, _bytes);
  end while;
  update althing_namespace set revision = _revision, base = _base, changes = _changes, bytes = _bytes where id = _space;
  commit;
end
