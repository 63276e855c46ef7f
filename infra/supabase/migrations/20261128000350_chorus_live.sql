-- What a call has changed, for people who watch: triggers note it beside the transaction, and the answer of the call takes it
-- along. So a replica tells its console's readers after the commit, whichever function made the change, and without a
-- further query. What SQL or another program changes is not told.

-- What this transaction has changed so far, as JSON objects with a comma between them. Bounded: an UPDATE by hand may change
-- a million rows.
create function chorus.note_change(kind text, account uuid, conversation uuid, facts jsonb) returns void
language sql set search_path = '' as $$
  select set_config('chorus.changes', concat_ws(',', nullif(noted, ''), jsonb_build_object(
    'type', kind, 'account_id', account, 'conversation_id', conversation, 'facts', facts)::text), true)
  from coalesce(current_setting('chorus.changes', true), '') noted
  where length(noted) < 32768
$$;

create or replace function chorus.ok(value jsonb) returns jsonb
language sql stable set search_path = '' as $$
  select case when noted = '' then jsonb_build_object('ok', value)
    else jsonb_build_object('ok', value, 'changes', ('[' || noted || ']')::jsonb) end
  from coalesce(current_setting('chorus.changes', true), '') noted
$$;

-- Security definer, as the other triggers. An outbound message is there for people when it has a wamid, or has failed.
create function chorus.note_message() returns trigger
language plpgsql security definer set search_path = '' as $$
declare
  v_kind text := case
    when new.direction = 'inbound' then 'message.received'
    when new.status <> 'failed' and new.wa_message_id is not null
      and (tg_op = 'INSERT' or old.wa_message_id is null) then 'message.sent'
    else 'message.status'
  end;
begin
  perform chorus.note_change(v_kind, new.account_id, new.conversation_id, jsonb_build_object(
    'message_id', new.id, 'direction', new.direction, 'author', new.author, 'status', new.status));
  return null;
end $$;
create trigger note_new after insert on public.messages for each row
  when (new.type <> 'system' and (new.direction = 'inbound' or new.wa_message_id is not null))
  execute function chorus.note_message();
create trigger note_change after update on public.messages for each row
  when (new.text is distinct from old.text or new.wa_message_id is distinct from old.wa_message_id
    or (new.status <> old.status and new.status in ('delivered', 'read', 'played', 'failed')))
  execute function chorus.note_message();

create function chorus.note_conversation() returns trigger
language plpgsql security definer set search_path = '' as $$
begin
  if new.bot_enabled <> old.bot_enabled then
    perform chorus.note_change('conversation.bot_switched', new.account_id, new.id,
      jsonb_build_object('bot_enabled', new.bot_enabled, 'needs_human', new.needs_human));
  end if;
  if new.needs_human and not old.needs_human then
    perform chorus.note_change('conversation.needs_human', new.account_id, new.id,
      jsonb_build_object('needs_human_reason', new.needs_human_reason));
  end if;
  if new.unread_count = 0 and old.unread_count > 0 then
    perform chorus.note_change('conversation.read', new.account_id, new.id, '{}');
  end if;
  return null;
end $$;
create trigger note_switches after update on public.conversations for each row
  when (new.bot_enabled <> old.bot_enabled or (new.needs_human and not old.needs_human)
    or (new.unread_count = 0 and old.unread_count > 0))
  execute function chorus.note_conversation();

create function chorus.note_account() returns trigger
language plpgsql security definer set search_path = '' as $$
begin
  perform chorus.note_change(
    case when new.blocked_since is null then 'account.restored' else 'account.blocked' end, new.id, null,
    jsonb_build_object('blocked_reason', new.blocked_reason));
  return null;
end $$;
create trigger note_block after update on public.whatsapp_accounts for each row
  when ((new.blocked_since is null) <> (old.blocked_since is null))
  execute function chorus.note_account();

create function chorus.note_profile() returns trigger
language plpgsql security definer set search_path = '' as $$
begin
  perform chorus.note_change('profile.changed', new.account_id, null, jsonb_build_object('updated_at', new.updated_at));
  return null;
end $$;
create trigger note_change after insert or update on public.bot_profiles for each row
  execute function chorus.note_profile();

select chorus.secure_functions();
