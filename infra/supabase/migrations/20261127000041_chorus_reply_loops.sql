-- A robot on the other side answers every reply: how many automatic replies a conversation had of late.

alter table public.conversations
  add column bot_enabled_at timestamptz;  -- when the bot was last turned on again; null: never turned off

create function chorus.note_bot_enabled() returns trigger
language plpgsql set search_path = '' as $$
begin
  new.bot_enabled_at := clock_timestamp();
  return new;
end $$;
create trigger note_bot_enabled before update on public.conversations for each row
  when (new.bot_enabled and not old.bot_enabled) execute function chorus.note_bot_enabled();

-- p: conversation_id, minutes. Replies of the bot that went out in the last so many minutes. Whoever turned the bot on
-- again has seen the earlier ones. At most 1000 are counted.
create function public.chorus_count_bot_replies(p jsonb) returns jsonb
language sql stable set search_path = public, pg_temp as $$
  select chorus.ok(to_jsonb(count(*)))
  from (
    select from replies r join conversations c on c.id = r.conversation_id
    where r.conversation_id = chorus.as_uuid(p->>'conversation_id')
      and r.created_at > greatest(now() - make_interval(mins => (p->>'minutes')::integer), c.bot_enabled_at)
      and r.author = 'bot' and (r.state = 'sent' or r.part > 0)
    limit 1000
  ) sent
$$;

select chorus.secure_functions();
