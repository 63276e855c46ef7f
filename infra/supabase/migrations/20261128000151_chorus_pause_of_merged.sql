-- Two conversations turn out to be one while a person is to come in the one that disappears: the other one waits, too. Written
-- down as merged before it is deleted, in the transaction that holds both.

create function chorus.keep_pause() returns trigger
language plpgsql set search_path = '' as $$
begin
  update public.conversations k
  set bot_paused_until = l.bot_paused_until, handover_key = l.handover_key
  from public.conversations l
  where k.id = new.into_id and l.id = new.id and l.bot_paused_until > now()
    and coalesce(k.bot_paused_until < l.bot_paused_until, true);
  return null;
end $$;
create trigger keep_pause after insert on public.merged_conversations for each row execute function chorus.keep_pause();

select chorus.secure_functions();
