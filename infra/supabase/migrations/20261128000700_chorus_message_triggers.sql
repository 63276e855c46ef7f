-- A message has one trigger for each of its moments. There were three before an insert, four after it and three after an update,
-- most of them with a condition: the server reads the text of a condition anew for every statement, which took longer than
-- the triggers themselves. What is refused, completed, told, noted and searched stays as it is.

-- Every name in these two has its schema, and they run with the rights of the caller.
create or replace function chorus.touch() returns trigger
language plpgsql as $$
begin
  new.updated_at := pg_catalog.now();
  return new;
end $$;

-- 1. a message that was erased is refused
-- 2. one that a person wrote names its sender, and the first with a file the file's kind
create function chorus.complete_message() returns trigger
language plpgsql set search_path = '' as $$
begin
  if new.wa_message_id is not null and exists (
    select from public.erased_messages e
    where e.digest = sha256(convert_to(new.account_id::text || ' ' || new.wa_message_id, 'utf8'))  -- chorus.message_digest
  ) then
    raise exception 'this message was erased' using errcode = 'CH001';
  end if;
  if new.author = 'human' and new.outbound_key is not null then
    new.sent_by := (
      select r.sent_by from public.replies r where r.reply_key = regexp_replace(new.outbound_key, '#[0-9]+$', ''));
    if new.outbound_key like '%#0' then
      new.type := coalesce(
        (select m.kind from public.media m where m.reply_key = regexp_replace(new.outbound_key, '#0$', '')), new.type);
    end if;
  end if;
  return new;
end $$;

-- Who hears of it:
-- 1. the search, of new text
-- 2. people who watch: an outbound message is there for them when it has a wamid, or has failed
-- 3. other systems: a message has gone out when its wamid is known: once, and then the receiver can name it to WhatsApp. A
--    status that comes before that is told after it; a failure also where the message never got a wamid
-- Security definer, as the other triggers that write where the author of the change may not.
create function chorus.spread_message() returns trigger
language plpgsql security definer set search_path = '' as $$
declare
  v_went_out boolean := new.direction = 'outbound' and new.wa_message_id is not null
    and (tg_op = 'INSERT' or old.wa_message_id is null);
  v_is_noted boolean;
  v_told text[];
  v_kind text;
  v_facts jsonb;
  v_noted text;  -- to assign is cheaper than `perform`, which starts a statement
begin
  if tg_op = 'INSERT' then
    if new.text is not null then
      insert into public.search_pending (conversation_id, seq) values (new.conversation_id, new.seq);
    end if;
    v_is_noted := new.type <> 'system' and (new.direction = 'inbound' or v_went_out);
    v_told := case
      when v_is_noted and new.direction = 'inbound' then '{message.received}'
      when v_went_out and new.status <> 'failed' then '{message.sent}'
    end;
  else
    if new.text is distinct from old.text then
      if old.text is null or starts_with(new.text, old.text) then
        insert into public.search_pending (conversation_id, seq) values (new.conversation_id, new.seq);
      else
        insert into public.search_pending (conversation_id, from_seq) values (new.conversation_id, 0);
      end if;
    end if;
    v_is_noted := new.text is distinct from old.text or new.wa_message_id is distinct from old.wa_message_id
      or (new.status <> old.status and new.status in ('delivered', 'read', 'played', 'failed'));
    v_told := case when new.direction = 'outbound' then array_remove(array[
      case when v_went_out and new.status <> 'failed' then 'message.sent' end,
      case
        when new.status = 'failed' and old.status <> 'failed' then 'message.status'
        when new.status in ('delivered', 'read', 'played') and new.wa_message_id is not null
          and (v_went_out or new.status <> old.status) then 'message.status'
      end
    ], null) end;
  end if;
  if v_is_noted then
    v_facts := jsonb_build_object(
      'message_id', new.id, 'direction', new.direction, 'author', new.author, 'status', new.status);
    if new.type in ('image', 'audio', 'video', 'document', 'sticker') then  -- a text costs no look
      v_facts := v_facts || coalesce((
        select jsonb_build_object('media', chorus.live_medium(d)) from public.media d
        where d.message_id = new.id or (new.outbound_key like '%#0' and d.reply_key = regexp_replace(new.outbound_key, '#0$', ''))
        limit 1), '{}');
    end if;
    v_noted := chorus.noted(
      case
        when new.direction = 'inbound' then 'message.received'
        when v_went_out and new.status <> 'failed' then 'message.sent'
        else 'message.status'
      end,
      new.account_id, new.conversation_id, v_facts);
  end if;
  if v_told <> '{}' then
    foreach v_kind in array v_told loop
      if chorus.is_heard(new.account_id, v_kind) then
        perform chorus.tell(new.account_id, new.conversation_id, v_kind,
          case v_kind when 'message.status' then chorus.told_message(new) #- '{message,text}' else chorus.told_message(new) end);
      end if;
    end loop;
  end if;
  return null;
end $$;

select chorus.secure_functions();

drop trigger refuse_erased on public.messages;
drop trigger name_sender on public.messages;
drop trigger name_kind on public.messages;
drop trigger note_for_search on public.messages;
drop trigger note_change_for_search on public.messages;
drop trigger note_new on public.messages;
drop trigger note_change on public.messages;
drop trigger tell_received on public.messages;
drop trigger tell_status on public.messages;
create trigger complete_message before insert on public.messages for each row execute function chorus.complete_message();
create trigger spread_message after insert or update on public.messages for each row execute function chorus.spread_message();
drop function chorus.name_sender(), chorus.name_kind(), chorus.note_message(), chorus.tell_message();
