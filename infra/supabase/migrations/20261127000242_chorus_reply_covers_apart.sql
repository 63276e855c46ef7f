-- The version before knows no conflict of covers, and would give such a message up after five attempts.

-- p: key, fence, covers, body, apart. Only before anything was sent; otherwise the reply stays as it is. With apart, a
-- conflict if it would cover what another reply covers by now; the version before does not send it, and knows no such
-- conflict.
create or replace function public.chorus_save_body(p jsonb) returns jsonb
language plpgsql set search_path = public, pg_temp as $$
declare
  v_covers text[] := array(select jsonb_array_elements_text(p->'covers'));
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
    if p ? 'apart' and not v_covers <@ v_reply.covers then
      perform from conversations where id = v_reply.conversation_id for no key update;
      if chorus.covered_elsewhere(v_reply.conversation_id, v_reply.reply_key, v_covers) <> '{}' then
        return chorus.conflict('covered_elsewhere');
      end if;
    end if;
    update replies set fence = v_fence, body = p->>'body', covers = v_covers
    where reply_key = v_reply.reply_key
    returning * into v_reply;
  end if;
  return chorus.ok(chorus.addressed(v_reply));
end $$;

select chorus.secure_functions();
