-- For the operator's commands: exchange an account's token only if it is still the one that was read, and tell which
-- tables guard their rows.

-- p: account_id, expected, access_token. True: exchanged; false: the token is another one meanwhile.
create function public.chorus_replace_access_token(p jsonb) returns jsonb
language plpgsql set search_path = public, pg_temp as $$
declare
  v_token text;
begin
  select a.access_token into v_token from whatsapp_accounts a
  where a.id = chorus.as_uuid(p->>'account_id') for no key update;
  if not found then
    return chorus.not_found('account');
  end if;
  if v_token is distinct from p->>'expected' then
    -- A repetition after a lost answer finds what the first call wrote.
    return chorus.ok(to_jsonb(v_token = p->>'access_token'));
  end if;
  update whatsapp_accounts set access_token = p->>'access_token' where id = chorus.as_uuid(p->>'account_id');
  return chorus.ok(to_jsonb(true));
end $$;

-- Every table of the schema public: {"<table>": {"row_security", "policies": [names]}}.
create function public.chorus_row_security(p jsonb) returns jsonb
language sql stable set search_path = public, pg_temp as $$
  select chorus.ok(coalesce(jsonb_object_agg(c.relname, jsonb_build_object(
    'row_security', c.relrowsecurity,
    'policies', (select coalesce(jsonb_agg(o.polname order by o.polname), '[]') from pg_policy o where o.polrelid = c.oid)
  )), '{}'))
  from pg_class c
  where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'p')
$$;

select chorus.secure_functions();
