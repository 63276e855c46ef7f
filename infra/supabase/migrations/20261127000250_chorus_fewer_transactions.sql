-- An answered message in four transactions: chorus_record_inbound, chorus_open_answer, chorus_save_and_begin,
-- chorus_complete_part. The functions that these two put together stay: the version before calls them, and so does this
-- one where only one of them is due.

-- What an answer costs, counted once for a spent_id. Answers {"before", "after"}, or null if nothing is counted: the model
-- was not asked, or this is a repetition after a lost answer. The caller holds the reply, and takes no lock after this.
create function chorus.count_spent(key text, p jsonb) returns jsonb
language plpgsql set search_path = public, pg_temp as $$
declare
  v_reply replies;
  v_before jsonb;
begin
  select * into v_reply from replies where reply_key = key;
  if p->>'spent_id' is null or v_reply.spent_id = (p->>'spent_id')::uuid then
    return null;
  end if;
  -- The row first: of answers that are saved at the same moment each sees its own before and after.
  insert into account_usage (account_id, day) values (v_reply.account_id, chorus.today())
  on conflict (account_id, day) do nothing;
  perform from account_usage where account_id = v_reply.account_id and day = chorus.today() for no key update;
  v_before := chorus.usage(v_reply.account_id, v_reply.conversation_id);
  update account_usage
  set answers = answers + (v_reply.spent_id is null and p->>'fallback' is null)::integer,
    input_tokens = input_tokens + (p->>'input_tokens')::bigint, output_tokens = output_tokens + (p->>'output_tokens')::bigint
  where account_id = v_reply.account_id and day = chorus.today();
  update replies
  set spent_id = (p->>'spent_id')::uuid, spent_at = now(),
    input_tokens = coalesce(input_tokens, 0) + (p->>'input_tokens')::bigint,
    output_tokens = coalesce(output_tokens, 0) + (p->>'output_tokens')::bigint
  where reply_key = key;
  return jsonb_build_object(
    'before', v_before, 'after', chorus.usage(v_reply.account_id, v_reply.conversation_id));
end $$;

-- p: as in chorus_usage, where it counted itself.
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
  v_change := chorus.count_spent(v_saved->'ok'->>'reply_key', p);
  if v_change is null then
    return v_saved;
  end if;
  return chorus.ok((v_saved->'ok') || jsonb_build_object('usage_change', v_change));
end $$;

-- p: as for chorus_open_reply, and limit, characters as for chorus_background, minutes as for chorus_count_bot_replies.
-- Answers {"reply": as chorus_open_reply, "turns" and "usage": as chorus_background without what p covers, "recent": as
-- chorus_count_bot_replies}, or what chorus_open_reply answers if it opens none.
create function public.chorus_open_answer(p jsonb) returns jsonb
language plpgsql set search_path = public, pg_temp as $$
declare
  v_opened jsonb := public.chorus_open_reply(p);
begin
  if not v_opened ? 'ok' then
    return v_opened;
  end if;
  return chorus.ok(
    (public.chorus_background(p || jsonb_build_object('exclude', p->'covers'))->'ok')
    || jsonb_build_object('reply', v_opened->'ok', 'recent', public.chorus_count_bot_replies(p)->'ok'));
end $$;

-- p: as for chorus_save_answer without a fallback, and parts, text, attempt as for chorus_begin_part.
-- 1. save the body
-- 2. if the reply has this body now: begin its first part. Another body is no longer this caller's to send
-- 3. count what it cost, last (order of locks: chorus_usage)
-- Answers {"reply": as chorus_save_answer, without a body that is p's, "decision": as chorus_begin_part, or null}.
create function public.chorus_save_and_begin(p jsonb) returns jsonb
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
    v_begun := public.chorus_begin_part(p || jsonb_build_object('part', 0, 'resend', false))->'ok';
    v_reply := v_reply - 'body';
  end if;
  v_change := chorus.count_spent(v_reply->>'reply_key', p);
  if v_change is not null then
    v_reply := v_reply || jsonb_build_object('usage_change', v_change);
  end if;
  return chorus.ok(jsonb_build_object('reply', v_reply, 'decision', v_begun));
end $$;

select chorus.secure_functions();
