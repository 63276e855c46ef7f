-- Each message of a conversation is answered by one reply, in whatever order the queue brings them. A lost queue
-- (REDIS_DURABILITY=none) is filled again from the journal, and then an older message may stand behind a newer one, alone
-- or beside others than before.
--
-- Order of locks: a reply, then its conversation. Whoever inserts a reply holds the conversation and no reply.

create function chorus.recent_replies(conversation uuid) returns setof public.replies
language sql stable set search_path = '' as $$
  select * from public.replies where conversation_id = conversation order by created_at desc limit 20
$$;

-- Of these messages, those that another recent reply of the conversation covers.
create function chorus.covered_elsewhere(conversation uuid, own_key text, wamids text[]) returns text[]
language sql stable set search_path = '' as $$
  select coalesce(array_agg(distinct c.wamid), '{}')
  from chorus.recent_replies(conversation) r cross join unnest(r.covers) c(wamid)
  where r.reply_key is distinct from own_key and c.wamid = any (wamids)
$$;

-- p: conversation_id, key, author, covers, fence, body
-- The key is unique in the account: WhatsApp gives one message id to two of its numbers that write to each other. It is
-- stored as it is, or, when another account has it, with the account behind it; the answer says which, and everything
-- that follows uses that.
-- 1. found by key, else the recent reply that covers the message the key names: take the higher fence. One without a text
--    that covers more than p does is no more than the claim of a run that has come apart: its messages are free again
-- 2. else insert, without what other replies cover; a person's reply turns the bot off, once: a repetition must not undo
--    that it was turned on again
-- Answers the reply, with "elsewhere": of p's covers, what other replies cover.
create or replace function public.chorus_open_reply(p jsonb) returns jsonb
language plpgsql set search_path = public, pg_temp as $$
declare
  v_conversation uuid := chorus.live_conversation(p->>'conversation_id');
  v_account uuid := (select account_id from conversations where id = v_conversation);
  v_keys text[] := array[p->>'key', (p->>'key') || '@' || v_account];
  v_key text;
  v_covers text[] := array(select jsonb_array_elements_text(p->'covers'));
  v_elsewhere text[];
  v_fence bigint := (p->>'fence')::bigint;
  v_reply replies;
begin
  select * into v_reply from replies where reply_key = any (v_keys) and account_id = v_account for no key update;
  if not found then
    select * into v_reply from replies
    where reply_key = (
      select r.reply_key from chorus.recent_replies(v_conversation) r where r.covers @> array[p->>'key'] limit 1
    )
    for no key update;
    if found and v_reply.state = 'pending' and v_reply.body is null and not v_reply.covers <@ v_covers
      and v_fence > 0 and v_reply.fence <= v_fence
    then
      delete from replies where reply_key = v_reply.reply_key;
      v_reply := null;
    end if;
  end if;
  if v_reply.reply_key is null then
    perform from conversations where id = v_conversation for no key update;
    if not found then
      if chorus.live_conversation(p->>'conversation_id') is distinct from v_conversation then
        return chorus_open_reply(p);  -- merged at this moment
      end if;
      return chorus.not_found('conversation');
    end if;
    v_elsewhere := chorus.covered_elsewhere(v_conversation, null, v_covers);
    if p->>'key' = any (v_elsewhere) then
      return chorus_open_reply(p);  -- opened by a call at the same moment
    end if;
    foreach v_key in array v_keys loop
      insert into replies (reply_key, account_id, conversation_id, author, covers, fence, body)
      values (v_key, v_account, v_conversation, p->>'author',
        array(select c from unnest(v_covers) with ordinality t(c, n) where c <> all (v_elsewhere) order by n),
        v_fence, p->>'body')
      on conflict (reply_key) do nothing
      returning * into v_reply;
      if found then
        if v_reply.author = 'human' then
          update conversations set bot_enabled = false where id = v_conversation and bot_enabled;
        end if;
        return chorus.ok(chorus.addressed(v_reply) || jsonb_build_object('elsewhere', v_elsewhere));
      end if;
      -- Inserted by a call at the same moment, or another account's.
      select * into v_reply from replies where reply_key = v_key and account_id = v_account for no key update;
      exit when found;
    end loop;
  end if;
  if v_reply.conversation_id <> v_conversation then
    return chorus.conflict('reply_key_taken');
  end if;
  if v_fence > 0 then
    if v_reply.fence > v_fence then
      return chorus.fenced();
    end if;
    update replies set fence = v_fence where reply_key = v_reply.reply_key returning * into v_reply;
  end if;
  return chorus.ok(chorus.addressed(v_reply) || jsonb_build_object(
    'elsewhere', chorus.covered_elsewhere(v_conversation, v_reply.reply_key, array_remove(v_covers, p->>'key'))));
end $$;

-- p: key, fence, covers, body. Only before anything was sent; otherwise the reply stays as it is. A conflict if it would
-- cover what another reply covers by now.
create or replace function public.chorus_save_body(p jsonb) returns jsonb
language plpgsql set search_path = public, pg_temp as $$
declare
  v_covers text[] := array(select jsonb_array_elements_text(p->'covers'));
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
    if not v_covers <@ v_reply.covers then
      perform from conversations where id = v_reply.conversation_id for no key update;
      if chorus.covered_elsewhere(v_reply.conversation_id, v_reply.reply_key, v_covers) <> '{}' then
        return chorus.conflict('covered_elsewhere');
      end if;
    end if;
    update replies set fence = v_fence, body = p->>'body', covers = v_covers
    where reply_key = v_reply.reply_key
    returning * into v_reply;
  end if;
  return chorus.ok(chorus.addressed(v_reply));
end $$;

select chorus.secure_functions();
