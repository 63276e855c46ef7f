-- WhatsApp accepts the text to the number of a profile, and says later that it did not arrive: the conversation shows that,
-- with Meta's code.

alter table public.conversations
  add column handover_notice_error jsonb;  -- why handover_notice is "failed": {code}, as messages.error

-- The last text that went out for a conversation, so that a status finds the conversations it is about. A digest: no number of
-- a person's stands in it. WhatsApp tells of a message for seven days.
create table public.handover_notices_sent (
  conversation_id uuid primary key references public.conversations on delete cascade,
  account_id uuid not null references public.whatsapp_accounts on delete cascade,
  digest bytea not null,  -- chorus.message_digest of the text's wamid
  sent_at timestamptz not null default now()
);
create index handover_notices_sent_digest on public.handover_notices_sent (digest);
create index handover_notices_sent_account on public.handover_notices_sent (account_id);
create index handover_notices_sent_age on public.handover_notices_sent (sent_at);
select chorus.secure_table('public.handover_notices_sent');

-- As before, and the error.
create or replace function chorus.clear_handover() returns trigger
language plpgsql set search_path = '' as $$
begin
  new.needs_human_reason := null;
  new.needs_human_since := null;
  new.bot_paused_until := null;
  new.handover_key := null;
  new.handover_notice := null;
  new.handover_notice_error := null;
  return new;
end $$;

-- The status is of a text to the number of a profile: a failure is shown in every conversation that the text told of. False:
-- it is of no such text. The caller holds the lock of the wamid. The text for a later call of a person may have gone out
-- since, or the flag is down: then there is nothing to show.
create function chorus.advance_notice(account uuid, wamid text, new_status text, new_error jsonb) returns boolean
language plpgsql set search_path = '' as $$
declare
  v_conversations uuid[] := array(
    select s.conversation_id from public.handover_notices_sent s
    where s.digest = chorus.message_digest(account, wamid) and s.account_id = account);
begin
  if new_status = 'failed' and v_conversations <> '{}' then
    perform from public.conversations c where c.id = any (v_conversations) order by c.id for no key update;
    update public.conversations c set handover_notice = 'failed', handover_notice_error = new_error
    where c.id = any (v_conversations) and c.needs_human and c.handover_notice = 'sent';
  end if;
  return v_conversations <> '{}';
end $$;

-- p: id, outcome ("sent", "failed"), wamid (of the text that went out) or null, error ({code}) or null; or again_seconds: it
-- certainly did not go out. A failure that was reported before the send was noted counts.
create or replace function public.chorus_end_notice(p jsonb) returns jsonb
language plpgsql set search_path = public, pg_temp as $$
declare
  v_outcome text := p->>'outcome';
  v_error jsonb := nullif(p->'error', 'null');
  v_notice handover_notices;
begin
  if v_outcome is null then
    update handover_notices
    set taken_at = null, due_at = now() + make_interval(secs => (p->>'again_seconds')::double precision)
    where id = (p->>'id')::uuid;
    return chorus.ok(null);
  end if;
  select * into v_notice from handover_notices where id = (p->>'id')::uuid;
  if not found then
    return chorus.ok(null);
  end if;
  if p->>'wamid' is not null then
    perform chorus.lock_wamid(v_notice.account_id, p->>'wamid');
    select 'failed', o.error into v_outcome, v_error from orphan_statuses o
    where o.account_id = v_notice.account_id and o.wa_message_id = p->>'wamid' and o.status = 'failed';
    if not found then
      v_outcome := p->>'outcome';
      v_error := nullif(p->'error', 'null');
    end if;
  end if;
  -- The conversation before the notice, as ever.
  update conversations c set handover_notice = v_outcome, handover_notice_error = v_error
  where c.id = v_notice.conversation_id and c.needs_human;
  if p->>'wamid' is not null then
    insert into handover_notices_sent (conversation_id, account_id, digest)
    values (v_notice.conversation_id, v_notice.account_id, chorus.message_digest(v_notice.account_id, p->>'wamid'))
    on conflict (conversation_id) do update set digest = excluded.digest, sent_at = now();
    delete from handover_notices_sent s where s.conversation_id in (
      select old.conversation_id from handover_notices_sent old
      where old.sent_at < now() - interval '8 days' limit 100 for update skip locked);
  end if;
  delete from handover_notices where id = v_notice.id;
  return chorus.ok(null);
end $$;

-- As before. The texts that end without having been sent have no error of WhatsApp's.
create or replace function chorus.end_notice(notice uuid, outcome text) returns void
language plpgsql set search_path = '' as $$
begin
  update public.conversations c set handover_notice = outcome, handover_notice_error = null
  from public.handover_notices n where n.id = notice and c.id = n.conversation_id and c.needs_human;
  delete from public.handover_notices where id = notice;
end $$;

-- p: as before. 1a. a text to the number of a profile is no message of a conversation                -> true
create or replace function public.chorus_apply_status(p jsonb) returns jsonb
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
    if chorus.advance_notice(v_account, p->>'wa_message_id', p->>'status', v_error) then
      return chorus.ok('true');
    end if;
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

select chorus.secure_functions();
