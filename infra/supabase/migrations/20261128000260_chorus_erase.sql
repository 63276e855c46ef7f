-- A customer is erased, or handed out: all that is stored about one contact.
--
-- chorus_erase_contact knows the tables that refer to a contact or its conversations with `on delete cascade`: these need
-- nothing more. A table that has personal data and does not refer to them brings a function of its own,
--   chorus.erase_from_<place>(erasure chorus.erasure) returns bigint  -- how many rows went
-- in the migration that makes the table. All of them are called, in the order of their names. docs/privacy.md lists the places.

create type chorus.erasure as (
  account_id uuid,
  contact_id uuid,
  conversation_ids uuid[],   -- those that became part of one of them included
  message_ids text[],        -- wamids
  mailboxes text[],          -- of the queue
  words text[]               -- numbers, user ids: what to look for in what cannot be told apart otherwise
);

-- What was erased is not stored again: a message that was on its way at that moment, a repeated webhook, a late status.
-- Digests, for as long as the queue knows ids it has seen; no id can be read from them.
create table public.erased_messages (
  digest bytea primary key,
  erased_at timestamptz not null default now()
);
create index erased_messages_age on public.erased_messages (erased_at);
select chorus.secure_table('public.erased_messages');

-- That a contact was erased, and what went: nothing about the person. A repeated request finds its answer here.
create table public.erasures (
  contact_digest bytea primary key,
  account_id uuid not null references public.whatsapp_accounts on delete cascade,
  removed jsonb not null,  -- place -> rows
  erased_at timestamptz not null default now()
);
create index erasures_account on public.erasures (account_id);
select chorus.secure_table('public.erasures');

create function chorus.message_digest(account uuid, wamid text) returns bytea
language sql immutable set search_path = '' as $$
  select sha256(convert_to(account || ' ' || wamid, 'utf8'))
$$;

create function chorus.refuse_erased() returns trigger
language plpgsql set search_path = '' as $$
begin
  if not exists (
    select from public.erased_messages e where e.digest = chorus.message_digest(new.account_id, new.wa_message_id)
  ) then
    return new;
  elsif tg_table_name = 'orphan_statuses' then
    return null;
  end if;
  raise exception 'this message was erased' using errcode = 'CH001';
end $$;

-- A wamid is base64 around the customer's number.
create function chorus.wamid_names(wamid text, words text[]) returns boolean
language sql immutable set search_path = '' as $$
  select case when wamid ~ '^wamid\.[A-Za-z0-9+/]+={0,2}$' and length(wamid) % 4 = 2 then exists (
    select from unnest(words) w where position(convert_to(w, 'utf8') in decode(substr(wamid, 7), 'base64')) > 0)
  else false end
$$;

create function chorus.mentions(payload bytea, words text[]) returns boolean
language sql immutable set search_path = '' as $$
  select exists (select from unnest(words) w where position(convert_to(w, 'utf8') in payload) > 0)
$$;

-- Every id of a message that is stored about these conversations, those that messages only name included.
create function chorus.message_ids_of(conversations uuid[]) returns text[]
language sql stable set search_path = '' as $$
  select coalesce(array_agg(distinct found.id), '{}')
  from (
    select unnest(array[m.wa_message_id, m.payload #>> '{context,id}', m.payload #>> '{reaction,message_id}',
      m.payload #>> '{edit,original_message_id}']) as id
    from public.messages m where m.conversation_id = any (conversations)
    union all
    select e->>'wa_message_id' from public.messages m, jsonb_array_elements(m.edits) e
    where m.conversation_id = any (conversations)
    union all
    select unnest(r.covers || r.wamid) from public.replies r where r.conversation_id = any (conversations)
  ) found
  where found.id <> ''
$$;

-- p: contact_id. What of a contact may be outside the database: {account_id, phone_number_id, group_id, wa_ids, user_ids,
-- conversation_ids, message_ids, reply_keys}; {account_id, removed} if it was erased; null if there is none.
create function public.chorus_contact_traces(p jsonb) returns jsonb
language plpgsql stable set search_path = public, pg_temp as $$
declare
  v_contact contacts;
  v_conversations uuid[];
begin
  select * into v_contact from contacts where id = chorus.as_uuid(p->>'contact_id');
  if not found then
    return chorus.ok((
      select jsonb_build_object('account_id', e.account_id, 'removed', e.removed) from erasures e
      where e.contact_digest = sha256(convert_to(lower(p->>'contact_id'), 'utf8'))));
  end if;
  v_conversations := array(select id from conversations where contact_id = v_contact.id);
  return chorus.ok(jsonb_build_object(
    'account_id', v_contact.account_id,
    'phone_number_id', (select a.phone_number_id from whatsapp_accounts a where a.id = v_contact.account_id),
    'group_id', v_contact.group_id,
    'wa_ids', array(select v_contact.wa_id where v_contact.wa_id is not null union
      select i.value from contact_ids i where i.contact_id = v_contact.id and i.kind = 'wa_id'),
    'user_ids', array(select v_contact.user_id where v_contact.user_id is not null union
      select i.value from contact_ids i where i.contact_id = v_contact.id and i.kind = 'user_id'),
    'conversation_ids', v_conversations || array(
      select m.id from merged_conversations m where m.into_id = any (v_conversations)),
    'message_ids', chorus.message_ids_of(v_conversations),
    'reply_keys', array(select r.reply_key from replies r where r.conversation_id = any (v_conversations))));
end $$;

-- -- places that do not refer to a contact or a conversation -------------------------------------------------------------

create function chorus.erase_from_inbox(erasure chorus.erasure) returns bigint
language sql set search_path = '' as $$
  with gone as (
    delete from public.inbox i where i.mailbox = any (erasure.mailboxes)
      or (i.mailbox like 'unknown:%' and chorus.mentions(i.payload, erasure.words)) returning 1)
  select count(*) from gone
$$;

create function chorus.erase_from_journal(erasure chorus.erasure) returns bigint
language sql set search_path = '' as $$
  with gone as (
    delete from public.journal i where i.mailbox = any (erasure.mailboxes)
      or (i.mailbox like 'unknown:%' and chorus.mentions(i.payload, erasure.words)) returning 1)
  select count(*) from gone
$$;

create function chorus.erase_from_overflow(erasure chorus.erasure) returns bigint
language sql set search_path = '' as $$
  with gone as (
    delete from public.overflow i where i.mailbox = any (erasure.mailboxes)
      or (i.mailbox like 'unknown:%' and chorus.mentions(i.payload, erasure.words)) returning 1)
  select count(*) from gone
$$;

create function chorus.erase_from_statuses(erasure chorus.erasure) returns bigint
language sql set search_path = '' as $$
  with gone as (
    delete from public.orphan_statuses o where o.account_id = erasure.account_id
      and (o.wa_message_id = any (erasure.message_ids) or chorus.wamid_names(o.wa_message_id, erasure.words)) returning 1)
  select count(*) from gone
$$;

create function chorus.erase_from_events(erasure chorus.erasure) returns bigint
language sql set search_path = '' as $$
  with gone as (delete from public.outbox o where o.conversation_id = any (erasure.conversation_ids) returning 1)
  select count(*) from gone
$$;

create function chorus.erase_from_deliveries(erasure chorus.erasure) returns bigint
language sql set search_path = '' as $$
  with gone as (
    delete from public.webhook_deliveries d where d.conversation_id = any (erasure.conversation_ids) returning 1)
  select count(*) from gone
$$;

create function chorus.erase_from_search(erasure chorus.erasure) returns bigint
language sql set search_path = '' as $$
  with gone as (
    delete from public.search_pending s where s.conversation_id = any (erasure.conversation_ids) returning 1)
  select count(*) from gone
$$;

-- Last of all: what refers to the contact goes with it.
create function chorus.erase_contact(erasure chorus.erasure) returns jsonb
language plpgsql set search_path = '' as $$
declare
  v_removed jsonb;
begin
  v_removed := jsonb_build_object(
    'messages', (select count(*) from public.messages m where m.conversation_id = any (erasure.conversation_ids)),
    'replies', (select count(*) from public.replies r where r.conversation_id = any (erasure.conversation_ids)),
    'conversations', (select count(*) from public.conversations c where c.contact_id = erasure.contact_id),
    'numbers', (select count(*) from public.contact_ids i where i.contact_id = erasure.contact_id),
    'contacts', 1);
  delete from public.contacts where id = erasure.contact_id;
  return v_removed;
end $$;

-- p: contact_id, message_ids (that the queue had), mailboxes, words. Answers {place: how many rows went}; of a contact that
-- was erased before what that call answered.
-- Order of locks: contacts, replies, conversations. Who writes about this person waits for the contact, and then finds none.
create function public.chorus_erase_contact(p jsonb) returns jsonb
language plpgsql set search_path = public, pg_temp as $$
declare
  v_digest bytea := sha256(convert_to(lower(p->>'contact_id'), 'utf8'));
  v_erasure chorus.erasure;
  v_place text;
  v_rows bigint;
  v_removed jsonb := '{}';
begin
  select account_id, id into v_erasure.account_id, v_erasure.contact_id from contacts
  where id = chorus.as_uuid(p->>'contact_id') for update;
  if not found then
    select removed into v_removed from erasures where contact_digest = v_digest;
    return case when found then chorus.ok(v_removed) else chorus.not_found('contact') end;
  end if;
  v_erasure.conversation_ids := array(select id from conversations where contact_id = v_erasure.contact_id);
  perform from replies where conversation_id = any (v_erasure.conversation_ids) order by reply_key for update;
  perform from conversations where id = any (v_erasure.conversation_ids) order by id for update;
  v_erasure.message_ids := array(select unnest(chorus.message_ids_of(v_erasure.conversation_ids))
    union select jsonb_array_elements_text(p->'message_ids'));
  v_erasure.conversation_ids := v_erasure.conversation_ids || array(
    select id from merged_conversations where into_id = any (v_erasure.conversation_ids));
  v_erasure.mailboxes := array(select jsonb_array_elements_text(p->'mailboxes'));
  v_erasure.words := array(select jsonb_array_elements_text(p->'words'));

  delete from erased_messages where digest in (
    select digest from erased_messages where erased_at < now() - interval '8 days' limit 10000);
  insert into erased_messages (digest)
  select chorus.message_digest(v_erasure.account_id, id) from unnest(v_erasure.message_ids) id
  on conflict (digest) do update set erased_at = now();

  for v_place in
    select proname from pg_proc where pronamespace = 'chorus'::regnamespace and proname like 'erase\_from\_%' order by 1
  loop
    execute format('select chorus.%I($1)', v_place) into v_rows using v_erasure;
    v_removed := v_removed || jsonb_build_object(substr(v_place, length('erase_from_') + 1), v_rows);
  end loop;
  v_removed := v_removed || chorus.erase_contact(v_erasure);
  insert into erasures (contact_digest, account_id, removed) values (v_digest, v_erasure.account_id, v_removed);
  return chorus.ok(v_removed);
end $$;

-- -- handing out ------------------------------------------------------------------------------------------------------

-- p: contact_id. {account_id, contact, other_ids, conversations}, or null
create function public.chorus_export_contact(p jsonb) returns jsonb
language sql stable set search_path = public, pg_temp as $$
  select chorus.ok((
    select jsonb_build_object(
      'account_id', k.account_id,
      'contact', to_jsonb(k) - 'account_id',
      'other_ids', (select coalesce(jsonb_agg(jsonb_build_object('kind', i.kind, 'value', i.value,
        'until', case when i.until < 'infinity' then i.until end) order by i.kind, i.value), '[]')
        from contact_ids i where i.contact_id = k.id),
      'conversations', (select coalesce(jsonb_agg(to_jsonb(c) - 'account_id' - 'contact_id' order by c.created_at), '[]')
        from conversations c where c.contact_id = k.id))
    from contacts k where k.id = chorus.as_uuid(p->>'contact_id')))
$$;

-- p: conversation_id, after_seq, limit. Messages with their statuses, the oldest first.
create function public.chorus_export_messages(p jsonb) returns jsonb
language sql stable set search_path = public, pg_temp as $$
  select chorus.ok(coalesce(jsonb_agg(to_jsonb(m) - 'account_id' order by m.seq), '[]'))
  from (
    select * from messages
    where conversation_id = chorus.as_uuid(p->>'conversation_id') and seq > (p->>'after_seq')::bigint
    order by seq limit (p->>'limit')::integer
  ) m
$$;

create trigger refuse_erased before insert on public.orphan_statuses for each row execute function chorus.refuse_erased();
create trigger refuse_erased before insert on public.messages for each row
  when (new.wa_message_id is not null) execute function chorus.refuse_erased();

select chorus.secure_functions();
