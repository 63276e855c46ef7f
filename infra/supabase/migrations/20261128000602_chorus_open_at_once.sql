-- Opening an answer reads every row once: the reply is nearly always new, and history and usage go out as they are read.

-- The texts of a conversation, the oldest first: the newest `messages` that were delivered, without those that `exclude` names
-- and what the model had no part in. characters: at most so many of each text, null for all.
create function chorus.turns(conversation uuid, exclude jsonb, messages integer, characters integer) returns jsonb
language sql stable set search_path = '' as $$
  with fallbacks as materialized (  -- few, and read once
    select f.reply_key, f.covers, f.fallback
    from public.replies f
    where f.conversation_id = conversation and f.fallback is not null
  )
  select coalesce(jsonb_agg(jsonb_build_object('role', m.role, 'text', left(m.text, coalesce(characters, length(m.text))))
    order by m.seq), '[]')
  from (
    select m.seq, m.text, case m.direction when 'inbound' then 'user' else 'model' end as role
    from public.messages m
    where m.conversation_id = conversation
      and m.text <> ''
      and m.status not in ('pending', 'sending', 'failed')
      and not coalesce(exclude ? m.wa_message_id, false)
      and not exists (
        select from fallbacks f
        where case m.direction
          when 'inbound' then f.fallback = 'refused' and m.wa_message_id = any (f.covers)
          else starts_with(m.outbound_key, f.reply_key || '#')
        end
      )
    order by m.seq desc
    limit messages
  ) m
$$;

-- How many of the bot's replies went out in the last `minutes`, since the bot was switched on; 1000 at most.
create function chorus.bot_replies(conversation uuid, minutes integer) returns bigint
language sql stable set search_path = '' as $$
  select count(*)
  from (
    select from public.replies r join public.conversations c on c.id = r.conversation_id
    where r.conversation_id = conversation
      and r.created_at > greatest(now() - make_interval(mins => minutes), c.bot_enabled_at)
      and r.author = 'bot' and (r.state = 'sent' or r.part > 0)
    limit 1000
  ) sent
$$;

create or replace function public.chorus_count_bot_replies(p jsonb) returns jsonb
language sql stable set search_path = public, pg_temp as $$
  select chorus.ok(to_jsonb(chorus.bot_replies(chorus.as_uuid(p->>'conversation_id'), (p->>'minutes')::integer)))
$$;

create or replace function public.chorus_history(p jsonb) returns jsonb
language sql stable set search_path = public, pg_temp as $$
  select chorus.ok(chorus.turns(
    chorus.as_uuid(p->>'conversation_id'), p->'exclude', (p->>'limit')::integer, null))
$$;

create or replace function public.chorus_background(p jsonb) returns jsonb
language sql stable set search_path = public, pg_temp as $$
  select chorus.ok(jsonb_build_object(
    'turns', chorus.turns(
      chorus.as_uuid(p->>'conversation_id'), p->'exclude', (p->>'limit')::integer, (p->>'characters')::integer),
    'usage', (
      select chorus.usage(c.account_id, c.id) from conversations c
      where c.id = chorus.live_conversation(p->>'conversation_id')
    )
  ))
$$;

-- Becomes part of the statement that calls it, which then reads no more of the rows than it needs. Every name in it has its
-- schema.
alter function chorus.recent_replies(uuid) reset search_path;

-- Opens a bot's reply if it is certainly new; answers null if it may not be. Then nothing is changed, and chorus_open_reply decides.
-- The replies are looked at before the conversation is locked, because a reply's lock comes before its conversation's, and again
-- with that lock held.
--
-- The commit is not waited for: such a reply is no more than a claim, and a message that is stored with it is in its mailbox. Nothing is sent before the commit of chorus_save_and_begin,
-- which is waited for and makes everything before it durable. If the server crashes in between and loses the claim, that call
-- finds no reply, and the messages, which stay in their mailbox until they are answered, are taken up again.
create function chorus.open_new_reply(p jsonb) returns jsonb
language plpgsql as $$
declare
  v_given uuid := chorus.as_uuid(p->>'conversation_id');
  v_key text := p->>'key';
  v_covers jsonb := p->'covers';
  v_conversation record;
  v_off text;
begin
  select c.id, k.wa_id, k.user_id, c.account_id
  into v_conversation
  from public.conversations c join public.contacts k on k.id = c.contact_id
  where c.id = coalesce((select m.into_id from public.merged_conversations m where m.id = v_given), v_given)
    and not exists (select from public.replies r where r.reply_key in (v_key, v_key || '@' || c.account_id))
    and not exists (select from chorus.recent_replies(c.id) r where v_covers ?| r.covers or v_key = any (r.covers))
  for no key update of c;
  if not found then
    return null;
  end if;
  insert into public.replies (reply_key, account_id, conversation_id, author, covers, fence, body)
  select v_key, v_conversation.account_id, v_conversation.id, 'bot', array(select jsonb_array_elements_text(v_covers)),
    (p->>'fence')::bigint, p->>'body'
  where not exists (
    select from chorus.recent_replies(v_conversation.id) r where v_covers ?| r.covers or v_key = any (r.covers)
  )
  on conflict (reply_key) do nothing;
  if not found then
    return null;
  end if;
  v_off := set_config('synchronous_commit', 'off', true);  -- until the end of the transaction
  return jsonb_build_object(
    'key', v_key, 'account_id', v_conversation.account_id, 'conversation_id', v_conversation.id, 'author', 'bot',
    'covers', v_covers, 'fence', p->'fence', 'state', 'pending', 'body', p->'body', 'part', 0,
    'to', jsonb_build_object('wa_id', v_conversation.wa_id, 'user_id', v_conversation.user_id));
end $$;

-- What is known before the answer of an opened reply is made; p as for chorus_open_answer.
create function chorus.opened(reply jsonb, conversation uuid, p jsonb) returns jsonb
language sql stable
return jsonb_build_object(
  'reply', reply,
  'turns', chorus.turns(conversation, p->'covers', (p->>'limit')::integer, (p->>'characters')::integer),
  'usage', chorus.usage((reply->>'account_id')::uuid, (reply->>'conversation_id')::uuid),
  'recent', chorus.bot_replies(conversation, (p->>'minutes')::integer));

-- p and what it answers: as before.
create or replace function public.chorus_open_answer(p jsonb) returns jsonb
language plpgsql set search_path = '' set plan_cache_mode = force_generic_plan as $$
declare
  v_given uuid := chorus.as_uuid(p->>'conversation_id');
  v_reply jsonb := case when p->>'author' = 'bot' then chorus.open_new_reply(p) end;
  v_opened jsonb;
  v_answer jsonb;
begin
  if v_reply is null then
    v_opened := public.chorus_open_reply(p);
    if not v_opened ? 'ok' then
      return v_opened;
    end if;
    v_reply := v_opened->'ok';
  end if;
  v_answer := chorus.opened(v_reply, v_given, p);
  return chorus.ok(v_answer);
end $$;

select chorus.secure_functions();
