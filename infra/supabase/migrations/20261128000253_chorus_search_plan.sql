-- A search asks the statistics first whether a word is rare. Before, it looked at 1,500 conversations to find that out.

-- Common words are known to the statistics by name, and so are more of them.
alter table public.conversation_words alter column words set statistics 500;

-- About how many parts match, by the statistics: no more than a look. What they do not know is rare.
create function chorus.expected_parts(query tsquery) returns double precision
language plpgsql set search_path = public, pg_temp as $$
declare
  v_plan jsonb;
begin
  execute format('explain (format json) select from conversation_words w where w.words @@ %L::tsquery', query) into v_plan;
  return (v_plan #>> '{0,Plan,Plan Rows}')::double precision;
end $$;

-- The ids of a page of the conversations that meet `condition` (SQL about c), the most recently active first. With a query:
-- 1. words that are common: the latest conversations are looked at one by one until the page is full
-- 2. words that are rare, and those that seemed common and are rare of late: the index knows all that have them
create or replace function chorus.list_page(condition text, query tsquery, size integer) returns uuid[]
language plpgsql set search_path = public, pg_temp as $$
declare
  c_many constant integer := 3500;  -- parts: to fetch so many takes as long as to find a page by looking
  c_looked_at constant integer := 5000;
  c_order constant text := 'order by c.last_message_at desc, c.id desc limit';
  v_ids uuid[];
begin
  if query is null then
    execute format('select array(select c.id from conversations c where %s %s %s)', condition, c_order, size)
    into v_ids;
    return v_ids;
  end if;
  if chorus.expected_parts(query) > c_many then
    -- A subquery with a limit stays what it is: the planner would read all words for a join.
    execute format(
      'select array(select c.id from (select c.id from conversations c where %s %s %s) c where ('
      'select true from conversation_words w where w.conversation_id = c.id and w.words @@ $1 limit 1) limit %s)',
      condition, c_order, c_looked_at, size)
    into v_ids using query;
    if cardinality(v_ids) = size then
      return v_ids;
    end if;
  end if;
  execute format(
    'with hits as materialized (select distinct w.conversation_id from conversation_words w where w.words @@ %L::tsquery)'
    ' select array(select c.id from hits h join conversations c on c.id = h.conversation_id where %s %s %s)',
    query, condition, c_order, size)
  into v_ids;
  return v_ids;
end $$;

-- p: account_id, limit, both or neither of before_at, before_id (the last row of the previous page), and, each or null,
-- needs_human, unread, bot (booleans), q
create or replace function public.chorus_list_conversations(p jsonb) returns jsonb
language plpgsql set search_path = public, pg_temp as $$
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
    select coalesce(
      jsonb_agg(to_jsonb(c) || jsonb_build_object('contact', to_jsonb(k)) order by c.last_message_at desc, c.id desc), '[]')
    from conversations c join contacts k on k.id = c.contact_id
    where c.id = any (v_ids)));
end $$;

select chorus.secure_functions();
