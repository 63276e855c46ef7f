-- What WhatsApp says of the messages we sent: the answer to the send itself, and the statuses that follow in any
-- order, any number of times, and sometimes before the answer.

-- Statuses that came before their message was known. Whatever is still here after eight days (WhatsApp delivers for
-- seven) belongs to nobody.
create table public.orphan_statuses (
  account_id uuid not null references public.whatsapp_accounts on delete cascade,
  wa_message_id text not null,
  status text not null,
  status_at timestamptz,
  error jsonb,
  created_at timestamptz not null default now(),
  primary key (account_id, wa_message_id)
);
create index orphan_statuses_age on public.orphan_statuses (created_at);
select chorus.secure_table('public.orphan_statuses');

-- Held while a wamid becomes known or a status finds it unknown, so that of the two, one sees the other.
create function chorus.lock_wamid(account uuid, wamid text) returns void
language sql set search_path = '' as $$
  select pg_advisory_xact_lock(hashtextextended('wamid ' || account || ' ' || wamid, 0))
$$;

-- A message that did not arrive is a person's business: the bot thinks it has answered.
create function chorus.advance_message(message uuid, new_status text, new_at timestamptz, new_error jsonb) returns void
language sql set search_path = '' as $$
  with advanced as (
    update public.messages m
    set status = new_status, status_at = new_at, error = case when new_status = 'failed' then new_error end
    where m.id = message
      -- A failure without a wamid is our own verdict about a send; WhatsApp's word refutes it.
      and (chorus.status_rank(new_status) > chorus.status_rank(m.status)
        or (m.status = 'failed' and m.wa_message_id is null))
    returning m.conversation_id
  )
  update public.conversations c set needs_human = true
  from advanced where c.id = advanced.conversation_id and new_status = 'failed' and not c.needs_human
$$;

-- The message has this wamid: note it, and apply the status that was waiting for it.
create function chorus.adopt(message uuid, account uuid, wamid text) returns void
language plpgsql set search_path = '' as $$
declare
  v_orphan public.orphan_statuses;
begin
  update public.messages m set wa_message_id = wamid
  where m.id = message and m.wa_message_id is null
    and not exists (select from public.messages o where o.account_id = account and o.wa_message_id = wamid);
  delete from public.orphan_statuses o where o.account_id = account and o.wa_message_id = wamid returning * into v_orphan;
  if found then
    perform chorus.advance_message(message, v_orphan.status, v_orphan.status_at, v_orphan.error);
  end if;
end $$;

-- p: key, part, wamid, last. Not fenced: it is a fact, whoever reports it.
create function public.chorus_complete_part(p jsonb) returns jsonb
language plpgsql set search_path = public, pg_temp as $$
declare
  v_part integer := (p->>'part')::integer;
  v_reply replies;
  v_message uuid;
begin
  select * into v_reply from replies where reply_key = p->>'key';
  if not found then
    return chorus.not_found('reply');
  end if;
  perform chorus.lock_wamid(v_reply.account_id, p->>'wamid');
  select * into v_reply from replies where reply_key = p->>'key' for no key update;
  select id into v_message from messages where outbound_key = v_reply.reply_key || '#' || v_part for no key update;
  perform chorus.part_went_out(v_reply, v_part, p->>'wamid', (p->>'last')::boolean);
  perform chorus.advance_message(v_message, 'sent', now(), null);
  perform chorus.adopt(v_message, v_reply.account_id, p->>'wamid');
  return chorus.ok(null);
end $$;

create function chorus.find_outbound(account uuid, wamid text, key text) returns public.messages
language plpgsql set search_path = '' as $$
declare
  v_message public.messages;
begin
  select * into v_message from public.messages m where m.outbound_key = key and m.account_id = account;
  if not found then
    select * into v_message from public.messages m where m.account_id = account and m.wa_message_id = wamid;
  end if;
  return v_message;
end $$;

-- p: account_id, wa_message_id, outbound_key, status, timestamp, error
-- 1. the message is known by our key or by its wamid; if not, keep the status for later            -> false
-- 2. it proves that a part went out which nobody confirmed: finish the part (or fail the reply)
-- 3. move the message up                                                                           -> true
create function public.chorus_apply_status(p jsonb) returns jsonb
language plpgsql set search_path = public, pg_temp as $$
declare
  v_account uuid := chorus.as_uuid(p->>'account_id');
  v_at timestamptz := (p->>'timestamp')::timestamptz;
  v_error jsonb := nullif(p->'error', 'null');
  v_message messages;
  v_reply replies;
  v_part integer;
begin
  v_message := chorus.find_outbound(v_account, p->>'wa_message_id', p->>'outbound_key');
  if v_message.id is null then
    perform chorus.lock_wamid(v_account, p->>'wa_message_id');
    v_message := chorus.find_outbound(v_account, p->>'wa_message_id', p->>'outbound_key');
  end if;
  if v_message.id is null then
    return chorus.keep_orphan(v_account, p->>'wa_message_id', p->>'status', v_at, v_error);
  end if;
  if v_message.direction = 'inbound' then
    return chorus.ok('true');
  end if;

  if v_message.outbound_key is not null then
    v_part := substring(v_message.outbound_key from '#([0-9]+)$')::integer;
    select * into v_reply from replies
    where reply_key = substring(v_message.outbound_key from '^(.*)#[0-9]+$') for no key update;
    if found and v_reply.part = v_part then
      if p->>'status' <> 'failed' then
        perform chorus.part_went_out(v_reply, v_part, p->>'wa_message_id', v_part + 1 >= v_reply.parts);
      elsif v_reply.state in ('pending', 'sending') then
        update replies set state = 'failed', error = v_error, sending_since = null
        where reply_key = v_reply.reply_key;
      end if;
    end if;
  end if;
  perform from messages where id = v_message.id for no key update;
  perform chorus.advance_message(v_message.id, p->>'status', v_at, v_error);
  perform chorus.adopt(v_message.id, v_account, p->>'wa_message_id');
  return chorus.ok('true');
end $$;

create function chorus.keep_orphan(
  account uuid, wamid text, new_status text, new_at timestamptz, new_error jsonb
) returns jsonb
language plpgsql set search_path = '' as $$
begin
  if not exists (select from public.whatsapp_accounts a where a.id = account) then
    return chorus.not_found('account');
  end if;
  insert into public.orphan_statuses as o (account_id, wa_message_id, status, status_at, error)
  values (account, wamid, new_status, new_at, new_error)
  on conflict (account_id, wa_message_id)
    do update set status = excluded.status, status_at = excluded.status_at, error = excluded.error
  where chorus.status_rank(excluded.status) > chorus.status_rank(o.status);
  delete from public.orphan_statuses o
  where (o.account_id, o.wa_message_id) in (
    select old.account_id, old.wa_message_id from public.orphan_statuses old
    where old.created_at < now() - interval '8 days' limit 100 for update skip locked
  );
  return chorus.ok('false');
end $$;

select chorus.secure_functions();
