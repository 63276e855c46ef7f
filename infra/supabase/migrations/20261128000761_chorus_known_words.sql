-- A message whose words are all known already ("ok", "thank you") writes nothing for the search.

-- Put these messages' words behind those that are known of the conversation. The caller holds the conversation.
create or replace function chorus.add_words(conversation uuid, code text, texts text[]) returns void
language plpgsql set search_path = '' as $$
declare
  v_part integer;
  v_known tsvector;  -- as the part is stored
  v_words tsvector;
  v_text text;
begin
  select w.part, w.words into v_part, v_known from public.conversation_words w
  where w.conversation_id = conversation and w.part > 0 order by w.part desc limit 1;
  v_part := coalesce(v_part, 1);
  v_words := coalesce(v_known, '');
  foreach v_text in array texts loop
    if length(v_words) >= 64 then
      insert into public.conversation_words values (conversation, v_part, v_words)
      on conflict (conversation_id, part) do update set words = excluded.words;
      v_part := v_part + 1;
      v_known := null;
      v_words := '';
    end if;
    v_words := v_words || chorus.search_vector(code, chorus.words(v_text));
  end loop;
  if v_words is distinct from v_known then
    insert into public.conversation_words values (conversation, v_part, v_words)
    on conflict (conversation_id, part) do update set words = excluded.words;
  end if;
end $$;

select chorus.secure_functions();
