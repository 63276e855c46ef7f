-- Who is removed at the moment at which they make a key or an invitation: either it was made before, or it is not made.

-- May this user, or the key "key:<id>", still do what owners may? Until the transaction ends nothing takes that from them: to
-- remove them, to change their role or to revoke the key waits for it, and then finds what it has made.
create function chorus.hold_owner(account uuid, who text) returns boolean
language plpgsql set search_path = '' as $$
begin
  if who like 'key:%' then
    perform from public.api_keys k
    where k.id = chorus.as_uuid(substr(who, 5)) and k.account_id = account and k.role = 'owner' for share;
  else
    perform from public.account_members m
    where m.account_id = account and m.user_id = who and m.role = 'owner' for share;
  end if;
  return found;
end $$;

-- As it is shown. maker_role: that of created_by in the account by now; null: a key, an operator, or no member any more.
create function chorus.api_key(k public.api_keys) returns jsonb
language sql stable set search_path = '' as $$
  select to_jsonb(k) || jsonb_build_object('maker_role', (
    select m.role from public.account_members m where m.account_id = k.account_id and m.user_id = k.created_by))
$$;

-- p: as before, and by_owner: created_by must be an owner, as an operator is not.
create or replace function public.chorus_create_api_key(p jsonb) returns jsonb
language plpgsql set search_path = public, pg_temp as $$
declare
  v_account uuid;
  v_key api_keys;
begin
  select id into v_account from whatsapp_accounts where id = chorus.as_uuid(p->>'account_id') for no key update;
  if not found then
    return chorus.not_found('account');
  end if;
  select * into v_key from api_keys where id = (p->>'id')::uuid;
  if found then
    return chorus.ok(chorus.api_key(v_key));
  end if;
  if (p->>'by_owner')::boolean and not chorus.hold_owner(v_account, p->>'created_by') then
    return chorus.not_found('account');
  end if;
  if (select count(*) from api_keys where account_id = v_account) >= (p->>'most')::integer then
    return chorus.conflict('too_many_api_keys');
  end if;
  insert into api_keys (id, account_id, name, role, digest, hint, created_by)
  values (
    (p->>'id')::uuid, v_account, p->>'name', p->>'role', p->>'digest', p->>'hint', p->>'created_by'
  )
  returning * into v_key;
  return chorus.ok(chorus.api_key(v_key));
end $$;

-- p: as before
create or replace function public.chorus_list_api_keys(p jsonb) returns jsonb
language sql stable set search_path = public, pg_temp as $$
  select chorus.ok(coalesce(jsonb_agg(chorus.api_key(k) order by k.created_at, k.id), '[]'))
  from api_keys k
  where k.account_id = chorus.as_uuid(p->>'account_id')
    and (p->>'api_key_id' is null or k.id = chorus.as_uuid(p->>'api_key_id'))
$$;

-- p: as before, and by_owner as for chorus_create_api_key.
create or replace function public.chorus_create_invitation(p jsonb) returns jsonb
language plpgsql set search_path = public, pg_temp as $$
declare
  v_account uuid;
  v_invitation invitations;
begin
  select id into v_account from whatsapp_accounts where id = chorus.as_uuid(p->>'account_id') for no key update;
  if not found then
    return chorus.not_found('account');
  end if;
  select * into v_invitation from invitations where id = (p->>'id')::uuid;
  if found then
    return chorus.ok(to_jsonb(v_invitation));
  end if;
  if (p->>'by_owner')::boolean and not chorus.hold_owner(v_account, p->>'created_by') then
    return chorus.not_found('account');
  end if;
  delete from invitations where account_id = v_account and expires_at < now();
  if (select count(*) from invitations where account_id = v_account and accepted_at is null) >= (p->>'most')::integer then
    return chorus.conflict('too_many_invitations');
  end if;
  insert into invitations (id, account_id, role, digest, created_by, expires_at)
  values (
    (p->>'id')::uuid, v_account, p->>'role', p->>'digest', p->>'created_by',
    now() + make_interval(secs => (p->>'valid_seconds')::double precision)
  )
  returning * into v_invitation;
  return chorus.ok(to_jsonb(v_invitation));
end $$;

select chorus.secure_functions();
