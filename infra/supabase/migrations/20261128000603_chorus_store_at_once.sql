-- Storing what a customer wrote reads and writes every row once. What is rare (groups, changes of ids, edits) is looked for in the
-- message itself before the database is asked about it.
--
-- These functions have the search_path of the one that calls them, which is empty: to set it again takes as long as a look at a row.

-- The id of the conversation of a person who is known as they write, with the same name, locked as chorus.resolve_contact and then
-- chorus.lock_conversation_of lock; null if those must decide. The contact's share lock keeps a merge from deleting it under us. Rows
-- that another call changed meanwhile stay locked although they no longer fit: the subtransaction gives those locks back, or the
-- call that holds the ids would wait for us while we wait for the ids.
create function chorus.known_conversation(account uuid, wa text, usr text, display_name text, card text, at timestamptz)
returns uuid
language plpgsql as $$
declare
  v_conversation uuid;
begin
  if wa is not null then
    select c.id into strict v_conversation
    from public.contacts k join public.conversations c on c.contact_id = k.id
    where k.account_id = account and k.wa_id = wa and (usr is null or k.user_id = usr)
      and (display_name is null or k.name = display_name)
      and (usr is not null or coalesce((
        -- As chorus.former_owner.
        select i.contact_id from public.contact_ids i
        where i.account_id = account and i.kind = 'wa_id' and i.value = wa and i.until > at and i.until < 'infinity'
        order by i.until limit 1), k.id) = k.id)
      and (card is null or exists (select from public.contact_ids i
        where i.contact_id = k.id and i.kind = 'wa_id' and i.value = card and i.until = 'infinity'))
    for key share of k for no key update of c;
  else
    select c.id into strict v_conversation
    from public.contacts k join public.conversations c on c.contact_id = k.id
    where k.account_id = account and k.user_id = usr
      and (display_name is null or k.name = display_name)
      and (card is null or exists (select from public.contact_ids i
        where i.contact_id = k.id and i.kind = 'wa_id' and i.value = card and i.until = 'infinity'))
    for key share of k for no key update of c;
  end if;
  return v_conversation;
exception when no_data_found then
  return null;
end $$;

-- The id of the conversation to which the messages of a person belong, locked; null if there is no such account. Stored before, all
-- of them: where they are, whatever became of the ids since.
drop function chorus.conversation_of_run(uuid, jsonb, jsonb);
create function chorus.conversation_of_run(account uuid, p jsonb, run jsonb) returns uuid
language plpgsql as $$
declare
  v_may_change constant boolean := run @> '[{"type": "system"}]';
  v_wa constant text := chorus.digits(p->>'wa_id');
  v_conversation uuid;
  v_contact uuid;
  v_known text[];
  v_at timestamptz;
  v_change record;
begin
  -- A change of ids happens once: of two calls with the same report, one sees the other's.
  if v_may_change then
    for v_change in
      select m->>'wa_message_id' as wamid from jsonb_array_elements(run) m where chorus.reports_a_change(m) order by 1
    loop
      perform chorus.lock_wamid(account, v_change.wamid);
    end loop;
  end if;
  select array(
    select s.wa_message_id from public.messages s
    where s.account_id = account and s.wa_message_id = any (array(select m->>'wa_message_id' from jsonb_array_elements(run) m)))
  into v_known from public.whatsapp_accounts a where a.id = account;
  if not found then
    return null;
  end if;
  if v_known = '{}' then
    v_at := (run->0->>'timestamp')::timestamptz;
  else
    select (m->>'timestamp')::timestamptz into v_at
    from jsonb_array_elements(run) with ordinality as t (m, position)
    where m->>'wa_message_id' <> all (v_known)
    order by position limit 1;
    if not found then
      select k.id into v_contact
      from public.messages s join public.conversations c on c.id = s.conversation_id
        join public.contacts k on k.id = c.contact_id
      where s.account_id = account and s.wa_message_id = run->0->>'wa_message_id' and s.direction = 'inbound'
        and k.group_id is null
      for key share of k;
    end if;
  end if;
  if v_contact is null then
    v_at := chorus.not_in_the_future(v_at);
    if not v_may_change then
      v_conversation := chorus.known_conversation(
        account, v_wa, p->>'user_id', p->>'name', nullif(chorus.digits(p->>'other_wa_id'), v_wa), coalesce(v_at, now()));
      if v_conversation is not null then
        return v_conversation;
      end if;
    end if;
    v_contact := chorus.resolve_contact(account, p->>'wa_id', p->>'user_id', p->>'name', v_at, p->>'other_wa_id');
  end if;
  if v_may_change then
    for v_change in
      select m->'payload' as payload, chorus.not_in_the_future((m->>'timestamp')::timestamptz) as at
      from jsonb_array_elements(run) with ordinality as t (m, position)
      where chorus.reports_a_change(m) and m->>'wa_message_id' <> all (v_known)
      order by position
    loop
      v_contact := chorus.change_identity(v_contact, v_change.payload, v_change.at);
    end loop;
  end if;
  return (chorus.lock_conversation_of(v_contact)).id;
end $$;

-- Store the messages that are new; {conversation, new_ids, edits, superseded_ids}. The caller holds the conversation.
drop function chorus.store_inbound(public.conversations, jsonb);
create function chorus.store_inbound(account uuid, conversation uuid, run jsonb) returns jsonb
language plpgsql as $$
declare
  v_row public.conversations;  -- for what is rare
  v_message jsonb;
  v_wamid text;
  v_is_edit boolean;
  v_edit jsonb;
  v_at timestamptz;
  v_new jsonb := '[]';
  v_edits jsonb := '[]';
  v_superseded jsonb := '[]';
  v_unread integer := 0;
  v_inbound_at timestamptz;
  v_conversation jsonb;
begin
  for v_position in 0 .. jsonb_array_length(run) - 1 loop
    v_message := run->v_position;
    v_wamid := v_message->>'wa_message_id';
    v_is_edit := v_message->>'type' = 'edit';
    v_at := chorus.not_in_the_future((v_message->>'timestamp')::timestamptz);
    if v_is_edit then
      select * into v_row from public.conversations c where c.id = conversation;
      v_edit := chorus.apply_edit(v_row, 'inbound', v_message);
      if v_edit is not null then
        v_edits := v_edits || v_edit;
        if (v_edit->>'new')::boolean then
          v_inbound_at := greatest(v_inbound_at, v_at);
        end if;
        continue;
      end if;
    end if;
    insert into public.messages
      (account_id, conversation_id, wa_message_id, direction, author, type, text, payload, status, timestamp)
    select account, conversation, v_wamid, 'inbound', 'customer',
      case when v_is_edit then 'text' else v_message->>'type' end,
      case when v_is_edit
        then coalesce(v_message->>'text', v_message #>> '{payload,edit,message,text,body}') else v_message->>'text' end,
      v_message->'payload', 'received', v_at
    -- As chorus.was_edited_before.
    where v_is_edit or not exists (
      select from public.messages m
      where m.conversation_id = conversation and m.direction = 'inbound'
        and m.payload ? 'edit' and m.payload #>> '{edit,original_message_id}' = v_wamid)
    on conflict (account_id, wa_message_id) do nothing;
    if found then
      v_new := v_new || to_jsonb(v_wamid);
      if v_message->>'type' <> 'system' then
        v_unread := v_unread + 1;
        v_inbound_at := greatest(v_inbound_at, v_at);
      end if;
    elsif not v_is_edit then
      select * into v_row from public.conversations c where c.id = conversation;
      if chorus.was_edited_before(v_row, 'inbound', v_message) then
        v_superseded := v_superseded || to_jsonb(v_wamid);
      end if;
    end if;
  end loop;
  if v_new <> '[]' or v_inbound_at is not null then
    update public.conversations c
    set unread_count = c.unread_count + v_unread,
      last_inbound_at = case when coalesce(k.wa_id, k.user_id) is not null then greatest(c.last_inbound_at, v_inbound_at) end,
      last_message_at = clock_timestamp()
    from public.contacts k
    where c.id = conversation and k.id = c.contact_id
    returning to_jsonb(c) || jsonb_build_object('contact', to_jsonb(k)) into v_conversation;
  else
    select to_jsonb(c) || jsonb_build_object('contact', to_jsonb(k)) into v_conversation
    from public.conversations c join public.contacts k on k.id = c.contact_id where c.id = conversation;
  end if;
  return jsonb_build_object(
    'conversation', v_conversation, 'new_ids', v_new, 'edits', v_edits, 'superseded_ids', v_superseded);
end $$;

-- p: as before, and opening: null, or {key, covers, fence, limit, characters, minutes} as for chorus_open_answer. Answers as before, and
-- opened: what that would answer, if the bot answers in this conversation, nothing was edited, and the reply is certainly new; else
-- null, and nothing is opened.
create or replace function public.chorus_record_inbound(p jsonb) returns jsonb
language plpgsql set search_path = '' set plan_cache_mode = force_generic_plan as $$
declare
  v_account uuid := chorus.as_uuid(p->>'account_id');
  v_groups text[] := '{null}';
  v_group text;
  v_run jsonb := p->'messages';
  v_conversation uuid;
  v_stored jsonb;
  v_answer jsonb;
  v_edited jsonb := '{}';
  v_opening jsonb := nullif(p->'opening', 'null');
  v_reply jsonb;
begin
  if p @? '$.messages[*].payload.group_id' then
    v_groups := array(
      select distinct chorus.group_of(m) as in_group from jsonb_array_elements(p->'messages') m order by in_group nulls first);
  end if;
  foreach v_group in array v_groups loop
    if v_groups <> '{null}' then
      select jsonb_agg(m order by position) into v_run
      from jsonb_array_elements(p->'messages') with ordinality as t (m, position)
      where chorus.group_of(m) is not distinct from v_group;
    end if;
    if v_group is null then
      v_conversation := chorus.conversation_of_run(v_account, p, v_run);
    else
      v_conversation := (chorus.lock_group(v_account, v_group)).id;
    end if;
    if v_conversation is null then
      return chorus.not_found('account');
    end if;
    v_stored := chorus.store_inbound(v_account, v_conversation, v_run);
    if v_answer is null then
      v_answer := v_stored;
    else
      v_answer := v_answer || jsonb_build_object('new_ids', (v_answer->'new_ids') || (v_stored->'new_ids'));
    end if;
  end loop;
  -- What is new has not been edited.
  if jsonb_array_length(v_answer->'new_ids') < jsonb_array_length(p->'messages') then
    select coalesce(jsonb_object_agg(m.wa_message_id, m.text), '{}') into v_edited from public.messages m
    where m.account_id = v_account and m.wa_message_id = any (chorus.wamids(p->'messages')) and m.edited_at is not null;
  end if;
  if v_opening is not null and v_edited = '{}' and v_groups = '{null}' and v_answer @> '{"conversation": {
    "bot_enabled": true, "bot_paused_until": null, "opted_out_since": null}}'
    and v_answer->'edits' = '[]' and v_answer->'superseded_ids' = '[]'
  then
    v_reply := chorus.open_new_reply(v_opening || jsonb_build_object('conversation_id', v_conversation));
  end if;
  v_answer := v_answer || jsonb_build_object(
    'edited', v_edited, 'opened', case when v_reply is not null then chorus.opened(v_reply, v_conversation, v_opening) end);
  return chorus.ok(v_answer);
end $$;

-- What this transaction has changed so far, as JSON objects with a comma between them. Bounded: an UPDATE by hand may change
-- a million rows. One expression, so that it becomes part of a caller's.
create function chorus.noted(kind text, account uuid, conversation uuid, facts jsonb) returns text
language sql volatile
return case when length(coalesce(current_setting('chorus.changes', true), '')) < 32768 then set_config('chorus.changes',
  concat_ws(',', nullif(current_setting('chorus.changes', true), ''), jsonb_build_object(
    'type', kind, 'account_id', account, 'conversation_id', conversation, 'facts', facts)::text), true) end;

create or replace function chorus.note_change(kind text, account uuid, conversation uuid, facts jsonb) returns void
language plpgsql set search_path = '' as $$
declare
  v_noted text := chorus.noted(kind, account, conversation, facts);
begin
end $$;

select chorus.secure_functions();
