-- What was stored before 20261127000020: numbers with signs, timestamps from the future, group texts in private
-- conversations. Safe to apply again; the functions that write are the new ones by now.

-- Numbers are digits. Two contacts with one number are one person, unless their user ids say otherwise: then the number
-- stays with the one that has it as digits.
do $$
declare
  v_contact public.contacts;
  v_other public.contacts;
begin
  for v_contact in
    select * from public.contacts c where c.wa_id is distinct from chorus.digits(c.wa_id) order by c.created_at, c.id
  loop
    perform chorus.lock_identity(v_contact.account_id, chorus.digits(v_contact.wa_id), v_contact.user_id);
    select * into v_other from public.contacts c
    where c.account_id = v_contact.account_id and c.wa_id = chorus.digits(v_contact.wa_id) for update;
    if not found then
      update public.contacts c set wa_id = chorus.digits(c.wa_id) where c.id = v_contact.id;
    elsif v_other.user_id <> v_contact.user_id then
      update public.contacts c set wa_id = null where c.id = v_contact.id;
    else
      perform chorus.merge_contacts(v_other.id, v_contact.id);
    end if;
  end loop;
end $$;

-- What was written in a group leaves the conversation of the person who wrote it.
do $$
declare
  v_part record;
  v_group public.conversations;
begin
  for v_part in
    select m.conversation_id, m.account_id, chorus.group_of(to_jsonb(m)) as in_group, array_agg(m.id) as ids
    from public.messages m
    where m.payload ? 'group_id' and chorus.group_of(to_jsonb(m)) is not null
      and not exists (select from public.conversations c join public.contacts k on k.id = c.contact_id
        where c.id = m.conversation_id and k.group_id is not null)
    group by 1, 2, 3
  loop
    v_group := chorus.lock_group(v_part.account_id, v_part.in_group);
    update public.messages m set conversation_id = v_group.id where m.id = any (v_part.ids);
    update public.conversations c set last_message_at = (
      select max(m.created_at) from public.messages m where m.conversation_id = c.id) where c.id = v_group.id;
    update public.conversations c set last_inbound_at = (
      select max(m.timestamp) from public.messages m
      where m.conversation_id = c.id and m.direction = 'inbound' and m.type <> 'system')
    where c.id = v_part.conversation_id;
  end loop;
end $$;

-- Nothing was written later than we learned of it.
update public.messages m set timestamp = m.created_at
where m.direction = 'inbound' and m.timestamp > now() + interval '1 minute';

update public.conversations c set last_inbound_at = coalesce((
  select max(m.timestamp) from public.messages m
  where m.conversation_id = c.id and m.direction = 'inbound' and m.type <> 'system'), now())
where c.last_inbound_at > now() + interval '1 minute';

select chorus.secure_functions();
