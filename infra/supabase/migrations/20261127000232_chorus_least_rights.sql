-- No public role uses a sequence, and a caller can be asked what it may do: a replica is a member of service_role and
-- nothing more.

-- As before, and the sequences of our tables with them: servers that give every new one to anon and authenticated exist
-- (Supabase's default privileges). Ours are of identity columns, which need no grant. A table is ours if secure_table
-- made its policy.
create or replace function chorus.secure_functions() returns void
language plpgsql set search_path = '' as $$
declare
  v_function regprocedure;
  v_sequence regclass;
begin
  for v_function in
    select oid::regprocedure from pg_proc
    where (pronamespace = 'public'::regnamespace and proname like 'chorus\_%')
      or (pronamespace = 'chorus'::regnamespace and proname not in ('caller', 'my_accounts'))
  loop
    execute format('revoke execute on function %s from public, anon, authenticated', v_function);
    execute format('grant execute on function %s to service_role', v_function);
  end loop;
  for v_sequence in
    select s.oid::regclass
    from pg_class s
    join pg_depend d on d.objid = s.oid and d.classid = 'pg_class'::regclass and d.deptype in ('a', 'i')
    join pg_policy o on o.polrelid = d.refobjid and o.polname = 'service'
    where s.relkind = 'S'
  loop
    execute format('revoke all on sequence %s from public, anon, authenticated', v_sequence);
  end loop;
end $$;

-- What the caller is and may do, as far as a replica should not: {"name", "superuser", "bypasses", "creates_roles",
-- "creates_databases", "owns": tables of ours, "creates_in": schemas and the database}.
create function public.chorus_caller_rights(p jsonb) returns jsonb
language sql stable set search_path = public, pg_temp as $$
  select chorus.ok(jsonb_build_object(
    'name', r.rolname, 'superuser', r.rolsuper, 'bypasses', r.rolbypassrls, 'creates_roles', r.rolcreaterole,
    'creates_databases', r.rolcreatedb,
    'owns', pg_has_role(r.oid, (select relowner from pg_class where oid = 'public.whatsapp_accounts'::regclass), 'member'),
    'creates_in', (
      select coalesce(jsonb_agg(place order by place), '[]') from (
        select 'schema ' || nspname as place from pg_namespace
        where nspname in ('public', 'chorus') and has_schema_privilege(r.oid, oid, 'create')
        union all
        select 'database' where has_database_privilege(r.oid, current_database(), 'create')
      ) places
    )
  ))
  from pg_roles r where r.rolname = current_user
$$;

select chorus.secure_functions();
