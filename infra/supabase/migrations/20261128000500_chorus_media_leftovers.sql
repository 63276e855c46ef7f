-- No file outlives its row, whatever is killed and whenever. An upload into the bucket may end after its row went: its worker was
-- killed, or gave the call up while Storage still took the file. So a leftover is deleted at once, and again after 1, 2, 4, …
-- minutes, until it has been one for more than a day. A file that was not kept is a leftover, too: some of its bytes may be there. A row
-- that was never settled has its time like the others.

alter table public.media_leftovers add column due_at timestamptz not null default now();
create index media_leftovers_due on public.media_leftovers (due_at);
create index media_expiring on public.media (created_at) where state in ('kept', 'pending');
drop index public.media_kept;

insert into public.media_leftovers (media_id)
select id from public.media where state in ('too_large', 'forged', 'gone', 'failed') on conflict do nothing;

-- p: media_id, state, and for a file that is kept: sha256, size, mime. Once: the first word stands. Answers whether it is this one;
-- false also where there is no such row any more.
create or replace function public.chorus_settle_media(p jsonb) returns jsonb
language plpgsql set search_path = public, pg_temp as $$
begin
  update media
  set state = p->>'state', sha256 = coalesce(p->>'sha256', sha256), size = coalesce((p->>'size')::bigint, size),
    mime = coalesce(p->>'mime', mime)
  where id = (p->>'media_id')::uuid and state = 'pending';
  if found and p->>'state' <> 'kept' then
    insert into media_leftovers (media_id) values ((p->>'media_id')::uuid) on conflict do nothing;
  end if;
  return chorus.ok(to_jsonb(exists (
    select from media where id = (p->>'media_id')::uuid and state = p->>'state')));
end $$;

-- p: media_id, position (from 0), content (base64). The first one begins the file anew, unless it is settled already: a worker
-- that lost its conversation must not undo what the next one did. Answers whether it was taken.
create or replace function public.chorus_media_chunk_put(p jsonb) returns jsonb
language plpgsql set search_path = public, pg_temp as $$
declare
  v_id uuid := (p->>'media_id')::uuid;
  v_position integer := (p->>'position')::integer;
begin
  perform from media where id = v_id and state = 'pending' for no key update;
  if not found then
    return chorus.ok('false');
  end if;
  delete from media_chunks where media_id = v_id and position >= v_position;
  insert into media_chunks (media_id, position, content) values (v_id, v_position, decode(p->>'content', 'base64'));
  return chorus.ok('true');
end $$;

-- p: keep_seconds, loose_seconds, limit. Files older than keep_seconds are to go, also those that were never settled, and a
-- person's that never belonged to a reply after loose_seconds. Answers how many were found: as many as limit, and there may be
-- more.
create or replace function public.chorus_expire_media(p jsonb) returns jsonb
language plpgsql set search_path = public, pg_temp as $$
declare
  v_old uuid[];
  v_loose uuid[];
begin
  v_loose := array(
    select id from media where message_id is null and reply_key is null
      and created_at < now() - make_interval(secs => (p->>'loose_seconds')::double precision)
    order by created_at limit (p->>'limit')::integer);
  delete from media where id = any (v_loose);
  v_old := array(
    select id from media where state in ('kept', 'pending')
      and created_at < now() - make_interval(secs => (p->>'keep_seconds')::double precision)
    order by created_at limit (p->>'limit')::integer);
  update media set state = case state when 'kept' then 'deleted' else 'failed' end
  where id = any (v_old) and state in ('kept', 'pending');
  insert into media_leftovers (media_id) select unnest(v_old) on conflict do nothing;
  return chorus.ok(to_jsonb(greatest(coalesce(cardinality(v_old), 0), coalesce(cardinality(v_loose), 0))));
end $$;

-- p: limit. The ids of files to delete where they are kept, now.
create or replace function public.chorus_media_leftovers(p jsonb) returns jsonb
language sql stable set search_path = public, pg_temp as $$
  select chorus.ok(coalesce(jsonb_agg(l.media_id), '[]'))
  from (select media_id from media_leftovers where due_at <= now() order by due_at limit (p->>'limit')::integer) l
$$;

-- p: media_ids. They were deleted, and are to be again unless this was more than a day after they became leftovers.
create or replace function public.chorus_settle_leftovers(p jsonb) returns jsonb
language plpgsql set search_path = public, pg_temp as $$
declare
  v_ids uuid[] := array(select jsonb_array_elements_text(p->'media_ids')::uuid);
begin
  delete from media_leftovers where media_id = any (v_ids) and created_at < now() - interval '1 day';
  update media_leftovers set due_at = now() + greatest(now() - created_at, interval '1 minute')
  where media_id = any (v_ids);
  return chorus.ok(null);
end $$;

select chorus.secure_functions();
