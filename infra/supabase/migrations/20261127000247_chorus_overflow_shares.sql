-- The overflow has shares and a bound in bytes, as the queue, the journal and the inbox have
-- (docs/adr/0010-a-share-is-what-is-still-free.md). Before, one account could fill it for all.
--
-- Replicas of the version before send no max_bytes: for them the function does what it did. Their rows have shares, too.

alter table public.overflow
  add column share text,     -- see chorus.share_of
  add column bytes integer;  -- of the payload
update public.overflow set share = chorus.share_of(mailbox), bytes = octet_length(payload);
create index overflow_share on public.overflow (share) include (bytes);

-- p: events [{id, mailbox, payload (base64), immediate}], max_rows, max_bytes. Stores the events that do not exceed a share,
-- or, if there would be more than max_rows or max_bytes of all accounts, none. Answers {stored, refused}: how many were new,
-- and the positions of those that exceed a share. Without max_bytes (the version before) it stores all or none, and answers
-- how many were new. Puts at the same time do not see each other: together they may exceed a bound by what they bring.
create or replace function public.chorus_overflow_put(p jsonb) returns jsonb
language plpgsql set search_path = public, pg_temp as $$
declare
  v_max_rows bigint := (p->>'max_rows')::bigint;
  v_max_bytes bigint := (p->>'max_bytes')::bigint;
  v_events bigint := jsonb_array_length(p->'events');
  v_rows bigint;
  v_bytes bigint;
  v_over integer[] := '{}';
  v_stored bigint;
begin
  select count(*), coalesce(sum(b.bytes), 0) into v_rows, v_bytes
  from (select o.bytes from overflow o limit v_max_rows) b;
  if v_max_bytes is null then
    if v_rows + v_events > v_max_rows then
      return chorus.conflict('overflow_full');
    end if;
  -- As in chorus_journal_put.
  elsif 2 * (v_rows + v_events) > v_max_rows or 2 * (v_bytes + length(p->>'events')) > v_max_bytes then
    v_over := chorus.over_share(
      p->'events',
      array(select o.event_id from overflow o
        where o.event_id in (select e->>'id' from jsonb_array_elements(p->'events') e)),
      v_rows, v_bytes,
      (select coalesce(jsonb_object_agg(h.share, jsonb_build_object('rows', h.rows, 'bytes', h.bytes)), '{}') from (
        select o.share, count(*) as rows, sum(o.bytes) as bytes from overflow o
        where o.share in (select e.share from chorus.put_events(p->'events') e)
        group by o.share
      ) h),
      v_max_rows, v_max_bytes);
    if v_over is null then
      return chorus.conflict('overflow_full');
    end if;
  end if;
  insert into overflow (event_id, mailbox, payload, immediate, share, bytes)
  select e.event_id, e.mailbox, e.payload, e.immediate, e.share, e.bytes
  from chorus.put_events(p->'events') e where e.at <> all (v_over) order by e.at
  on conflict (event_id) do nothing;
  get diagnostics v_stored = row_count;
  if v_max_bytes is null then
    return chorus.ok(to_jsonb(v_stored));
  end if;
  return chorus.ok(jsonb_build_object('stored', v_stored, 'refused', to_jsonb(v_over)));
end $$;

select chorus.secure_functions();
