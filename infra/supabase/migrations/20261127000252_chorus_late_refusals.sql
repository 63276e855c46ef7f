-- A refusal of a token that has been replaced meanwhile says nothing about the account, but the number's circuit counted
-- it: three of them, sent just before the change and answered after it, opened the circuit again for half a minute.

-- As before; and a refusal of the token before is remembered for the replicas like the change itself, so that the circuit
-- closes again (see chorus.try_again).
create or replace function public.chorus_account_refused(p jsonb) returns jsonb
language plpgsql set search_path = public, pg_temp as $$
declare
  v_account whatsapp_accounts;
  v_is_block boolean;
begin
  select * into v_account from whatsapp_accounts where id = chorus.as_uuid(p->>'account_id') for no key update;
  if not found then
    return chorus.not_found('account');
  end if;
  if v_account.access_token <> p->>'access_token' then
    perform chorus.forget(array['account:try_again:' || v_account.phone_number_id]);
    return chorus.ok(jsonb_build_object('known', false, 'blocked', false, 'changed', false));
  end if;
  v_is_block := v_account.refusals + 1 >= (p->>'confirm')::integer;
  if v_account.blocked_reason is distinct from p->>'reason' then
    update whatsapp_accounts
    set refusals = least(refusals + 1, (p->>'confirm')::integer),
      blocked_reason = case when v_is_block then p->>'reason' end,
      blocked_since = case when v_is_block then coalesce(blocked_since, clock_timestamp()) end
    where id = v_account.id;
  end if;
  return chorus.ok(jsonb_build_object(
    'known', true, 'blocked', v_is_block, 'changed', v_is_block and v_account.blocked_since is null));
end $$;

select chorus.secure_functions();
