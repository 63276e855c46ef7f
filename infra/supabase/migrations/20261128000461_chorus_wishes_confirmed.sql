-- A customer who writes STOP or START hears that it was heeded, also where the bot is silent: in a pause, or where a person has
-- the conversation.

-- These texts of the bot may go out although it is silent: the confirmation of a STOP until that is in force, that of a START.
create function chorus.is_confirmation(reply public.replies, c public.conversations) returns boolean
language sql immutable set search_path = '' as $$
  select reply.reply_key like 'opt\_in:%' or (reply.reply_key like 'opt\_out:%' and c.opted_out_since is null)
$$;

-- p: as before. In a pause also what confirms the customer's own wish may go out.
create or replace function public.chorus_begin_part(p jsonb) returns jsonb
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
  if v_reply.author = 'bot' and not chorus.bot_answers(v_conversation)
    and not (v_conversation.bot_enabled and v_conversation.handover_key = v_reply.reply_key)
    and not chorus.is_confirmation(v_reply, v_conversation)
  then
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

select chorus.secure_functions();
