-- What a message costs the search: the conversations of a page are held, read and put away in one statement each, not in one
-- for every conversation, and the statements are planned once for a connection. What is found stays as it is.

-- A part of the caller's statement, since it is one expression that sets nothing.
create or replace function chorus.search_code(account uuid) returns text
language sql immutable strict parallel safe
return left(account::text, 8);

-- Without accents and capitals, ligatures in two letters, Arabic without vowel signs. Plain ASCII has capitals only.
create or replace function chorus.fold(words text) returns text
language sql immutable strict parallel safe set search_path = '' as $$
  select case when octet_length(words) = length(words) then lower(words) else replace(replace(replace(
    translate(lower(regexp_replace(normalize(words, nfkd), '[\u0300-\u036f\u0640\u064b-\u065f\u0670]', '', 'g')),
      'øłđðħı', 'olddhi'), 'ß', 'ss'), 'æ', 'ae'), 'œ', 'oe') end
$$;

-- p: rows, messages. Work off at most so many pending rows, and about so many messages; those of one conversation together.
-- A conversation that is about to be deleted or merged is left for the next call. One call at a time: 0 while another one
-- works. Answers how many rows are done.
create or replace function public.chorus_index_search(p jsonb) returns jsonb
language plpgsql set search_path = public, pg_temp set plan_cache_mode = force_generic_plan as $$
declare
  c_page constant integer := 1000;
  v_rows bigint[];
  v_conversations uuid[];
  v_not_held uuid[];
  v_work record;
  v_texts text[];
  v_before text[];
  v_last bigint;
  v_messages integer := 0;
  v_done bigint[];
begin
  if not pg_try_advisory_xact_lock(hashtext('chorus.search')) then
    return chorus.ok('0');
  end if;
  select array_agg(w.id), array_agg(distinct w.conversation_id) into v_rows, v_conversations
  from (
    select id, conversation_id from search_pending order by id limit (p->>'rows')::integer for update skip locked
  ) w;
  if v_rows is null then
    return chorus.ok('0');
  end if;
  v_not_held := array(
    select unnest(v_conversations)
    except
    select held.id from (select id from conversations where id = any (v_conversations) for key share skip locked) held
  );
  -- Of those, what has been deleted has no words to come.
  v_done := array(
    select w.id from search_pending w
    where w.id = any (v_rows) and w.conversation_id = any (v_not_held)
      and not exists (select from conversations c where c.id = w.conversation_id)
  );
  insert into conversation_words
  select c.id, 0,
    coalesce(chorus.search_vector(chorus.search_code(c.account_id), chorus.contact_words(c.contact_id)), '')
  from (
    select distinct w.conversation_id as id from search_pending w
    where w.id = any (v_rows) and w.seq = 0 and w.conversation_id <> all (v_not_held)
  ) named join conversations c using (id)
  on conflict (conversation_id, part) do update set words = excluded.words;
  for v_work in
    select c.id, chorus.search_code(c.account_id) as code, w.ids, w.from_seq,
      array(
        select m.text from messages m
        where m.conversation_id = c.id and m.seq = any (w.seqs) and m.text is not null
          and coalesce(m.seq < w.from_seq, true)
        order by m.seq
      ) as texts
    from (
      select conversation_id, array_agg(id) as ids, min(from_seq) as from_seq, array_agg(seq) filter (where seq > 0) as seqs
      from search_pending where id = any (v_rows) and conversation_id <> all (v_not_held) group by conversation_id
    ) w join conversations c on c.id = w.conversation_id
  loop
    exit when v_messages >= (p->>'messages')::integer;
    v_texts := v_work.texts;
    if v_work.from_seq is not null then
      if v_work.from_seq = 0 then
        delete from conversation_words where conversation_id = v_work.id and part > 0;
      end if;
      select array_agg(m.text order by m.seq), max(m.seq) into v_before, v_last
      from (
        select text, seq from messages
        where conversation_id = v_work.id and seq >= v_work.from_seq and text is not null
        order by seq limit c_page
      ) m;
      if cardinality(v_before) = c_page then
        insert into search_pending (conversation_id, from_seq) values (v_work.id, v_last + 1);
      end if;
      v_texts := v_before || v_texts;
    end if;
    if v_texts <> '{}' then
      perform chorus.add_words(v_work.id, v_work.code, v_texts);
      v_messages := v_messages + cardinality(v_texts);
    end if;
    v_done := v_done || v_work.ids;
  end loop;
  delete from search_pending where id = any (v_done);
  return chorus.ok(to_jsonb(cardinality(v_done)));
end $$;

select chorus.secure_functions();
