-- What was accepted and is not handled yet, where Redis may forget it (REDIS_DURABILITY=none).
-- The protocol is in backend/app/services/journal.py.

create table public.journal (
  id bigint generated always as identity primary key,
  event_id text not null unique,
  mailbox text not null,
  payload bytea not null,
  immediate boolean not null,
  -- Which history of the queue has it; null: none yet.
  moved_in text,
  created_at timestamptz not null default now()
);
create index journal_moved_in on public.journal (moved_in, id);
create index journal_created_at on public.journal (created_at);
select chorus.secure_table('public.journal');

-- p: events [{id, mailbox, payload (base64), immediate}], max_rows. Stores all of the events or, if that would make more
-- than max_rows, none. Answers how many were new.
create or replace function public.chorus_journal_put(p jsonb) returns jsonb
language plpgsql set search_path = public, pg_temp as $$
declare
  v_max bigint := (p->>'max_rows')::bigint;
  v_rows bigint;
  v_stored bigint;
begin
  -- Rows become visible in the order of their ids: a reader that has seen one has seen all before it.
  perform pg_advisory_xact_lock(hashtext('chorus.journal'));
  select count(*) into v_rows from (select 1 from journal limit v_max) bounded;
  if v_rows + jsonb_array_length(p->'events') > v_max then
    return chorus.conflict('journal_full');
  end if;
  insert into journal (event_id, mailbox, payload, immediate)
  select e.value->>'id', e.value->>'mailbox', decode(e.value->>'payload', 'base64'), (e.value->>'immediate')::boolean
  from jsonb_array_elements(p->'events') with ordinality e order by e.ordinality
  on conflict (event_id) do nothing;
  get diagnostics v_stored = row_count;
  return chorus.ok(to_jsonb(v_stored));
end $$;

-- p: life, keep_seconds. What another history of the queue had is moved again, and what is older than keep_seconds goes:
-- dead letters, mostly. Answers how many rows are to be moved again.
create or replace function public.chorus_journal_begin(p jsonb) returns jsonb
language plpgsql set search_path = public, pg_temp as $$
declare
  v_again bigint;
begin
  delete from journal where created_at < now() - make_interval(secs => (p->>'keep_seconds')::double precision);
  -- Two ranges, for which the index serves; <> would read everything.
  update journal set moved_in = null where moved_in < p->>'life' or moved_in > p->>'life';
  get diagnostics v_again = row_count;
  return chorus.ok(to_jsonb(v_again));
end $$;

-- p: after, limit. The oldest rows behind `after` that the queue does not have, in order.
create or replace function public.chorus_journal_next(p jsonb) returns jsonb
language sql stable set search_path = public, pg_temp as $$
  select chorus.ok(coalesce(jsonb_agg(
    jsonb_build_object('row', id, 'id', event_id, 'mailbox', mailbox, 'immediate', immediate,
      'payload', translate(encode(payload, 'base64'), E'\n', '')) order by id), '[]'))
  from (
    select * from journal where moved_in is null and id > (p->>'after')::bigint
    order by id limit (p->>'limit')::integer
  ) oldest
$$;

-- p: rows [id], life. The queue of that life has them.
create or replace function public.chorus_journal_moved(p jsonb) returns jsonb
language plpgsql set search_path = public, pg_temp as $$
begin
  update journal set moved_in = p->>'life'
  where id = any (array(select jsonb_array_elements_text(p->'rows')::bigint));
  return chorus.ok(null);
end $$;

-- p: rows [id]. Handled.
create or replace function public.chorus_journal_settle(p jsonb) returns jsonb
language plpgsql set search_path = public, pg_temp as $$
begin
  delete from journal where id = any (array(select jsonb_array_elements_text(p->'rows')::bigint));
  return chorus.ok(null);
end $$;

select chorus.secure_functions();
