-- The way out of the outbox: the relay hears of new events at once, and moves no more of an endpoint's events into the
-- queue than a bounded number. The rest waits here, so that a receiver that is down fills this table and not the queue.

-- Events that wait for room in the queue, for each endpoint that has no more. No row: the event is in the queue for that
-- endpoint, or was not looked at (outbox.life is null).
create table public.outbox_held (
  endpoint_id uuid not null references public.webhook_endpoints on delete cascade,
  seq bigint not null,
  event_id uuid not null references public.outbox on delete cascade,
  primary key (endpoint_id, seq)
);
create index outbox_held_event on public.outbox_held (event_id);
select chorus.secure_table('public.outbox_held');

create function chorus.announce_outbox() returns trigger
language plpgsql security definer set search_path = '' as $$
begin
  perform pg_notify('chorus_outbox', '');
  return null;
end $$;
create trigger announce after insert on public.outbox for each statement execute function chorus.announce_outbox();

-- The other endpoints of the account hear that one was switched off by its failures. Not its URL, which may hold a secret.
create function chorus.tell_endpoint_off() returns trigger
language plpgsql security definer set search_path = '' as $$
begin
  if chorus.is_heard(new.account_id, 'webhook.disabled') then
    perform chorus.tell(new.account_id, null, 'webhook.disabled', jsonb_build_object('webhook', jsonb_build_object(
      'id', new.id, 'disabled_reason', new.disabled_reason, 'disabled_at', new.disabled_at,
      'failing_since', new.failing_since)));
  end if;
  return null;
end $$;
create trigger tell_off after update on public.webhook_endpoints for each row
  when (old.enabled and not new.enabled and new.disabled_reason in ('gone', 'failing'))
  execute function chorus.tell_endpoint_off();

-- p: limit. As before, and `held`: the endpoints for which events wait in outbox_held.
create or replace function public.chorus_outbox_next(p jsonb) returns jsonb
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
    'seen', (select count(*) from page),
    'held', (
      select coalesce(jsonb_agg(e.id), '[]') from webhook_endpoints e
      where exists (select from outbox_held h where h.endpoint_id = e.id)))
  into v_rows;
  return chorus.ok(v_rows);
end $$;

-- p: ids, life, held [{event_id, endpoint_id}]. They are in the queue now, but for the endpoints in `held`, which wait.
create or replace function public.chorus_outbox_moved(p jsonb) returns jsonb
language plpgsql set search_path = public, pg_temp as $$
begin
  insert into outbox_held (endpoint_id, seq, event_id)
  select e.id, o.seq, o.id
  from jsonb_array_elements(coalesce(p->'held', '[]')) h
  join outbox o on o.id = (h->>'event_id')::uuid
  join webhook_endpoints e on e.id = (h->>'endpoint_id')::uuid
  where e.id = any (o.pending)
  on conflict do nothing;
  update outbox set life = p->>'life'
  where id = any (array(select jsonb_array_elements_text(p->'ids')::uuid)) and life is distinct from p->>'life';
  return chorus.ok(null);
end $$;

-- p: endpoint_id, limit. What waits for room in the queue, the oldest first: rows as those of chorus_outbox_next.
create function public.chorus_outbox_held(p jsonb) returns jsonb
language sql stable set search_path = public, pg_temp as $$
  select chorus.ok(coalesce(jsonb_agg(jsonb_build_object('id', o.id, 'account_id', o.account_id,
    'conversation_id', o.conversation_id, 'created_at', o.created_at, 'endpoints', jsonb_build_array(h.endpoint_id))
    order by h.seq), '[]'))
  from (
    select * from outbox_held where endpoint_id = chorus.as_uuid(p->>'endpoint_id')
    order by seq limit (p->>'limit')::integer
  ) h
  join outbox o on o.id = h.event_id
$$;

-- p: endpoint_id, ids. They are in the queue now.
create function public.chorus_outbox_unhold(p jsonb) returns jsonb
language plpgsql set search_path = public, pg_temp as $$
begin
  delete from outbox_held
  where endpoint_id = chorus.as_uuid(p->>'endpoint_id')
    and event_id = any (array(select jsonb_array_elements_text(p->'ids')::uuid));
  return chorus.ok(null);
end $$;

-- As before. What is moved again is looked at anew, so it waits for room no more.
create or replace function public.chorus_outbox_begin(p jsonb) returns jsonb
language plpgsql set search_path = public, pg_temp as $$
declare
  v_again bigint;
  v_gone bigint;
begin
  with again as (
    update outbox set life = null where life <> p->>'life' returning id
  ), unheld as (
    delete from outbox_held h using again where h.event_id = again.id
  )
  select count(*) into v_again from again;
  delete from outbox where id in (
    select o.id from (select id, created_at from outbox order by seq limit (p->>'limit')::integer) o
    where o.created_at < now() - make_interval(secs => (p->>'keep_seconds')::double precision)
  );
  get diagnostics v_gone = row_count;
  return chorus.ok(jsonb_build_object('again', v_again, 'gone', v_gone));
end $$;

-- As before, and the answer has `failing_seconds`: for how long the endpoint has been failing by now, 0 if it does not.
-- What went well before the last failure of the same call ends an earlier failing.
create or replace function public.chorus_outbox_settle(p jsonb) returns jsonb
language plpgsql set search_path = public, pg_temp as $$
declare
  v_endpoint webhook_endpoints;
  v_id uuid := chorus.as_uuid(p->>'endpoint_id');
  v_told uuid[] := array(select jsonb_array_elements_text(p->'told')::uuid);
  v_went_well boolean;
  v_recovered boolean := false;
  v_reason text;
begin
  if v_told <> '{}' then
    perform from outbox where id = any (v_told) order by id for update;
    update outbox set pending = array_remove(pending, v_id) where id = any (v_told) and v_id = any (pending);
    delete from outbox where id = any (v_told) and pending = '{}';
  end if;
  select * into v_endpoint from webhook_endpoints where id = v_id;
  if not found then
    return chorus.ok(jsonb_build_object('switched_off', null, 'recovered', false, 'failing_seconds', 0));
  end if;
  insert into webhook_deliveries (endpoint_id, event_id, conversation_id, type, status, outcome, ms, answer)
  select v_id, (d->>'event_id')::uuid, chorus.as_uuid(d->>'conversation_id'), d->>'type', (d->>'status')::integer,
    d->>'outcome', (d->>'ms')::integer, d->>'answer'
  from jsonb_array_elements(p->'deliveries') with ordinality as t (d, position) order by position;
  delete from webhook_deliveries where id in (
    select id from webhook_deliveries where endpoint_id = v_id
    order by id desc offset (p->>'keep')::integer limit 100 for update skip locked
  );
  v_went_well := p->>'last' = 'ok' or (p->>'last' is not null
    and exists (select from jsonb_array_elements(p->'deliveries') d where d->>'outcome' = 'delivered'));
  if v_went_well and v_endpoint.failing_since is not null then
    update webhook_endpoints set failing_since = null where id = v_id and failing_since is not null;
    v_recovered := found;
    v_endpoint.failing_since := null;
  end if;
  if p->>'last' in ('failed', 'gone') and v_endpoint.enabled then
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
    select failing_since into v_endpoint.failing_since from webhook_endpoints where id = v_id;
  end if;
  return chorus.ok(jsonb_build_object('switched_off', v_reason, 'recovered', v_recovered,
    'failing_seconds', coalesce(extract(epoch from now() - v_endpoint.failing_since), 0)));
end $$;

-- p: limit. Endpoints that fail or were switched off by their failures, the longest first: [{id, account_id, enabled,
-- disabled_reason, failing_since, waiting}]; `waiting`: events that they have not got.
create function public.chorus_failing_endpoints(p jsonb) returns jsonb
language sql stable set search_path = public, pg_temp as $$
  select chorus.ok(coalesce(jsonb_agg(jsonb_build_object('id', e.id, 'account_id', e.account_id, 'enabled', e.enabled,
    'disabled_reason', e.disabled_reason, 'failing_since', e.failing_since,
    'waiting', (select count(*) from outbox o where o.account_id = e.account_id and e.id = any (o.pending)))
    order by e.failing_since), '[]'))
  from (
    select * from webhook_endpoints
    where (enabled and failing_since is not null) or disabled_reason in ('gone', 'failing')
    order by failing_since limit (p->>'limit')::integer
  ) e
$$;

select chorus.secure_functions();
