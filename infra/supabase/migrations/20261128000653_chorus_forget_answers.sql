-- What receivers of events answered goes with MESSAGE_RETENTION_DAYS, too: they may repeat what they were told.

-- p: days (0: for ever), after (the id of a conversation, or null), conversations, messages. Of so many conversations, in the
-- order of their ids, what is older goes: messages, replies, and the words of the search; at most about so many messages.
-- Each conversation is read from its oldest message on, by the index that lists it, and only as far as they are too old.
-- A reply that has not ended stays while it can be sent: WhatsApp's window is open, and a worker had it in the last day.
-- Of the answers of receivers the oldest go, as many at most.
-- A conversation that a call is writing to is left for the next round. Digests of erased messages go after 8 days.
-- Answers {"messages": how many went, "replies", "last": where the next call goes on, null: this was the end}.
create or replace function public.chorus_forget_messages(p jsonb) returns jsonb
language plpgsql set search_path = public, pg_temp as $$
declare
  v_days integer := (p->>'days')::integer;
  v_before timestamptz := now() - make_interval(days => v_days);
  v_most integer := (p->>'messages')::integer;
  v_after uuid := chorus.as_uuid(p->>'after');
  v_seen integer := 0;
  v_messages bigint := 0;
  v_replies bigint := 0;
  v_conversation record;
  v_is_closed boolean;
  v_last uuid;
  v_gone bigint;
begin
  delete from erased_messages where digest in (
    select digest from erased_messages where erased_at < now() - interval '8 days' limit 1000);
  if v_days = 0 then
    return chorus.ok('{"messages": 0, "replies": 0, "last": null}');
  end if;
  delete from webhook_deliveries where id in (
    select d.id from (select id, at from webhook_deliveries order by id limit v_most) d where d.at < v_before);
  for v_conversation in
    select c.id,
      (select m.created_at from messages m where m.conversation_id = c.id order by m.seq limit 1) < v_before as has_messages,
      exists (select from replies r where r.conversation_id = c.id and r.created_at < v_before) as has_replies
    from conversations c
    where v_after is null or c.id > v_after
    order by c.id limit (p->>'conversations')::integer
  loop
    v_seen := v_seen + 1;
    if v_conversation.has_messages or v_conversation.has_replies then
      select coalesce(last_inbound_at < now() - interval '24 hours', true) into v_is_closed
      from conversations where id = v_conversation.id for no key update skip locked;
      if found then
        delete from messages where id in (
          select o.id
          from (select m.id, m.created_at from messages m where m.conversation_id = v_conversation.id order by m.seq limit v_most) o
          where o.created_at < v_before);
        get diagnostics v_gone = row_count;
        v_messages := v_messages + v_gone;
        if v_gone > 0 then
          insert into search_pending (conversation_id, from_seq) values (v_conversation.id, 0);
        end if;
        -- A reply comes before its conversation in the order of locks: one that is in use is not waited for.
        delete from replies where reply_key in (
          select r.reply_key from replies r
          where r.conversation_id = v_conversation.id and r.created_at < v_before
            and (r.state in ('sent', 'failed', 'silenced') or v_is_closed or r.updated_at < now() - interval '1 day')
          for update skip locked);
        get diagnostics v_gone = row_count;
        v_replies := v_replies + v_gone;
      end if;
    end if;
    exit when v_messages >= v_most;
    v_last := v_conversation.id;  -- one that may have more is begun again
  end loop;
  if v_messages < v_most and v_seen < (p->>'conversations')::integer then
    v_last := null;
  elsif v_last is null then
    v_last := coalesce(v_after, '00000000-0000-0000-0000-000000000000');
  end if;
  return chorus.ok(jsonb_build_object('messages', v_messages, 'replies', v_replies, 'last', v_last));
end $$;

select chorus.secure_functions();
