-- The commit that opens a new reply is not waited for. Such a reply is no more than a claim: nothing is sent before the commit of
-- chorus_save_and_begin, which is waited for and makes everything before it durable. If the server crashes in between and loses the
-- claim, that call finds no reply, and the messages, which are in their mailbox until they are answered, are taken up again.

-- As before. The setting holds until the end of the transaction.
create or replace function chorus.open_new_reply(p jsonb) returns jsonb
language plpgsql set search_path = '' as $$
declare
  v_given uuid := chorus.as_uuid(p->>'conversation_id');
  v_key text := p->>'key';
  v_covers jsonb := p->'covers';
  v_conversation record;
  v_reply public.replies;
  v_off text;
begin
  select c.id, k.wa_id, k.user_id, c.account_id,
    exists (select from public.replies r where r.reply_key in (v_key, v_key || '@' || c.account_id))
      or exists (select from chorus.recent_replies(c.id) r where v_covers ?| r.covers or v_key = any (r.covers)) as is_known
  into v_conversation
  from public.conversations c join public.contacts k on k.id = c.contact_id
  where c.id = coalesce((select m.into_id from public.merged_conversations m where m.id = v_given), v_given);
  if v_conversation.is_known is distinct from false then
    return null;
  end if;
  perform from public.conversations c where c.id = v_conversation.id for no key update;
  if not found then
    return null;
  end if;
  insert into public.replies (reply_key, account_id, conversation_id, author, covers, fence, body)
  select v_key, v_conversation.account_id, v_conversation.id, 'bot', array(select jsonb_array_elements_text(v_covers)),
    (p->>'fence')::bigint, p->>'body'
  where not exists (
    select from chorus.recent_replies(v_conversation.id) r where v_covers ?| r.covers or v_key = any (r.covers)
  )
  on conflict (reply_key) do nothing
  returning * into v_reply;
  if not found then
    return null;
  end if;
  v_off := set_config('synchronous_commit', 'off', true);
  return chorus.reply(v_reply) || jsonb_build_object(
    'to', jsonb_build_object('wa_id', v_conversation.wa_id, 'user_id', v_conversation.user_id), 'elsewhere', '[]'::jsonb);
end $$;

select chorus.secure_functions();
