-- Events that found no room in their mailbox or in their account's share of the queue. They wait here for a moment, until
-- the one replica that looks after them has recorded them (services/overflow.py).

create table public.overflow (
  id bigint generated always as identity primary key,
  event_id text not null unique,
  mailbox text not null,
  payload bytea not null,
  immediate boolean not null,
  created_at timestamptz not null default now()
);
select chorus.secure_table('public.overflow');

-- p: events [{id, mailbox, payload (base64), immediate}], max_rows. Stores all of the events or, if that would make more than about
-- max_rows, none. Answers how many were new. The number of rows is taken from the ids, which gaps only make higher: a
-- count would be slow exactly when there are many.
create function public.chorus_overflow_put(p jsonb) returns jsonb
language plpgsql set search_path = public, pg_temp as $$
declare
  v_rows bigint;
  v_stored bigint;
begin
  select coalesce(max(id) - min(id) + 1, 0) into v_rows from overflow;
  if v_rows + jsonb_array_length(p->'events') > (p->>'max_rows')::bigint then
    return chorus.conflict('overflow_full');
  end if;
  insert into overflow (event_id, mailbox, payload, immediate)
  select e.value->>'id', e.value->>'mailbox', decode(e.value->>'payload', 'base64'), (e.value->>'immediate')::boolean
  from jsonb_array_elements(p->'events') with ordinality e order by e.ordinality
  on conflict (event_id) do nothing;
  get diagnostics v_stored = row_count;
  return chorus.ok(to_jsonb(v_stored));
end $$;

-- p: limit. The oldest rows, in order.
create function public.chorus_overflow_peek(p jsonb) returns jsonb
language sql stable set search_path = public, pg_temp as $$
  select chorus.ok(coalesce(jsonb_agg(
    jsonb_build_object('row', id, 'id', event_id, 'mailbox', mailbox, 'immediate', immediate,
      'accepted_at', extract(epoch from created_at),
      'payload', translate(encode(payload, 'base64'), E'\n', '')) order by id), '[]'))
  from (select * from overflow order by id limit (p->>'limit')::integer) oldest
$$;

-- p: rows [id]. What has been recorded.
create function public.chorus_overflow_delete(p jsonb) returns jsonb
language plpgsql set search_path = public, pg_temp as $$
begin
  delete from overflow where id = any (array(select jsonb_array_elements_text(p->'rows')::bigint));
  return chorus.ok(null);
end $$;

select chorus.secure_functions();
