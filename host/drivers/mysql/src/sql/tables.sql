-- The layout, version {FORMAT}. All hosts on one database share it; each namespace is a row of its own.
set session sql_mode = 'STRICT_TRANS_TABLES,NO_ENGINE_SUBSTITUTION,NO_ZERO_DATE,NO_ZERO_IN_DATE'
//
-- One row: which layout this is, and whether all of it was made. There cannot be a second one.
create table if not exists althing_format (
  place int not null primary key,
  version int not null,
  finished int not null
) engine = InnoDB
//
-- Says, before anything else is made, which layout this is; fails where it is another one already. Every version has this
-- one procedure, as it is. Not a lock of the server's own: a cluster knows none.
create procedure if not exists althing_claim(_version int) sql security invoker
begin
  declare _found int;
  declare _message varchar(128);
  insert ignore into althing_format (place, version, finished) values (1, _version, 0);
  select f.version into _found from althing_format f;
  if _found <> _version then
    set _message = concat('the tables of Althing are of layout version ', _found, ', not ', _version);
    signal sqlstate '45000' set message_text = _message;
  end if;
end
//
call althing_claim({FORMAT})
//
-- One row for each namespace. Every commit locks it, so revisions become visible in their order.
-- What came after revision `base` is all in `althing_change`: so many `changes` of so many `bytes`.
create table if not exists althing_namespace (
  id int not null auto_increment primary key,
  name varbinary(512) not null,
  format int not null,
  incarnation binary(16) not null,
  server varbinary(512) not null,
  revision bigint not null,
  base bigint not null,
  changes bigint not null,
  bytes bigint not null,
  unique key by_name (name)
) engine = InnoDB row_format = dynamic
//
-- The sessions that were not ended yet. `until` is in microseconds since 1970.
create table if not exists althing_session (
  space int not null,
  id binary(16) not null,
  lease_ms bigint not null,
  until bigint not null,
  primary key (space, id)
) engine = InnoDB row_format = dynamic
//
-- A name may be longer than an index allows: it is found by its digest and ordered by its head.
create table if not exists althing_record (
  space int not null,
  digest binary(32) not null,
  head varbinary(700) not null,
  name varbinary(4096) not null,
  value mediumblob not null,
  session binary(16),
  created bigint not null,
  modified bigint not null,
  primary key (space, digest),
  key by_head (space, head),
  key by_session (space, session)
) engine = InnoDB row_format = dynamic
//
-- The last changes. `cause`: p put, d deleted, c its session was closed, e its session expired, and l: whatever came
-- after revision `created` and before this one was lost. `size` is that of name and value.
create table if not exists althing_change (
  space int not null,
  revision bigint not null,
  step int not null,
  cause char(1) character set ascii not null,
  name varbinary(4096) not null,
  created bigint not null,
  modified bigint not null,
  session binary(16),
  value mediumblob,
  size int not null,
  primary key (space, revision, step)
) engine = InnoDB row_format = dynamic
