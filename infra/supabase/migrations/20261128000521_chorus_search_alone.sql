-- The words of messages that are written down by two calls at once, or while a long conversation is taken in, are all found.

-- p: rows, messages. As before, one call at a time: a call that has taken longer than its caller waits goes on beside the next
-- one, and each would put its words in the place of the other's. Answers 0 while another one works.
-- Of a conversation that is taken in page by page, messages before the page that have gained words are done, too.
create or replace function public.chorus_index_search(p jsonb) returns jsonb
language plpgsql set search_path = public, pg_temp as $$
declare
  c_page constant integer := 1000;
  v_work record;
  v_conversation conversations;
  v_texts text[];
  v_last bigint;
  v_messages integer := 0;
  v_done bigint := 0;
begin
  if not pg_try_advisory_xact_lock(hashtext('chorus.search')) then
    return chorus.ok('0');
  end if;
  for v_work in
    with page as (
      select * from search_pending order by id limit (p->>'rows')::integer for update skip locked
    )
    select w.conversation_id, array_agg(w.id) as ids, min(w.from_seq) as from_seq,
      coalesce(bool_or(w.seq = 0), false) as contact, array_agg(w.seq) filter (where w.seq > 0) as seqs
    from page w group by w.conversation_id
  loop
    exit when v_messages >= (p->>'messages')::integer;
    select * into v_conversation from conversations where id = v_work.conversation_id for key share skip locked;
    if not found then
      continue when exists (select from conversations where id = v_work.conversation_id);
    else
      if v_work.contact then
        insert into conversation_words values (v_conversation.id, 0, coalesce(chorus.search_vector(
          chorus.search_code(v_conversation.account_id), chorus.contact_words(v_conversation.contact_id)), ''))
        on conflict (conversation_id, part) do update set words = excluded.words;
      end if;
      v_texts := null;
      if v_work.from_seq is not null then
        if v_work.from_seq = 0 then
          delete from conversation_words where conversation_id = v_conversation.id and part > 0;
        end if;
        select array_agg(m.text order by m.seq), max(m.seq) into v_texts, v_last
        from (
          select text, seq from messages
          where conversation_id = v_conversation.id and seq >= v_work.from_seq and text is not null
          order by seq limit c_page
        ) m;
        if cardinality(v_texts) = c_page then
          insert into search_pending (conversation_id, from_seq) values (v_conversation.id, v_last + 1);
        end if;
      end if;
      select v_texts || array_agg(m.text order by m.seq) into v_texts
      from messages m
      where m.conversation_id = v_conversation.id and m.seq = any (v_work.seqs) and m.text is not null
        and coalesce(m.seq < v_work.from_seq, true);
      if v_texts is not null then
        perform chorus.add_words(v_conversation.id, chorus.search_code(v_conversation.account_id), v_texts);
        v_messages := v_messages + cardinality(v_texts);
      end if;
    end if;
    delete from search_pending where id = any (v_work.ids);
    v_done := v_done + cardinality(v_work.ids);
  end loop;
  return chorus.ok(to_jsonb(v_done));
end $$;

select chorus.secure_functions();
