-- Messages older than MESSAGE_RETENTION_DAYS go, and a message that gains words is found without doing the others again.

-- As before; what a message says in addition (the description of a file, say) is put behind the rest.
create or replace function chorus.note_for_search() returns trigger
language plpgsql security definer set search_path = '' as $$
begin
  if tg_table_name = 'messages' then
    if tg_op = 'INSERT' or old.text is null or starts_with(new.text, old.text) then
      insert into public.search_pending (conversation_id, seq) values (new.conversation_id, new.seq);
    else
      insert into public.search_pending (conversation_id, from_seq) values (new.conversation_id, 0);
    end if;
  elsif tg_table_name = 'conversations' then
    insert into public.search_pending (conversation_id, seq) values (new.id, 0);
  elsif tg_table_name = 'contacts' then
    insert into public.search_pending (conversation_id, seq)
    select c.id, 0 from public.conversations c where c.contact_id = new.id;
  else
    insert into public.search_pending (conversation_id, from_seq) values (new.into_id, 0);
    insert into public.search_pending (conversation_id, seq) values (new.into_id, 0);
  end if;
  return null;
end $$;

-- p: days (0: for ever), after (the id of a conversation, or null), conversations, messages. Of so many conversations, in the
-- order of their ids, what is older goes: messages, finished replies, and the words of the search; at most about so many
-- messages. Each conversation is read from its oldest message on, by the index that lists it, and only as far as they are
-- too old. A conversation that a call is writing to is left for the next round. Digests of erased messages go after 8 days.
-- Answers {"messages": how many went, "replies", "last": where the next call goes on, null: this was the end}.
create function public.chorus_forget_messages(p jsonb) returns jsonb
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
  v_last uuid;
  v_gone bigint;
begin
  delete from erased_messages where digest in (
    select digest from erased_messages where erased_at < now() - interval '8 days' limit 1000);
  if v_days = 0 then
    return chorus.ok('{"messages": 0, "replies": 0, "last": null}');
  end if;
  for v_conversation in
    select c.id, (select m.created_at from messages m where m.conversation_id = c.id order by m.seq limit 1) < v_before as is_old
    from conversations c
    where v_after is null or c.id > v_after
    order by c.id limit (p->>'conversations')::integer
  loop
    v_seen := v_seen + 1;
    if v_conversation.is_old then
      perform from conversations where id = v_conversation.id for no key update skip locked;
      if found then
        delete from messages where id in (
          select o.id
          from (select m.id, m.created_at from messages m where m.conversation_id = v_conversation.id order by m.seq limit v_most) o
          where o.created_at < v_before);
        get diagnostics v_gone = row_count;
        v_messages := v_messages + v_gone;
        delete from replies where conversation_id = v_conversation.id and created_at < v_before
          and state in ('sent', 'failed', 'silenced');
        get diagnostics v_gone = row_count;
        v_replies := v_replies + v_gone;
        insert into search_pending (conversation_id, from_seq) values (v_conversation.id, 0);
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
