-- Replies: written once, sent once. A reply belongs to the run of messages it answers; its row says how far it got.
--
-- The fence is the token of the worker's claim on the conversation. Whoever comes with a lower one than was seen
-- before has lost the conversation and writes nothing. Zero is nobody's claim: it may insert and look, not take over.

create table public.replies (
  reply_key text primary key,
  account_id uuid not null references public.whatsapp_accounts on delete cascade,
  conversation_id uuid not null references public.conversations on delete cascade,
  author text not null check (author in ('bot', 'human')),
  covers text[] not null,
  fence bigint not null,
  state text not null default 'pending' check (state in ('pending', 'sending', 'sent', 'failed', 'silenced')),
  body text,
  part integer not null default 0,  -- the next one to send
  parts integer,
  attempt uuid,                     -- the call of begin_part that committed `sending`
  sending_since timestamptz,
  wamid text,
  error jsonb,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now()
);
create index replies_recent on public.replies (conversation_id, created_at desc);
create trigger touch before update on public.replies for each row execute function chorus.touch();
select chorus.secure_table('public.replies');

grant select on public.replies to authenticated;
create policy members_read on public.replies for select to authenticated
  using (account_id in (select chorus.my_accounts()));

create function chorus.reply(r public.replies) returns jsonb
language sql stable set search_path = '' as $$
  select to_jsonb(r) || jsonb_build_object('key', r.reply_key)
$$;

-- p: conversation_id, key, author, covers, fence, body
-- 1. found by key, else the recent reply that covers the message the key names: take the higher fence
-- 2. else insert; a person's reply turns the bot off, once: a repetition must not undo that it was turned on again
create function public.chorus_open_reply(p jsonb) returns jsonb
language plpgsql set search_path = public, pg_temp as $$
declare
  v_conversation_id uuid := chorus.as_uuid(p->>'conversation_id');
  v_fence bigint := (p->>'fence')::bigint;
  v_reply replies;
begin
  select * into v_reply from replies where reply_key = p->>'key' for no key update;
  if not found then
    select * into v_reply from replies
    where reply_key = (
      select r.reply_key
      from (
        select * from replies where conversation_id = v_conversation_id order by created_at desc limit 20
      ) r
      where r.covers @> array[p->>'key']
      limit 1
    )
    for no key update;
  end if;
  if not found then
    insert into replies (reply_key, account_id, conversation_id, author, covers, fence, body)
    select p->>'key', c.account_id, c.id, p->>'author', array(select jsonb_array_elements_text(p->'covers')), v_fence,
      p->>'body'
    from conversations c where c.id = v_conversation_id
    on conflict (reply_key) do nothing
    returning * into v_reply;
    if found then
      if v_reply.author = 'human' then
        update conversations set bot_enabled = false where id = v_conversation_id and bot_enabled;
      end if;
      return chorus.ok(chorus.reply(v_reply));
    end if;
    -- Nothing inserted: no such conversation, or somebody inserted the same key at the same moment.
    select * into v_reply from replies where reply_key = p->>'key' for no key update;
    if not found then
      return chorus.not_found('conversation');
    end if;
  end if;
  if v_reply.conversation_id <> v_conversation_id then
    return chorus.conflict('reply_key_taken');
  end if;
  if v_fence = 0 then
    return chorus.ok(chorus.reply(v_reply));
  end if;
  if v_reply.fence > v_fence then
    return chorus.fenced();
  end if;
  update replies set fence = v_fence where reply_key = v_reply.reply_key returning * into v_reply;
  return chorus.ok(chorus.reply(v_reply));
end $$;

-- p: key, fence, covers, body. Only before anything was sent; otherwise the reply stays as it is.
create function public.chorus_save_body(p jsonb) returns jsonb
language plpgsql set search_path = public, pg_temp as $$
declare
  v_fence bigint := (p->>'fence')::bigint;
  v_reply replies;
begin
  select * into v_reply from replies where reply_key = p->>'key' for no key update;
  if not found then
    return chorus.not_found('reply');
  end if;
  if v_reply.fence > v_fence then
    return chorus.fenced();
  end if;
  if v_reply.state = 'pending' and v_reply.part = 0 then
    update replies
    set fence = v_fence, body = p->>'body', covers = array(select jsonb_array_elements_text(p->'covers'))
    where reply_key = v_reply.reply_key
    returning * into v_reply;
  end if;
  return chorus.ok(chorus.reply(v_reply));
end $$;

-- p: key, fence, part, parts, text, resend, attempt (unique to the caller's call: a repetition after a lost answer is
-- recognised and not taken for somebody's attempt of unknown outcome)
-- The decisions, in this order:
-- 1. another fence was higher                          -> fenced
-- 2. the reply or the part is finished                 -> sent, failed, window_closed, silenced
-- 3. this very call committed `sending` before         -> send
-- 4. somebody's attempt is of unknown outcome          -> ambiguous, unless resend
-- 5. a bot's reply and the bot is off                  -> silenced
-- 6. no message of the customer in the last 24 hours   -> window_closed
-- 7. otherwise commit `sending` and the message        -> send
create function public.chorus_begin_part(p jsonb) returns jsonb
language plpgsql set search_path = public, pg_temp as $$
declare
  c_window_closed constant jsonb := jsonb_build_object(
    'code', 131047, 'message', 'more than 24 hours have passed since the customer''s last message');
  v_part integer := (p->>'part')::integer;
  v_reply replies;
  v_conversation conversations;
begin
  select * into v_reply from replies where reply_key = p->>'key' for no key update;
  if not found then
    return chorus.not_found('reply');
  end if;
  if v_reply.fence > (p->>'fence')::bigint then
    return chorus.fenced();
  end if;
  if v_reply.state = 'failed' and v_reply.error->>'code' = '131047' then
    return chorus.ok('"window_closed"');
  elsif v_reply.state in ('sent', 'failed', 'silenced') then
    return chorus.ok(to_jsonb(v_reply.state));
  elsif v_part < v_reply.part then
    return chorus.ok('"sent"');
  elsif v_part > v_reply.part then
    raise exception 'part % of reply % begun before part %', v_part, v_reply.reply_key, v_reply.part;
  end if;
  if v_reply.state = 'sending' then
    if v_reply.attempt = (p->>'attempt')::uuid then
      return chorus.ok('"send"');
    elsif not (p->>'resend')::boolean then
      return chorus.ok('"ambiguous"');
    end if;
  end if;

  select * into v_conversation from conversations where id = v_reply.conversation_id for no key update;
  if v_reply.author = 'bot' and not v_conversation.bot_enabled then
    update replies set state = 'silenced', fence = (p->>'fence')::bigint, sending_since = null
    where reply_key = v_reply.reply_key;
    return chorus.ok('"silenced"');
  end if;
  if v_conversation.last_inbound_at is null or v_conversation.last_inbound_at < now() - interval '24 hours' then
    update replies set state = 'failed', fence = (p->>'fence')::bigint, sending_since = null, error = c_window_closed
    where reply_key = v_reply.reply_key;
    return chorus.ok('"window_closed"');
  end if;

  insert into messages
    (account_id, conversation_id, outbound_key, direction, author, type, text, status, timestamp)
  values (
    v_reply.account_id, v_reply.conversation_id, v_reply.reply_key || '#' || v_part, 'outbound', v_reply.author,
    'text', p->>'text', 'sending', now()
  )
  on conflict (outbound_key) do update
    set status = 'sending', text = excluded.text, timestamp = excluded.timestamp, error = null;
  update replies
  set state = 'sending', fence = (p->>'fence')::bigint, parts = (p->>'parts')::integer,
    attempt = (p->>'attempt')::uuid, sending_since = now(), error = null
  where reply_key = v_reply.reply_key;
  update conversations set last_message_at = clock_timestamp() where id = v_conversation.id;
  return chorus.ok('"send"');
end $$;

-- A part went out, whoever proves it: the answer to the send, or a status that names it. The caller holds the
-- reply's lock. A reply that was given up or silenced meanwhile stays so, unless this was its last part.
create function chorus.part_went_out(reply public.replies, part integer, wamid text, last boolean) returns void
language sql set search_path = '' as $$
  update public.replies r
  set part = part_went_out.part + 1,
    wamid = part_went_out.wamid,
    sending_since = null,
    state = case when last then 'sent' when r.state = 'sending' then 'pending' else r.state end,
    error = case when last then null else r.error end
  where r.reply_key = reply.reply_key and r.part = part_went_out.part
$$;

-- p: key, fence, part, error, final. A part that was proven to have gone out is left alone.
create function public.chorus_fail_part(p jsonb) returns jsonb
language plpgsql set search_path = public, pg_temp as $$
declare
  v_part integer := (p->>'part')::integer;
  v_final boolean := (p->>'final')::boolean;
  v_reply replies;
begin
  select * into v_reply from replies where reply_key = p->>'key' for no key update;
  if not found then
    return chorus.not_found('reply');
  end if;
  if v_reply.fence > (p->>'fence')::bigint then
    return chorus.fenced();
  end if;
  if v_reply.part = v_part and v_reply.state in ('pending', 'sending') then
    update replies
    set state = case when v_final then 'failed' else 'pending' end, fence = (p->>'fence')::bigint, error = p->'error',
      sending_since = null
    where reply_key = v_reply.reply_key;
    update messages set status = case when v_final then 'failed' else 'pending' end, error = p->'error'
    where outbound_key = v_reply.reply_key || '#' || v_part and status in ('pending', 'sending');
  end if;
  return chorus.ok(null);
end $$;

select chorus.secure_functions();
