-- What a replica compares with the migrations it needs before it works (backend/app/services/schema_gate.py).

-- Answers the names of our migrations, oldest first: "20261123000001_chorus_foundation". Security definer: the
-- bookkeeping belongs to the role that applies migrations.
create or replace function public.chorus_applied_migrations(p jsonb) returns jsonb
language plpgsql stable security definer set search_path = '' as $$
declare
  v_names jsonb := '[]';
begin
  if to_regclass('supabase_migrations.schema_migrations') is not null then
    execute $q$
      select coalesce(jsonb_agg(version || '_' || name order by version), '[]')
      from supabase_migrations.schema_migrations where name like 'chorus\_%'
    $q$ into v_names;
  end if;
  return chorus.ok(v_names);
end $$;

select chorus.secure_functions();
