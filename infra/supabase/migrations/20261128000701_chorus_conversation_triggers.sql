-- As 20261128000700 for conversations: one trigger before an update, which had five, and one after it, which had three.

-- What follows from what changes in the row itself.
create function chorus.complete_conversation() returns trigger
language plpgsql set search_path = '' as $$
begin
  new.updated_at := now();
  if new.unread_count > old.unread_count then  -- only new messages of the customer raise it
    new.awaiting_since := coalesce(old.awaiting_since, now());
  end if;
  if old.needs_human and not new.needs_human then
    new.needs_human_reason := null;
    new.needs_human_since := null;
    new.bot_paused_until := null;
    new.handover_key := null;
    new.handover_notice := null;
    new.handover_notice_error := null;
  end if;
  if new.bot_enabled and not old.bot_enabled then
    new.bot_enabled_at := clock_timestamp();
    if old.opted_out_since is not null then
      new.opted_out_since := null;
      new.opted_out_bot := false;
    end if;
  end if;
  return new;
end $$;

-- Who hears of it: the person who is called, people who watch, other systems. Security definer, as the other triggers that write
-- where the author of the change may not.
create function chorus.spread_conversation() returns trigger
language plpgsql security definer set search_path = '' as $$
declare
  v_switched constant boolean := new.bot_enabled <> old.bot_enabled;
  v_called constant boolean := new.needs_human and not old.needs_human;
  v_kind text;
begin
  if v_called or (new.needs_human and new.handover_key is not null and new.handover_key is distinct from old.handover_key) then
    insert into public.handover_notices (account_id, conversation_id)
    select new.account_id, new.id from public.bot_profiles b
    where b.account_id = new.account_id and b.handover_notify_number is not null
    on conflict (conversation_id) do nothing;
  end if;
  if v_switched then
    perform chorus.note_change('conversation.bot_switched', new.account_id, new.id,
      jsonb_build_object('bot_enabled', new.bot_enabled, 'needs_human', new.needs_human));
  end if;
  if v_called then
    perform chorus.note_change('conversation.needs_human', new.account_id, new.id,
      jsonb_build_object('needs_human_reason', new.needs_human_reason));
  end if;
  if new.unread_count = 0 and old.unread_count > 0 then
    perform chorus.note_change('conversation.read', new.account_id, new.id, '{}');
  end if;
  if v_switched or v_called then
    foreach v_kind in array array_remove(array[
      case when v_switched then 'conversation.bot_switched' end, case when v_called then 'conversation.needs_human' end
    ], null) loop
      if chorus.is_heard(new.account_id, v_kind) then
        perform chorus.tell(new.account_id, new.id, v_kind, jsonb_build_object('conversation', jsonb_build_object(
          'id', new.id, 'contact', chorus.told_contact(new.contact_id), 'bot_enabled', new.bot_enabled,
          'needs_human', new.needs_human, 'needs_human_reason', new.needs_human_reason,
          'needs_human_since', new.needs_human_since, 'unread_count', new.unread_count,
          'last_inbound_at', new.last_inbound_at)));
      end if;
    end loop;
  end if;
  return null;
end $$;

select chorus.secure_functions();

drop trigger touch on public.conversations;
drop trigger note_awaiting on public.conversations;
drop trigger clear_handover on public.conversations;
drop trigger note_bot_enabled on public.conversations;
drop trigger end_opt_out on public.conversations;
drop trigger note_handover on public.conversations;
drop trigger note_switches on public.conversations;
drop trigger tell_switches on public.conversations;
create trigger complete_conversation before update on public.conversations
  for each row execute function chorus.complete_conversation();
-- Short, because it is read for every statement; the function looks closely.
create trigger spread_conversation after update on public.conversations for each row
  when (new.bot_enabled <> old.bot_enabled or new.needs_human or new.unread_count = 0)
  execute function chorus.spread_conversation();
drop function chorus.note_awaiting(), chorus.clear_handover(), chorus.note_bot_enabled(), chorus.end_opt_out(),
  chorus.note_handover(), chorus.note_conversation(), chorus.tell_conversation();
