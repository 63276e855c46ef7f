-- What an answer costs the database: the small functions become part of the statement that calls them, and the statements
-- of an answer are planned once for a connection. What is answered stays as it is.

-- A function can become part of the caller's statement if it is one expression and sets nothing. Its body is parsed here
-- and now, so that no search_path of a caller has a say in it.
create or replace function chorus.ok(value jsonb) returns jsonb
language sql stable
return case when coalesce(current_setting('chorus.changes', true), '') = '' then jsonb_build_object('ok', value)
  else jsonb_build_object('ok', value, 'changes', ('[' || current_setting('chorus.changes', true) || ']')::jsonb) end;

create or replace function chorus.not_found(what text) returns jsonb
language sql immutable
return jsonb_build_object('error', 'not_found', 'what', what);

create or replace function chorus.conflict(code text) returns jsonb
language sql immutable
return jsonb_build_object('error', 'conflict', 'code', code);

create or replace function chorus.fenced() returns jsonb
language sql immutable
return jsonb_build_object('error', 'fenced');

create or replace function chorus.as_uuid(value text) returns uuid
language sql immutable
return case
  when value ~* '^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$' then value::uuid
end;

create or replace function chorus.today() returns date
language sql stable
return (now() at time zone 'utc')::date;

create or replace function chorus.not_in_the_future(at timestamptz) returns timestamptz
language sql stable
return case when at > now() + interval '1 minute' then now() else at end;

create or replace function chorus.digits(number text) returns text
language sql immutable
return nullif(regexp_replace(number, '[[:space:]+().-]', '', 'g'), '');

create or replace function chorus.group_of(message jsonb) returns text
language sql immutable
return nullif(btrim(message->'payload'->>'group_id'), '');

create or replace function chorus.reports_a_change(message jsonb) returns boolean
language sql immutable
return message->>'type' = 'system'
  and coalesce(message #>> '{payload,system,type}' ~ '^(user|customer)_changed_(number|user_id)$', false);

create or replace function chorus.status_rank(status text) returns integer
language sql immutable
return case status
  when 'received' then 0 when 'pending' then 0 when 'sending' then 1 when 'sent' then 2 when 'failed' then 3
  when 'delivered' then 4 when 'read' then 5 when 'played' then 6
end;

create or replace function chorus.message_digest(account uuid, wamid text) returns bytea
language sql immutable
return sha256(convert_to(account::text || ' ' || wamid, 'utf8'));

create or replace function chorus.bot_answers(c public.conversations) returns boolean
language sql stable
return c.bot_enabled and coalesce(c.bot_paused_until <= now(), true);

create or replace function chorus.reply(r public.replies) returns jsonb
language sql stable
return to_jsonb(r) || jsonb_build_object('key', r.reply_key);

-- What a conversation and its account had of the model today. The day is worked out once, not for each reply.
create or replace function chorus.usage(account uuid, conversation uuid) returns jsonb
language plpgsql stable set search_path = '' as $$
declare
  v_day date := chorus.today();
  v_since timestamptz := v_day::timestamp at time zone 'utc';
begin
  return jsonb_build_object(
    'conversation', (
      select jsonb_build_object('answers', count(*) filter (where r.fallback is null), 'input_tokens', coalesce(sum(r.input_tokens), 0),
        'output_tokens', coalesce(sum(r.output_tokens), 0))
      from public.replies r
      where r.conversation_id = conversation and r.spent_id is not null and r.spent_at >= v_since
    ),
    'account', coalesce((
      select jsonb_build_object('answers', u.answers, 'input_tokens', u.input_tokens, 'output_tokens', u.output_tokens)
      from public.account_usage u where u.account_id = account and u.day = v_day
    ), '{"answers": 0, "input_tokens": 0, "output_tokens": 0}')
  );
end $$;

-- As before. Two statements for the known person, so that each has a plan that finds the row whatever is asked for.
create or replace function chorus.resolve_contact(
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
    if v_wa is not null then
      select * into strict v_contact from public.contacts c
      where c.account_id = account and c.wa_id = v_wa and (usr is null or c.user_id = usr)
        and (usr is not null or coalesce(chorus.former_owner(account, v_wa, v_at), c.id) = c.id)
        and (v_card is null or exists (select from public.contact_ids i
          where i.contact_id = c.id and i.kind = 'wa_id' and i.value = v_card and i.until = 'infinity'))
      for key share;
    else
      select * into strict v_contact from public.contacts c
      where c.account_id = account and c.user_id = usr
        and (v_card is null or exists (select from public.contact_ids i
          where i.contact_id = c.id and i.kind = 'wa_id' and i.value = v_card and i.until = 'infinity'))
      for key share;
    end if;
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

-- With a plan for each call the database spent more time on planning than on some of these statements themselves, and
-- again for the checks of references. Every statement beneath these functions finds its rows by one key.
do $$
declare
  v_name text;
begin
  foreach v_name in array array[
    'record_inbound', 'open_answer', 'save_and_begin', 'begin_part', 'complete_part', 'fail_part', 'apply_status'
  ] loop
    execute format('alter function public.chorus_%s(jsonb) set plan_cache_mode = force_generic_plan', v_name);
  end loop;
end $$;

select chorus.secure_functions();
