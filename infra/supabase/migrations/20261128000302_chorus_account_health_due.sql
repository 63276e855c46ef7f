-- A change of an account while Meta is asked about it is not forgotten with the answer: the check is due again.

-- p: account_id, access_token (the stored text that was in use), verdict (null: the check could not be made), reason, block (a
-- BlockReason, or null), report, failure, confirm (as for chorus_account_refused), updated_at (the account's when Meta was asked; may be absent).
-- 1. the account has another token by now: nothing is written, and it is due again
-- 2. the check could not be made: that is noted, everything else stays
-- 3. a block begins, or one that a check began ends; the triggers of the account tell and wake
-- 4. a reason that is no block, and keeps the account from its work all the same, is told in the same words
-- 5. an account that changed in the meantime is due again
-- Answers {"current": it still had this token, "was": the verdict before, "was_blocked", "is_blocked"}.
create or replace function public.chorus_record_account_health(p jsonb) returns jsonb
language plpgsql set search_path = public, pg_temp as $$
declare
  v_account whatsapp_accounts;
  v_old account_health;
  v_since timestamptz;
  v_told boolean;
  v_changed boolean;
begin
  select * into v_account from whatsapp_accounts where id = chorus.as_uuid(p->>'account_id') for no key update;
  if not found then
    return chorus.not_found('account');
  end if;
  select * into v_old from account_health where account_id = v_account.id;
  if v_account.access_token <> p->>'access_token' then
    return chorus.ok(jsonb_build_object('current', false, 'was', v_old.verdict,
      'was_blocked', v_account.blocked_since is not null, 'is_blocked', v_account.blocked_since is not null));
  end if;
  v_since := v_account.blocked_since;
  v_changed := coalesce(v_account.updated_at <> (p->>'updated_at')::timestamptz, false);
  if p->>'verdict' is null then
    insert into account_health (account_id, tried_at, failure, is_due)
    values (v_account.id, now(), p->>'failure', v_changed)
    on conflict (account_id) do update
    set tried_at = excluded.tried_at, failure = excluded.failure, is_due = excluded.is_due;
    return chorus.ok(jsonb_build_object('current', true, 'was', v_old.verdict,
      'was_blocked', v_since is not null, 'is_blocked', v_since is not null));
  end if;
  if p->>'block' is not null and (v_since is null or v_since = v_old.blocked_since) then
    v_since := coalesce(v_since, clock_timestamp());
    update whatsapp_accounts
    set refusals = (p->>'confirm')::integer, blocked_reason = p->>'block', blocked_since = v_since
    where id = v_account.id and (blocked_since is null or blocked_reason <> p->>'block');
    v_old.blocked_since := v_since;
  elsif p->>'block' is null and v_since = v_old.blocked_since then
    update whatsapp_accounts set refusals = 0, blocked_reason = null, blocked_since = null where id = v_account.id;
    v_since := null;
    v_old.blocked_since := null;
  end if;
  v_told := p->>'verdict' = 'unhealthy' and p->>'block' is null;
  if v_told <> coalesce(v_old.told, false)
    and chorus.is_heard(v_account.id, case when v_told then 'account.blocked' else 'account.restored' end) then
    perform chorus.tell(
      v_account.id, null, case when v_told then 'account.blocked' else 'account.restored' end,
      jsonb_build_object('account', jsonb_build_object(
        'id', v_account.id, 'name', v_account.name, 'phone_number_id', v_account.phone_number_id,
        'blocked_reason', case when v_told then p->>'reason' else v_old.reason end,
        'blocked_since', case when v_told then now() else v_old.checked_at end)));
  end if;
  insert into account_health (account_id, verdict, reason, report, checked_at, tried_at, told, blocked_since, is_due)
  values (
    v_account.id, p->>'verdict', p->>'reason', p->'report', now(), now(), v_told, v_old.blocked_since, v_changed)
  on conflict (account_id) do update
  set verdict = excluded.verdict, reason = excluded.reason, report = excluded.report, checked_at = excluded.checked_at,
    tried_at = excluded.tried_at, failure = null, is_due = excluded.is_due, told = excluded.told,
    blocked_since = excluded.blocked_since;
  return chorus.ok(jsonb_build_object('current', true, 'was', v_old.verdict,
    'was_blocked', v_account.blocked_since is not null, 'is_blocked', v_since is not null));
end $$;

select chorus.secure_functions();
