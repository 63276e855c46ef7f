-- Events for other systems: who wants to hear of what, and what is still to be told. A row of the outbox is written in the
-- transaction of the change that it tells of, by triggers, whichever function or person makes the change. An account without
-- an endpoint for that type writes none.

create table public.webhook_endpoints (
  id uuid primary key default gen_random_uuid(),
  account_id uuid not null references public.whatsapp_accounts on delete cascade,
  url text not null,
  events text[] not null,
  secret text not null,  -- ciphertext; the key is not in the database
  enabled boolean not null default true,
  disabled_reason text,  -- the application's word for it (DisabledReason)
  disabled_at timestamptz,
  failing_since timestamptz,  -- the first failed delivery since the last one that went well
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now()
);
create index webhook_endpoints_account on public.webhook_endpoints (account_id);
create trigger touch before update on public.webhook_endpoints for each row execute function chorus.touch();
select chorus.secure_table('public.webhook_endpoints');

-- No foreign key to the conversation: one that becomes part of another must not take along what is still to be told.
create table public.outbox (
  id uuid primary key default gen_random_uuid(),
  seq bigint generated always as identity,  -- what follows from something else has the higher one
  account_id uuid not null references public.whatsapp_accounts on delete cascade,
  conversation_id uuid,
  type text not null,
  payload jsonb not null,
  created_at timestamptz not null default now(),
  pending uuid[],  -- the endpoints that have not got it yet; null: not looked at
  life text        -- of the queue that it was moved into; null: not moved yet
);
create unique index outbox_order on public.outbox (seq);
create index outbox_unmoved on public.outbox (seq) where life is null;
create index outbox_account on public.outbox (account_id);
create index outbox_conversation on public.outbox (conversation_id);
select chorus.secure_table('public.outbox');

create table public.webhook_deliveries (
  id bigint generated always as identity primary key,
  endpoint_id uuid not null references public.webhook_endpoints on delete cascade,
  event_id uuid not null,
  conversation_id uuid,
  type text not null,
  status integer,  -- null: no answer
  outcome text not null,
  ms integer not null,
  answer text not null,
  at timestamptz not null default now()
);
create index webhook_deliveries_newest on public.webhook_deliveries (endpoint_id, id desc);
create index webhook_deliveries_conversation on public.webhook_deliveries (conversation_id);
select chorus.secure_table('public.webhook_deliveries');

-- -- what is written with a change ------------------------------------------------------------------------------------

-- The one thing that an account without endpoints pays for.
create function chorus.is_heard(account uuid, kind text) returns boolean
language sql stable set search_path = '' as $$
  select exists (
    select from public.webhook_endpoints e where e.account_id = account and e.enabled and kind = any (e.events))
$$;

create function chorus.tell(account uuid, conversation uuid, kind text, payload jsonb) returns void
language sql set search_path = '' as $$
  insert into public.outbox (account_id, conversation_id, type, payload) values (account, conversation, kind, payload)
$$;

create function chorus.told_contact(contact uuid) returns jsonb
language sql stable set search_path = '' as $$
  select jsonb_build_object('id', k.id, 'wa_id', k.wa_id, 'user_id', k.user_id, 'name', k.name)
  from public.contacts k where k.id = contact
$$;

create function chorus.told_message(m public.messages) returns jsonb
language sql stable set search_path = '' as $$
  select jsonb_build_object(
    'message', jsonb_build_object(
      'id', m.id, 'wa_message_id', m.wa_message_id, 'direction', m.direction, 'author', m.author, 'type', m.type,
      'text', m.text, 'status', m.status, 'status_at', m.status_at, 'error', m.error, 'timestamp', m.timestamp),
    'conversation_id', m.conversation_id,
    'contact', (
      select chorus.told_contact(c.contact_id) from public.conversations c where c.id = m.conversation_id))
$$;

-- Security definer, as the other triggers that write where the author of the change may not.
-- A message has gone out when its wamid is known: once, and then the receiver can name it to WhatsApp. A status that comes
-- before that is told after it; a failure also where the message never got a wamid.
create function chorus.tell_message() returns trigger
language plpgsql security definer set search_path = '' as $$
declare
  v_went_out boolean;
  v_kind text;
begin
  if new.direction = 'inbound' then
    if chorus.is_heard(new.account_id, 'message.received') then
      perform chorus.tell(new.account_id, new.conversation_id, 'message.received', chorus.told_message(new));
    end if;
    return null;
  end if;
  v_went_out := new.wa_message_id is not null and (tg_op = 'INSERT' or old.wa_message_id is null);
  if v_went_out and new.status <> 'failed' and chorus.is_heard(new.account_id, 'message.sent') then
    perform chorus.tell(new.account_id, new.conversation_id, 'message.sent', chorus.told_message(new));
  end if;
  v_kind := case
    when tg_op = 'INSERT' then null
    when new.status = 'failed' and old.status <> 'failed' then 'message.status'
    when new.status in ('delivered', 'read', 'played') and new.wa_message_id is not null
      and (v_went_out or new.status <> old.status) then 'message.status'
  end;
  if v_kind is not null and chorus.is_heard(new.account_id, v_kind) then
    perform chorus.tell(
      new.account_id, new.conversation_id, v_kind, chorus.told_message(new) #- '{message,text}');
  end if;
  return null;
end $$;
create trigger tell_received after insert on public.messages for each row
  when ((new.direction = 'inbound' and new.type <> 'system')
    or (new.direction = 'outbound' and new.wa_message_id is not null))
  execute function chorus.tell_message();
create trigger tell_status after update on public.messages for each row
  when (new.direction = 'outbound'
    and (new.status <> old.status or (old.wa_message_id is null and new.wa_message_id is not null)))
  execute function chorus.tell_message();

create function chorus.tell_conversation() returns trigger
language plpgsql security definer set search_path = '' as $$
declare
  v_kind text;
begin
  foreach v_kind in array array_remove(array[
    case when new.bot_enabled <> old.bot_enabled then 'conversation.bot_switched' end,
    case when new.needs_human and not old.needs_human then 'conversation.needs_human' end
  ], null) loop
    if chorus.is_heard(new.account_id, v_kind) then
      perform chorus.tell(new.account_id, new.id, v_kind, jsonb_build_object('conversation', jsonb_build_object(
        'id', new.id, 'contact', chorus.told_contact(new.contact_id), 'bot_enabled', new.bot_enabled,
        'needs_human', new.needs_human, 'needs_human_reason', new.needs_human_reason,
        'needs_human_since', new.needs_human_since, 'unread_count', new.unread_count,
        'last_inbound_at', new.last_inbound_at)));
    end if;
  end loop;
  return null;
end $$;
create trigger tell_switches after update on public.conversations for each row
  when (new.bot_enabled <> old.bot_enabled or (new.needs_human and not old.needs_human))
  execute function chorus.tell_conversation();

create function chorus.tell_account() returns trigger
language plpgsql security definer set search_path = '' as $$
declare
  v_kind text := case when new.blocked_since is null then 'account.restored' else 'account.blocked' end;
begin
  if chorus.is_heard(new.id, v_kind) then
    perform chorus.tell(new.id, null, v_kind, jsonb_build_object('account', jsonb_build_object(
      'id', new.id, 'name', new.name, 'phone_number_id', new.phone_number_id,
      'blocked_reason', coalesce(new.blocked_reason, old.blocked_reason),
      'blocked_since', coalesce(new.blocked_since, old.blocked_since))));
  end if;
  return null;
end $$;
create trigger tell_block after update on public.whatsapp_accounts for each row
  when ((new.blocked_since is null) <> (old.blocked_since is null))
  execute function chorus.tell_account();

-- -- the endpoints ----------------------------------------------------------------------------------------------------

-- p: id (chosen by the caller), account_id, url, events, secret, most. A repetition with the same id finds what the first
-- call made.
create function public.chorus_create_endpoint(p jsonb) returns jsonb
language plpgsql set search_path = public, pg_temp as $$
declare
  v_account uuid;
  v_endpoint webhook_endpoints;
begin
  select id into v_account from whatsapp_accounts where id = chorus.as_uuid(p->>'account_id') for no key update;
  if not found then
    return chorus.not_found('account');
  end if;
  select * into v_endpoint from webhook_endpoints where id = (p->>'id')::uuid;
  if found then
    return chorus.ok(to_jsonb(v_endpoint));
  end if;
  if (select count(*) from webhook_endpoints where account_id = v_account) >= (p->>'most')::integer then
    return chorus.conflict('too_many_webhooks');
  end if;
  insert into webhook_endpoints (id, account_id, url, events, secret)
  values ((p->>'id')::uuid, v_account, p->>'url', array(select jsonb_array_elements_text(p->'events')), p->>'secret')
  returning * into v_endpoint;
  return chorus.ok(to_jsonb(v_endpoint));
end $$;

-- p: account_id, endpoint_id (null for all). The oldest first.
create function public.chorus_list_endpoints(p jsonb) returns jsonb
language sql stable set search_path = public, pg_temp as $$
  select chorus.ok(coalesce(jsonb_agg(to_jsonb(e) order by e.created_at, e.id), '[]'))
  from webhook_endpoints e
  where e.account_id = chorus.as_uuid(p->>'account_id')
    and (p->>'endpoint_id' is null or e.id = chorus.as_uuid(p->>'endpoint_id'))
$$;

-- p: account_id, endpoint_id, changes {url, events, enabled, secret}. Switched on or off by a person: what was known of
-- failures is over.
create function public.chorus_update_endpoint(p jsonb) returns jsonb
language plpgsql set search_path = public, pg_temp as $$
declare
  v_changes jsonb := p->'changes';
  v_endpoint webhook_endpoints;
begin
  update webhook_endpoints e
  set url = coalesce(v_changes->>'url', e.url),
    events = case when v_changes ? 'events' then array(select jsonb_array_elements_text(v_changes->'events')) else e.events end,
    secret = coalesce(v_changes->>'secret', e.secret),
    enabled = coalesce((v_changes->>'enabled')::boolean, e.enabled),
    disabled_reason = case (v_changes->>'enabled')::boolean
      when true then null when false then coalesce(e.disabled_reason, 'by_hand') else e.disabled_reason end,
    disabled_at = case (v_changes->>'enabled')::boolean
      when true then null when false then coalesce(e.disabled_at, now()) else e.disabled_at end,
    failing_since = case when v_changes ? 'enabled' or v_changes ? 'url' then null else e.failing_since end
  where e.id = chorus.as_uuid(p->>'endpoint_id') and e.account_id = chorus.as_uuid(p->>'account_id')
  returning * into v_endpoint;
  if not found then
    return chorus.not_found('webhook');
  end if;
  return chorus.ok(to_jsonb(v_endpoint));
end $$;

-- p: account_id, endpoint_id. Deleting what is gone succeeds: the call may be a repetition.
create function public.chorus_delete_endpoint(p jsonb) returns jsonb
language plpgsql set search_path = public, pg_temp as $$
begin
  delete from webhook_endpoints
  where id = chorus.as_uuid(p->>'endpoint_id') and account_id = chorus.as_uuid(p->>'account_id');
  return chorus.ok(null);
end $$;

-- p: endpoint_id, limit. The newest first.
create function public.chorus_list_deliveries(p jsonb) returns jsonb
language sql stable set search_path = public, pg_temp as $$
  select chorus.ok(coalesce(jsonb_agg(to_jsonb(d) order by d.id desc), '[]'))
  from (
    select * from webhook_deliveries where endpoint_id = chorus.as_uuid(p->>'endpoint_id')
    order by id desc limit (p->>'limit')::integer
  ) d
$$;

-- p: after (an endpoint's id, or null), limit: [{id, secret}], for another encryption key.
create function public.chorus_endpoint_secrets(p jsonb) returns jsonb
language sql stable set search_path = public, pg_temp as $$
  select chorus.ok(coalesce(jsonb_agg(jsonb_build_object('id', e.id, 'secret', e.secret) order by e.id), '[]'))
  from (
    select id, secret from webhook_endpoints where p->>'after' is null or id > chorus.as_uuid(p->>'after')
    order by id limit (p->>'limit')::integer
  ) e
$$;

-- p: endpoint_id, expected, secret. Answers false and writes nothing if another one is stored by now.
create function public.chorus_replace_endpoint_secret(p jsonb) returns jsonb
language plpgsql set search_path = public, pg_temp as $$
begin
  update webhook_endpoints set secret = p->>'secret'
  where id = chorus.as_uuid(p->>'endpoint_id') and secret in (p->>'expected', p->>'secret');
  return chorus.ok(to_jsonb(found));
end $$;

-- -- from the outbox to the queue, and to the end -----------------------------------------------------------------------

-- p: limit. The oldest rows that were not moved yet, with the endpoints that are to get them: [{id, account_id,
-- conversation_id, created_at, endpoints}]. Which ones is decided at the first look; what none wants is deleted. One
-- caller at a time, though two do no harm.
create function public.chorus_outbox_next(p jsonb) returns jsonb
language plpgsql set search_path = public, pg_temp as $$
declare
  v_rows jsonb;
begin
  with page as (
    select o.id, o.seq, coalesce(o.pending, array(
      select e.id from webhook_endpoints e
      where e.account_id = o.account_id and e.enabled and o.type = any (e.events) order by e.created_at, e.id
    )) as endpoints
    from outbox o where o.life is null order by o.seq limit (p->>'limit')::integer for update skip locked
  ), unwanted as (
    delete from outbox o using page where o.id = page.id and page.endpoints = '{}'
  ), wanted as (
    update outbox o set pending = page.endpoints from page where o.id = page.id and page.endpoints <> '{}'
    returning o.seq, jsonb_build_object('id', o.id, 'account_id', o.account_id, 'conversation_id', o.conversation_id,
      'created_at', o.created_at, 'endpoints', to_jsonb(page.endpoints)) as row
  )
  select jsonb_build_object(
    'rows', (select coalesce(jsonb_agg(w.row order by w.seq), '[]') from wanted w),
    'seen', (select count(*) from page))
  into v_rows;
  return chorus.ok(v_rows);
end $$;

-- p: ids, life. They are in the queue now.
create function public.chorus_outbox_moved(p jsonb) returns jsonb
language plpgsql set search_path = public, pg_temp as $$
begin
  update outbox set life = p->>'life'
  where id = any (array(select jsonb_array_elements_text(p->'ids')::uuid)) and life is distinct from p->>'life';
  return chorus.ok(null);
end $$;

-- p: life, keep_seconds, limit. The queue has another life: what was moved into an earlier one, and has not reached every
-- endpoint, is moved again. Rows older than keep_seconds go, whatever became of them, at most `limit`. Answers {again, gone}.
create function public.chorus_outbox_begin(p jsonb) returns jsonb
language plpgsql set search_path = public, pg_temp as $$
declare
  v_again bigint;
  v_gone bigint;
begin
  update outbox set life = null where life <> p->>'life';
  get diagnostics v_again = row_count;
  delete from outbox where id in (
    select o.id from (select id, created_at from outbox order by seq limit (p->>'limit')::integer) o
    where o.created_at < now() - make_interval(secs => (p->>'keep_seconds')::double precision)
  );
  get diagnostics v_gone = row_count;
  return chorus.ok(jsonb_build_object('again', v_again, 'gone', v_gone));
end $$;

-- p: endpoint_id, ids. What a delivery needs: {endpoint: the row or null, events: [{id, account_id, conversation_id, type,
-- payload, created_at}]}. An event that is gone was told, is too old, or its customer was erased.
create function public.chorus_outbox_load(p jsonb) returns jsonb
language sql stable set search_path = public, pg_temp as $$
  select chorus.ok(jsonb_build_object(
    'endpoint', (select to_jsonb(e) from webhook_endpoints e where e.id = chorus.as_uuid(p->>'endpoint_id')),
    'events', (
      select coalesce(jsonb_agg(jsonb_build_object('id', o.id, 'account_id', o.account_id,
        'conversation_id', o.conversation_id, 'type', o.type, 'payload', o.payload, 'created_at', o.created_at)
        order by o.seq), '[]')
      from outbox o
      where o.id = any (array(select jsonb_array_elements_text(p->'ids')::uuid))
        and coalesce(chorus.as_uuid(p->>'endpoint_id') = any (o.pending), true)
    )
  ))
$$;

-- p: endpoint_id, told (ids that the endpoint needs no more), deliveries [{event_id, conversation_id, type, status, outcome,
-- ms, answer}], last (how the last one went: "ok", "failed", "gone", or null for none), off_after_seconds (of failures),
-- keep (deliveries).
-- 1. the endpoint has these events: a row goes when no other endpoint waits for it
-- 2. the deliveries are noted, the oldest go
-- 3. the endpoint begins or ends to fail; gone, or failing for too long, it is switched off
-- Answers {"switched_off": the reason if this call did it, "recovered": it had failed before}.
create function public.chorus_outbox_settle(p jsonb) returns jsonb
language plpgsql set search_path = public, pg_temp as $$
declare
  v_endpoint webhook_endpoints;
  v_id uuid := chorus.as_uuid(p->>'endpoint_id');
  v_told uuid[] := array(select jsonb_array_elements_text(p->'told')::uuid);
  v_reason text;
begin
  if v_told <> '{}' then
    perform from outbox where id = any (v_told) order by id for update;
    update outbox set pending = array_remove(pending, v_id) where id = any (v_told) and v_id = any (pending);
    delete from outbox where id = any (v_told) and pending = '{}';
  end if;
  select * into v_endpoint from webhook_endpoints where id = v_id;
  if not found then
    return chorus.ok(jsonb_build_object('switched_off', null, 'recovered', false));
  end if;
  insert into webhook_deliveries (endpoint_id, event_id, conversation_id, type, status, outcome, ms, answer)
  select v_id, (d->>'event_id')::uuid, chorus.as_uuid(d->>'conversation_id'), d->>'type', (d->>'status')::integer,
    d->>'outcome', (d->>'ms')::integer, d->>'answer'
  from jsonb_array_elements(p->'deliveries') with ordinality as t (d, position) order by position;
  delete from webhook_deliveries where id in (
    select id from webhook_deliveries where endpoint_id = v_id
    order by id desc offset (p->>'keep')::integer limit 100 for update skip locked
  );
  if p->>'last' = 'ok' then
    update webhook_endpoints set failing_since = null where id = v_id and failing_since is not null;
    return chorus.ok(jsonb_build_object('switched_off', null, 'recovered', found));
  end if;
  if p->>'last' is not null and v_endpoint.enabled then
    v_reason := case
      when p->>'last' = 'gone' then 'gone'
      when v_endpoint.failing_since < now() - make_interval(secs => (p->>'off_after_seconds')::double precision)
        then 'failing'
    end;
    update webhook_endpoints
    set failing_since = coalesce(failing_since, now()), enabled = v_reason is null, disabled_reason = v_reason,
      disabled_at = case when v_reason is not null then now() end
    where id = v_id and enabled and (failing_since is null or v_reason is not null);
    if not found then
      v_reason := null;
    end if;
  end if;
  return chorus.ok(jsonb_build_object('switched_off', v_reason, 'recovered', false));
end $$;

select chorus.secure_functions();
