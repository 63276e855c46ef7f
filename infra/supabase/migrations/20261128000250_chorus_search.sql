-- Conversations are found by what was written, and by the contact's name and number.
--
-- The words of a conversation are kept beside it, in parts of about 64 words: a message is always within one part. They
-- are written a moment later, by one replica in small pages (chorus_index_search): a message pays for one short row, and
-- an existing database is taken in the same way, with no table locked for it. Every word begins with the account's code,
-- so that a word which is common elsewhere costs an account nothing.

create table public.conversation_words (
  conversation_id uuid not null references public.conversations on delete cascade,
  part integer not null,  -- 0: the contact's name and number; the others: messages, in their order
  words tsvector not null,
  primary key (conversation_id, part)
);
-- Without the list of what is still to be sorted in, which every search would have to read.
create index conversation_words_found on public.conversation_words using gin (words) with (fastupdate = off);
select chorus.secure_table('public.conversation_words');

-- What the words do not show yet. One row a change and no key but its own: nothing that writes messages waits here.
create table public.search_pending (
  id bigint generated always as identity primary key,
  conversation_id uuid not null,
  seq bigint,       -- this message; 0: the contact
  from_seq bigint,  -- or all messages from there on; 0: all, and what is known of them goes
  check ((seq is null) <> (from_seq is null))
);
select chorus.secure_table('public.search_pending');

-- Without accents and capitals, ligatures in two letters, Arabic without vowel signs.
create function chorus.fold(words text) returns text
language sql immutable strict parallel safe set search_path = '' as $$
  select replace(replace(replace(
    translate(lower(regexp_replace(normalize(words, nfkd), '[\u0300-\u036f\u0640\u064b-\u065f\u0670]', '', 'g')),
      'øłđðħı', 'olddhi'), 'ß', 'ss'), 'æ', 'ae'), 'œ', 'oe')
$$;

-- The different words of a text. Signs and emoji stand between words; letters and digits of every script are words.
create function chorus.words(words text) returns text[]
language sql immutable strict parallel safe set search_path = '' as $$
  select coalesce(array_agg(distinct left(w, 40)), '{}')
  from regexp_split_to_table(chorus.fold(left(words, 8192)),
    '[\u0001-\u002f\u003a-\u0040\u005b-\u0060\u007b-\u00bf\u00d7\u00f7\u0600-\u060f\u061b-\u061f\u2000-\u206f\u2190-\u2bff\u3000-\u303f\ufe00-\ufe0f\uff00-\uff0f\U0001f000-\U0001faff]+') w
  where w <> ''
$$;

create function chorus.search_code(account uuid) returns text
language sql immutable strict parallel safe set search_path = '' as $$
  select left(account::text, 8)
$$;

create function chorus.search_vector(code text, words text[]) returns tsvector
language sql immutable strict parallel safe set search_path = '' as $$
  select array_to_tsvector(array(select code || w from unnest(words) w))
$$;

-- Every word of q, each as the beginning of a word; or, if q looks like a number, any part of the contact's. Null if q has
-- no word.
create function chorus.search_query(account uuid, q text) returns tsquery
language sql immutable strict parallel safe set search_path = '' as $$
  select (string_agg(format('(%s)', alternative), ' | '))::tsquery
  from (
    select string_agg(format('''%s%s'':*', chorus.search_code(account), w), ' & ') as alternative
    from (select w from unnest(chorus.words(q)) w order by length(w) desc limit 10) w
    union all
    select format('''%s#%s'':*', chorus.search_code(account), number)
    from ltrim(regexp_replace(q, '[^0-9]', '', 'g'), '0') number
    where q ~ '^[0-9[:space:]+()./-]+$' and length(number) > 2
  ) alternatives
  where alternative is not null
$$;

-- The name's words, and the ends of the number, so that any part of it is the beginning of one.
create function chorus.contact_words(contact uuid) returns text[]
language sql stable set search_path = '' as $$
  select coalesce(chorus.words(k.name), '{}')
    || array(select '#' || substr(k.wa_id, n) from generate_series(1, length(k.wa_id) - 2) n)
  from public.contacts k where k.id = contact
$$;

-- -- what the words do not show yet ------------------------------------------------------------------------------------

-- Security definer, as the other triggers that write where the author of the change may not.
create function chorus.note_for_search() returns trigger
language plpgsql security definer set search_path = '' as $$
begin
  if tg_table_name = 'messages' and tg_op = 'INSERT' then
    insert into public.search_pending (conversation_id, seq) values (new.conversation_id, new.seq);
  elsif tg_table_name = 'messages' then
    insert into public.search_pending (conversation_id, from_seq) values (new.conversation_id, 0);
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
-- Put these messages' words behind those that are known of the conversation. The caller holds the conversation.
create function chorus.add_words(conversation uuid, code text, texts text[]) returns void
language plpgsql set search_path = '' as $$
declare
  v_part integer;
  v_words tsvector;
  v_text text;
begin
  select w.part, w.words into v_part, v_words from public.conversation_words w
  where w.conversation_id = conversation and w.part > 0 order by w.part desc limit 1;
  v_part := coalesce(v_part, 1);
  v_words := coalesce(v_words, '');
  foreach v_text in array texts loop
    if length(v_words) >= 64 then
      insert into public.conversation_words values (conversation, v_part, v_words)
      on conflict (conversation_id, part) do update set words = excluded.words;
      v_part := v_part + 1;
      v_words := '';
    end if;
    v_words := v_words || chorus.search_vector(code, chorus.words(v_text));
  end loop;
  insert into public.conversation_words values (conversation, v_part, v_words)
  on conflict (conversation_id, part) do update set words = excluded.words;
end $$;

-- p: rows, messages. Work off at most so many pending rows, and about so many messages; those of one conversation together.
-- A conversation that is about to be deleted or merged is left for the next call. Answers how many rows are done.
create function public.chorus_index_search(p jsonb) returns jsonb
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
      else
        select array_agg(m.text order by m.seq) into v_texts
        from messages m
        where m.conversation_id = v_conversation.id and m.seq = any (v_work.seqs) and m.text is not null;
      end if;
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

-- Last, because they lock the tables until the end of this transaction: for a moment.
create trigger note_for_search after update of name, wa_id on public.contacts for each row
  when (new.name is distinct from old.name or new.wa_id is distinct from old.wa_id)
  execute function chorus.note_for_search();
create trigger note_for_search after insert or update of contact_id on public.conversations for each row
  execute function chorus.note_for_search();
create trigger note_for_search after insert on public.merged_conversations for each row
  execute function chorus.note_for_search();
create trigger note_for_search after insert on public.messages for each row
  when (new.text is not null) execute function chorus.note_for_search();
create trigger note_change_for_search after update of text on public.messages for each row
  when (new.text is distinct from old.text) execute function chorus.note_for_search();

select chorus.secure_functions();
