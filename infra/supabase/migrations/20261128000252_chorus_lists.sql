-- Conversations listed by what is the matter with them, and those that a search finds. The indexes of conversations take
-- about a tenth of a second for 100,000 of them, during which their writers wait.

create index conversations_needs_human on public.conversations (account_id, last_message_at desc, id desc)
  where needs_human;
create index conversations_unread on public.conversations (account_id, last_message_at desc, id desc)
  where unread_count > 0;
create index conversations_bot on public.conversations (account_id, bot_enabled, last_message_at desc, id desc);

-- The ids of a page of the conversations that meet `condition` (SQL about c), the most recently active first. With a query:
-- 1. the latest 1,500 are looked at one by one: enough for a word that is common, and for an account that has no more
-- 2. a word that is rare among them is rare, and the index knows all that have it
create function chorus.list_page(condition text, query tsquery, size integer) returns uuid[]
language plpgsql stable set search_path = public, pg_temp as $$
declare
  c_looked_at constant integer := 1500;
  c_order constant text := 'order by c.last_message_at desc, c.id desc limit';
  v_ids uuid[];
  v_candidates integer;
begin
  if query is null then
    execute format('select array(select c.id from conversations c where %s %s %s)', condition, c_order, size)
    into v_ids;
    return v_ids;
  end if;
  -- A subquery with a limit stays what it is: the planner would read all words for a join.
  execute format(
    'select array(select c.id from (select c.id from conversations c where %s %s %s) c where ('
    'select true from conversation_words w where w.conversation_id = c.id and w.words @@ $1 limit 1) limit %s)',
    condition, c_order, c_looked_at, size)
  into v_ids using query;
  if cardinality(v_ids) = size then
    return v_ids;
  end if;
  execute format('select count(*) from (select from conversations c where %s limit %s) c', condition, c_looked_at)
  into v_candidates;
  if v_candidates = c_looked_at then
    execute format(
      'with hits as materialized (select distinct w.conversation_id from conversation_words w where w.words @@ %L::tsquery)'
      ' select array(select c.id from hits h join conversations c on c.id = h.conversation_id where %s %s %s)',
      query, condition, c_order, size)
    into v_ids;
  end if;
  return v_ids;
end $$;

-- p: account_id, limit, both or neither of before_at, before_id (the last row of the previous page), and, each or null,
-- needs_human, unread, bot (booleans), q
create or replace function public.chorus_list_conversations(p jsonb) returns jsonb
language plpgsql stable set search_path = public, pg_temp as $$
declare
  v_account uuid := chorus.as_uuid(p->>'account_id');
  v_query tsquery := chorus.search_query(v_account, p->>'q');
  v_ids uuid[];
begin
  if p->>'q' is not null and v_query is null then
    return chorus.ok('[]');
  end if;
  v_ids := chorus.list_page(
    format('c.account_id = %L', v_account)
    || case p->>'needs_human' when 'true' then ' and c.needs_human' when 'false' then ' and not c.needs_human' else '' end
    || case p->>'unread' when 'true' then ' and c.unread_count > 0' when 'false' then ' and c.unread_count = 0' else '' end
    || case p->>'bot' when 'true' then ' and c.bot_enabled' when 'false' then ' and not c.bot_enabled' else '' end
    || case when p->>'before_at' is null then '' else format(
      ' and (c.last_message_at, c.id) < (%L::timestamptz, %L::uuid)', p->>'before_at', p->>'before_id') end,
    v_query, (p->>'limit')::integer);
  return chorus.ok((
    select coalesce(jsonb_agg(chorus.conversation(c) order by c.last_message_at desc, c.id desc), '[]')
    from conversations c where c.id = any (v_ids)));
end $$;

-- p: account_id, most. How many conversations the lists have: counted up to `most`, whatever there is.
create function public.chorus_count_conversations(p jsonb) returns jsonb
language sql stable set search_path = public, pg_temp as $$
  select chorus.ok(jsonb_build_object(
    'needs_human', (select count(*) from (
      select from conversations where account_id = a.id and needs_human limit a.most) c),
    'unread', (select count(*) from (
      select from conversations where account_id = a.id and unread_count > 0 limit a.most) c),
    'bot', (select count(*) from (
      select from conversations where account_id = a.id and bot_enabled limit a.most) c),
    'all', (select count(*) from (select from conversations where account_id = a.id limit a.most) c)))
  from (select chorus.as_uuid(p->>'account_id') as id, (p->>'most')::integer as most) a
$$;

select chorus.secure_functions();
