-- The inbox while the queue is away (INGEST_FALLBACK=database): in at the end, out at the front, each event once.

-- p: events [{id, mailbox, payload (base64), immediate}], max_rows. Stores all of them or, if that would make more than
-- max_rows, none. Answers how many were new.
create function public.chorus_inbox_put(p jsonb) returns jsonb
language plpgsql set search_path = public, pg_temp as $$
declare
  v_max bigint := (p->>'max_rows')::bigint;
  v_rows bigint;
  v_stored bigint;
begin
  -- Rows become visible in the order of their ids: a reader that has seen one has seen all before it.
  perform pg_advisory_xact_lock(hashtext('chorus.inbox'));
  select count(*) into v_rows from (select 1 from inbox limit v_max) bounded;
  if v_rows + jsonb_array_length(p->'events') > v_max then
    return chorus.conflict('inbox_full');
  end if;
  insert into inbox (event_id, mailbox, payload, immediate)
  select e.value->>'id', e.value->>'mailbox', decode(e.value->>'payload', 'base64'), (e.value->>'immediate')::boolean
  from jsonb_array_elements(p->'events') with ordinality e order by e.ordinality
  on conflict (event_id) do nothing;
  get diagnostics v_stored = row_count;
  return chorus.ok(to_jsonb(v_stored));
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
