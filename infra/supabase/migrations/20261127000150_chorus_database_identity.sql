-- Which database this is: a Redis namespace belongs to one (backend/app/services/namespace_gate.py).

create table chorus.database_identity (id uuid primary key default gen_random_uuid());
insert into chorus.database_identity default values;
revoke all on chorus.database_identity from public, anon, authenticated;

-- Answers "<id>@<cluster>/<database>". The id goes with a dump, the rest does not: a copy is another database. Standbys
-- and a fail-over share all of it. Where the provider does not tell its cluster, the id alone decides. Security definer:
-- the table is nobody else's.
create or replace function public.chorus_database_identity(p jsonb) returns jsonb
language plpgsql stable security definer set search_path = '' as $$
declare
  v_cluster text := 'unknown';
begin
  begin
    select system_identifier::text into v_cluster from pg_catalog.pg_control_system();
  exception when insufficient_privilege or undefined_function or feature_not_supported then
    null;
  end;
  return chorus.ok(to_jsonb(
    (select id::text from chorus.database_identity)
    || '@' || v_cluster || '/' || (select oid from pg_catalog.pg_database where datname = current_database())
  ));
end $$;

select chorus.secure_functions();
