-- One word to a customer who waits for the model. It is a reply of its own, marked like a fallback text (`fallback` is
-- `interim`): so it leaves the history, is no answer that counts, and goes out once per silence.

alter table public.bot_profiles
  add column interim_text text;  -- null: as the application says; blank: nothing is sent

-- Not validated: every row meets the narrower condition that this one replaces, and a look at each would block the table.
alter table public.replies
  drop constraint replies_fallback_check,
  add constraint replies_fallback_check check (fallback in ('refused', 'unavailable', 'interim')) not valid;

-- The kind of the last message that went out of the conversation in the last 24 hours, if it is a fallback or interim text.
create function chorus.standing_fallback(conversation uuid) returns text
language sql stable set search_path = '' as $$
  select f.fallback
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
  limit 1
$$;

-- Does a fallback text stand? An interim text is no reason to keep one back.
create or replace function chorus.fallback_stands(conversation uuid) returns boolean
language sql stable set search_path = '' as $$
  select coalesce(chorus.standing_fallback(conversation) <> 'interim', false)
$$;

-- p: as for chorus_save_body, and fallback. Silenced, and not to be sent, if a fallback text stands already; an interim text
-- also if one stands.
create or replace function public.chorus_save_fallback(p jsonb) returns jsonb
language plpgsql set search_path = public, pg_temp as $$
declare
  v_saved jsonb := public.chorus_save_body(p);
  v_reply replies;
begin
  if v_saved->'ok'->>'state' is distinct from 'pending' or v_saved->'ok'->>'part' <> '0' then
    return v_saved;  -- fenced, or too late
  end if;
  update replies
  set fallback = p->>'fallback',
    state = case
      when chorus.fallback_stands(conversation_id) then 'silenced'
      when p->>'fallback' = 'interim' and chorus.standing_fallback(conversation_id) is not null then 'silenced'
      else state
    end
  where reply_key = v_saved->'ok'->>'reply_key' and conversation_id = (v_saved->'ok'->>'conversation_id')::uuid
  returning * into v_reply;
  return chorus.ok(chorus.addressed(v_reply));
end $$;

select chorus.secure_functions();
