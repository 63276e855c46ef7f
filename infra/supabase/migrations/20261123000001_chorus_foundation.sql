-- What every later migration stands on. Plain SQL for PostgreSQL 15 and later; applied unchanged by
-- `chorus migrate` and by the Supabase CLI.
--
-- How the data is reached: every store operation is ONE function `public.chorus_<operation>(p jsonb) returns jsonb`.
-- One call is one transaction, over SQL and over REST alike, so what must be atomic is atomic in both.
--   success           {"ok": <value>}
--   expected failure  {"error": "fenced"} · {"error": "not_found", "what": "account"} ·
--                     {"error": "conflict", "code": "slug_taken"}
-- Anything else that goes wrong is a bug and raises. Helpers live in the schema `chorus`, which REST does not expose.
--
-- Order of locks, everywhere: advisory lock -> reply -> conversation -> message. Rows are locked `for no key update`,
-- which does not stand in the way of rows that refer to them.

-- Supabase has these roles; a plain PostgreSQL gets them. Members of service_role, like the owner of the tables,
-- may do everything; `authenticated` reads what it is a member of; `anon` nothing.
do $$
declare
  v_role text;
begin
  foreach v_role in array array['anon', 'authenticated', 'service_role'] loop
    if not exists (select from pg_roles where rolname = v_role) then
      begin
        execute format('create role %I nologin', v_role);
      exception when duplicate_object or unique_violation then
        null;  -- roles belong to the whole server: another database was migrated at the same moment
      end;
    end if;
  end loop;
end $$;

create schema if not exists chorus;
grant usage on schema chorus to authenticated, service_role;
grant usage on schema public to authenticated, service_role;

create function chorus.touch() returns trigger
language plpgsql set search_path = '' as $$
begin
  new.updated_at := now();
  return new;
end $$;

-- Ids come from outside as text; one that is no uuid simply does not exist.
create function chorus.as_uuid(value text) returns uuid
language sql immutable set search_path = '' as $$
  select case
    when value ~* '^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$' then value::uuid
  end
$$;

create function chorus.ok(value jsonb) returns jsonb
language sql immutable set search_path = '' as $$
  select jsonb_build_object('ok', value)
$$;

create function chorus.not_found(what text) returns jsonb
language sql immutable set search_path = '' as $$
  select jsonb_build_object('error', 'not_found', 'what', what)
$$;

create function chorus.conflict(code text) returns jsonb
language sql immutable set search_path = '' as $$
  select jsonb_build_object('error', 'conflict', 'code', code)
$$;

create function chorus.fenced() returns jsonb
language sql immutable set search_path = '' as $$
  select jsonb_build_object('error', 'fenced')
$$;

-- The `sub` of the caller's access token, as PostgREST hands it over; null when there is none.
create function chorus.caller() returns text
language sql stable set search_path = '' as $$
  select nullif(current_setting('request.jwt.claims', true), '')::jsonb ->> 'sub'
$$;

-- One table made safe: row-level security on, nothing for the public roles, everything for the service.
-- Run right after `create table`, in the same transaction; what members may read is granted beside the table.
create function chorus.secure_table(tab regclass) returns void
language plpgsql set search_path = '' as $$
begin
  execute format('alter table %s enable row level security', tab);
  execute format('revoke all on %s from public, anon, authenticated', tab);
  execute format('grant select, insert, update, delete on %s to service_role', tab);
  -- Not every server lets us create a role that bypasses row-level security.
  execute format('create policy service on %s to service_role using (true) with check (true)', tab);
end $$;

-- The functions made safe: PostgreSQL lets everybody execute a new one. Run at the end of a migration.
-- What row-level policies call stays open: policies run with the rights of the reader.
create function chorus.secure_functions() returns void
language plpgsql set search_path = '' as $$
declare
  v_function regprocedure;
begin
  for v_function in
    select oid::regprocedure from pg_proc
    where (pronamespace = 'public'::regnamespace and proname like 'chorus\_%')
      or (pronamespace = 'chorus'::regnamespace and proname not in ('caller', 'my_accounts'))
  loop
    execute format('revoke execute on function %s from public, anon, authenticated', v_function);
    execute format('grant execute on function %s to service_role', v_function);
  end loop;
end $$;

create function public.chorus_ping(p jsonb) returns jsonb
language sql stable set search_path = public, pg_temp as $$
  select chorus.ok('true')
$$;

-- Security definer: the bookkeeping of migrations belongs to whoever applies them.
create function public.chorus_schema_version(p jsonb) returns jsonb
language plpgsql stable security definer set search_path = '' as $$
declare
  v_version text;
begin
  if to_regclass('supabase_migrations.schema_migrations') is not null then
    execute $q$select max(version) from supabase_migrations.schema_migrations where name like 'chorus\_%'$q$ into v_version;
  end if;
  return chorus.ok(to_jsonb(v_version));
end $$;

select chorus.secure_functions();
