-- The people of an account: listed, given a role, removed. `chorus_add_member` stays for the previous version.

-- p: account_id, user_id (null for all). Owners first, then agents, then viewers, the oldest first.
create or replace function public.chorus_list_members(p jsonb) returns jsonb
language sql stable set search_path = public, pg_temp as $$
  select chorus.ok(coalesce(jsonb_agg(to_jsonb(m) - 'rank' order by m.rank, m.created_at, m.user_id), '[]'))
  from (
    select user_id, role, created_at, array_position(array['owner', 'agent', 'viewer'], role) as rank
    from account_members where account_id = chorus.as_uuid(p->>'account_id')
      and (p->>'user_id' is null or user_id = p->>'user_id')
    order by rank, created_at, user_id limit 1000
  ) m
$$;

-- Would the account have no owner if this member were not one? Its row is locked by the caller, so that two owners
-- cannot take the role from each other at the same moment.
create or replace function chorus.is_last_owner(p_account uuid, p_user text) returns boolean
language sql stable set search_path = public, pg_temp as $$
  select exists (select from account_members where account_id = p_account and user_id = p_user and role = 'owner')
    and not exists (select from account_members where account_id = p_account and user_id <> p_user and role = 'owner')
$$;

-- p: account_id, user_id, role, keep_owner (refuse to leave the account without an owner)
create or replace function public.chorus_set_member(p jsonb) returns jsonb
language plpgsql set search_path = public, pg_temp as $$
declare
  v_account uuid;
  v_member account_members;
begin
  select id into v_account from whatsapp_accounts where id = chorus.as_uuid(p->>'account_id') for no key update;
  if not found then
    return chorus.not_found('account');
  end if;
  if (p->>'keep_owner')::boolean and p->>'role' <> 'owner' and chorus.is_last_owner(v_account, p->>'user_id') then
    return chorus.conflict('last_owner');
  end if;
  insert into account_members (account_id, user_id, role) values (v_account, p->>'user_id', p->>'role')
  on conflict (account_id, user_id) do update set role = excluded.role
  returning * into v_member;
  return chorus.ok(to_jsonb(v_member) - 'account_id');
end $$;

-- p: account_id, user_id, keep_owner. Removing a person who is no member succeeds: the call may be a repetition.
create or replace function public.chorus_remove_member(p jsonb) returns jsonb
language plpgsql set search_path = public, pg_temp as $$
declare
  v_account uuid;
begin
  select id into v_account from whatsapp_accounts where id = chorus.as_uuid(p->>'account_id') for no key update;
  if (p->>'keep_owner')::boolean and chorus.is_last_owner(v_account, p->>'user_id') then
    return chorus.conflict('last_owner');
  end if;
  delete from account_members where account_id = v_account and user_id = p->>'user_id';
  return chorus.ok(null);
end $$;

select chorus.secure_functions();
