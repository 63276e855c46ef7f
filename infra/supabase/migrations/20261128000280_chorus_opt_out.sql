-- A customer wants no automatic answers: since when, and was the bot on before? The bot is off then, as where a person has the
-- conversation, so that whatever respects that respects this, too.

alter table public.conversations
  add column opted_out_since timestamptz,
  add column opted_out_bot boolean not null default false;  -- the bot was on before
alter table public.bot_profiles add column stop_words text[];  -- besides those that the application knows

-- To switch the bot on ends it: a trigger, because several operations do.
create function chorus.end_opt_out() returns trigger
language plpgsql set search_path = '' as $$
begin
  new.opted_out_since := null;
  new.opted_out_bot := false;
  return new;
end $$;
create trigger end_opt_out before update on public.conversations for each row
  when (new.bot_enabled and not old.bot_enabled and old.opted_out_since is not null)
  execute function chorus.end_opt_out();

-- Two contacts become one person: who opted out as either has opted out. chorus.merge_contacts makes this row while both
-- conversations are there.
create function chorus.merge_opt_out() returns trigger
language plpgsql set search_path = '' as $$
begin
  update public.conversations k
  set opted_out_since = l.opted_out_since, opted_out_bot = l.opted_out_bot and k.bot_enabled, bot_enabled = false
  from public.conversations l
  where l.id = new.id and k.id = new.into_id and l.opted_out_since is not null and k.opted_out_since is null;
  return null;
end $$;
create trigger merge_opt_out after insert on public.merged_conversations for each row
  execute function chorus.merge_opt_out();

-- p: conversation_id. The first time stays.
create function public.chorus_opt_out(p jsonb) returns jsonb
language plpgsql set search_path = public, pg_temp as $$
begin
  update conversations
  set opted_out_since = clock_timestamp(), opted_out_bot = bot_enabled, bot_enabled = false
  where id = chorus.live_conversation(p->>'conversation_id') and opted_out_since is null;
  return chorus.ok(null);
end $$;

-- p: conversation_id. The customer wants them again. The bot is on if it was on before, and no person has written since.
create function public.chorus_opt_in(p jsonb) returns jsonb
language plpgsql set search_path = public, pg_temp as $$
declare
  v_conversation conversations;
begin
  update conversations c
  set opted_out_since = null, opted_out_bot = false,
    bot_enabled = c.bot_enabled or (c.opted_out_bot and not exists (
      select from messages m
      where m.conversation_id = c.id and m.author = 'human' and m.created_at > c.opted_out_since))
  where c.id = chorus.live_conversation(p->>'conversation_id') and c.opted_out_since is not null
  returning * into v_conversation;
  if not found then
    select * into v_conversation from conversations where id = chorus.live_conversation(p->>'conversation_id');
    if not found then
      return chorus.not_found('conversation');
    end if;
  end if;
  return chorus.ok(chorus.conversation(v_conversation));
end $$;

select chorus.secure_functions();
