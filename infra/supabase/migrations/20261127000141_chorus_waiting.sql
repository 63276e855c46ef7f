-- Conversations in which somebody may wait for an answer. The queue knows them, too; when it has lost its data, this is
-- how they are found again (services/unanswered.py).

alter table public.conversations
  add column awaiting_since timestamptz;  -- a message came, or a person wrote a reply; null once nothing waits any more
create index conversations_awaiting on public.conversations (awaiting_since, id) where awaiting_since is not null;

-- Beside the update that every new message makes anyway. Only new messages of the customer raise the number of unread ones.
create function chorus.note_awaiting() returns trigger
language plpgsql set search_path = '' as $$
begin
  new.awaiting_since := coalesce(old.awaiting_since, now());
  return new;
end $$;
create trigger note_awaiting before update on public.conversations for each row
  when (new.unread_count > old.unread_count) execute function chorus.note_awaiting();

create function chorus.note_awaiting_reply() returns trigger
language plpgsql set search_path = '' as $$
begin
  update public.conversations set awaiting_since = coalesce(awaiting_since, now()), last_message_at = clock_timestamp()
  where id = new.conversation_id;
  return null;
end $$;
create trigger note_awaiting_reply after insert on public.replies for each row
  when (new.author = 'human') execute function chorus.note_awaiting_reply();

-- p: older_than_seconds, limit, and both or neither of after_at, after_id (the last row of the previous page). The longest
-- waiting first. Reads conversations_awaiting: what waits now, not what is stored.
create function public.chorus_waiting_conversations(p jsonb) returns jsonb
language sql stable set search_path = public, pg_temp as $$
  select chorus.ok(coalesce(jsonb_agg(to_jsonb(w) order by w.awaiting_since, w.conversation_id), '[]'))
  from (
    select c.id as conversation_id, c.account_id, a.phone_number_id, k.wa_id, k.user_id, k.name,
      c.bot_enabled and a.is_active as is_served, c.awaiting_since, c.last_message_at,
      case when c.needs_human then coalesce(c.needs_human_since, c.updated_at) end as needs_human_since
    from conversations c
    join whatsapp_accounts a on a.id = c.account_id
    join contacts k on k.id = c.contact_id
    where c.awaiting_since < now() - make_interval(secs => (p->>'older_than_seconds')::double precision)
      and (p->>'after_at' is null
        or (c.awaiting_since, c.id) > ((p->>'after_at')::timestamptz, (p->>'after_id')::uuid))
    order by c.awaiting_since, c.id
    limit (p->>'limit')::integer
  ) w
$$;

-- p: conversation_ids, fresh_seconds. For each conversation the messages that no finished reply covers and the replies of a
-- person that have not ended; looks at its last 200 messages and returns the first 50. has_news: something happened there
-- as lately as that.
create function public.chorus_unanswered(p jsonb) returns jsonb
language sql stable set search_path = public, pg_temp as $$
  select chorus.ok(coalesce(jsonb_agg(jsonb_build_object(
    'conversation_id', c.id,
    'has_news', c.last_message_at > now() - make_interval(secs => (p->>'fresh_seconds')::double precision),
    'messages', (
      select coalesce(jsonb_agg(jsonb_build_object('wa_message_id', m.wa_message_id, 'payload', m.payload,
        'timestamp', m.timestamp, 'created_at', m.created_at) order by m.seq), '[]')
      from (
        select * from (
          select * from messages where conversation_id = c.id order by seq desc limit 200
        ) recent
        where recent.direction = 'inbound' and recent.created_at >= c.awaiting_since
          and not exists (
            select from replies r
            where r.conversation_id = c.id and r.created_at >= c.awaiting_since
              and r.state in ('sent', 'failed', 'silenced') and r.covers @> array[recent.wa_message_id]
          )
        order by recent.seq limit 50
      ) m
    ),
    'replies', (
      select coalesce(jsonb_agg(jsonb_build_object('key', r.reply_key, 'body', r.body) order by r.created_at), '[]')
      from (
        select * from replies
        where conversation_id = c.id and created_at >= c.awaiting_since and author = 'human'
          and state in ('pending', 'sending')
        order by created_at desc limit 50
      ) r
    )
  )), '[]'))
  from conversations c
  where c.id = any (array(select jsonb_array_elements_text(p->'conversation_ids')::uuid)) and c.awaiting_since is not null
$$;

-- p: conversations [{conversation_id, last_message_at}]. Nothing waits in them, unless something has happened since.
create function public.chorus_stop_waiting(p jsonb) returns jsonb
language plpgsql set search_path = public, pg_temp as $$
begin
  update conversations c set awaiting_since = null
  from (
    select id from conversations
    where (id, last_message_at) in (
      select (e->>'conversation_id')::uuid, (e->>'last_message_at')::timestamptz
      from jsonb_array_elements(p->'conversations') e
    )
    order by id for no key update skip locked
  ) quiet
  where c.id = quiet.id;
  return chorus.ok(null);
end $$;

-- Which history of the data this is: `identity` changes with a fail-over (a new timeline) and with another server,
-- `position` only falls when a copy from before has taken its place. Null where the server does not say.
create function public.chorus_database_history(p jsonb) returns jsonb
language plpgsql stable set search_path = public, pg_temp as $$
begin
  if pg_is_in_recovery() then
    return chorus.ok(null);
  end if;
  return chorus.ok(jsonb_build_object(
    'identity', (select system_identifier from pg_control_system()) || ':'
      || left(pg_walfile_name(pg_current_wal_lsn()), 8),
    'position', trunc(pg_current_wal_lsn() - '0/0'::pg_lsn)));
exception when insufficient_privilege or undefined_function or feature_not_supported then
  return chorus.ok(null);
end $$;

select chorus.secure_functions();
