-- A list of conversations shows how each one ends.

-- What was written last, cut to what a list has room for. Reactions are none of it.
create function chorus.last_message(conversation uuid) returns jsonb
language sql stable set search_path = public, pg_temp as $$
  select jsonb_build_object('author', m.author, 'type', m.type, 'text', left(m.text, 200), 'status', m.status)
  from messages m where m.conversation_id = conversation and m.type <> 'reaction'
  order by m.seq desc limit 1
$$;

create or replace function public.chorus_get_conversation(p jsonb) returns jsonb
language sql stable set search_path = public, pg_temp as $$
  select chorus.ok((
    select chorus.conversation(c) || jsonb_build_object('last_message', chorus.last_message(c.id))
    from conversations c where c.id = chorus.as_uuid(p->>'conversation_id')
  ))
$$;

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
      jsonb_agg(to_jsonb(c) || jsonb_build_object('contact', to_jsonb(k), 'last_message', chorus.last_message(c.id))
        order by c.last_message_at desc, c.id desc), '[]')
    from conversations c join contacts k on k.id = c.contact_id
    where c.id = any (v_ids)));
end $$;

select chorus.secure_functions();
