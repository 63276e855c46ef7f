-- Saving an answer, beginning its send and counting its cost write each row once; so does recording that it was sent. Every
-- further version of a row costs its indexes, its triggers and, in the same transaction, the check of its references. The
-- search_path is that of the other functions that write messages: the server plans a check of references anew whenever it
-- finds another one than before.

-- Stable, as what it calls: an immutable one would not become part of the caller's statement.
create function chorus.tally(answers bigint, input_tokens bigint, output_tokens bigint) returns jsonb
language sql stable
return jsonb_build_object('answers', answers, 'input_tokens', input_tokens, 'output_tokens', output_tokens);

-- p: as for chorus_save_and_begin, which calls this for whatever is not the usual case.
-- 1. save the body
-- 2. if the reply has this body now: call a person if it says so, and begin its first part. Another body is no longer this
--    caller's to send
-- 3. count what it cost, last (order of locks: chorus_usage)
create function chorus.save_and_begin_in_steps(p jsonb) returns jsonb
language plpgsql set search_path = '' as $$
declare
  v_saved jsonb := public.chorus_save_body(p);
  v_reply jsonb := v_saved->'ok';
  v_begun jsonb;
  v_change jsonb;
begin
  if not v_saved ? 'ok' then
    return v_saved;
  end if;
  if v_reply->>'body' = p->>'body' then
    if p->'handover'->>'reason' is not null then
      perform chorus.hand_over((v_reply->>'conversation_id')::uuid, v_reply->>'reply_key', p->'handover');
    end if;
    v_begun := public.chorus_begin_part(p || jsonb_build_object('part', 0, 'resend', false))->'ok';
    v_reply := v_reply - 'body';
  end if;
  v_change := chorus.count_spent(v_reply->>'reply_key', p);
  if v_change is not null then
    v_reply := v_reply || jsonb_build_object('usage_change', v_change);
  end if;
  return chorus.ok(jsonb_build_object('reply', v_reply, 'decision', v_begun));
end $$;

-- p and what it answers: as before, but of the reply no more than is needed. Usually the reply is new and its send begins: one
-- version of each row then, in the same order of locks, the account's count last.
create or replace function public.chorus_save_and_begin(p jsonb) returns jsonb
language plpgsql set search_path = '' set plan_cache_mode = force_generic_plan as $$
declare
  v_fence bigint := (p->>'fence')::bigint;
  v_spent uuid := (p->>'spent_id')::uuid;
  v_input bigint := (p->>'input_tokens')::bigint;
  v_output bigint := (p->>'output_tokens')::bigint;
  v_since timestamptz := chorus.today()::timestamp at time zone 'utc';
  v_reply record;
  v_recipient jsonb;
  v_before record;
  v_account record;
  v_change jsonb;
  v_answer jsonb;
begin
  select r.reply_key, r.account_id, r.conversation_id, r.covers, r.fence, r.error, r.attempt,
    r.state = 'pending' and r.part = 0 and r.spent_id is null and r.fallback is null and r.author = 'bot'
      and to_jsonb(r.covers) = p->'covers' as is_new
  into v_reply
  from public.replies r where r.reply_key = p->>'key' for no key update;
  if not found then
    return chorus.not_found('reply');
  end if;
  if v_reply.fence > v_fence then
    return chorus.fenced();
  end if;
  if not v_reply.is_new or p->>'body' is null or p->'handover'->>'reason' is not null then
    return chorus.save_and_begin_in_steps(p);
  end if;
  -- Right before sending: the bot answers, and the window is open.
  update public.conversations c set last_message_at = clock_timestamp()
  from public.contacts k
  where c.id = v_reply.conversation_id and k.id = c.contact_id
    and chorus.bot_answers(c) and c.last_inbound_at >= now() - interval '24 hours'
  returning jsonb_build_object('wa_id', k.wa_id, 'user_id', k.user_id) into v_recipient;
  if not found then
    return chorus.save_and_begin_in_steps(p);
  end if;

  insert into public.messages
    (account_id, conversation_id, outbound_key, direction, author, type, text, status, timestamp)
  values (
    v_reply.account_id, v_reply.conversation_id, v_reply.reply_key || '#0', 'outbound', 'bot', 'text', p->>'text', 'sending',
    now()
  )
  on conflict (outbound_key) do update
    set status = 'sending', text = excluded.text, timestamp = excluded.timestamp, error = null;
  if v_spent is not null then
    select count(*) filter (where r.fallback is null) as answers, coalesce(sum(r.input_tokens), 0)::bigint as input_tokens,
      coalesce(sum(r.output_tokens), 0)::bigint as output_tokens
    into v_before
    from public.replies r
    where r.conversation_id = v_reply.conversation_id and r.spent_id is not null and r.spent_at >= v_since;
  end if;
  update public.replies
  set body = p->>'body', fence = v_fence, state = 'sending', parts = (p->>'parts')::integer,
    attempt = (p->>'attempt')::uuid, sending_since = now(), error = null, spent_id = v_spent,
    spent_at = case when v_spent is not null then now() end,
    input_tokens = case when v_spent is not null then v_input end,
    output_tokens = case when v_spent is not null then v_output end
  where reply_key = v_reply.reply_key;

  if v_spent is not null then
    insert into public.account_usage as u (account_id, day, answers, messages, input_tokens, output_tokens)
    values (v_reply.account_id, chorus.today(), 1, cardinality(v_reply.covers), v_input, v_output)
    on conflict (account_id, day) do update
      set answers = u.answers + 1, messages = u.messages + excluded.messages,
        input_tokens = u.input_tokens + excluded.input_tokens, output_tokens = u.output_tokens + excluded.output_tokens
    returning u.answers, u.input_tokens, u.output_tokens into v_account;
    v_change := jsonb_build_object(
      'before', jsonb_build_object(
        'conversation', chorus.tally(v_before.answers, v_before.input_tokens, v_before.output_tokens),
        'account', chorus.tally(
          v_account.answers - 1, v_account.input_tokens - v_input, v_account.output_tokens - v_output)),
      'after', jsonb_build_object(
        'conversation', chorus.tally(
          v_before.answers + 1, v_before.input_tokens + v_input, v_before.output_tokens + v_output),
        'account', chorus.tally(v_account.answers, v_account.input_tokens, v_account.output_tokens)));
  end if;
  -- Without the body, which is the caller's own, and as it was before its send began.
  v_answer := jsonb_build_object('decision', 'send', 'reply', jsonb_build_object(
    'key', v_reply.reply_key, 'conversation_id', v_reply.conversation_id, 'author', 'bot', 'covers', v_reply.covers,
    'fence', v_fence, 'state', 'pending', 'part', 0, 'attempt', v_reply.attempt, 'error', v_reply.error,
    'to', v_recipient, 'usage_change', v_change));
  return chorus.ok(v_answer);
end $$;

-- Held while a wamid becomes known or a status finds it unknown, so that of the two, one sees the other.
create or replace function chorus.lock_wamid(account uuid, wamid text) returns void
language sql volatile
return pg_advisory_xact_lock(hashtextextended('wamid ' || account || ' ' || wamid, 0));

-- p: key, part, wamid, last. Not fenced: it is a fact, whoever reports it. Usually the message is still being sent, and status and
-- wamid are written at once.
create or replace function public.chorus_complete_part(p jsonb) returns jsonb
language plpgsql set search_path = '' set plan_cache_mode = force_generic_plan as $$
declare
  v_key text := p->>'key';
  v_part integer := (p->>'part')::integer;
  v_wamid text := p->>'wamid';
  v_last boolean := (p->>'last')::boolean;
  v_account uuid;
  v_message uuid;
  v_locked text;
begin
  select r.account_id into v_account from public.replies r where r.reply_key = v_key;
  if not found then
    return chorus.not_found('reply');
  end if;
  v_locked := chorus.lock_wamid(v_account, v_wamid)::text;  -- not `perform`, which starts a statement
  -- As chorus.part_went_out. The reply is locked also where it stays as it is.
  update public.replies r
  set part = v_part + 1, wamid = v_wamid, sending_since = null,
    state = case when v_last then 'sent' when r.state = 'sending' then 'pending' else r.state end,
    error = case when v_last then null else r.error end
  where r.reply_key = v_key and r.part = v_part;
  if not found then
    perform from public.replies r where r.reply_key = v_key for no key update;
  end if;
  update public.messages m
  set status = 'sent', status_at = now(), error = null, wa_message_id = v_wamid
  where m.outbound_key = v_key || '#' || v_part and m.status = 'sending' and m.wa_message_id is null
    and not exists (select from public.messages o where o.account_id = v_account and o.wa_message_id = v_wamid)
    and not exists (select from public.orphan_statuses o where o.account_id = v_account and o.wa_message_id = v_wamid);
  if not found then
    select m.id into v_message from public.messages m where m.outbound_key = v_key || '#' || v_part for no key update;
    if found then
      perform chorus.advance_message(v_message, 'sent', now(), null);
      perform chorus.adopt(v_message, v_account, v_wamid);
    end if;
  end if;
  return chorus.ok(null);
end $$;

select chorus.secure_functions();
