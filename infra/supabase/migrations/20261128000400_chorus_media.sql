-- What customers and people send that is not text: one row for each file, its bytes in chunks (MEDIA_STORE=postgres) or in a
-- private bucket of Supabase Storage under the row's id. The row stays when its file goes.

alter table public.bot_profiles add column media_understanding boolean;  -- null: as the application says

create table public.media (
  id uuid primary key default gen_random_uuid(),  -- and the key of the file where files are kept
  account_id uuid not null references public.whatsapp_accounts on delete cascade,
  -- A customer's file belongs to its message. A person's belongs to its reply, which becomes a message when it is sent.
  message_id uuid unique references public.messages on delete cascade,
  reply_key text unique references public.replies (reply_key) on update cascade on delete cascade,
  kind text not null,
  mime text not null,
  sha256 text,  -- hexadecimal
  size bigint,
  name text,
  state text not null default 'pending',  -- the application's word for it (MediaState)
  description text,
  opened integer not null default 0,  -- how often its fetch was begun
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now()
);
create index media_account on public.media (account_id);
create index media_kept on public.media (created_at) where state = 'kept';
create index media_loose on public.media (created_at) where message_id is null and reply_key is null;
create trigger touch before update on public.media for each row execute function chorus.touch();
select chorus.secure_table('public.media');
grant select on public.media to authenticated;
create policy members_read on public.media for select to authenticated
  using (account_id in (select chorus.my_accounts()));

create table public.media_chunks (
  media_id uuid not null references public.media on delete cascade,
  position integer not null,
  content bytea not null,
  primary key (media_id, position)
);
alter table public.media_chunks alter column content set storage external;  -- what is sent is compressed already
select chorus.secure_table('public.media_chunks');

-- Files whose row has gone or whose time is over, until they are deleted where they are kept.
create table public.media_leftovers (
  media_id uuid primary key,
  created_at timestamptz not null default now()
);
select chorus.secure_table('public.media_leftovers');

-- Security definer, as the other triggers that write where the author of the change may not. However a row goes, with its
-- message, its conversation or its account, its file goes too.
create function chorus.leave_file() returns trigger
language plpgsql security definer set search_path = '' as $$
begin
  insert into public.media_leftovers (media_id) values (old.id) on conflict do nothing;
  return null;
end $$;
create trigger leave_file after delete on public.media for each row execute function chorus.leave_file();

alter table public.replies add column media_id uuid;  -- the file that goes out with it

-- The first message of a person's reply with a file is of the file's kind.
create function chorus.name_kind() returns trigger
language plpgsql set search_path = '' as $$
begin
  new.type := coalesce(
    (select m.kind from public.media m where m.reply_key = regexp_replace(new.outbound_key, '#0$', '')), new.type);
  return new;
end $$;
create trigger name_kind before insert on public.messages for each row
  when (new.author = 'human' and new.outbound_key like '%#0')
  execute function chorus.name_kind();

create function chorus.medium(m public.media) returns jsonb
language sql stable set search_path = '' as $$
  select to_jsonb(m) - 'created_at' - 'updated_at'
$$;

-- p: account_id, files [{wa_message_id, kind, mime, sha256, name}], quoted (ids of messages). Every file is to be fetched, or
-- was. Answers {"files": [the rows, each with wa_message_id], "quoted": {id: text}}.
create function public.chorus_open_media(p jsonb) returns jsonb
language plpgsql set search_path = public, pg_temp as $$
declare
  v_account uuid := (p->>'account_id')::uuid;
begin
  insert into media (account_id, message_id, kind, mime, sha256, name)
  select v_account, m.id, f->>'kind', f->>'mime', f->>'sha256', f->>'name'
  from jsonb_array_elements(p->'files') f
  join messages m on m.account_id = v_account and m.wa_message_id = f->>'wa_message_id'
  order by m.id
  on conflict (message_id) do nothing;
  update media set opened = opened + 1
  where state = 'pending' and message_id in (
    select m.id from jsonb_array_elements(p->'files') f
    join messages m on m.account_id = v_account and m.wa_message_id = f->>'wa_message_id');
  return chorus.ok(jsonb_build_object(
    'files', (
      select coalesce(jsonb_agg(chorus.medium(d) || jsonb_build_object('wa_message_id', m.wa_message_id)), '[]')
      from jsonb_array_elements(p->'files') f
      join messages m on m.account_id = v_account and m.wa_message_id = f->>'wa_message_id'
      join media d on d.message_id = m.id),
    'quoted', (
      select coalesce(jsonb_object_agg(m.wa_message_id, m.text), '{}')
      from jsonb_array_elements_text(p->'quoted') q
      join messages m on m.account_id = v_account and m.wa_message_id = q and m.text is not null)));
end $$;

-- p: id (chosen by the caller), account_id, kind, mime, name. A person's file, before it belongs to a reply.
create function public.chorus_create_media(p jsonb) returns jsonb
language plpgsql set search_path = public, pg_temp as $$
declare
  v_media media;
begin
  insert into media (id, account_id, kind, mime, name)
  values ((p->>'id')::uuid, (p->>'account_id')::uuid, p->>'kind', p->>'mime', p->>'name')
  on conflict (id) do nothing;
  select * into v_media from media where id = (p->>'id')::uuid;
  return chorus.ok(chorus.medium(v_media));
end $$;

-- p: media_id, state, and for a file that is kept: sha256, size, mime. One that is kept stays so.
create function public.chorus_settle_media(p jsonb) returns jsonb
language plpgsql set search_path = public, pg_temp as $$
begin
  update media
  set state = p->>'state', sha256 = coalesce(p->>'sha256', sha256), size = coalesce((p->>'size')::bigint, size),
    mime = coalesce(p->>'mime', mime)
  where id = (p->>'media_id')::uuid and state <> 'kept';
  return chorus.ok(null);
end $$;

-- p: files [{media_id, description, text}]: what a file says, and what its message says with it. The text is found by search
-- and stands in the history.
create function public.chorus_describe_media(p jsonb) returns jsonb
language plpgsql set search_path = public, pg_temp as $$
begin
  update messages m set text = f->>'text'
  from jsonb_array_elements(p->'files') f join media d on d.id = (f->>'media_id')::uuid
  where m.id = d.message_id and m.edited_at is null;
  update media d set description = f->>'description'
  from jsonb_array_elements(p->'files') f where d.id = (f->>'media_id')::uuid;
  return chorus.ok(null);
end $$;

-- p: message_id. {account_id, conversation_id, and the row}, or null.
create function public.chorus_get_media(p jsonb) returns jsonb
language sql stable set search_path = public, pg_temp as $$
  select chorus.ok((
    select case when d.id is not null then chorus.medium(d) else chorus.medium(e) end
      || jsonb_build_object('conversation_id', m.conversation_id)
    from messages m
    left join media d on d.message_id = m.id
    left join media e on e.reply_key = case when m.outbound_key like '%#0' then regexp_replace(m.outbound_key, '#0$', '') end
    where m.id = chorus.as_uuid(p->>'message_id') and (d.id is not null or e.id is not null)))
$$;

-- p: message_ids: {message id: row} for those that have a file.
create function public.chorus_media_of(p jsonb) returns jsonb
language sql stable set search_path = public, pg_temp as $$
  select chorus.ok(coalesce(jsonb_object_agg(found.id, found.medium), '{}'))
  from (
    select m.id, chorus.medium(d) as medium
    from jsonb_array_elements_text(p->'message_ids') i
    join messages m on m.id = i::uuid
    join media d on d.message_id = m.id
    union all
    select m.id, chorus.medium(d)
    from jsonb_array_elements_text(p->'message_ids') i
    join messages m on m.id = i::uuid and m.outbound_key like '%#0'
    join media d on d.reply_key = regexp_replace(m.outbound_key, '#0$', '')
  ) found
$$;

-- p: media_id: the row of a person's file that is to go out, or null.
create function public.chorus_media_to_send(p jsonb) returns jsonb
language sql stable set search_path = public, pg_temp as $$
  select chorus.ok((select chorus.medium(d) from media d where d.id = (p->>'media_id')::uuid))
$$;

-- p: as for chorus_open_human_reply, and media_id. The reply and its file belong together, or neither is there. A reply that
-- is there already keeps the file that it has. Answers {"reply": …, "media": the row of its file, or null}.
create function public.chorus_open_file_reply(p jsonb) returns jsonb
language plpgsql set search_path = public, pg_temp as $$
declare
  v_answer jsonb := public.chorus_open_human_reply(p);
  v_key text := v_answer->'ok'->>'key';
  v_is_new boolean;
begin
  if not v_answer ? 'ok' then
    return v_answer;
  end if;
  -- A reply of this transaction: one without a file that was there before stays without.
  select r.created_at = now() and r.media_id is null into v_is_new
  from replies r where r.reply_key = v_key;
  if v_is_new then
    update media set reply_key = v_key where id = (p->>'media_id')::uuid and reply_key is null;
    if found then
      update replies set media_id = (p->>'media_id')::uuid where reply_key = v_key;
      v_answer := jsonb_set(v_answer, '{ok,media_id}', p->'media_id');
    end if;
  end if;
  return chorus.ok(jsonb_build_object(
    'reply', v_answer->'ok', 'media', (select chorus.medium(d) from media d where d.reply_key = v_key)));
end $$;

-- -- the chunks ---------------------------------------------------------------------------------------------------------

-- p: media_id, position (from 0), content (base64). The first one begins the file anew, unless it is kept already: a worker
-- that lost its conversation must not undo what the next one did. Answers whether it was taken.
create function public.chorus_media_chunk_put(p jsonb) returns jsonb
language plpgsql set search_path = public, pg_temp as $$
declare
  v_id uuid := (p->>'media_id')::uuid;
  v_position integer := (p->>'position')::integer;
begin
  perform from media where id = v_id and state <> 'kept' for no key update;
  if not found then
    return chorus.ok('false');
  end if;
  delete from media_chunks where media_id = v_id and position >= v_position;
  insert into media_chunks (media_id, position, content) values (v_id, v_position, decode(p->>'content', 'base64'));
  return chorus.ok('true');
end $$;

-- p: media_id: its bytes, or null where there are none.
create function public.chorus_media_chunks_size(p jsonb) returns jsonb
language sql stable set search_path = public, pg_temp as $$
  select chorus.ok(to_jsonb(sum(length(content)))) from media_chunks where media_id = (p->>'media_id')::uuid
$$;

-- p: media_id, position: the chunk in base64, or null.
create function public.chorus_media_chunk_get(p jsonb) returns jsonb
language sql stable set search_path = public, pg_temp as $$
  select chorus.ok((
    select to_jsonb(translate(encode(content, 'base64'), E'\n', '')) from media_chunks
    where media_id = (p->>'media_id')::uuid and position = (p->>'position')::integer))
$$;

-- p: media_ids
create function public.chorus_media_chunks_delete(p jsonb) returns jsonb
language plpgsql set search_path = public, pg_temp as $$
begin
  delete from media_chunks where media_id = any (array(select jsonb_array_elements_text(p->'media_ids')::uuid));
  return chorus.ok(null);
end $$;

-- -- retention ------------------------------------------------------------------------------------------------------------

-- p: keep_seconds, loose_seconds, limit. Files older than keep_seconds are to go, and a person's that never belonged to a
-- reply after loose_seconds. Answers how many were found: as many as limit, and there may be more.
create function public.chorus_expire_media(p jsonb) returns jsonb
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
    select id from media where state = 'kept'
      and created_at < now() - make_interval(secs => (p->>'keep_seconds')::double precision)
    order by created_at limit (p->>'limit')::integer);
  update media set state = 'deleted' where id = any (v_old);
  insert into media_leftovers (media_id) select unnest(v_old) on conflict do nothing;
  return chorus.ok(to_jsonb(greatest(coalesce(cardinality(v_old), 0), coalesce(cardinality(v_loose), 0))));
end $$;

-- p: limit. The ids of files to delete where they are kept.
create function public.chorus_media_leftovers(p jsonb) returns jsonb
language sql stable set search_path = public, pg_temp as $$
  select chorus.ok(coalesce(jsonb_agg(l.media_id), '[]'))
  from (select media_id from media_leftovers order by created_at limit (p->>'limit')::integer) l
$$;

-- p: media_ids. They are deleted.
create function public.chorus_settle_leftovers(p jsonb) returns jsonb
language plpgsql set search_path = public, pg_temp as $$
begin
  delete from media_leftovers where media_id = any (array(select jsonb_array_elements_text(p->'media_ids')::uuid));
  return chorus.ok(null);
end $$;

select chorus.secure_functions();
