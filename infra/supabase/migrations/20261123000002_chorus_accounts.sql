-- Businesses, the people who may act for them, and what their bots know.

create table public.whatsapp_accounts (
  id uuid primary key default gen_random_uuid(),
  name text not null,
  slug text not null unique,
  phone_number text,
  phone_number_id text not null unique,
  access_token text not null,  -- ciphertext; the key is not in the database
  verify_token text not null,
  is_active boolean not null default true,
  bot_auto_on boolean not null default true,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now()
);
create index whatsapp_accounts_verify_token on public.whatsapp_accounts (verify_token);
create trigger touch before update on public.whatsapp_accounts for each row execute function chorus.touch();
select chorus.secure_table('public.whatsapp_accounts');

create table public.account_members (
  account_id uuid not null references public.whatsapp_accounts on delete cascade,
  user_id text not null,
  role text not null check (role in ('owner', 'agent', 'viewer')),
  created_at timestamptz not null default now(),
  primary key (account_id, user_id)
);
create index account_members_user on public.account_members (user_id);
select chorus.secure_table('public.account_members');

-- Null means "as the application says", so that a better default text reaches everybody who never changed it.
create table public.bot_profiles (
  account_id uuid primary key references public.whatsapp_accounts on delete cascade,
  business_name text,
  description text,
  address text,
  hours text,
  knowledge_base text,
  custom_fields jsonb check (jsonb_typeof(custom_fields) = 'object'),
  template_config jsonb check (jsonb_typeof(template_config) = 'object'),
  fallback_text text,
  non_text_reply text,
  model text,
  temperature double precision,
  max_output_tokens integer,
  resend_ambiguous boolean,
  updated_at timestamptz not null default now()
);
create trigger touch before update on public.bot_profiles for each row execute function chorus.touch();
select chorus.secure_table('public.bot_profiles');

-- A trigger, so that an account made by hand has its profile too.
create function chorus.create_profile() returns trigger
language plpgsql set search_path = '' as $$
begin
  insert into public.bot_profiles (account_id) values (new.id);
  return null;
end $$;
create trigger create_profile after insert on public.whatsapp_accounts
  for each row execute function chorus.create_profile();

-- Read by members. The tokens stay with the service: columns are granted one by one.
grant select (id, name, slug, phone_number, phone_number_id, is_active, bot_auto_on, created_at, updated_at)
  on public.whatsapp_accounts to authenticated;
grant select on public.account_members, public.bot_profiles to authenticated;

create policy own_membership on public.account_members for select to authenticated
  using (user_id = (select chorus.caller()));

-- As a set, so that a policy looks it up once per query and not once per row.
create function chorus.my_accounts() returns setof uuid
language sql stable set search_path = '' as $$
  select m.account_id from public.account_members m where m.user_id = chorus.caller()
$$;

create policy members_read on public.whatsapp_accounts for select to authenticated
  using (id in (select chorus.my_accounts()));
create policy members_read on public.bot_profiles for select to authenticated
  using (account_id in (select chorus.my_accounts()));

-- p: id (chosen by the caller), name, slug, phone_number_id, access_token, verify_token, phone_number, bot_auto_on,
-- owner_id. A repetition with the same id finds the account that the first call made.
create function public.chorus_create_account(p jsonb) returns jsonb
language plpgsql set search_path = public, pg_temp as $$
declare
  v_account whatsapp_accounts;
  v_constraint text;
begin
  begin
    insert into whatsapp_accounts
      (id, name, slug, phone_number_id, access_token, verify_token, phone_number, bot_auto_on)
    values (
      (p->>'id')::uuid, p->>'name', p->>'slug', p->>'phone_number_id', p->>'access_token', p->>'verify_token',
      p->>'phone_number', (p->>'bot_auto_on')::boolean
    )
    returning * into v_account;
  exception when unique_violation then
    get stacked diagnostics v_constraint = constraint_name;
    select * into v_account from whatsapp_accounts where id = (p->>'id')::uuid;
    if not found then
      return chorus.conflict(case v_constraint
        when 'whatsapp_accounts_slug_key' then 'slug_taken' else 'phone_number_id_taken' end);
    end if;
  end;
  if p->>'owner_id' is not null then
    insert into account_members (account_id, user_id, role) values (v_account.id, p->>'owner_id', 'owner')
    on conflict do nothing;
  end if;
  return chorus.ok(to_jsonb(v_account));
end $$;

-- p: account_id, changes (any of the columns set below)
create function public.chorus_update_account(p jsonb) returns jsonb
language plpgsql set search_path = public, pg_temp as $$
declare
  v_account whatsapp_accounts;
  v_constraint text;
begin
  update whatsapp_accounts a
  set (name, slug, phone_number, phone_number_id, access_token, verify_token, is_active, bot_auto_on) = (
    select n.name, n.slug, n.phone_number, n.phone_number_id, n.access_token, n.verify_token, n.is_active, n.bot_auto_on
    from jsonb_populate_record(a, p->'changes') n
  )
  where a.id = chorus.as_uuid(p->>'account_id')
  returning * into v_account;
  if not found then
    return chorus.not_found('account');
  end if;
  return chorus.ok(to_jsonb(v_account));
exception when unique_violation then
  get stacked diagnostics v_constraint = constraint_name;
  return chorus.conflict(case v_constraint
    when 'whatsapp_accounts_slug_key' then 'slug_taken' else 'phone_number_id_taken' end);
end $$;

-- p: account_id
create function public.chorus_get_account(p jsonb) returns jsonb
language sql stable set search_path = public, pg_temp as $$
  select chorus.ok((select to_jsonb(a) from whatsapp_accounts a where a.id = chorus.as_uuid(p->>'account_id')))
$$;

-- p: phone_number_id
create function public.chorus_get_account_by_phone_number_id(p jsonb) returns jsonb
language sql stable set search_path = public, pg_temp as $$
  select chorus.ok((select to_jsonb(a) from whatsapp_accounts a where a.phone_number_id = p->>'phone_number_id'))
$$;

-- p: verify_token. Accounts may share one; any of them will do.
create function public.chorus_get_account_by_verify_token(p jsonb) returns jsonb
language sql stable set search_path = public, pg_temp as $$
  select chorus.ok((
    select to_jsonb(a) from whatsapp_accounts a where a.verify_token = p->>'verify_token'
    order by a.is_active desc, a.created_at, a.id limit 1
  ))
$$;

-- p: user_id, null for all accounts
create function public.chorus_list_accounts(p jsonb) returns jsonb
language sql stable set search_path = public, pg_temp as $$
  select chorus.ok(coalesce(jsonb_agg(to_jsonb(a) order by a.name, a.id), '[]'))
  from whatsapp_accounts a
  where p->>'user_id' is null
    or exists (select from account_members m where m.account_id = a.id and m.user_id = p->>'user_id')
$$;

-- p: account_id, user_id, role
create function public.chorus_add_member(p jsonb) returns jsonb
language plpgsql set search_path = public, pg_temp as $$
begin
  insert into account_members (account_id, user_id, role)
  select a.id, p->>'user_id', p->>'role' from whatsapp_accounts a where a.id = chorus.as_uuid(p->>'account_id')
  on conflict (account_id, user_id) do update set role = excluded.role;
  if not found then
    return chorus.not_found('account');
  end if;
  return chorus.ok(null);
end $$;

-- p: account_id, user_id
create function public.chorus_get_role(p jsonb) returns jsonb
language sql stable set search_path = public, pg_temp as $$
  select chorus.ok((
    select to_jsonb(m.role) from account_members m
    where m.account_id = chorus.as_uuid(p->>'account_id') and m.user_id = p->>'user_id'
  ))
$$;

-- p: account_id
create function public.chorus_get_profile(p jsonb) returns jsonb
language sql stable set search_path = public, pg_temp as $$
  select chorus.ok((select to_jsonb(b) from bot_profiles b where b.account_id = chorus.as_uuid(p->>'account_id')))
$$;

-- p: account_id, changes (any of the columns set below)
create function public.chorus_update_profile(p jsonb) returns jsonb
language plpgsql set search_path = public, pg_temp as $$
declare
  v_profile bot_profiles;
begin
  update bot_profiles b
  set (business_name, description, address, hours, knowledge_base, custom_fields, template_config, fallback_text,
       non_text_reply, model, temperature, max_output_tokens, resend_ambiguous) = (
    select n.business_name, n.description, n.address, n.hours, n.knowledge_base, n.custom_fields, n.template_config,
      n.fallback_text, n.non_text_reply, n.model, n.temperature, n.max_output_tokens, n.resend_ambiguous
    from jsonb_populate_record(b, p->'changes') n
  )
  where b.account_id = chorus.as_uuid(p->>'account_id')
  returning * into v_profile;
  if not found then
    return chorus.not_found('account');
  end if;
  return chorus.ok(to_jsonb(v_profile));
end $$;

select chorus.secure_functions();
