-- Invitations: a person with the link of one becomes a member, once, within its time. What is stored is the SHA-256 of the
-- link's token.

create table public.invitations (
  id uuid primary key default gen_random_uuid(),
  account_id uuid not null references public.whatsapp_accounts on delete cascade,
  role text not null check (role in ('owner', 'agent', 'viewer')),
  digest text not null unique check (digest ~ '^[0-9a-f]{64}$'),
  created_by text not null,
  created_at timestamptz not null default now(),
  expires_at timestamptz not null,
  accepted_by text,
  accepted_at timestamptz
);
create index invitations_account on public.invitations (account_id);
select chorus.secure_table('public.invitations');

-- An owner who is one no more could come back by an invitation of their own: what they left open goes with the role.
create function chorus.withdraw_invitations() returns trigger
language plpgsql security definer set search_path = '' as $$
begin
  delete from public.invitations
  where account_id = old.account_id and created_by = old.user_id and accepted_at is null;
  return null;
end $$;
create trigger withdraw_on_leaving after delete on public.account_members for each row
  when (old.role = 'owner') execute function chorus.withdraw_invitations();
create trigger withdraw_on_change after update of role on public.account_members for each row
  when (old.role = 'owner' and new.role <> 'owner') execute function chorus.withdraw_invitations();

-- The same for what a revoked key left open.
create function chorus.withdraw_invitations_of_key() returns trigger
language plpgsql security definer set search_path = '' as $$
begin
  delete from public.invitations
  where account_id = old.account_id and created_by = 'key:' || old.id and accepted_at is null;
  return null;
end $$;
create trigger withdraw after delete on public.api_keys for each row
  execute function chorus.withdraw_invitations_of_key();

-- p: id (chosen by the caller), account_id, role, digest, created_by, valid_seconds, most (open ones). A repetition with the
-- same id finds what the first call made. Those that have expired go.
create function public.chorus_create_invitation(p jsonb) returns jsonb
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

-- p: account_id, invitation_id (null for all). Those that have not expired, the newest first; at most 200.
create function public.chorus_list_invitations(p jsonb) returns jsonb
language sql stable set search_path = public, pg_temp as $$
  select chorus.ok(coalesce(jsonb_agg(to_jsonb(i) order by i.created_at desc, i.id), '[]'))
  from (
    select * from invitations
    where account_id = chorus.as_uuid(p->>'account_id') and expires_at > now()
      and (p->>'invitation_id' is null or id = chorus.as_uuid(p->>'invitation_id'))
    order by created_at desc, id limit 200
  ) i
$$;

-- p: account_id, invitation_id. Deleting what is gone succeeds: the call may be a repetition.
create function public.chorus_delete_invitation(p jsonb) returns jsonb
language plpgsql set search_path = public, pg_temp as $$
begin
  delete from invitations
  where id = chorus.as_uuid(p->>'invitation_id') and account_id = chorus.as_uuid(p->>'account_id');
  return chorus.ok(null);
end $$;

-- p: digest, user_id. The account first, as everything that changes members does. A member keeps a higher role. A repetition
-- by the same person finds what the first call did. Answers {account_id, user_id, role, created_at} of the member.
create function public.chorus_accept_invitation(p jsonb) returns jsonb
language plpgsql set search_path = public, pg_temp as $$
declare
  v_invitation invitations;
  v_member account_members;
  v_ranks constant text[] := array['viewer', 'agent', 'owner'];
begin
  perform from whatsapp_accounts
  where id = (select account_id from invitations where digest = p->>'digest') for no key update;
  select * into v_invitation from invitations where digest = p->>'digest' for no key update;
  if not found then
    return chorus.not_found('invitation');
  end if;
  if v_invitation.accepted_by <> p->>'user_id' then
    return chorus.conflict('invitation_used');
  end if;
  if v_invitation.accepted_by is null then
    if v_invitation.expires_at < now() then
      return chorus.conflict('invitation_expired');
    end if;
    update invitations set accepted_by = p->>'user_id', accepted_at = now() where id = v_invitation.id;
    insert into account_members (account_id, user_id, role)
    values (v_invitation.account_id, p->>'user_id', v_invitation.role)
    on conflict (account_id, user_id) do update set role = excluded.role
      where array_position(v_ranks, excluded.role) > array_position(v_ranks, account_members.role);
  end if;
  select * into v_member from account_members
  where account_id = v_invitation.account_id and user_id = p->>'user_id';
  if not found then  -- accepted, and removed since
    return chorus.conflict('invitation_used');
  end if;
  return chorus.ok(to_jsonb(v_member));
end $$;

select chorus.secure_functions();
