-- Messages coming in: whose they are, and that each is stored once.

create function chorus.lock_identity(account uuid, wa text, usr text) returns void
language plpgsql set search_path = '' as $$
declare
  v_lock bigint;
begin
  -- Sorted: two payloads naming the same ids must not wait for each other.
  for v_lock in
    select hashtextextended(id, 0) from (values ('wa ' || account || ' ' || wa), ('user ' || account || ' ' || usr)) i (id)
    where id is not null order by 1
  loop
    perform pg_advisory_xact_lock(v_lock);
  end loop;
end $$;

-- Two contacts turned out to be one person: everything of `loser` becomes `keeper`'s.
create function chorus.merge_contacts(keeper uuid, loser uuid) returns void
language plpgsql set search_path = '' as $$
declare
  v_from uuid;
  v_into uuid;
begin
  perform from public.conversations where contact_id in (keeper, loser) order by id for update;
  select id into v_from from public.conversations where contact_id = loser;
  select id into v_into from public.conversations where contact_id = keeper;
  if v_into is null then
    update public.conversations set contact_id = keeper where id = v_from;
  elsif v_from is not null then
    update public.messages set conversation_id = v_into where conversation_id = v_from;
    update public.replies set conversation_id = v_into where conversation_id = v_from;
    update public.conversations k
    set bot_enabled = k.bot_enabled and l.bot_enabled,
      needs_human = k.needs_human or l.needs_human,
      unread_count = k.unread_count + l.unread_count,
      last_inbound_at = greatest(k.last_inbound_at, l.last_inbound_at),
      last_message_at = greatest(k.last_message_at, l.last_message_at)
    from public.conversations l
    where k.id = v_into and l.id = v_from;
    delete from public.conversations where id = v_from;
  end if;
  delete from public.contacts where id = loser;
end $$;

-- The contact with these ids (one may be null). Ids that come together are one person's; where they contradict what
-- we have, the user id decides and the phone number has changed hands.
create function chorus.resolve_contact(account uuid, wa text, usr text, display_name text) returns uuid
language plpgsql set search_path = '' as $$
declare
  v_contact public.contacts;
  v_other public.contacts;
begin
  -- Nearly always it is known as it is. The share lock keeps a merge from deleting it under us.
  select * into v_contact from public.contacts c
  where c.account_id = account and (wa is null or c.wa_id = wa) and (usr is null or c.user_id = usr)
    and coalesce(wa, usr) is not null
  for key share;
  if not found then
    perform chorus.lock_identity(account, wa, usr);
    select * into v_contact from public.contacts c where c.account_id = account and c.user_id = usr for update;
    select * into v_other from public.contacts c where c.account_id = account and c.wa_id = wa for update;
    if v_contact.id is null and (usr is null or v_other.user_id is null) then
      v_contact := v_other;
    elsif v_other.id <> v_contact.id and v_other.user_id is null then
      perform chorus.merge_contacts(v_contact.id, v_other.id);
    elsif v_other.id is distinct from v_contact.id then
      update public.contacts set wa_id = null where id = v_other.id;
    end if;
    if v_contact.id is null then
      insert into public.contacts (account_id, wa_id, user_id, name) values (account, wa, usr, display_name)
      returning * into v_contact;
    else
      update public.contacts c set wa_id = coalesce(wa, c.wa_id), user_id = coalesce(usr, c.user_id)
      where c.id = v_contact.id;
    end if;
  end if;
  update public.contacts c set name = display_name
  where c.id = v_contact.id and display_name is not null and c.name is distinct from display_name;
  return v_contact.id;
end $$;

-- The conversation with that person, locked, made if need be; null if there is no such account.
create function chorus.lock_conversation(account uuid, wa text, usr text, display_name text) returns public.conversations
language plpgsql set search_path = '' as $$
declare
  v_contact uuid;
  v_conversation public.conversations;
begin
  if not exists (select from public.whatsapp_accounts a where a.id = account) then
    return null;
  end if;
  v_contact := chorus.resolve_contact(account, wa, usr, display_name);
  select * into v_conversation from public.conversations c where c.account_id = account and c.contact_id = v_contact
  for no key update;
  if not found then
    insert into public.conversations (account_id, contact_id, bot_enabled)
    select account, v_contact, a.bot_auto_on from public.whatsapp_accounts a where a.id = account
    on conflict (account_id, contact_id) do nothing;
    select * into v_conversation from public.conversations c where c.account_id = account and c.contact_id = v_contact
    for no key update;
  end if;
  return v_conversation;
end $$;

-- p: account_id, wa_id, user_id, name, messages [{wa_message_id, type, text, timestamp, payload}]
create function public.chorus_record_inbound(p jsonb) returns jsonb
language plpgsql set search_path = public, pg_temp as $$
declare
  v_conversation conversations;
  v_new_ids jsonb;
  v_unread integer;
  v_inbound_at timestamptz;
begin
  v_conversation := chorus.lock_conversation(
    chorus.as_uuid(p->>'account_id'), p->>'wa_id', p->>'user_id', p->>'name');
  if v_conversation.id is null then
    return chorus.not_found('account');
  end if;
  with new as (
    insert into messages
      (account_id, conversation_id, wa_message_id, direction, author, type, text, payload, status, timestamp)
    select v_conversation.account_id, v_conversation.id, m->>'wa_message_id', 'inbound', 'customer', m->>'type',
      m->>'text', m->'payload', 'received', (m->>'timestamp')::timestamptz
    from jsonb_array_elements(p->'messages') with ordinality as t (m, position)
    order by position
    on conflict (account_id, wa_message_id) do nothing
    returning wa_message_id, type, timestamp
  )
  select coalesce(jsonb_agg(wa_message_id), '[]'), count(*) filter (where type <> 'system'),
    max(timestamp) filter (where type <> 'system')
  into v_new_ids, v_unread, v_inbound_at
  from new;
  if v_new_ids <> '[]' then
    update conversations
    set unread_count = unread_count + v_unread,
      last_inbound_at = greatest(last_inbound_at, v_inbound_at),
      last_message_at = clock_timestamp()
    where id = v_conversation.id
    returning * into v_conversation;
  end if;
  return chorus.ok(jsonb_build_object(
    'conversation', chorus.conversation(v_conversation), 'new_ids', v_new_ids));
end $$;

-- p: account_id, wa_id, user_id, message {wa_message_id, type, text, timestamp, payload}
-- Only a new echo silences the bot: a late repetition must not undo that somebody turned it on again.
create function public.chorus_record_echo(p jsonb) returns jsonb
language plpgsql set search_path = public, pg_temp as $$
declare
  v_account uuid := chorus.as_uuid(p->>'account_id');
  v_wamid text := p->'message'->>'wa_message_id';
  v_conversation conversations;
  v_message uuid;
begin
  perform chorus.lock_wamid(v_account, v_wamid);
  v_conversation := chorus.lock_conversation(v_account, p->>'wa_id', p->>'user_id', null);
  if v_conversation.id is null then
    return chorus.not_found('account');
  end if;
  insert into messages
    (account_id, conversation_id, wa_message_id, direction, author, type, text, payload, status, timestamp)
  values (
    v_account, v_conversation.id, v_wamid, 'outbound', 'human', p->'message'->>'type', p->'message'->>'text',
    p->'message'->'payload', 'sent', (p->'message'->>'timestamp')::timestamptz
  )
  on conflict (account_id, wa_message_id) do nothing
  returning id into v_message;
  if v_message is not null then
    perform chorus.adopt(v_message, v_account, v_wamid);
    update conversations set bot_enabled = false, last_message_at = clock_timestamp() where id = v_conversation.id
    returning * into v_conversation;
  end if;
  return chorus.ok(chorus.conversation(v_conversation));
end $$;

select chorus.secure_functions();
