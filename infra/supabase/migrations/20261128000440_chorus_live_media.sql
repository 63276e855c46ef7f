-- People who watch hear of files: when a row is made, when its file is kept or will not be, and when it is known what it says. The
-- events of messages say what is known of their file, too. Without its name and its words, as live events have none.

create function chorus.live_medium(m public.media) returns jsonb
language sql immutable set search_path = '' as $$
  select jsonb_build_object('kind', m.kind, 'mime', m.mime, 'size', m.size, 'state', m.state,
    'is_described', m.description is not null)
$$;

-- Security definer, as the other triggers.
create function chorus.note_media() returns trigger
language plpgsql security definer set search_path = '' as $$
begin
  perform chorus.note_change('message.media', new.account_id, m.conversation_id,
    jsonb_build_object('message_id', m.id, 'media', chorus.live_medium(new)))
  from public.messages m where m.id = new.message_id;
  return null;
end $$;
create trigger note_new after insert on public.media for each row
  when (new.message_id is not null)
  execute function chorus.note_media();
create trigger note_change after update on public.media for each row
  when (new.message_id is not null
    and (new.state <> old.state or new.description is distinct from old.description))
  execute function chorus.note_media();

create or replace function chorus.note_message() returns trigger
language plpgsql security definer set search_path = '' as $$
declare
  v_kind text := case
    when new.direction = 'inbound' then 'message.received'
    when new.status <> 'failed' and new.wa_message_id is not null
      and (tg_op = 'INSERT' or old.wa_message_id is null) then 'message.sent'
    else 'message.status'
  end;
  v_facts jsonb := jsonb_build_object(
    'message_id', new.id, 'direction', new.direction, 'author', new.author, 'status', new.status);
begin
  if new.type in ('image', 'audio', 'video', 'document', 'sticker') then  -- a text costs no look
    v_facts := v_facts || coalesce((
      select jsonb_build_object('media', chorus.live_medium(d)) from public.media d
      where d.message_id = new.id or (new.outbound_key like '%#0' and d.reply_key = regexp_replace(new.outbound_key, '#0$', ''))
      limit 1), '{}');
  end if;
  perform chorus.note_change(v_kind, new.account_id, new.conversation_id, v_facts);
  return null;
end $$;

select chorus.secure_functions();
