-- The layout, version {FORMAT}. All hosts on one database share it; each namespace is a row of its own.
-- Every version begins with this, so that none is laid over another one.
do $$
declare
  other int;
begin
  if to_regclass('althing.format') is not null then
    select f.version into other from althing.format f where f.version <> {FORMAT} limit 1;
    if other is not null then
      raise exception using errcode = 'invalid_schema_name',
        message = 'the schema althing is of layout version ' || other || ', not {FORMAT}';
    end if;
  end if;
end $$;

create schema if not exists althing;

-- One row: which layout this is.
create table if not exists althing.format (version int primary key);

-- One row for each namespace. Every commit locks it, so revisions become visible in their order.
-- What came after revision `base` is all in `change`: so many `changes` of so many `bytes`.
create table if not exists althing.namespace (
  id int generated always as identity primary key,
  name bytea not null unique,
  format int not null,
  incarnation text not null,
  timeline text not null,
  revision bigint not null,
  base bigint not null,
  changes bigint not null default 0,
  bytes bigint not null default 0
) with (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500);

-- The sessions that were not ended yet. `until` has no index, so that a renewal rewrites nothing else.
create table if not exists althing.session (
  space int not null,
  id bytea not null,
  lease_ms bigint not null,
  until timestamptz not null,
  primary key (space, id)
) with (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500);

-- A key may be longer than an index allows: it is found by its digest and ordered by how it begins.
create table if not exists althing.record (
  space int not null,
  key bytea not null,
  value bytea not null,
  session bytea,
  created bigint not null,
  modified bigint not null,
  digest bytea not null generated always as (sha256(key)) stored,
  primary key (space, digest)
) with (fillfactor = 80);
create index if not exists record_head on althing.record (space, (substring(key from 1 for 1024)));
create index if not exists record_session on althing.record (space, session) where session is not null;

-- The last changes. `cause`: p put, d deleted, c its session was closed, e its session expired.
create table if not exists althing.change (
  space int not null,
  revision bigint not null,
  step int not null,
  key bytea not null,
  cause text not null,
  created bigint not null,
  modified bigint not null,
  session bytea,
  value bytea,
  primary key (space, revision, step)
) with (autovacuum_vacuum_scale_factor = 0.05);
