-- Accounts from which WhatsApp takes nothing: counted, confirmed, told, and cleared by whatever may have mended them.

alter table public.whatsapp_accounts
  add column refusals integer not null default 0,
  add column blocked_reason text,        -- the application's word for it (BlockReason)
  add column blocked_since timestamptz,
  add column bootstrap_digest text;      -- of the WHATSAPP_TOKEN that the settings gave last; the token is random, so
                                         -- its digest tells nothing
create index whatsapp_accounts_blocked on public.whatsapp_accounts (blocked_since) where blocked_since is not null;
grant select (blocked_reason, blocked_since) on public.whatsapp_accounts to authenticated;

-- p: account_id, changes (any columns but the key, the times and what the functions below keep)
create or replace function public.chorus_update_account(p jsonb) returns jsonb
language plpgsql set search_path = public, pg_temp as $$
declare
  v_columns text;
  v_account whatsapp_accounts;
  v_constraint text;
begin
  select string_agg(format('%1$I = n.%1$I', attname), ', ') into v_columns
  from pg_attribute
  where attrelid = 'public.whatsapp_accounts'::regclass and attnum > 0 and not attisdropped
    and attname not in ('id', 'created_at', 'updated_at', 'refusals', 'blocked_reason', 'blocked_since')
    and p->'changes' ? attname::text;
  if v_columns is null then
    select * into v_account from whatsapp_accounts a where a.id = chorus.as_uuid(p->>'account_id');
  else
    execute format(
      'update public.whatsapp_accounts a set %s
       from jsonb_populate_record(null::public.whatsapp_accounts, $1) n where a.id = $2 returning a.*', v_columns)
    into v_account using p->'changes', chorus.as_uuid(p->>'account_id');
  end if;
  if v_account.id is null then
    return chorus.not_found('account');
  end if;
  return chorus.ok(to_jsonb(v_account));
exception when unique_violation then
  get stacked diagnostics v_constraint = constraint_name;
  return chorus.conflict(case v_constraint
    when 'whatsapp_accounts_slug_key' then 'slug_taken' else 'phone_number_id_taken' end);
end $$;

-- Another token or number, or the switch: what was known of refusals is about something else.
create function chorus.forget_refusals() returns trigger
language plpgsql set search_path = '' as $$
begin
  new.refusals := 0;
  new.blocked_reason := null;
  new.blocked_since := null;
  return new;
end $$;
create trigger forget_refusals before update on public.whatsapp_accounts for each row
  when (new.access_token is distinct from old.access_token or new.is_active is distinct from old.is_active
    or new.phone_number_id is distinct from old.phone_number_id)
  execute function chorus.forget_refusals();

-- Such a change, and the end of a block, is remembered for the replicas like an invalidation (see chorus_cache): the one
-- that carries it out closes the number's circuits and wakes its conversations. An older version only invalidates a key
-- that nobody uses. Security definer: whoever may change the row may not write there.
create function chorus.try_again() returns trigger
language plpgsql security definer set search_path = '' as $$
begin
  perform chorus.forget(array['account:try_again:' || new.phone_number_id]);
  return null;
end $$;
create trigger try_again after update on public.whatsapp_accounts for each row
  when (new.access_token is distinct from old.access_token or new.is_active is distinct from old.is_active
    or new.phone_number_id is distinct from old.phone_number_id
    or (old.blocked_since is not null and new.blocked_since is null))
  execute function chorus.try_again();

-- p: account_id, access_token (the stored text that was in use), reason, confirm (refusals in a row that make a block)
-- Answers {"known": the token is still the same, "blocked", "changed": this call made it blocked}. One more refusal; at
-- the last the account is blocked. Blocked for the same reason already: nothing is written.
create function public.chorus_account_refused(p jsonb) returns jsonb
language plpgsql set search_path = public, pg_temp as $$
declare
  v_account whatsapp_accounts;
  v_is_block boolean;
begin
  select * into v_account from whatsapp_accounts where id = chorus.as_uuid(p->>'account_id') for no key update;
  if not found then
    return chorus.not_found('account');
  end if;
  if v_account.access_token <> p->>'access_token' then
    return chorus.ok(jsonb_build_object('known', false, 'blocked', false, 'changed', false));
  end if;
  v_is_block := v_account.refusals + 1 >= (p->>'confirm')::integer;
  if v_account.blocked_reason is distinct from p->>'reason' then
    update whatsapp_accounts
    set refusals = least(refusals + 1, (p->>'confirm')::integer),
      blocked_reason = case when v_is_block then p->>'reason' end,
      blocked_since = case when v_is_block then coalesce(blocked_since, clock_timestamp()) end
    where id = v_account.id;
  end if;
  return chorus.ok(jsonb_build_object(
    'known', true, 'blocked', v_is_block, 'changed', v_is_block and v_account.blocked_since is null));
end $$;

-- p: account_id, access_token (the stored text that was in use). A send was accepted. Answers whether the account was
-- blocked until now.
create function public.chorus_account_accepted(p jsonb) returns jsonb
language plpgsql set search_path = public, pg_temp as $$
declare
  v_account whatsapp_accounts;
begin
  select * into v_account from whatsapp_accounts
  where id = chorus.as_uuid(p->>'account_id') and access_token = p->>'access_token' and refusals > 0
  for no key update;
  if not found then
    return chorus.ok('false');
  end if;
  update whatsapp_accounts set refusals = 0, blocked_reason = null, blocked_since = null where id = v_account.id;
  return chorus.ok(to_jsonb(v_account.blocked_since is not null));
end $$;

-- p: limit. Active accounts that are blocked: {"reasons": {reason: how many}, "accounts": [the longest blocked first]}.
create function public.chorus_blocked_accounts(p jsonb) returns jsonb
language sql stable set search_path = public, pg_temp as $$
  select chorus.ok(jsonb_build_object(
    'reasons', (
      select coalesce(jsonb_object_agg(r.blocked_reason, r.count), '{}')
      from (
        select blocked_reason, count(*) as count from whatsapp_accounts
        where blocked_since is not null and is_active group by blocked_reason
      ) r
    ),
    'accounts', (
      select coalesce(jsonb_agg(to_jsonb(a) order by a.blocked_since, a.id), '[]')
      from (
        select * from whatsapp_accounts where blocked_since is not null and is_active
        order by blocked_since, id limit (p->>'limit')::integer
      ) a
    )
  ))
$$;

select chorus.secure_functions();
