-- Who erased a customer is in the audit trail: with a digest of the contact's id, and nothing about the person.

-- p: contact_id, message_ids (that the queue had), mailboxes, words. Answers {place: how many rows went}; of a contact that
-- was erased before what that call answered.
-- Order of locks: contacts, replies, conversations. Who writes about this person waits for the contact, and then finds none.
create or replace function public.chorus_erase_contact(p jsonb) returns jsonb
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
  perform chorus.write_audit(
    v_erasure.account_id, 'contact.erased', left(encode(v_digest, 'hex'), 16), 
    jsonb_build_object('removed', jsonb_build_object('old', null, 'new', v_removed)));
  return chorus.ok(v_removed);
end $$;

select chorus.secure_functions();
