-- Who sent a person's message: the user of the API, with the reply and with each message that it became. Null where it
-- is not known: the bot's, those written in the WhatsApp Business app, and what was sent before.

alter table public.replies add column sent_by text;
alter table public.messages add column sent_by text;

-- A message takes it from the reply that it is a part of. Only a person's: the bot's messages cost nothing more.
create function chorus.name_sender() returns trigger
language plpgsql set search_path = '' as $$
begin
  new.sent_by := (
    select r.sent_by from public.replies r where r.reply_key = regexp_replace(new.outbound_key, '#[0-9]+$', ''));
  return new;
end $$;
create trigger name_sender before insert on public.messages for each row
  when (new.author = 'human' and new.outbound_key is not null)
  execute function chorus.name_sender();

-- p: as of chorus_open_reply, and sent_by. The first who opened the reply stays its sender.
create function public.chorus_open_human_reply(p jsonb) returns jsonb
language plpgsql set search_path = public, pg_temp as $$
declare
  v_answer jsonb := chorus_open_reply(p);
  v_sent_by text;
begin
  if v_answer ? 'ok' then
    update replies set sent_by = p->>'sent_by' where reply_key = v_answer->'ok'->>'key' and sent_by is null;
    select sent_by into v_sent_by from replies where reply_key = v_answer->'ok'->>'key';
    v_answer := jsonb_set(v_answer, '{ok,sent_by}', to_jsonb(v_sent_by));
  end if;
  return v_answer;
end $$;

select chorus.secure_functions();
