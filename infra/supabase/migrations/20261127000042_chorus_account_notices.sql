-- What Meta reported last about an account, kept where people look at it; and a report that nothing can be sent any more
-- blocks the account before its customers find out.

alter table public.whatsapp_accounts
  add column last_notice jsonb;  -- {at, field, event, words, severity}
grant select (last_notice) on public.whatsapp_accounts to authenticated;

-- p: phone_number_id, phone_number (digits; one of the two), notice, block (a BlockReason, or null), ends_block, confirm
-- (as for chorus_account_refused). Answers the ids of the accounts with that number. A block that a send has confirmed
-- for another reason keeps its reason. An older report than the one that is kept changes nothing.
create function public.chorus_account_notice(p jsonb) returns jsonb
language plpgsql set search_path = public, pg_temp as $$
declare
  v_ids jsonb;
begin
  with told as (
    update whatsapp_accounts a
    set last_notice = p->'notice',
      refusals = case
        when p->>'block' is not null then (p->>'confirm')::integer when (p->>'ends_block')::boolean then 0
        else refusals end,
      blocked_reason = case
        when p->>'block' is not null then coalesce(blocked_reason, p->>'block') when (p->>'ends_block')::boolean then null
        else blocked_reason end,
      blocked_since = case
        when p->>'block' is not null then coalesce(blocked_since, clock_timestamp())
        when (p->>'ends_block')::boolean then null
        else blocked_since end
    where (a.phone_number_id = p->>'phone_number_id'
        or (p->>'phone_number_id' is null and regexp_replace(a.phone_number, '[^0-9]', '', 'g') = p->>'phone_number'))
      and coalesce((a.last_notice->>'at')::timestamptz <= (p->'notice'->>'at')::timestamptz, true)
    returning a.id
  )
  select coalesce(jsonb_agg(id), '[]') into v_ids from told;
  return chorus.ok(v_ids);
end $$;

select chorus.secure_functions();
