-- What the replicas must forget: one row for each cached key that a commit has made old, written in the same commit by
-- triggers, whoever commits (the application, psql, Supabase Studio). A replica carries it out, then deletes it: neither
-- a process that dies after the commit, nor a lost notification, nor a Redis that is away can lose it.
--
-- The keys are those of the application (services/account_service.py); tests compare the two.

create table public.cache_invalidations (
  id bigint generated always as identity primary key,
  pattern text not null,
  created_at timestamptz not null default now()
);
select chorus.secure_table('public.cache_invalidations');

-- Security definer: whoever may change the row may not write here.
create function chorus.forget(patterns text[]) returns void
language sql security definer set search_path = '' as $$
  insert into public.cache_invalidations (pattern) select distinct p from unnest(patterns) p where p is not null;
  select pg_notify('chorus_cache', '');
$$;

create function chorus.account_keys(a public.whatsapp_accounts) returns text[]
language sql immutable set search_path = '' as $$
  select array[
    'account:id:' || a.id,
    'account:number:' || a.phone_number_id,
    'account:verify:' || left(encode(sha256(convert_to(a.verify_token, 'UTF8')), 'hex'), 32)
  ]
$$;

create function chorus.forget_account() returns trigger
language plpgsql security definer set search_path = '' as $$
begin
  if tg_op = 'TRUNCATE' then
    perform chorus.forget(array['account:*', 'bot_profile:*']);
  else
    -- In both rows what is not there is null.
    perform chorus.forget(chorus.account_keys(old) || chorus.account_keys(new));
  end if;
  return null;
end $$;
create trigger forget after insert or update or delete on public.whatsapp_accounts
  for each row execute function chorus.forget_account();
create trigger forget_all after truncate on public.whatsapp_accounts
  for each statement execute function chorus.forget_account();

create function chorus.forget_profile() returns trigger
language plpgsql security definer set search_path = '' as $$
begin
  if tg_op = 'TRUNCATE' then
    perform chorus.forget(array['bot_profile:*']);
  else
    perform chorus.forget(array['bot_profile:account_' || old.account_id, 'bot_profile:account_' || new.account_id]);
  end if;
  return null;
end $$;
create trigger forget after insert or update or delete on public.bot_profiles
  for each row execute function chorus.forget_profile();
create trigger forget_all after truncate on public.bot_profiles
  for each statement execute function chorus.forget_profile();

-- p: limit. The oldest first: [{"id", "pattern"}].
create function public.chorus_pending_invalidations(p jsonb) returns jsonb
language sql stable set search_path = public, pg_temp as $$
  select chorus.ok(coalesce(jsonb_agg(jsonb_build_object('id', c.id, 'pattern', c.pattern) order by c.id), '[]'))
  from (select id, pattern from cache_invalidations order by id limit (p->>'limit')::integer) c
$$;

-- p: ids
create function public.chorus_settle_invalidations(p jsonb) returns jsonb
language plpgsql set search_path = public, pg_temp as $$
begin
  delete from cache_invalidations
  where id in (select value::bigint from jsonb_array_elements_text(p->'ids'));
  return chorus.ok(null);
end $$;

select chorus.secure_functions();
