-- What a host calls, each as one statement. All but `adopt` begin with the namespace, the incarnation the host knows
-- and the highest revision it has seen. Each answers one row, and what is many follows in a second result.
-- Status: 1 done, 0 refused, -1 the session has ended, -2 the namespace is another one, -3 a foreign layout,
-- 2 nothing, because a session is due and must be ended first.

-- Takes the namespace into use. Where the server was started again, or is another one, or has not reached what was
-- seen, then the newest revisions may have been shown and be gone: the counter leaps above them, above all that was
-- seen and above the microseconds since 1970, and a change tells which revisions were lost. The leap is far longer than
-- what a crash takes back, and over before another one can be made from the same state. Sessions are kept for a whole
-- lease then, because whoever holds them may have been told so by a renewal that is gone.
create procedure if not exists althing_adopt(
  _name varbinary(512), _version int, _fresh binary(16), _server varbinary(512), _seen bigint
) sql security invoker
main: begin
  declare _space, _format int;
  declare _now, _revision, _kept bigint;
  declare _incarnation binary(16);
  declare _last varbinary(512);
  declare exit handler for sqlexception begin rollback; resignal; end;
  call althing_clock(_now);
  select n.id, n.format, n.incarnation, n.server, n.revision into _space, _format, _incarnation, _last, _revision
  from althing_namespace n where n.name = _name;
  if _space is null then
    insert ignore into althing_namespace (name, format, incarnation, server, revision, base, changes, bytes)
    values (_name, _version, _fresh, _server, greatest(_now, _seen + 1), greatest(_now, _seen + 1), 0, 0);
  end if;
  -- Locked only where there is something to change: a host comes back also while somebody holds the namespace.
  if _space is null or (_format = _version and (_last <> _server or _revision < _seen)) then
    set transaction isolation level read committed;
    start transaction;
    select n.id, n.format, n.incarnation, n.server, n.revision into _space, _format, _incarnation, _last, _revision
    from althing_namespace n where n.name = _name for update;
    if _format = _version and (_last <> _server or _revision < _seen) then
      set _kept = _revision;
      set _revision = greatest(_revision, _seen, _now) + 65536;
      insert into althing_change (space, revision, step, cause, name, created, modified, size)
      values (_space, _revision, 0, 'l', '', _kept, _kept, 0);
      update althing_session set until = _now + lease_ms * 1000
      where space = _space and until > _now - lease_ms * 1000 and until < _now + lease_ms * 1000;
      update althing_namespace set revision = _revision, server = _server, changes = changes + 1 where id = _space;
    end if;
    commit;
  end if;
  if _format <> _version then
    select -3 as status, _format as layout;
    leave main;
  end if;
  select 1 as status, _revision as revision, _space as space, _incarnation as incarnation, _kept as kept;
end
//
create procedure if not exists althing_open(
  _space int, _known binary(16), _seen bigint,
  _session binary(16), _lease_ms bigint, _name varbinary(4096), _value mediumblob
) sql security invoker
main: begin
  declare _revision, _base, _changes, _bytes, _now, _size bigint;
  declare exit handler for sqlexception begin rollback; resignal; end;
  call althing_enter(_space, _known, _seen, _revision, _base, _changes, _bytes);
  if _revision is null then
    rollback;
    select -2 as status;
    leave main;
  end if;
  call althing_reaped(_space, _revision, _changes, _bytes);
  set _revision = _revision + 1, _size = length(_name) + length(_value);
  insert into althing_record (space, digest, head, name, value, session, created, modified)
  values (_space, unhex(sha2(_name, 256)), left(_name, 700), _name, _value, _session, _revision, _revision);
  insert into althing_change (space, revision, step, cause, name, created, modified, session, value, size)
  values (_space, _revision, 1, 'p', _name, _revision, _revision, _session, _value, _size);
  call althing_clock(_now);
  insert into althing_session (space, id, lease_ms, until) values (_space, _session, _lease_ms, _now + _lease_ms * 1000);
  call althing_leave(_space, _revision, _base, _changes + 1, _bytes + _size);
  select 1 as status, _revision as revision;
end
//
-- Answers the lease in milliseconds and the server's time in microseconds. Does not lock the namespace.
create procedure if not exists althing_renew(
  _space int, _known binary(16), _seen bigint, _session binary(16)
) sql security invoker
main: begin
  declare _revision, _lease_ms, _until, _now bigint;
  declare exit handler for sqlexception begin rollback; resignal; end;
  select n.revision into _revision from althing_namespace n
  where n.id = _space and n.incarnation = _known and n.revision >= _seen
    and cast(@@global.read_only as char) in ('0', 'OFF');
  if _revision is null then
    select -2 as status;
    leave main;
  end if;
  set transaction isolation level read committed;
  start transaction;
  select s.lease_ms, s.until into _lease_ms, _until from althing_session s
  where s.space = _space and s.id = _session for update;
  call althing_clock(_now);
  if _until > _now then
    update althing_session set until = _now + _lease_ms * 1000 where space = _space and id = _session;
  end if;
  commit;
  select case when _until is null then -1 when _until <= _now then 2 else 1 end as status,
    _revision as revision, _lease_ms as lease_ms, _now as time_us;
end
//
create procedure if not exists althing_close(
  _space int, _known binary(16), _seen bigint, _session binary(16)
) sql security invoker
main: begin
  declare _revision, _base, _changes, _bytes bigint;
  declare exit handler for sqlexception begin rollback; resignal; end;
  call althing_enter(_space, _known, _seen, _revision, _base, _changes, _bytes);
  if _revision is null then
    rollback;
    select -2 as status;
    leave main;
  end if;
  call althing_reaped(_space, _revision, _changes, _bytes);
  delete from althing_session where space = _space and id = _session;
  if row_count() > 0 then
    call althing_ended(_space, _session, 'c', _revision, _changes, _bytes);
  end if;
  call althing_leave(_space, _revision, _base, _changes, _bytes);
  select 1 as status, _revision as revision;
end
//
-- Ends the sessions that are due.
create procedure if not exists althing_reap(_space int, _known binary(16), _seen bigint) sql security invoker
main: begin
  declare _revision, _base, _changes, _bytes bigint;
  declare exit handler for sqlexception begin rollback; resignal; end;
  call althing_enter(_space, _known, _seen, _revision, _base, _changes, _bytes);
  if _revision is null then
    rollback;
    select -2 as status;
    leave main;
  end if;
  call althing_reaped(_space, _revision, _changes, _bytes);
  call althing_leave(_space, _revision, _base, _changes, _bytes);
  select 1 as status, _revision as revision;
end
//
-- Guards: length of the name in 2 bytes, name, both revisions of the stamp in 8 bytes each (0 for none).
-- Writes: length in 2 bytes, name, what to do in 1 byte (0 delete, 1 put, 2 put under the session), the session in 16
-- bytes, length of the value in 4 bytes, value.
-- Answers the stamps in the same form, or in `place` which guard did not hold or whose session ended.
create procedure if not exists althing_commit(
  _space int, _known binary(16), _seen bigint, _guards longblob, _writes longblob
) sql security invoker
main: begin
  declare _revision, _base, _changes, _bytes, _at, _length, _created, _modified, _was_created, _was_modified bigint;
  declare _status, _place, _kind int default 0;
  declare _name varbinary(4096);
  declare _digest binary(32);
  declare _session, _owner binary(16);
  declare _value mediumblob;
  declare _stamps blob default '';
  declare exit handler for sqlexception begin rollback; resignal; end;
  call althing_enter(_space, _known, _seen, _revision, _base, _changes, _bytes);
  if _revision is null then
    rollback;
    select -2 as status;
    leave main;
  end if;
  call althing_reaped(_space, _revision, _changes, _bytes);

  set _at = 1, _status = 1;
  guards: while _at < length(_guards) do
    set _length = conv(hex(substr(_guards, _at, 2)), 16, 10);
    set _digest = unhex(sha2(substr(_guards, _at + 2, _length), 256)), _at = _at + 2 + _length;
    set _created = conv(hex(substr(_guards, _at, 8)), 16, 10), _modified = conv(hex(substr(_guards, _at + 8, 8)), 16, 10);
    set _at = _at + 16, _was_created = 0, _was_modified = 0;
    select r.created, r.modified into _was_created, _was_modified
    from althing_record r where r.space = _space and r.digest = _digest;
    if _was_created <> _created or _was_modified <> _modified then
      set _status = 0;
      leave guards;
    end if;
    set _place = _place + 1;
  end while;

  if _status = 1 then
    set _at = 1, _place = 0;
    sessions: while _at < length(_writes) do
      set _at = _at + 2 + conv(hex(substr(_writes, _at, 2)), 16, 10);
      if substr(_writes, _at, 1) = x'02' and not exists (
        select 1 from althing_session s where s.space = _space and s.id = substr(_writes, _at + 1, 16)
      ) then
        set _status = -1;
        leave sessions;
      end if;
      set _at = _at + 21 + conv(hex(substr(_writes, _at + 17, 4)), 16, 10), _place = _place + 1;
    end while;
  end if;

  if _status = 1 and length(_writes) > 0 then
    set _at = 1, _place = 0, _revision = _revision + 1;
    while _at < length(_writes) do
      set _length = conv(hex(substr(_writes, _at, 2)), 16, 10);
      set _name = substr(_writes, _at + 2, _length), _at = _at + 2 + _length;
      set _kind = ord(substr(_writes, _at, 1)), _session = null;
      if _kind = 2 then
        set _session = substr(_writes, _at + 1, 16);
      end if;
      set _length = conv(hex(substr(_writes, _at + 17, 4)), 16, 10);
      set _digest = unhex(sha2(_name, 256)), _was_created = null, _created = _revision, _modified = _revision;
      select r.created, r.modified, r.session into _was_created, _was_modified, _owner
      from althing_record r where r.space = _space and r.digest = _digest;
      if _kind = 0 then
        if _was_created is not null then
          set _created = _was_created, _modified = _was_modified;
          delete from althing_record where space = _space and digest = _digest;
          insert into althing_change (space, revision, step, cause, name, created, modified, size)
          values (_space, _revision, _place, 'd', _name, _created, _modified, length(_name));
          set _changes = _changes + 1, _bytes = _bytes + length(_name);
        end if;
      else
        set _value = substr(_writes, _at + 21, _length);
        if _was_created is null then
          insert into althing_record (space, digest, head, name, value, session, created, modified)
          values (_space, _digest, left(_name, 700), _name, _value, _session, _created, _modified);
        else
          if _owner <=> _session then
            set _created = _was_created;
          end if;
          update althing_record set value = _value, session = _session, created = _created, modified = _modified
          where space = _space and digest = _digest;
        end if;
        insert into althing_change (space, revision, step, cause, name, created, modified, session, value, size)
        values (_space, _revision, _place, 'p', _name, _created, _modified, _session, _value, length(_name) + _length);
        set _changes = _changes + 1, _bytes = _bytes + length(_name) + _length;
      end if;
      set _stamps = concat(_stamps, unhex(lpad(hex(_created), 16, '0')), unhex(lpad(hex(_modified), 16, '0')));
      set _at = _at + 21 + _length, _place = _place + 1;
    end while;
  end if;

  call althing_leave(_space, _revision, _base, _changes, _bytes);
  select _status as status, _revision as revision, _place as place, _stamps as stamps;
end
//
-- Reads see one snapshot and lock nothing. A server that only reads, to which somebody may have led us, is another
-- store: it lags.

create procedure if not exists althing_get(
  _space int, _known binary(16), _seen bigint, _name varbinary(4096)
) sql security invoker
begin
  declare _now bigint;
  call althing_clock(_now);
  select if(s.until <= _now, 2, 1) as status, n.revision, r.created, r.modified, r.session, r.value
  from althing_namespace n
  left join althing_record r on r.space = n.id and r.digest = unhex(sha2(_name, 256))
  left join althing_session s on s.space = n.id and s.id = r.session
  where n.id = _space and n.incarnation = _known and n.revision >= _seen
    and cast(@@global.read_only as char) in ('0', 'OFF');
end
//
-- Answers the newest revision, and in `wait_ms` the time until a session may be due (0: one is, null: none will be).
create procedure if not exists althing_look(_space int, _known binary(16), _seen bigint) sql security invoker
begin
  declare _now bigint;
  call althing_clock(_now);
  select 1 as status, n.revision, (
    select cast(greatest(0, ceil((min(s.until) - _now) / 1000)) as signed) from althing_session s where s.space = n.id
  ) as wait_ms
  from althing_namespace n
  where n.id = _space and n.incarnation = _known and n.revision >= _seen
    and cast(@@global.read_only as char) in ('0', 'OFF');
end
//
-- Lists the names from `_lowest`, or after it, to below `_highest` (null: no end), at most `_most`, and no more values
-- than fit in `_room` bytes but for the first. Names of one head are few: only so many are sorted, and by all of their
-- bytes, because the host has set `max_sort_length`.
create procedure if not exists althing_list(
  _space int, _known binary(16), _seen bigint,
  _lowest varbinary(4096), _after int, _highest varbinary(4096), _most int, _room bigint
) sql security invoker
main: begin
  declare _now, _revision, _due, _near, _fit bigint;
  declare _limit int default _most + 1;
  declare _low, _high, _bound varbinary(700);
  declare exit handler for sqlexception begin rollback; resignal; end;
  set _low = left(_lowest, 700), _high = ifnull(left(_highest, 700), repeat(x'ff', 700));
  set transaction isolation level repeatable read;
  start transaction with consistent snapshot, read only;
  call althing_clock(_now);
  select n.revision, (select count(*) from althing_session s where s.space = n.id and s.until <= _now)
  into _revision, _due from althing_namespace n
  where n.id = _space and n.incarnation = _known and n.revision >= _seen
    and cast(@@global.read_only as char) in ('0', 'OFF');
  if _revision is null or _due > 0 then
    rollback;
    select if(_revision is null, -2, 2) as status;
    leave main;
  end if;

  select r.head into _bound from althing_record r force index (by_head)
  where r.space = _space and r.head between _low and _high
    and (r.name > _lowest or (_after = 0 and r.name = _lowest)) and (_highest is null or r.name < _highest)
  order by r.head limit _most, 1;
  set _high = ifnull(_bound, _high);
  select count(*), sum(c.place <= _most and (c.total <= _room or c.place = 1)) into _near, _fit from (
    select row_number() over w as place, sum(n.size) over w as total from (
      select r.name, length(r.value) as size from althing_record r force index (by_head)
      where r.space = _space and r.head between _low and _high
        and (r.name > _lowest or (_after = 0 and r.name = _lowest)) and (_highest is null or r.name < _highest)
      order by r.head, r.name limit _limit
    ) n window w as (order by n.name)
  ) c;
  set _fit = ifnull(_fit, 0);
  select 1 as status, _revision as revision, _near > _fit as more;
  select r.name, r.created, r.modified, r.session, r.value from althing_record r force index (by_head)
  where r.space = _space and r.head between _low and _high
    and (r.name > _lowest or (_after = 0 and r.name = _lowest)) and (_highest is null or r.name < _highest)
  order by r.head, r.name limit _fit;
  commit;
end
//
-- Reads what came after revision `_from` below a prefix: about `_most` changes, in whole revisions. Status 0 is a gap.
-- `upto` is the revision up to which the answer is complete.
create procedure if not exists althing_changes(
  _space int, _known binary(16), _seen bigint, _from bigint, _prefix varbinary(4096), _most int, _room bigint
) sql security invoker
main: begin
  declare _revision, _base, _first, _past, _upto, _kept bigint;
  declare _limit int default _most + 1;
  declare _cause char(1);
  declare exit handler for sqlexception begin rollback; resignal; end;
  set transaction isolation level repeatable read;
  start transaction with consistent snapshot, read only;
  select n.revision, n.base into _revision, _base from althing_namespace n
  where n.id = _space and n.incarnation = _known and n.revision >= _seen
    and cast(@@global.read_only as char) in ('0', 'OFF');
  if _revision is null then
    rollback;
    select -2 as status;
    leave main;
  end if;
  -- Nothing lies between what was kept and the change that tells of the loss: who stands there saw what is gone.
  select c.cause, c.created into _cause, _kept from althing_change c
  where c.space = _space and c.revision > _from order by c.revision, c.step limit 1;
  if _from < _base or _from > _revision or (_cause = 'l' and _from > _kept) then
    rollback;
    select 0 as status, _revision as revision;
    leave main;
  end if;

  select min(c.revision), min(if(c.place > _most or c.total > _room, c.revision, null)) into _first, _past from (
    select n.revision, row_number() over w as place, sum(n.size) over w as total from (
      select r.revision, r.step, r.size from althing_change r
      where r.space = _space and r.revision > _from order by r.revision, r.step limit _limit
    ) n window w as (order by n.revision, n.step)
  ) c;
  set _upto = case when _past is null then _revision when _past > _first then _past - 1 else _past end;
  select 1 as status, _revision as revision, _upto as upto, _past is not null as more;
  select c.revision, c.cause, c.name, c.created, c.modified, c.session, c.value from althing_change c
  where c.space = _space and c.revision > _from and c.revision <= _upto and c.cause <> 'l'
    and left(c.name, length(_prefix)) = _prefix
  order by c.revision, c.step;
  commit;
end
//
update althing_format set finished = 1
