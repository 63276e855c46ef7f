-- The inbox while the queue is away (INGEST_FALLBACK=database): in at the end, out at the front, each event once.
-- The protocol is in backend/app/services/inbox_fallback.py.

-- `open`: the queue is away, events go in · `closing`: it is back, the rest is moved and nothing goes in · `closed`: not
-- in use, and empty. Changed under the lock of chorus_inbox_put only.
create table public.inbox_state (
  only_row boolean primary key default true check (only_row),
  state text not null default 'closed' check (state in ('open', 'closing', 'closed'))
);
insert into public.inbox_state default values;
select chorus.secure_table('public.inbox_state');

-- p: events [{id, mailbox, payload (base64), immediate}], max_rows, reopen. Unless the inbox is open, or reopen says to
-- open it, stores nothing. Stores all of the events or, if that would make more than max_rows, none. Answers
-- {state, stored}, the state it leaves and how many events were new.
create function public.chorus_inbox_put(p jsonb) returns jsonb
language plpgsql set search_path = public, pg_temp as $$
declare
  v_max bigint := (p->>'max_rows')::bigint;
  v_state text;
  v_rows bigint;
  v_stored bigint;
begin
  -- Rows become visible in the order of their ids: a reader that has seen one has seen all before it.
  perform pg_advisory_xact_lock(hashtext('chorus.inbox'));
  select state into v_state from inbox_state;
  if v_state <> 'open' and not (p->>'reopen')::boolean then
    return chorus.ok(jsonb_build_object('state', v_state, 'stored', 0));
  end if;
  select count(*) into v_rows from (select 1 from inbox limit v_max) bounded;
  if v_rows + jsonb_array_length(p->'events') > v_max then
    return chorus.conflict('inbox_full');
  end if;
  update inbox_state set state = 'open' where state <> 'open';
  insert into inbox (event_id, mailbox, payload, immediate)
  select e.value->>'id', e.value->>'mailbox', decode(e.value->>'payload', 'base64'), (e.value->>'immediate')::boolean
  from jsonb_array_elements(p->'events') with ordinality e order by e.ordinality
  on conflict (event_id) do nothing;
  get diagnostics v_stored = row_count;
  return chorus.ok(jsonb_build_object('state', 'open', 'stored', v_stored));
end $$;

create function public.chorus_inbox_state(p jsonb) returns jsonb
language sql stable set search_path = public, pg_temp as $$
  select chorus.ok(to_jsonb(state)) from inbox_state
$$;

-- Nothing more goes in; closed as soon as nothing is left. Answers the state it leaves.
create function public.chorus_inbox_close(p jsonb) returns jsonb
language plpgsql set search_path = public, pg_temp as $$
declare
  v_state text;
begin
  perform pg_advisory_xact_lock(hashtext('chorus.inbox'));
  v_state := case when exists (select from inbox) then 'closing' else 'closed' end;
  update inbox_state set state = v_state where state <> v_state;
  return chorus.ok(to_jsonb(v_state));
end $$;

-- p: limit. The oldest rows, in order.
create function public.chorus_inbox_peek(p jsonb) returns jsonb
language sql stable set search_path = public, pg_temp as $$
  select chorus.ok(coalesce(jsonb_agg(
    jsonb_build_object('row', id, 'id', event_id, 'mailbox', mailbox, 'immediate', immediate,
      'payload', translate(encode(payload, 'base64'), E'\n', '')) order by id), '[]'))
  from (select * from inbox order by id limit (p->>'limit')::integer) oldest
$$;

-- p: rows [id]. What the queue has taken over.
create function public.chorus_inbox_delete(p jsonb) returns jsonb
language plpgsql set search_path = public, pg_temp as $$
begin
  delete from inbox where id = any (array(select jsonb_array_elements_text(p->'rows')::bigint));
  return chorus.ok(null);
end $$;

select chorus.secure_functions();
