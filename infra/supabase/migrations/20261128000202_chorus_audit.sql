-- The audit trail: who changed what of an account, its members, keys, invitations, webhooks and profile, when and from where.
-- An entry is written in the transaction of its change, by triggers, whoever makes the change. Columns that appear later are
-- in it by themselves; no secret's value is.
--
-- Who it is comes with the call (chorus_as). Without that it is the database's user: Chorus' own upkeep, or SQL by hand.

-- Without a foreign key: the trail of an account outlives it.
create table public.audit_entries (
  id bigint generated always as identity primary key,
  account_id uuid,  -- null: of the whole installation
  at timestamptz not null default now(),
  actor_kind text not null,
  actor_id text not null,
  address text,
  request_id text,
  action text not null,
  subject text not null,
  changes jsonb not null
);
create index audit_entries_account on public.audit_entries (account_id, id desc);
select chorus.secure_table('public.audit_entries');

-- Values of these columns are not written: that they changed is. Also what later columns of that kind will be called.
create function chorus.is_secret(name text) returns boolean
language sql immutable set search_path = '' as $$
  select name ~ '(token|secret|digest|password|cipher)$'
$$;

-- What Chorus itself writes in passing, and times: no person decided it.
create function chorus.is_bookkeeping(name text) returns boolean
language sql immutable set search_path = '' as $$
  select name ~ '(_at|_since)$'
    or name in ('id', 'account_id', 'bootstrap_digest', 'refusals', 'blocked_reason', 'last_notice')
$$;

-- A long value by its beginning, so that one edit of a knowledge base does not cost twice its size for a year.
create function chorus.audited_value(value jsonb) returns jsonb
language sql immutable set search_path = '' as $$
  select case
    when length(value::text) <= 2000 then value
    else to_jsonb(left(coalesce(value #>> '{}', value::text), 1000) || '…')
  end
$$;

-- {"<column>": {"old", "new"}}, of a secret {"<column>": {"changed": true}}; null for a row that is not there.
create function chorus.changes_between(old_row jsonb, new_row jsonb) returns jsonb
language sql immutable set search_path = '' as $$
  select coalesce(jsonb_object_agg(name, case
    when chorus.is_secret(name) then jsonb_build_object('changed', true)
    else jsonb_build_object('old', chorus.audited_value(old_row->name), 'new', chorus.audited_value(new_row->name))
  end), '{}')
  from jsonb_object_keys(coalesce(old_row, '{}') || coalesce(new_row, '{}')) name
  where not chorus.is_bookkeeping(name)
    and coalesce(old_row->name, 'null') is distinct from coalesce(new_row->name, 'null')
$$;

create function chorus.write_audit(account uuid, action text, subject text, changes jsonb) returns void
language sql set search_path = '' as $$
  insert into public.audit_entries (account_id, actor_kind, actor_id, address, request_id, action, subject, changes)
  select account, coalesce(actor->>'kind', 'system'), coalesce(actor->>'id', session_user), actor->>'address',
    actor->>'request_id', action, subject, changes
  from (select nullif(current_setting('chorus.actor', true), '')::jsonb as actor) as given
$$;

-- Arguments: what it is ("member"), and the column that says which one. Security definer, as the other triggers that write
-- where the author of the change may not. Of a new row everything is new; an update that changes nothing writes nothing.
create function chorus.audit() returns trigger
language plpgsql security definer set search_path = '' as $$
declare
  v_old jsonb := case when tg_op <> 'INSERT' then to_jsonb(old) end;
  v_new jsonb := case when tg_op <> 'DELETE' then to_jsonb(new) end;
  v_row jsonb := coalesce(v_new, v_old);
  v_changes jsonb := chorus.changes_between(v_old, v_new);
begin
  if tg_op = 'UPDATE' and v_changes = '{}' then
    return null;
  end if;
  perform chorus.write_audit(
    (v_row->>case when tg_argv[0] = 'account' then 'id' else 'account_id' end)::uuid,
    tg_argv[0] || case tg_op when 'INSERT' then '.created' when 'UPDATE' then '.changed' else '.deleted' end,
    v_row->>tg_argv[1], v_changes);
  return null;
end $$;
create trigger audit after insert or update or delete on public.whatsapp_accounts for each row
  execute function chorus.audit('account', 'id');
create trigger audit after insert or update or delete on public.account_members for each row
  execute function chorus.audit('member', 'user_id');
create trigger audit after insert or update or delete on public.api_keys for each row
  execute function chorus.audit('api_key', 'id');
create trigger audit after insert or update or delete on public.invitations for each row
  execute function chorus.audit('invitation', 'id');
create trigger audit after insert or update or delete on public.webhook_endpoints for each row
  execute function chorus.audit('webhook', 'id');
create trigger audit after update on public.bot_profiles for each row
  execute function chorus.audit('profile', 'account_id');

-- p: actor {kind, id, address, request_id}, operation, p. The operation, and what its triggers write is by this actor.
create function public.chorus_as(p jsonb) returns jsonb
language plpgsql set search_path = public, pg_temp as $$
declare
  v_answer jsonb;
begin
  perform set_config('chorus.actor', p->>'actor', true);
  execute format('select public.%I($1)', 'chorus_' || (p->>'operation')) into v_answer using p->'p';
  return v_answer;
end $$;

-- p: account_id (or phone_number_id, or neither: of the whole installation), action, subject, changes: of what is not kept in
-- this database.
create function public.chorus_note_change(p jsonb) returns jsonb
language plpgsql set search_path = public, pg_temp as $$
begin
  perform chorus.write_audit(
    coalesce(
      chorus.as_uuid(p->>'account_id'),
      (select id from whatsapp_accounts where phone_number_id = p->>'phone_number_id')
    ),
    p->>'action', p->>'subject', p->'changes');
  return chorus.ok(null);
end $$;

-- p: account_id (null for all), limit, before (an entry's id, or null). The newest first.
create function public.chorus_list_audit(p jsonb) returns jsonb
language sql stable set search_path = public, pg_temp as $$
  select chorus.ok(coalesce(jsonb_agg(to_jsonb(a) order by a.id desc), '[]'))
  from (
    select * from audit_entries
    where (p->>'account_id' is null or account_id = chorus.as_uuid(p->>'account_id'))
      and (p->>'before' is null or id < (p->>'before')::bigint)
    order by id desc limit (p->>'limit')::integer
  ) a
$$;

-- p: keep_seconds, limit. Answers how many of the oldest entries went.
create function public.chorus_forget_audit(p jsonb) returns jsonb
language plpgsql set search_path = public, pg_temp as $$
declare
  v_gone bigint;
begin
  delete from audit_entries where id in (
    select a.id from (select id, at from audit_entries order by id limit (p->>'limit')::integer) a
    where a.at < now() - make_interval(secs => (p->>'keep_seconds')::double precision)
  );
  get diagnostics v_gone = row_count;
  return chorus.ok(to_jsonb(v_gone));
end $$;

select chorus.secure_functions();
