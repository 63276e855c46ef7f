-- Keys with which programs act for one account. What is stored is the SHA-256 of a key, which is 32 random bytes: it cannot be
-- guessed from that, and a look-up is one step of an index. A revoked key's row is gone.

create table public.api_keys (
  id uuid primary key default gen_random_uuid(),
  account_id uuid not null references public.whatsapp_accounts on delete cascade,
  name text not null,
  role text not null check (role in ('owner', 'agent', 'viewer')),
  digest text not null unique check (digest ~ '^[0-9a-f]{64}$'),
  hint text not null,  -- its last characters, by which people know it again
  created_by text not null,
  created_at timestamptz not null default now(),
  last_used_at timestamptz  -- to the minute or so
);
create index api_keys_account on public.api_keys (account_id);
select chorus.secure_table('public.api_keys');

-- The keys of the cache are those of the application (services/key_service.py). That there is no such key may be cached, too.
-- Uses are noted without this.
create function chorus.forget_api_key() returns trigger
language plpgsql security definer set search_path = '' as $$
begin
  if tg_op = 'TRUNCATE' then
    perform chorus.forget(array['api_key:*']);
  else
    perform chorus.forget(array['api_key:' || old.digest, 'api_key:' || new.digest]);
  end if;
  return null;
end $$;
create trigger forget after insert or delete or update of account_id, name, role, digest on public.api_keys
  for each row execute function chorus.forget_api_key();
create trigger forget_all after truncate on public.api_keys
  for each statement execute function chorus.forget_api_key();

-- p: id (chosen by the caller), account_id, name, role, digest, hint, created_by, most. A repetition with the same id finds
-- what the first call made.
create function public.chorus_create_api_key(p jsonb) returns jsonb
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
    return chorus.ok(to_jsonb(v_key));
  end if;
  if (select count(*) from api_keys where account_id = v_account) >= (p->>'most')::integer then
    return chorus.conflict('too_many_api_keys');
  end if;
  insert into api_keys (id, account_id, name, role, digest, hint, created_by)
  values (
    (p->>'id')::uuid, v_account, p->>'name', p->>'role', p->>'digest', p->>'hint', p->>'created_by'
  )
  returning * into v_key;
  return chorus.ok(to_jsonb(v_key));
end $$;

-- p: account_id, api_key_id (null for all). The oldest first.
create function public.chorus_list_api_keys(p jsonb) returns jsonb
language sql stable set search_path = public, pg_temp as $$
  select chorus.ok(coalesce(jsonb_agg(to_jsonb(k) order by k.created_at, k.id), '[]'))
  from api_keys k
  where k.account_id = chorus.as_uuid(p->>'account_id')
    and (p->>'api_key_id' is null or k.id = chorus.as_uuid(p->>'api_key_id'))
$$;

-- p: digest
create function public.chorus_get_api_key_by_digest(p jsonb) returns jsonb
language sql stable set search_path = public, pg_temp as $$
  select chorus.ok((select to_jsonb(k) from api_keys k where k.digest = p->>'digest'))
$$;

-- p: account_id, api_key_id. Deleting what is gone succeeds: the call may be a repetition.
create function public.chorus_delete_api_key(p jsonb) returns jsonb
language plpgsql set search_path = public, pg_temp as $$
begin
  delete from api_keys
  where id = chorus.as_uuid(p->>'api_key_id') and account_id = chorus.as_uuid(p->>'account_id');
  return chorus.ok(null);
end $$;

-- p: ids. They were used in the last minute. A row that another replica is noting is left to it.
create function public.chorus_api_keys_used(p jsonb) returns jsonb
language plpgsql set search_path = public, pg_temp as $$
begin
  update api_keys set last_used_at = now() where id in (
    select k.id from api_keys k
    where k.id = any (array(select jsonb_array_elements_text(p->'ids')::uuid))
      and (k.last_used_at is null or k.last_used_at < now() - interval '30 seconds')
    for update skip locked
  );
  return chorus.ok(null);
end $$;

select chorus.secure_functions();
