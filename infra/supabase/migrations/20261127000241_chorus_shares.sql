-- The journal and the inbox have shares, as the queue has: an account may hold at most as many rows, and bytes, as are
-- still free (docs/adr/0010-a-share-is-what-is-still-free.md). Before, one account could fill them for all.
--
-- Replicas of the version before send no max_bytes: for them the functions do what they did. Their rows have shares, too.

-- Whose place an event takes: the number in `<kind>:<number>:<peer>`, whatever the kind. Numbers without an account have one
-- share together (''). Names of fewer parts have one by what stands before the first ":", so all notices have one.
create function chorus.share_of(mailbox text) returns text
language sql stable set search_path = '' as $$
  select case
    when mailbox not like '%:%:%' then split_part(mailbox, ':', 1)
    else coalesce((
      select phone_number_id from public.whatsapp_accounts where phone_number_id = split_part(mailbox, ':', 2)
    ), '')
  end
$$;

alter table public.journal
  add column share text,          -- see chorus.share_of
  add column bytes integer,       -- of the payload
  add column dead_at timestamptz; -- when it was seen among the dead letters of the queue; null: it waits
update public.journal set share = chorus.share_of(mailbox), bytes = octet_length(payload);
create index journal_share on public.journal (share) include (bytes) where dead_at is null;
create index journal_dead on public.journal (share, dead_at, id) where dead_at is not null;

alter table public.inbox
  add column share text,
  add column bytes integer;
update public.inbox set share = chorus.share_of(mailbox), bytes = octet_length(payload);
create index inbox_share on public.inbox (share) include (bytes);

-- The events of a put, in order; `at` is the position in the array, from 0.
create function chorus.put_events(events jsonb)
returns table (at integer, event_id text, mailbox text, payload bytea, immediate boolean, share text, bytes integer)
language sql stable set search_path = '' as $$
  select d.at, d.event_id, d.mailbox, d.payload, d.immediate, chorus.share_of(d.mailbox), octet_length(d.payload)
  from (
    select e.ordinality::integer - 1 as at, e.value->>'id' as event_id, e.value->>'mailbox' as mailbox,
      decode(e.value->>'payload', 'base64') as payload, (e.value->>'immediate')::boolean as immediate
    from jsonb_array_elements(events) with ordinality e
  ) d
  order by d.at
$$;

-- Positions of the events of a put that exceed a share, and of what follows them in their mailbox, which must not overtake
-- them. Null: it does not fit at all. stored: ids that are there already. held_rows, held_bytes: of all shares. held: {share:
-- {rows, bytes}} of those concerned.
create function chorus.over_share(
  events jsonb, stored text[], held_rows bigint, held_bytes bigint, held jsonb, max_rows bigint, max_bytes bigint
) returns integer[]
language plpgsql stable set search_path = '' as $$
declare
  v_event record;
  v_rows bigint;
  v_bytes bigint;
  v_seen text[] := coalesce(stored, '{}');
  v_full text[] := '{}';
  v_over integer[] := '{}';
begin
  for v_event in select e.at, e.event_id, e.mailbox, e.share, e.bytes from chorus.put_events(events) e order by e.at loop
    continue when v_event.event_id = any (v_seen);
    if held_rows + 1 > max_rows or held_bytes + v_event.bytes > max_bytes then
      return null;
    end if;
    v_rows := coalesce((held->v_event.share->>'rows')::bigint, 0) + 1;
    v_bytes := coalesce((held->v_event.share->>'bytes')::bigint, 0) + v_event.bytes;
    if v_event.mailbox = any (v_full) or v_rows > max_rows - held_rows or v_bytes > max_bytes - held_bytes then
      v_full := v_full || v_event.mailbox;
      v_over := v_over || v_event.at;
    else
      v_seen := v_seen || v_event.event_id;
      held_rows := held_rows + 1;
      held_bytes := held_bytes + v_event.bytes;
      held := held || jsonb_build_object(v_event.share, jsonb_build_object('rows', v_rows, 'bytes', v_bytes));
    end if;
  end loop;
  return v_over;
end $$;

-- p: events [{id, mailbox, payload (base64), immediate}], max_rows, max_bytes. Stores the events that do not exceed a share, or,
-- if there would be more than max_rows or max_bytes of all accounts, none; dead letters do not count. Answers {stored, diverted}:
-- how many were new, and the positions of those that exceed a share. Without max_bytes (the version before) it stores
-- all or none, and answers how many were new.
create or replace function public.chorus_journal_put(p jsonb) returns jsonb
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
  -- Rows become visible in the order of their ids: a reader that has seen one has seen all before it.
  perform pg_advisory_xact_lock(hashtext('chorus.journal'));
  select count(*), coalesce(sum(b.bytes), 0) into v_rows, v_bytes
  from (select j.bytes from journal j where j.dead_at is null limit v_max_rows) b;
  if v_max_bytes is null then
    if v_rows + v_events > v_max_rows then
      return chorus.conflict('journal_full');
    end if;
  -- With half of it free no share can be exceeded. The text of the events is longer than their payloads.
  elsif 2 * (v_rows + v_events) > v_max_rows or 2 * (v_bytes + length(p->>'events')) > v_max_bytes then
    v_over := chorus.over_share(
      p->'events',
      array(select j.event_id from journal j
        where j.event_id in (select e->>'id' from jsonb_array_elements(p->'events') e)),
      v_rows, v_bytes,
      (select coalesce(jsonb_object_agg(h.share, jsonb_build_object('rows', h.rows, 'bytes', h.bytes)), '{}') from (
        select j.share, count(*) as rows, sum(j.bytes) as bytes from journal j
        where j.dead_at is null and j.share in (select e.share from chorus.put_events(p->'events') e)
        group by j.share
      ) h),
      v_max_rows, v_max_bytes);
    if v_over is null then
      return chorus.conflict('journal_full');
    end if;
  end if;
  insert into journal (event_id, mailbox, payload, immediate, share, bytes)
  select e.event_id, e.mailbox, e.payload, e.immediate, e.share, e.bytes
  from chorus.put_events(p->'events') e where e.at <> all (v_over) order by e.at
  on conflict (event_id) do nothing;
  get diagnostics v_stored = row_count;
  if v_max_bytes is null then
    return chorus.ok(to_jsonb(v_stored));
  end if;
  return chorus.ok(jsonb_build_object('stored', v_stored, 'diverted', to_jsonb(v_over)));
end $$;

-- p: life, keep_seconds. What another history of the queue had is moved again, also its dead letters, and what is older than
-- keep_seconds goes. Answers how many rows are to be moved again.
create or replace function public.chorus_journal_begin(p jsonb) returns jsonb
language plpgsql set search_path = public, pg_temp as $$
declare
  v_again bigint;
begin
  delete from journal where created_at < now() - make_interval(secs => (p->>'keep_seconds')::double precision);
  -- Two ranges, for which the index serves; <> would read everything.
  update journal set moved_in = null, dead_at = null where moved_in < p->>'life' or moved_in > p->>'life';
  get diagnostics v_again = row_count;
  return chorus.ok(to_jsonb(v_again));
end $$;

-- p: rows [id], life, keep. The queue of that life has them among its dead letters: they take no place of what waits. Of each
-- share concerned the newest `keep` dead letters stay. A row that is in another life by now waits again, and is left alone.
create function public.chorus_journal_bury(p jsonb) returns jsonb
language plpgsql set search_path = public, pg_temp as $$
declare
  v_rows bigint[] := array(select jsonb_array_elements_text(p->'rows')::bigint);
begin
  update journal set dead_at = now() where id = any (v_rows) and moved_in = p->>'life' and dead_at is null;
  delete from journal where id in (
    select r.id from (
      select id, row_number() over (partition by share order by dead_at desc, id desc) as place
      from journal
      where dead_at is not null and share in (select share from journal where id = any (v_rows))
    ) r
    where r.place > (p->>'keep')::bigint
  );
  return chorus.ok(null);
end $$;

-- p: events [{id, mailbox, payload (base64), immediate}], max_rows, max_bytes, reopen. Unless the inbox is open, or reopen says
-- to open it, stores nothing. Stores the events that do not exceed a share, or, if there would be more than max_rows or max_bytes
-- of all accounts, none. Answers {state, stored, diverted}: the state it leaves, how many were new, and the positions of those
-- that exceed a share. Without max_bytes (the version before) it stores all or none.
create or replace function public.chorus_inbox_put(p jsonb) returns jsonb
language plpgsql set search_path = public, pg_temp as $$
declare
  v_max_rows bigint := (p->>'max_rows')::bigint;
  v_max_bytes bigint := (p->>'max_bytes')::bigint;
  v_events bigint := jsonb_array_length(p->'events');
  v_state text;
  v_rows bigint;
  v_bytes bigint;
  v_over integer[] := '{}';
  v_stored bigint;
begin
  -- Rows become visible in the order of their ids: a reader that has seen one has seen all before it.
  perform pg_advisory_xact_lock(hashtext('chorus.inbox'));
  select state into v_state from inbox_state;
  if v_state <> 'open' and not (p->>'reopen')::boolean then
    return chorus.ok(jsonb_build_object('state', v_state, 'stored', 0, 'diverted', '[]'::jsonb));
  end if;
  select count(*), coalesce(sum(b.bytes), 0) into v_rows, v_bytes
  from (select i.bytes from inbox i limit v_max_rows) b;
  if v_max_bytes is null then
    if v_rows + v_events > v_max_rows then
      return chorus.conflict('inbox_full');
    end if;
  -- As in chorus_journal_put.
  elsif 2 * (v_rows + v_events) > v_max_rows or 2 * (v_bytes + length(p->>'events')) > v_max_bytes then
    v_over := chorus.over_share(
      p->'events',
      array(select i.event_id from inbox i
        where i.event_id in (select e->>'id' from jsonb_array_elements(p->'events') e)),
      v_rows, v_bytes,
      (select coalesce(jsonb_object_agg(h.share, jsonb_build_object('rows', h.rows, 'bytes', h.bytes)), '{}') from (
        select i.share, count(*) as rows, sum(i.bytes) as bytes from inbox i
        where i.share in (select e.share from chorus.put_events(p->'events') e)
        group by i.share
      ) h),
      v_max_rows, v_max_bytes);
    if v_over is null then
      return chorus.conflict('inbox_full');
    end if;
  end if;
  update inbox_state set state = 'open' where state <> 'open';
  insert into inbox (event_id, mailbox, payload, immediate, share, bytes)
  select e.event_id, e.mailbox, e.payload, e.immediate, e.share, e.bytes
  from chorus.put_events(p->'events') e where e.at <> all (v_over) order by e.at
  on conflict (event_id) do nothing;
  get diagnostics v_stored = row_count;
  return chorus.ok(jsonb_build_object('state', 'open', 'stored', v_stored, 'diverted', to_jsonb(v_over)));
end $$;

select chorus.secure_functions();
