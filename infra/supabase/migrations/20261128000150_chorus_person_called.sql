-- A person is called in the transaction that stores the reply in which the customer reads of it. The bot is silent then for
-- a while, where the profile says so, and one WhatsApp text goes to the number that the profile names.

alter table public.bot_profiles
  add column handover_keywords text[],
  add column on_handover text,
  add column handover_pause_minutes integer,
  add column handover_notify_number text,  -- digits
  add column business_hours jsonb,
  add column outside_hours_text text;

alter table public.conversations
  add column bot_paused_until timestamptz,  -- the bot is silent until then; the pause ends by itself
  add column handover_key text,             -- of the reply that began the pause: the one that may still go out
  add column handover_notice text;          -- what became of the text to the profile's number (HandoverNotice)

-- What is still to be sent to the numbers that profiles name. A row goes when its text has gone out, or cannot.
create table public.handover_notices (
  id uuid primary key default gen_random_uuid(),
  account_id uuid not null references public.whatsapp_accounts on delete cascade,
  conversation_id uuid not null unique references public.conversations on delete cascade,
  created_at timestamptz not null default now(),
  due_at timestamptz not null default now(),
  taken_at timestamptz  -- a send has begun, and may have gone out
);
create index handover_notices_due on public.handover_notices (due_at);
create index handover_notices_account on public.handover_notices (account_id);
select chorus.secure_table('public.handover_notices');

-- May the bot speak in this conversation at all?
create function chorus.bot_answers(c public.conversations) returns boolean
language sql stable set search_path = '' as $$
  select c.bot_enabled and coalesce(c.bot_paused_until <= now(), true)
$$;

-- As before, and what belongs to the pause.
create or replace function chorus.clear_handover() returns trigger
language plpgsql set search_path = '' as $$
begin
  new.needs_human_reason := null;
  new.needs_human_since := null;
  new.bot_paused_until := null;
  new.handover_key := null;
  new.handover_notice := null;
  return new;
end $$;

-- Once for a flag that is raised and once for a pause that begins. Security definer, as the other triggers that write where
-- the author of the change may not.
create function chorus.note_handover() returns trigger
language plpgsql security definer set search_path = '' as $$
begin
  insert into public.handover_notices (account_id, conversation_id)
  select new.account_id, new.id from public.bot_profiles b
  where b.account_id = new.account_id and b.handover_notify_number is not null
  on conflict (conversation_id) do nothing;
  return null;
end $$;
create trigger note_handover after update on public.conversations for each row
  when (new.needs_human
    and (not old.needs_human or (new.handover_key is not null and new.handover_key is distinct from old.handover_key)))
  execute function chorus.note_handover();

-- handover: {reason, pause_minutes: null for no pause}, or null. The caller holds the reply with this key and no other lock.
-- The first reason stays. A conversation that a person has needs none called.
create function chorus.hand_over(conversation uuid, key text, handover jsonb) returns void
language sql set search_path = '' as $$
  update public.conversations
  set needs_human = true,
    needs_human_reason = case when needs_human then needs_human_reason else handover->>'reason' end,
    needs_human_since = case when needs_human then needs_human_since else clock_timestamp() end,
    bot_paused_until = coalesce(
      now() + make_interval(mins => (handover->>'pause_minutes')::integer), bot_paused_until),
    handover_key = case when handover->>'pause_minutes' is null then handover_key else key end
  where id = conversation and bot_enabled and handover->>'reason' is not null
    and (not needs_human or (handover->>'pause_minutes' is not null and handover_key is distinct from key))
$$;

-- p: as before, and handover as for chorus.hand_over. No person is called for a text that was not taken.
create or replace function public.chorus_save_answer(p jsonb) returns jsonb
language plpgsql set search_path = public, pg_temp as $$
declare
  v_saved jsonb;
  v_change jsonb;
begin
  v_saved := case when p->>'fallback' is null then public.chorus_save_body(p) else public.chorus_save_fallback(p) end;
  if not v_saved ? 'ok' then
    return v_saved;
  end if;
  if p->'handover'->>'reason' is not null and v_saved->'ok'->>'body' = p->>'body' then
    perform chorus.hand_over((v_saved->'ok'->>'conversation_id')::uuid, v_saved->'ok'->>'reply_key', p->'handover');
  end if;
  v_change := chorus.count_spent(v_saved->'ok'->>'reply_key', p);
  if v_change is null then
    return v_saved;
  end if;
  return chorus.ok((v_saved->'ok') || jsonb_build_object('usage_change', v_change));
end $$;

-- p: as for chorus_save_answer without a fallback, and parts, text, attempt as for chorus_begin_part.
-- 1. save the body
-- 2. if the reply has this body now: call a person if it says so, and begin its first part. Another body is no longer this
--    caller's to send
-- 3. count what it cost, last (order of locks: chorus_usage)
-- Answers {"reply": as chorus_save_answer, without a body that is p's, "decision": as chorus_begin_part, or null}.
create or replace function public.chorus_save_and_begin(p jsonb) returns jsonb
language plpgsql set search_path = public, pg_temp as $$
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

-- p: key, fence, part, parts, text, resend, attempt. As before; in a pause only the reply that began it may go out.
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

-- p: as before. Nothing is found again for a conversation in a pause, as for one that a person has.
create or replace function public.chorus_waiting_conversations(p jsonb) returns jsonb
language sql stable set search_path = public, pg_temp as $$
  select chorus.ok(coalesce(jsonb_agg(to_jsonb(w) order by w.awaiting_since, w.conversation_id), '[]'))
  from (
    select c.id as conversation_id, c.account_id, a.phone_number_id, k.wa_id, k.user_id, k.name,
      chorus.bot_answers(c) and a.is_active as is_served, c.awaiting_since, c.last_message_at,
      case when c.needs_human then coalesce(c.needs_human_since, c.updated_at) end as needs_human_since
    from conversations c
    join whatsapp_accounts a on a.id = c.account_id
    join contacts k on k.id = c.contact_id
    where c.awaiting_since < now() - make_interval(secs => (p->>'older_than_seconds')::double precision)
      and (p->>'after_at' is null
        or (c.awaiting_since, c.id) > ((p->>'after_at')::timestamptz, (p->>'after_id')::uuid))
    order by c.awaiting_since, c.id
    limit (p->>'limit')::integer
  ) w
$$;

-- -- the text to the number that the profile names ----------------------------------------------------------------------

-- What becomes of a notice: the conversation shows it while its flag is up. The conversation before the notice: a call that
-- raises the flag holds the conversation when it comes to the notices.
create function chorus.end_notice(notice uuid, outcome text) returns void
language plpgsql set search_path = '' as $$
begin
  update public.conversations c set handover_notice = outcome
  from public.handover_notices n where n.id = notice and c.id = n.conversation_id and c.needs_human;
  delete from public.handover_notices where id = notice;
end $$;

-- p: limit, lost_after_seconds. The oldest due notices: [{id, conversation_id, account_id, created_at, number: digits, name and
-- wa_id: the customer's, reason, outcome}]. Without an outcome it is the caller's to send: a second caller does not get it.
-- Over are, as "unknown", those taken that long ago, which may have gone out, and, as "window_closed", those whose number has
-- not written to the account for 24 hours. Left out: a person has cleared the flag, or the number is none or the customer's.
create function public.chorus_take_notices(p jsonb) returns jsonb
language plpgsql set search_path = public, pg_temp as $$
declare
  v_notice record;
  v_owner contacts;
  v_taken jsonb := '[]';
  v_outcome text;
begin
  for v_notice in
    select n.id, n.conversation_id, n.account_id, n.created_at, n.taken_at, c.needs_human, c.needs_human_reason as reason, k.name, k.wa_id,
      b.handover_notify_number as number
    from handover_notices n
    join conversations c on c.id = n.conversation_id
    join contacts k on k.id = c.contact_id
    join bot_profiles b on b.account_id = n.account_id
    where n.due_at <= now()
      and (n.taken_at is null or n.taken_at < now() - make_interval(secs => (p->>'lost_after_seconds')::double precision))
    order by n.due_at limit (p->>'limit')::integer for update of n skip locked
  loop
    v_owner := chorus.owner_of_number(v_notice.account_id, v_notice.number);
    v_outcome := case
      when v_notice.taken_at is not null then 'unknown'
      when not exists (
        select from conversations
        where contact_id = v_owner.id and last_inbound_at > now() - interval '24 hours'
      ) then 'window_closed'
    end;
    if not v_notice.needs_human or v_notice.number is null or v_notice.number = v_notice.wa_id then
      perform chorus.end_notice(v_notice.id, null);
      continue;
    elsif v_outcome is not null then
      perform chorus.end_notice(v_notice.id, v_outcome);
    else
      update handover_notices set taken_at = now() where id = v_notice.id;
    end if;
    v_taken := v_taken || jsonb_build_array(to_jsonb(v_notice) || jsonb_build_object('outcome', v_outcome));
  end loop;
  return chorus.ok(v_taken);
end $$;

-- p: id, outcome ("sent", "failed"), or again_seconds: it certainly did not go out.
create function public.chorus_end_notice(p jsonb) returns jsonb
language plpgsql set search_path = public, pg_temp as $$
begin
  if p->>'outcome' is null then
    update handover_notices
    set taken_at = null, due_at = now() + make_interval(secs => (p->>'again_seconds')::double precision)
    where id = (p->>'id')::uuid;
  else
    perform chorus.end_notice((p->>'id')::uuid, p->>'outcome');
  end if;
  return chorus.ok(null);
end $$;

select chorus.secure_functions();
