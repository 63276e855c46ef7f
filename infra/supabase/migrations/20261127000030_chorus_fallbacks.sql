-- Fallback texts: one per silence, and neither they nor what the model refused to answer come back in its history.

alter table public.replies
  -- Why the body is the fallback text (the application's `Fallback`), null for an answer.
  add column fallback text check (fallback in ('refused', 'unavailable'));
create index replies_fallback on public.replies (conversation_id) where fallback is not null;

-- Is the last message that went out of the conversation, in the last 24 hours, a fallback text? An answer of the model
-- or a person's message in between ends the silence.
create function chorus.fallback_stands(conversation uuid) returns boolean
language sql stable set search_path = '' as $$
  select exists (
    select
    from (
      select m.outbound_key, m.created_at
      from public.messages m
      where m.conversation_id = conversation and m.direction = 'outbound'
        and m.status not in ('pending', 'sending', 'failed')
      order by m.seq desc
      limit 1
    ) m
    join public.replies f on f.conversation_id = conversation and f.fallback is not null
      and starts_with(m.outbound_key, f.reply_key || '#')
    where m.created_at > now() - interval '24 hours'
  )
$$;

-- p: as for chorus_save_body, and fallback. Silenced, and not to be sent, if a fallback text stands already.
create function public.chorus_save_fallback(p jsonb) returns jsonb
language plpgsql set search_path = public, pg_temp as $$
declare
  v_saved jsonb := public.chorus_save_body(p);
  v_reply replies;
begin
  if v_saved->'ok'->>'state' is distinct from 'pending' or v_saved->'ok'->>'part' <> '0' then
    return v_saved;  -- fenced, or too late
  end if;
  update replies
  set fallback = p->>'fallback', state = case when chorus.fallback_stands(conversation_id) then 'silenced' else state end
  where reply_key = v_saved->'ok'->>'reply_key' and conversation_id = (v_saved->'ok'->>'conversation_id')::uuid
  returning * into v_reply;
  return chorus.ok(chorus.addressed(v_reply));
end $$;

-- p: conversation_id, limit, exclude (wamids). Oldest first. Left out: fallback texts, and the messages of a reply that
-- the model refused: asked again with them it would refuse again.
create or replace function public.chorus_history(p jsonb) returns jsonb
language sql stable set search_path = public, pg_temp as $$
  with fallbacks as (
    select f.reply_key, f.covers, f.fallback
    from replies f
    where f.conversation_id = chorus.as_uuid(p->>'conversation_id') and f.fallback is not null
  )
  select chorus.ok(coalesce(jsonb_agg(jsonb_build_object('role', m.role, 'text', m.text) order by m.seq), '[]'))
  from (
    select m.seq, m.text, case m.direction when 'inbound' then 'user' else 'model' end as role
    from messages m
    where m.conversation_id = chorus.as_uuid(p->>'conversation_id')
      and m.text <> ''
      and m.status not in ('pending', 'sending', 'failed')
      and not coalesce(p->'exclude' ? m.wa_message_id, false)
      and not exists (
        select from fallbacks f
        where case m.direction
          when 'inbound' then f.fallback = 'refused' and m.wa_message_id = any (f.covers)
          else starts_with(m.outbound_key, f.reply_key || '#')
        end
      )
    order by m.seq desc
    limit (p->>'limit')::integer
  ) m
$$;

select chorus.secure_functions();
