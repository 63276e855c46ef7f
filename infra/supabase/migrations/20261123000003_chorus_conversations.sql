-- Customers, their conversations and the messages: the tables, what is listed of them, and the switches.

create table public.contacts (
  id uuid primary key default gen_random_uuid(),
  account_id uuid not null references public.whatsapp_accounts on delete cascade,
  wa_id text,    -- phone number as digits
  user_id text,  -- WhatsApp's business-scoped user id
  name text,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  check (wa_id is not null or user_id is not null),
  unique (account_id, wa_id),
  unique (account_id, user_id)
);
create trigger touch before update on public.contacts for each row execute function chorus.touch();
select chorus.secure_table('public.contacts');

create table public.conversations (
  id uuid primary key default gen_random_uuid(),
  account_id uuid not null references public.whatsapp_accounts on delete cascade,
  contact_id uuid not null references public.contacts on delete cascade,
  bot_enabled boolean not null,
  needs_human boolean not null default false,
  unread_count integer not null default 0 check (unread_count >= 0),
  last_inbound_at timestamptz,  -- WhatsApp's clock: it decides about the 24-hour window
  last_message_at timestamptz not null default clock_timestamp(),  -- our clock: when we learned of it
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  unique (account_id, contact_id)
);
create index conversations_contact on public.conversations (contact_id);
create index conversations_recent on public.conversations (account_id, last_message_at desc, id desc);
create trigger touch before update on public.conversations for each row execute function chorus.touch();
select chorus.secure_table('public.conversations');

create table public.messages (
  id uuid primary key default gen_random_uuid(),
  -- The order in which we learned of the messages, which is the order of the conversation: WhatsApp's timestamps
  -- have whole seconds and another clock than our replies, and a message delivered late is news all the same.
  seq bigint generated always as identity,
  account_id uuid not null references public.whatsapp_accounts on delete cascade,
  conversation_id uuid not null references public.conversations on delete cascade,
  wa_message_id text,
  outbound_key text unique,
  direction text not null check (direction in ('inbound', 'outbound')),
  author text not null check (author in ('customer', 'bot', 'human')),
  type text not null,
  text text,
  payload jsonb,
  status text not null
    check (status in ('received', 'pending', 'sending', 'sent', 'delivered', 'read', 'played', 'failed')),
  status_at timestamptz,  -- WhatsApp's clock
  error jsonb,
  timestamp timestamptz not null,  -- when it was written, never changed by a status
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  unique (account_id, wa_message_id)
);
create index messages_order on public.messages (conversation_id, seq desc);
create trigger touch before update on public.messages for each row execute function chorus.touch();
select chorus.secure_table('public.messages');

grant select on public.contacts, public.conversations, public.messages to authenticated;
create policy members_read on public.contacts for select to authenticated
  using (account_id in (select chorus.my_accounts()));
create policy members_read on public.conversations for select to authenticated
  using (account_id in (select chorus.my_accounts()));
create policy members_read on public.messages for select to authenticated
  using (account_id in (select chorus.my_accounts()));

-- A message only moves up. `failed` is recorded unless delivery is proven, and only such a proof takes it back.
create function chorus.status_rank(status text) returns integer
language sql immutable set search_path = '' as $$
  select case status
    when 'received' then 0 when 'pending' then 0 when 'sending' then 1 when 'sent' then 2 when 'failed' then 3
    when 'delivered' then 4 when 'read' then 5 when 'played' then 6
  end
$$;

create function chorus.conversation(c public.conversations) returns jsonb
language sql stable set search_path = '' as $$
  select to_jsonb(c) || jsonb_build_object('contact', to_jsonb(k)) from public.contacts k where k.id = c.contact_id
$$;

-- p: conversation_id
create function public.chorus_get_conversation(p jsonb) returns jsonb
language sql stable set search_path = public, pg_temp as $$
  select chorus.ok((
    select chorus.conversation(c) from conversations c where c.id = chorus.as_uuid(p->>'conversation_id')
  ))
$$;

-- p: account_id, limit, and both or neither of before_at, before_id (the last row of the previous page)
create function public.chorus_list_conversations(p jsonb) returns jsonb
language sql stable set search_path = public, pg_temp as $$
  select chorus.ok(coalesce(jsonb_agg(chorus.conversation(c) order by c.last_message_at desc, c.id desc), '[]'))
  from (
    select * from conversations c
    where c.account_id = chorus.as_uuid(p->>'account_id')
      and (p->>'before_at' is null
        or (c.last_message_at, c.id) < ((p->>'before_at')::timestamptz, (p->>'before_id')::uuid))
    order by c.last_message_at desc, c.id desc
    limit (p->>'limit')::integer
  ) c
$$;

-- p: conversation_id, limit, before_seq (of the last row of the previous page, or null)
create function public.chorus_list_messages(p jsonb) returns jsonb
language sql stable set search_path = public, pg_temp as $$
  select chorus.ok(coalesce(jsonb_agg(to_jsonb(m) order by m.seq desc), '[]'))
  from (
    select * from messages m
    where m.conversation_id = chorus.as_uuid(p->>'conversation_id')
      and (p->>'before_seq' is null or m.seq < (p->>'before_seq')::bigint)
    order by m.seq desc
    limit (p->>'limit')::integer
  ) m
$$;

-- p: conversation_id, limit, exclude (wamids). Oldest first.
create function public.chorus_history(p jsonb) returns jsonb
language sql stable set search_path = public, pg_temp as $$
  select chorus.ok(coalesce(jsonb_agg(jsonb_build_object('role', m.role, 'text', m.text) order by m.seq), '[]'))
  from (
    select m.seq, m.text, case m.direction when 'inbound' then 'user' else 'model' end as role
    from messages m
    where m.conversation_id = chorus.as_uuid(p->>'conversation_id')
      and m.text <> ''
      and m.status not in ('pending', 'sending', 'failed')
      and not coalesce(p->'exclude' ? m.wa_message_id, false)
    order by m.seq desc
    limit (p->>'limit')::integer
  ) m
$$;

-- p: conversation_id, enabled
create function public.chorus_set_bot(p jsonb) returns jsonb
language plpgsql set search_path = public, pg_temp as $$
declare
  v_enabled boolean := (p->>'enabled')::boolean;
  v_conversation conversations;
begin
  update conversations set bot_enabled = v_enabled, needs_human = needs_human and not v_enabled
  where id = chorus.as_uuid(p->>'conversation_id')
  returning * into v_conversation;
  if not found then
    return chorus.not_found('conversation');
  end if;
  return chorus.ok(chorus.conversation(v_conversation));
end $$;

-- p: conversation_id
create function public.chorus_set_needs_human(p jsonb) returns jsonb
language plpgsql set search_path = public, pg_temp as $$
begin
  update conversations set needs_human = true
  where id = chorus.as_uuid(p->>'conversation_id') and not needs_human;
  return chorus.ok(null);
end $$;

-- p: conversation_id
create function public.chorus_mark_read(p jsonb) returns jsonb
language plpgsql set search_path = public, pg_temp as $$
declare
  v_conversation conversations;
begin
  update conversations set unread_count = 0
  where id = chorus.as_uuid(p->>'conversation_id')
  returning * into v_conversation;
  if not found then
    return chorus.not_found('conversation');
  end if;
  return chorus.ok(chorus.conversation(v_conversation));
end $$;

select chorus.secure_functions();
