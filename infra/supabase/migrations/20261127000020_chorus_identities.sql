-- Whose a message is: people whose number or user id changes, people with several numbers, groups, edited messages,
-- reply keys per account. Old replicas go on calling the same functions with the same parameters meanwhile; what they
-- do not say is read from the payload here.
--
-- One conversation for one person:
-- 1. ids that come in one payload belong to one person; where user ids contradict each other, they are two persons and
--    the number has changed hands
-- 2. a system message that reports a new number or user id moves the contact, once, under the lock of its wamid; a
--    contact that already has the new id is merged into the older of the two
-- 3. a number belongs to its former owner for messages written before the change, whenever they are delivered; for
--    everything later it is free

alter table public.contacts
  add column group_id text,  -- the contact is a group, not a person
  add constraint contacts_group unique (account_id, group_id),
  -- Without any id: a person whose number has a new owner. Nothing can be sent there.
  drop constraint contacts_check;

alter table public.messages
  add column edited_at timestamptz,  -- WhatsApp's clock
  add column edits jsonb not null default '[]';  -- [{wa_message_id, timestamp, text: the words it replaced}]
create index messages_edit on public.messages (conversation_id, (payload #>> '{edit,original_message_id}'))
  where payload ? 'edit';

-- More ids of a contact. `until` is WhatsApp's clock: a number that was given up belongs to the contact for what was
-- written before that; `infinity`: a second form of the number in use, or a former user id, which is never given again.
create table public.contact_ids (
  account_id uuid not null references public.whatsapp_accounts on delete cascade,
  contact_id uuid not null references public.contacts on delete cascade,
  kind text not null check (kind in ('wa_id', 'user_id')),
  value text not null,
  until timestamptz not null,
  primary key (account_id, kind, value, until)
);
create index contact_ids_contact on public.contact_ids (contact_id);
select chorus.secure_table('public.contact_ids');

-- Conversations that became part of another one: work that began before the merge goes on there.
create table public.merged_conversations (
  id uuid primary key,
  into_id uuid not null references public.conversations on delete cascade
);
create index merged_conversations_into on public.merged_conversations (into_id);
select chorus.secure_table('public.merged_conversations');

create function chorus.live_conversation(conversation text) returns uuid
language sql stable set search_path = '' as $$
  select coalesce(
    (select m.into_id from public.merged_conversations m where m.id = chorus.as_uuid(conversation)),
    chorus.as_uuid(conversation))
$$;

-- A phone number without "+" and the signs between its digits.
create function chorus.digits(number text) returns text
language sql immutable set search_path = '' as $$
  select nullif(regexp_replace(number, '[[:space:]+().-]', '', 'g'), '')
$$;

-- A sender's clock may be wrong: what is later than in a minute counts as now.
create function chorus.not_in_the_future(at timestamptz) returns timestamptz
language sql stable set search_path = '' as $$
  select case when at > now() + interval '1 minute' then now() else at end
$$;

create function chorus.group_of(message jsonb) returns text
language sql immutable set search_path = '' as $$
  select nullif(btrim(message->'payload'->>'group_id'), '')
$$;

-- -- contacts ---------------------------------------------------------------------------------------------------------

drop function chorus.lock_identity(uuid, text, text);
create function chorus.lock_identity(account uuid, wa text, usr text, other_wa text default null) returns void
language plpgsql set search_path = '' as $$
declare
  v_lock bigint;
begin
  -- Sorted: two payloads naming the same ids must not wait for each other.
  for v_lock in
    select distinct hashtextextended(id, 0)
    from (values ('wa ' || account || ' ' || wa), ('wa ' || account || ' ' || other_wa), ('user ' || account || ' ' || usr))
      i (id)
    where id is not null order by 1
  loop
    perform pg_advisory_xact_lock(v_lock);
  end loop;
end $$;

-- Two contacts turned out to be one person: everything of `loser` becomes `keeper`'s, ids that it lacks included.
create or replace function chorus.merge_contacts(keeper uuid, loser uuid) returns void
language plpgsql set search_path = '' as $$
declare
  v_from uuid;
  v_into uuid;
  v_loser public.contacts;
begin
  -- In the order of locks: contacts, replies, conversations. A call that shares a contact's lock waits for the
  -- conversation at most.
  perform from public.contacts where id in (keeper, loser) order by id for update;
  select id into v_from from public.conversations where contact_id = loser;
  select id into v_into from public.conversations where contact_id = keeper;
  perform from public.replies where conversation_id in (v_from, v_into) order by reply_key for no key update;
  perform from public.conversations where id in (v_from, v_into) order by id for update;
  if v_into is null then
    update public.conversations set contact_id = keeper where id = v_from;
  elsif v_from is not null then
    update public.messages set conversation_id = v_into where conversation_id = v_from;
    update public.replies set conversation_id = v_into where conversation_id = v_from;
    update public.merged_conversations set into_id = v_into where into_id = v_from;
    insert into public.merged_conversations (id, into_id) values (v_from, v_into);
    update public.conversations k
    set bot_enabled = k.bot_enabled and l.bot_enabled,
      needs_human = k.needs_human or l.needs_human,
      needs_human_reason = coalesce(k.needs_human_reason, l.needs_human_reason),
      needs_human_since = least(k.needs_human_since, l.needs_human_since),
      unread_count = k.unread_count + l.unread_count,
      last_inbound_at = greatest(k.last_inbound_at, l.last_inbound_at),
      last_message_at = greatest(k.last_message_at, l.last_message_at)
    from public.conversations l
    where k.id = v_into and l.id = v_from;
    delete from public.conversations where id = v_from;
  end if;
  update public.contact_ids set contact_id = keeper where contact_id = loser;
  delete from public.contacts where id = loser returning * into v_loser;
  update public.contacts k
  set wa_id = coalesce(k.wa_id, v_loser.wa_id), user_id = coalesce(k.user_id, v_loser.user_id),
    name = coalesce(k.name, v_loser.name)
  where k.id = keeper;
end $$;

-- Who had the number when this was written and has given it up since; null if that is nobody.
create function chorus.former_owner(account uuid, number text, at timestamptz) returns uuid
language sql stable set search_path = '' as $$
  select i.contact_id from public.contact_ids i
  where i.account_id = account and i.kind = 'wa_id' and i.value = number and i.until > at and i.until < 'infinity'
  order by i.until limit 1
$$;

create function chorus.owner_of_number(account uuid, number text) returns public.contacts
language plpgsql set search_path = '' as $$
declare
  v_contact public.contacts;
begin
  select * into v_contact from public.contacts c where c.account_id = account and c.wa_id = number for key share;
  if not found then
    select c.* into v_contact from public.contact_ids i join public.contacts c on c.id = i.contact_id
    where i.account_id = account and i.kind = 'wa_id' and i.value = number and i.until = 'infinity' for key share of c;
  end if;
  return v_contact;
end $$;

-- The contact has all its numbers until `at` only.
create function chorus.give_up_numbers(contact uuid, at timestamptz) returns void
language plpgsql set search_path = '' as $$
begin
  -- Whole seconds, like WhatsApp's timestamps: what is written in the same second is the next owner's.
  insert into public.contact_ids as i (account_id, contact_id, kind, value, until)
  select c.account_id, c.id, 'wa_id', number, date_trunc('second', at)
  from public.contacts c, lateral (
    select c.wa_id as number union
    select o.value from public.contact_ids o where o.contact_id = c.id and o.kind = 'wa_id' and o.until = 'infinity'
  ) numbers
  where c.id = contact and number is not null
  on conflict (account_id, kind, value, until) do update set contact_id = excluded.contact_id;
  delete from public.contact_ids o where o.contact_id = contact and o.kind = 'wa_id' and o.until = 'infinity';
  update public.contacts c set wa_id = null where c.id = contact;
end $$;

-- Another person has the contact's numbers from now on. With no id left there is nobody to send to: as with a closed
-- window.
create function chorus.lose_numbers(contact uuid, at timestamptz) returns void
language plpgsql set search_path = '' as $$
begin
  perform chorus.give_up_numbers(contact, at);
  update public.conversations v set last_inbound_at = null
  from public.contacts c where c.id = contact and c.user_id is null and v.contact_id = c.id;
end $$;

-- The contact wrote with this number, or was reported to have it, at that time. It is the present one unless the
-- contact has left another number since: then it has left this one too.
create function chorus.set_number(contact uuid, number text, at timestamptz) returns void
language plpgsql set search_path = '' as $$
declare
  v_left_at timestamptz;
begin
  if exists (select from public.contacts c where c.id = contact and c.wa_id = number) then
    return;
  end if;
  select min(i.until) into v_left_at from public.contact_ids i
  where i.contact_id = contact and i.kind = 'wa_id' and i.until > at and i.until < 'infinity';
  if v_left_at is null then
    perform chorus.give_up_numbers(contact, at);
    update public.contacts c set wa_id = number where c.id = contact;
  else
    insert into public.contact_ids (account_id, contact_id, kind, value, until)
    select c.account_id, c.id, 'wa_id', number, v_left_at from public.contacts c where c.id = contact
    on conflict (account_id, kind, value, until) do nothing;
  end if;
end $$;

-- The numbers of one payload are the contact's. One that it has stays its address; `wa` is the one to answer to if not.
create function chorus.use_numbers(contact uuid, wa text, other_wa text, at timestamptz) returns void
language plpgsql set search_path = '' as $$
begin
  if not exists (select from public.contacts c where c.id = contact and c.wa_id in (wa, other_wa))
    and not exists (select from public.contact_ids i
      where i.contact_id = contact and i.kind = 'wa_id' and i.value = wa and i.until = 'infinity')
  then
    perform chorus.set_number(contact, wa, at);
  end if;
  if other_wa is not null then
    insert into public.contact_ids (account_id, contact_id, kind, value, until)
    select c.account_id, c.id, 'wa_id', number, 'infinity'
    from public.contacts c, unnest(array[wa, other_wa]) number
    where c.id = contact and c.wa_id in (wa, other_wa) and c.wa_id <> number
    on conflict (account_id, kind, value, until) do update set contact_id = excluded.contact_id;
  end if;
end $$;

-- The contact with these ids (all but one may be null) when a message was written. `other_wa` is the number on the
-- contact card, which may be another form of the sender's (Mexico, Brazil, Argentina).
drop function chorus.resolve_contact(uuid, text, text, text);
create function chorus.resolve_contact(
  account uuid, wa text, usr text, display_name text, at timestamptz default null, other_wa text default null
) returns uuid
language plpgsql set search_path = '' as $$
declare
  v_at timestamptz := coalesce(at, now());
  v_wa text := chorus.digits(wa);
  v_card text := nullif(chorus.digits(other_wa), chorus.digits(wa));
  v_usr text := usr;
  v_number text;
  v_contact public.contacts;
  v_other public.contacts;
begin
  -- Nearly always it is known as it is. The share lock keeps a merge from deleting it under us. A row that another call
  -- changed meanwhile stays locked although it no longer fits: the subtransaction gives that lock back, or the call that
  -- holds the ids would wait for us while we wait for the ids.
  begin
    select * into strict v_contact from public.contacts c
    where c.account_id = account and (v_wa is null or c.wa_id = v_wa) and (usr is null or c.user_id = usr)
      and coalesce(v_wa, usr) is not null
      and (usr is not null or coalesce(chorus.former_owner(account, v_wa, v_at), c.id) = c.id)
      and (v_card is null or exists (select from public.contact_ids i
        where i.contact_id = c.id and i.kind = 'wa_id' and i.value = v_card and i.until = 'infinity'))
    for key share;
  exception when no_data_found then
    v_contact := null;
  end;
  if v_contact.id is null then
    perform chorus.lock_identity(account, v_wa, usr, v_card);
    select * into v_contact from public.contacts c where c.account_id = account and c.user_id = usr for key share;
    if not found and usr is not null then
      select c.* into v_contact from public.contact_ids i join public.contacts c on c.id = i.contact_id
      where i.account_id = account and i.kind = 'user_id' and i.value = usr limit 1 for key share of c;
      if found then
        v_usr := v_contact.user_id;
      end if;
    end if;
    foreach v_number in array array_remove(array[v_wa, v_card], null) loop
      select * into v_other from public.contacts c where c.id = chorus.former_owner(account, v_number, v_at)
      for key share;
      if found then
        if v_contact.id is null and (v_usr is null or coalesce(v_other.user_id, v_usr) = v_usr) then
          v_contact := v_other;
        end if;
        if v_number = v_wa then v_wa := null; else v_card := null; end if;
        continue;
      end if;
      v_other := chorus.owner_of_number(account, v_number);
      if v_other.id is null or v_other.id = v_contact.id then
        continue;
      elsif coalesce(v_other.user_id <> coalesce(v_usr, v_contact.user_id), false) then
        perform chorus.lose_numbers(v_other.id, v_at);
      elsif v_contact.id is null then
        v_contact := v_other;
      else
        perform chorus.merge_contacts(v_contact.id, v_other.id);
      end if;
    end loop;
    if v_contact.id is null then
      insert into public.contacts (account_id, user_id, name) values (account, v_usr, display_name)
      returning * into v_contact;
    elsif v_usr is not null then
      update public.contacts c set user_id = v_usr where c.id = v_contact.id and c.user_id is distinct from v_usr;
    end if;
    if coalesce(v_wa, v_card) is not null then
      perform chorus.use_numbers(v_contact.id, coalesce(v_wa, v_card), nullif(v_card, coalesce(v_wa, v_card)), v_at);
    end if;
  end if;
  update public.contacts c set name = display_name
  where c.id = v_contact.id and display_name is not null and c.name is distinct from display_name;
  return v_contact.id;
end $$;

-- Had the contact written long before the change, it was another person's: WhatsApp moves a person at once, but reports
-- it late at times.
create function chorus.wrote_before(contact uuid, at timestamptz) returns boolean
language sql stable set search_path = '' as $$
  select coalesce(min(m.timestamp) < at - interval '1 day', false)
  from public.conversations c join public.messages m on m.conversation_id = c.id
  where c.contact_id = contact and m.type <> 'system'
$$;

-- Both are one person, whose present numbers are those of `present`; the other one's were its own until `at`. The older
-- contact stays; returns it.
create function chorus.join_contacts(present uuid, past uuid, at timestamptz) returns uuid
language plpgsql set search_path = '' as $$
declare
  v_keeper uuid;
begin
  perform chorus.give_up_numbers(past, at);
  select c.id into v_keeper from public.contacts c where c.id in (present, past)
  order by c.created_at, c.id = past desc limit 1;
  perform chorus.merge_contacts(v_keeper, case v_keeper when past then present else past end);
  return v_keeper;
end $$;

-- WhatsApp reports that the contact has a new number or user id. Returns the contact that this person is now.
-- Sources of the names: system messages of the Cloud API (`new_wa_id` and `customer_…` before v12).
create function chorus.change_identity(contact uuid, payload jsonb, at timestamptz) returns uuid
language plpgsql set search_path = '' as $$
declare
  v_account uuid := (select c.account_id from public.contacts c where c.id = contact);
  v_wa text := chorus.digits(coalesce(payload#>>'{system,wa_id}', payload#>>'{system,new_wa_id}'));
  v_usr text := nullif(btrim(payload#>>'{system,user_id}'), '');
  v_other public.contacts;
begin
  perform chorus.lock_identity(v_account, v_wa, v_usr);
  perform from public.contacts c where c.id = contact for update;
  if v_usr is not null then
    select * into v_other from public.contacts c where c.account_id = v_account and c.user_id = v_usr and c.id <> contact
    for update;
    if found then
      -- Written with the new user id already: its number, if it has one, is the newest we know.
      v_wa := coalesce(v_other.wa_id, v_wa);
      contact := chorus.with_user_id(
        case when v_other.wa_id is null then chorus.join_contacts(contact, v_other.id, at)
          else chorus.join_contacts(v_other.id, contact, at) end, v_usr);
    else
      contact := chorus.with_user_id(contact, v_usr);
    end if;
  end if;
  if v_wa is null or exists (select from public.contacts c where c.id = contact and c.wa_id = v_wa) then
    return contact;
  end if;
  return chorus.move_to_number(contact, v_wa, at);
end $$;

-- A former user id leads to the contact for ever: WhatsApp gives none twice.
create function chorus.with_user_id(contact uuid, usr text) returns uuid
language plpgsql set search_path = '' as $$
begin
  insert into public.contact_ids (account_id, contact_id, kind, value, until)
  select c.account_id, c.id, 'user_id', c.user_id, 'infinity' from public.contacts c
  where c.id = contact and c.user_id <> usr
  on conflict (account_id, kind, value, until) do update set contact_id = excluded.contact_id;
  update public.contacts c set user_id = usr where c.id = contact and c.user_id is distinct from usr;
  return contact;
end $$;

create function chorus.move_to_number(contact uuid, number text, at timestamptz) returns uuid
language plpgsql set search_path = '' as $$
declare
  v_contact public.contacts;
  v_other public.contacts;
  v_later uuid;
begin
  select * into v_contact from public.contacts c where c.id = contact;
  -- The number was left again, and that was reported first: that contact is where the person is now.
  v_later := chorus.former_owner(v_contact.account_id, number, at);
  if v_later = contact then
    return contact;
  elsif v_later is not null then
    select * into v_other from public.contacts c where c.id = v_later for update;
  else
    v_other := chorus.owner_of_number(v_contact.account_id, number);
  end if;
  if v_other.id <> contact and (coalesce(v_other.user_id <> v_contact.user_id, false)
    or chorus.wrote_before(v_other.id, at))
  then
    if v_later is not null then
      return contact;
    end if;
    perform chorus.lose_numbers(v_other.id, at);
  elsif v_later is not null then
    return chorus.join_contacts(v_later, contact, at);
  elsif v_other.id <> contact then
    contact := chorus.join_contacts(contact, v_other.id, at);
  end if;
  perform chorus.set_number(contact, number, at);
  return contact;
end $$;

-- -- conversations ----------------------------------------------------------------------------------------------------

create function chorus.lock_conversation_of(contact uuid) returns public.conversations
language plpgsql set search_path = '' as $$
declare
  v_conversation public.conversations;
begin
  select * into v_conversation from public.conversations c where c.contact_id = contact for no key update;
  if not found then
    insert into public.conversations (account_id, contact_id, bot_enabled)
    select k.account_id, k.id, a.bot_auto_on and k.group_id is null
    from public.contacts k join public.whatsapp_accounts a on a.id = k.account_id where k.id = contact
    on conflict (account_id, contact_id) do nothing;
    select * into v_conversation from public.conversations c where c.contact_id = contact for no key update;
  end if;
  return v_conversation;
end $$;

-- The conversation with that person, locked, made if need be; null if there is no such account.
drop function chorus.lock_conversation(uuid, text, text, text);
create function chorus.lock_conversation(
  account uuid, wa text, usr text, display_name text, at timestamptz default null, other_wa text default null
) returns public.conversations
language plpgsql set search_path = '' as $$
begin
  if not exists (select from public.whatsapp_accounts a where a.id = account) then
    return null;
  end if;
  return chorus.lock_conversation_of(chorus.resolve_contact(account, wa, usr, display_name, at, other_wa));
end $$;

-- A group's conversation, apart from those with its members. The bot is off and the window closed, for ever.
create function chorus.lock_group(account uuid, the_group text) returns public.conversations
language plpgsql set search_path = '' as $$
declare
  v_contact uuid;
begin
  if not exists (select from public.whatsapp_accounts a where a.id = account) then
    return null;
  end if;
  insert into public.contacts (account_id, group_id) values (account, the_group)
  on conflict (account_id, group_id) do nothing;
  select c.id into v_contact from public.contacts c where c.account_id = account and c.group_id = the_group for key share;
  return chorus.lock_conversation_of(v_contact);
end $$;

-- -- edits ------------------------------------------------------------------------------------------------------------

-- The message that an edit changes, or the edit that was stored in its place because the message was not known.
create function chorus.find_edited(conversation public.conversations, dir text, original text) returns public.messages
language plpgsql set search_path = '' as $$
declare
  v_message public.messages;
begin
  select * into v_message from public.messages m
  where m.account_id = conversation.account_id and m.wa_message_id = original
    and m.conversation_id = conversation.id and m.direction = dir
  for no key update;
  if not found then
    select * into v_message from public.messages m
    where m.conversation_id = conversation.id and m.direction = dir
      and m.payload ? 'edit' and m.payload #>> '{edit,original_message_id}' = original
    order by m.seq limit 1 for no key update;
  end if;
  return v_message;
end $$;

-- Twenty are remembered, the first words among them.
create function chorus.with_edit(edits jsonb, wamid text, words text, at timestamptz) returns jsonb
language sql immutable set search_path = '' as $$
  select case when jsonb_array_length(edits) < 20 then edits else edits - 1 end
    || jsonb_build_object('wa_message_id', wamid, 'text', words, 'timestamp', at)
$$;

-- The message changed by this edit: {wa_message_id, original_id, before, text, new}; null if there is none, and the edit
-- is a message of its own. Of two edits the later one counts, in whatever order they come.
create function chorus.apply_edit(conversation public.conversations, dir text, edit jsonb) returns jsonb
language plpgsql set search_path = '' as $$
declare
  v_wamid text := edit->>'wa_message_id';
  v_at timestamptz := chorus.not_in_the_future((edit->>'timestamp')::timestamptz);
  v_text text := coalesce(edit->>'text', edit #>> '{payload,edit,message,text,body}');
  v_message public.messages := chorus.find_edited(conversation, dir, edit #>> '{payload,edit,original_message_id}');
  v_known jsonb;
begin
  if v_message.id is null or v_message.wa_message_id = v_wamid then
    return null;
  end if;
  select e into v_known from jsonb_array_elements(v_message.edits) e where e->>'wa_message_id' = v_wamid;
  if v_known is null then
    v_known := jsonb_build_object('text', case when v_message.edited_at > v_at then v_text else v_message.text end);
    update public.messages m
    set edits = chorus.with_edit(m.edits, v_wamid, v_known->>'text', v_at),
      text = case when m.edited_at > v_at then m.text else coalesce(v_text, m.text) end,
      edited_at = greatest(m.edited_at, v_at)
    where m.id = v_message.id
    returning * into v_message;
    v_known := v_known || '{"new": true}';
  end if;
  return jsonb_build_object('wa_message_id', v_wamid, 'original_id', edit #>> '{payload,edit,original_message_id}',
    'before', v_known->>'text', 'text', v_message.text, 'new', coalesce(v_known->'new', 'false'));
end $$;

-- The message came after its edit, which was stored in its place: keep the words, show the edit's.
create function chorus.was_edited_before(conversation public.conversations, dir text, message jsonb) returns boolean
language plpgsql set search_path = '' as $$
declare
  v_wamid text := message->>'wa_message_id';
  v_edit public.messages;
begin
  select * into v_edit from public.messages m
  where m.conversation_id = conversation.id and m.direction = dir
    and m.payload ? 'edit' and m.payload #>> '{edit,original_message_id}' = v_wamid
  order by m.seq limit 1 for no key update;
  if not found then
    return false;
  end if;
  update public.messages m
  set edits = chorus.with_edit(m.edits, v_wamid, message->>'text', (message->>'timestamp')::timestamptz),
    edited_at = coalesce(m.edited_at, m.timestamp)
  where m.id = v_edit.id and not m.edits @> jsonb_build_array(jsonb_build_object('wa_message_id', v_wamid));
  return true;
end $$;

-- -- recording --------------------------------------------------------------------------------------------------------

-- As an array, which every plan looks up by the index.
create function chorus.wamids(run jsonb) returns text[]
language sql immutable set search_path = '' as $$
  select array(select m->>'wa_message_id' from jsonb_array_elements(run) m)
$$;

-- Where the messages of a person belong. Stored before, all of them: where they are, whatever became of the ids since.
create function chorus.conversation_of_run(account uuid, p jsonb, run jsonb) returns public.conversations
language plpgsql set search_path = '' as $$
declare
  v_contact uuid;
  v_known text[];
  v_at timestamptz;
  v_change record;
begin
  if not exists (select from public.whatsapp_accounts a where a.id = account) then
    return null;
  end if;
  -- A change of ids happens once: of two calls with the same report, one sees the other's.
  for v_change in
    select m->>'wa_message_id' as wamid from jsonb_array_elements(run) m where chorus.reports_a_change(m) order by 1
  loop
    perform chorus.lock_wamid(account, v_change.wamid);
  end loop;
  v_known := array(
    select s.wa_message_id from public.messages s
    where s.account_id = account and s.wa_message_id = any (chorus.wamids(run)));
  select (m->>'timestamp')::timestamptz into v_at
  from jsonb_array_elements(run) with ordinality as t (m, position)
  where m->>'wa_message_id' <> all (v_known)
  order by position limit 1;
  if not found and run <> '[]' then
    select k.id into v_contact
    from public.messages s join public.conversations c on c.id = s.conversation_id
      join public.contacts k on k.id = c.contact_id
    where s.account_id = account and s.wa_message_id = run->0->>'wa_message_id' and s.direction = 'inbound'
      and k.group_id is null
    for key share of k;
  end if;
  if v_contact is null then
    v_contact := chorus.resolve_contact(
      account, p->>'wa_id', p->>'user_id', p->>'name', chorus.not_in_the_future(v_at), p->>'other_wa_id');
  end if;
  for v_change in
    select m->'payload' as payload, chorus.not_in_the_future((m->>'timestamp')::timestamptz) as at
    from jsonb_array_elements(run) with ordinality as t (m, position)
    where chorus.reports_a_change(m) and m->>'wa_message_id' <> all (v_known)
    order by position
  loop
    v_contact := chorus.change_identity(v_contact, v_change.payload, v_change.at);
  end loop;
  return chorus.lock_conversation_of(v_contact);
end $$;

create function chorus.reports_a_change(message jsonb) returns boolean
language sql immutable set search_path = '' as $$
  select message->>'type' = 'system'
    and coalesce(message #>> '{payload,system,type}' ~ '^(user|customer)_changed_(number|user_id)$', false)
$$;

-- Store the messages that are new; {new_ids, edits, superseded_ids}. The caller holds the conversation.
create function chorus.store_inbound(conversation public.conversations, run jsonb) returns jsonb
language plpgsql set search_path = '' as $$
declare
  v_message jsonb;
  v_wamid text;
  v_edit jsonb;
  v_at timestamptz;
  v_new jsonb := '[]';
  v_edits jsonb := '[]';
  v_superseded jsonb := '[]';
  v_unread integer := 0;
  v_inbound_at timestamptz;
begin
  for v_message in select m from jsonb_array_elements(run) with ordinality as t (m, position) order by position loop
    v_wamid := v_message->>'wa_message_id';
    v_at := chorus.not_in_the_future((v_message->>'timestamp')::timestamptz);
    v_edit := case v_message->>'type' when 'edit' then chorus.apply_edit(conversation, 'inbound', v_message) end;
    if v_edit is not null then
      v_edits := v_edits || v_edit;
      if (v_edit->>'new')::boolean then
        v_inbound_at := greatest(v_inbound_at, v_at);
      end if;
      continue;
    elsif v_message->>'type' <> 'edit' and chorus.was_edited_before(conversation, 'inbound', v_message) then
      v_superseded := v_superseded || to_jsonb(v_wamid);
      continue;
    end if;
    insert into public.messages
      (account_id, conversation_id, wa_message_id, direction, author, type, text, payload, status, timestamp)
    values (conversation.account_id, conversation.id, v_wamid, 'inbound', 'customer',
      case v_message->>'type' when 'edit' then 'text' else v_message->>'type' end,
      case v_message->>'type' when 'edit'
        then coalesce(v_message->>'text', v_message #>> '{payload,edit,message,text,body}') else v_message->>'text' end,
      v_message->'payload', 'received', v_at)
    on conflict (account_id, wa_message_id) do nothing;
    if found then
      v_new := v_new || to_jsonb(v_wamid);
      if v_message->>'type' <> 'system' then
        v_unread := v_unread + 1;
        v_inbound_at := greatest(v_inbound_at, v_at);
      end if;
    end if;
  end loop;
  if v_new <> '[]' or v_inbound_at is not null then
    update public.conversations c
    set unread_count = c.unread_count + v_unread,
      last_inbound_at = case when chorus.can_be_written_to(c.contact_id)
        then greatest(c.last_inbound_at, v_inbound_at) end,
      last_message_at = clock_timestamp()
    where c.id = conversation.id;
  end if;
  return jsonb_build_object('new_ids', v_new, 'edits', v_edits, 'superseded_ids', v_superseded);
end $$;

create function chorus.can_be_written_to(contact uuid) returns boolean
language sql stable set search_path = '' as $$
  select coalesce(c.wa_id, c.user_id) is not null from public.contacts c where c.id = contact
$$;

-- p: account_id, wa_id, user_id, name, other_wa_id, messages [{wa_message_id, type, text, timestamp, payload}]
-- 1. what was written in a group goes into the group's conversation
-- 2. the rest belongs to one person, whose ids a system message among it may change
-- 3. an edit changes the message it names; one that names none is a text message
-- Answers {conversation, new_ids, edits, superseded_ids, edited {wamid: text of those that were edited}}; of a person's
-- conversation if there is one.
create or replace function public.chorus_record_inbound(p jsonb) returns jsonb
language plpgsql set search_path = public, pg_temp as $$
declare
  v_account uuid := chorus.as_uuid(p->>'account_id');
  v_part record;
  v_conversation conversations;
  v_stored jsonb;
  v_answer jsonb;
begin
  for v_part in
    select chorus.group_of(m) as in_group, coalesce(jsonb_agg(m order by position), '[]') as run
    from jsonb_array_elements(p->'messages') with ordinality as t (m, position) group by 1
    union all
    select null, '[]' where p->'messages' = '[]'
    order by 1 nulls first
  loop
    if v_part.in_group is null then
      v_conversation := chorus.conversation_of_run(v_account, p, v_part.run);
    else
      v_conversation := chorus.lock_group(v_account, v_part.in_group);
    end if;
    if v_conversation.id is null then
      return chorus.not_found('account');
    end if;
    v_stored := chorus.store_inbound(v_conversation, v_part.run);
    if v_answer is null then
      select * into v_conversation from conversations where id = v_conversation.id;
      v_answer := v_stored || jsonb_build_object('conversation', chorus.conversation(v_conversation));
    else
      v_answer := v_answer || jsonb_build_object('new_ids', (v_answer->'new_ids') || (v_stored->'new_ids'));
    end if;
  end loop;
  return chorus.ok(v_answer || jsonb_build_object('edited', (
    select coalesce(jsonb_object_agg(m.wa_message_id, m.text), '{}') from messages m
    where m.account_id = v_account and m.wa_message_id = any (chorus.wamids(p->'messages')) and m.edited_at is not null
  )));
end $$;

-- p: account_id, wa_id, user_id, message {wa_message_id, type, text, timestamp, payload}
-- Only a new echo silences the bot: a late repetition must not undo that somebody turned it on again. One in a group
-- belongs to the group; one that edits a message changes it.
create or replace function public.chorus_record_echo(p jsonb) returns jsonb
language plpgsql set search_path = public, pg_temp as $$
declare
  v_account uuid := chorus.as_uuid(p->>'account_id');
  v_message jsonb := p->'message';
  v_wamid text := v_message->>'wa_message_id';
  v_at timestamptz := chorus.not_in_the_future((v_message->>'timestamp')::timestamptz);
  v_conversation conversations;
  v_edit jsonb;
  v_id uuid;
begin
  perform chorus.lock_wamid(v_account, v_wamid);
  if chorus.group_of(v_message) is not null then
    v_conversation := chorus.lock_group(v_account, chorus.group_of(v_message));
  else
    v_conversation := chorus.lock_conversation(v_account, p->>'wa_id', p->>'user_id', null, v_at);
  end if;
  if v_conversation.id is null then
    return chorus.not_found('account');
  end if;
  v_edit := case v_message->>'type' when 'edit' then chorus.apply_edit(v_conversation, 'outbound', v_message) end;
  if v_edit is null
    and (v_message->>'type' = 'edit' or not chorus.was_edited_before(v_conversation, 'outbound', v_message))
  then
    insert into messages
      (account_id, conversation_id, wa_message_id, direction, author, type, text, payload, status, timestamp)
    values (
      v_account, v_conversation.id, v_wamid, 'outbound', 'human',
      case v_message->>'type' when 'edit' then 'text' else v_message->>'type' end,
      coalesce(v_message->>'text', v_message #>> '{payload,edit,message,text,body}'),
      v_message->'payload', 'sent', v_at
    )
    on conflict (account_id, wa_message_id) do nothing
    returning id into v_id;
    if v_id is not null then
      perform chorus.adopt(v_id, v_account, v_wamid);
    end if;
  end if;
  if v_id is not null or (v_edit->>'new')::boolean then
    update conversations set bot_enabled = false, last_message_at = clock_timestamp() where id = v_conversation.id
    returning * into v_conversation;
  end if;
  return chorus.ok(chorus.conversation(v_conversation));
end $$;

-- -- replies ----------------------------------------------------------------------------------------------------------

-- The reply and whom it goes to: their ids may have changed since the message came.
create function chorus.addressed(r public.replies) returns jsonb
language sql stable set search_path = '' as $$
  select chorus.reply(r) || jsonb_build_object('to', (
    select jsonb_build_object('wa_id', k.wa_id, 'user_id', k.user_id)
    from public.conversations c join public.contacts k on k.id = c.contact_id where c.id = r.conversation_id))
$$;

-- p: conversation_id, key, author, covers, fence, body
-- The key is unique in the account: WhatsApp gives one message id to two of its numbers that write to each other. It is
-- stored as it is, or, when another account has it, with the account behind it; the answer says which, and everything
-- that follows uses that.
-- 1. found by key, else the recent reply that covers the message the key names: take the higher fence
-- 2. else insert; a person's reply turns the bot off, once: a repetition must not undo that it was turned on again
create or replace function public.chorus_open_reply(p jsonb) returns jsonb
language plpgsql set search_path = public, pg_temp as $$
declare
  v_conversation uuid := chorus.live_conversation(p->>'conversation_id');
  v_account uuid := (select account_id from conversations where id = v_conversation);
  v_keys text[] := array[p->>'key', (p->>'key') || '@' || v_account];
  v_key text;
  v_fence bigint := (p->>'fence')::bigint;
  v_reply replies;
begin
  select * into v_reply from replies where reply_key = any (v_keys) and account_id = v_account for no key update;
  if not found then
    select * into v_reply from replies
    where reply_key = (
      select r.reply_key
      from (
        select * from replies where conversation_id = v_conversation order by created_at desc limit 20
      ) r
      where r.covers @> array[p->>'key']
      limit 1
    )
    for no key update;
  end if;
  if not found then
    perform from conversations where id = v_conversation for key share;
    if not found then
      if chorus.live_conversation(p->>'conversation_id') is distinct from v_conversation then
        return chorus_open_reply(p);  -- merged at this moment
      end if;
      return chorus.not_found('conversation');
    end if;
    foreach v_key in array v_keys loop
      insert into replies (reply_key, account_id, conversation_id, author, covers, fence, body)
      values (v_key, v_account, v_conversation, p->>'author', array(select jsonb_array_elements_text(p->'covers')),
        v_fence, p->>'body')
      on conflict (reply_key) do nothing
      returning * into v_reply;
      if found then
        if v_reply.author = 'human' then
          update conversations set bot_enabled = false where id = v_conversation and bot_enabled;
        end if;
        return chorus.ok(chorus.addressed(v_reply));
      end if;
      -- Inserted by a call at the same moment, or another account's.
      select * into v_reply from replies where reply_key = v_key and account_id = v_account for no key update;
      exit when found;
    end loop;
  end if;
  if v_reply.conversation_id <> v_conversation then
    return chorus.conflict('reply_key_taken');
  end if;
  if v_fence = 0 then
    return chorus.ok(chorus.addressed(v_reply));
  end if;
  if v_reply.fence > v_fence then
    return chorus.fenced();
  end if;
  update replies set fence = v_fence where reply_key = v_reply.reply_key returning * into v_reply;
  return chorus.ok(chorus.addressed(v_reply));
end $$;

-- p: key, fence, covers, body. Only before anything was sent; otherwise the reply stays as it is.
create or replace function public.chorus_save_body(p jsonb) returns jsonb
language plpgsql set search_path = public, pg_temp as $$
declare
  v_fence bigint := (p->>'fence')::bigint;
  v_reply replies;
begin
  select * into v_reply from replies where reply_key = p->>'key' for no key update;
  if not found then
    return chorus.not_found('reply');
  end if;
  if v_reply.fence > v_fence then
    return chorus.fenced();
  end if;
  if v_reply.state = 'pending' and v_reply.part = 0 then
    update replies
    set fence = v_fence, body = p->>'body', covers = array(select jsonb_array_elements_text(p->'covers'))
    where reply_key = v_reply.reply_key
    returning * into v_reply;
  end if;
  return chorus.ok(chorus.addressed(v_reply));
end $$;

-- A call for a person reaches the conversation that a merge of two contacts left over.
-- p: conversation_id, reason. The first reason stays until the flag is cleared.
create or replace function public.chorus_set_needs_human(p jsonb) returns jsonb
language plpgsql set search_path = public, pg_temp as $$
begin
  update conversations
  set needs_human = true, needs_human_reason = p->>'reason', needs_human_since = clock_timestamp()
  where id = chorus.live_conversation(p->>'conversation_id') and not needs_human;
  return chorus.ok(null);
end $$;

select chorus.secure_functions();
