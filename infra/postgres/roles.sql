-- The roles that the grants and the policies name. They belong to the whole server: no dump of a database contains them,
-- and a restore without them loses every policy. For a user who may create roles; the migrations make the same.
do $$
declare
  v_role text;
begin
  foreach v_role in array array['anon', 'authenticated', 'service_role'] loop
    if not exists (select from pg_roles where rolname = v_role) then
      execute format('create role %I nologin', v_role);
    end if;
  end loop;
end $$;
