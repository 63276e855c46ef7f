-- What Meta says about each account (services/account_health.py): asked every ten minutes, and at once after a change. A
-- check that finds that nothing can be sent blocks the account, as refused sends do, and ends the blocks that a check began.

create table public.account_health (
  account_id uuid primary key references public.whatsapp_accounts on delete cascade,
  verdict text,            -- of the last check that could be made; null: there was none yet
  reason text,             -- the worst problem, in the application's word (Problem)
  report jsonb,
  checked_at timestamptz,
  tried_at timestamptz,    -- the last check, whether or not it could be made
  failure text,            -- why it could not be made
  is_due boolean not null default false,  -- something changed since
  told boolean not null default false,    -- account.blocked was told, although nothing keeps it from sending
  blocked_since timestamptz               -- of the block that a check began
);
create index account_health_tried on public.account_health (tried_at);
select chorus.secure_table('public.account_health');
grant select on public.account_health to authenticated;
create policy members_read on public.account_health for select to authenticated
  using (account_id in (select chorus.my_accounts()));

-- What is known is about something else now, or Meta has just said more. Security definer, as the other triggers that
-- write where the author of the change may not.
create function chorus.check_health() returns trigger
language plpgsql security definer set search_path = '' as $$
begin
  update public.account_health set is_due = true where account_id = new.id and not is_due;
  return null;
end $$;
create trigger check_health after update on public.whatsapp_accounts for each row
  when (new.access_token is distinct from old.access_token or new.phone_number_id is distinct from old.phone_number_id
    or new.is_active is distinct from old.is_active or new.app_id is distinct from old.app_id
    or new.last_notice is distinct from old.last_notice or new.blocked_since is distinct from old.blocked_since)
  execute function chorus.check_health();

-- p: limit, every_seconds, again_seconds (after a check that could not be made). Answers {"due": [active accounts, those that
-- changed first], "problems": [{"verdict", "reason", "count"}] of all active accounts}.
create function public.chorus_account_health_round(p jsonb) returns jsonb
language sql stable set search_path = public, pg_temp as $$
  select chorus.ok(jsonb_build_object(
    'due', (
      select coalesce(jsonb_agg(to_jsonb(d) order by d.position), '[]')
      from (
        select a.*, row_number() over (order by coalesce(h.is_due, true) desc, h.tried_at nulls first, a.id) as position
        from whatsapp_accounts a left join account_health h on h.account_id = a.id
        where a.is_active and (
          h.account_id is null or h.is_due or h.tried_at is null
          or h.tried_at < now() - make_interval(secs =>
            case when h.failure is null then p->>'every_seconds' else p->>'again_seconds' end::double precision))
        order by position limit (p->>'limit')::integer
      ) d
    ),
    'problems', (
      select coalesce(jsonb_agg(jsonb_build_object('verdict', c.verdict, 'reason', c.reason, 'count', c.count)), '[]')
      from (
        select h.verdict, h.reason, count(*) as count
        from account_health h join whatsapp_accounts a on a.id = h.account_id
        where a.is_active and h.reason is not null
        group by h.verdict, h.reason
      ) c
    )
  ))
$$;

-- The newest message of a customer. Conversations in the order of their last message: none further down is newer.
create function chorus.last_inbound_at(account uuid) returns timestamptz
language plpgsql stable set search_path = '' as $$
declare
  v_row record;
  v_newest timestamptz;
begin
  for v_row in
    select c.last_message_at, c.last_inbound_at from public.conversations c
    where c.account_id = account order by c.last_message_at desc, c.id desc
  loop
    exit when v_newest >= v_row.last_message_at;
    v_newest := greatest(v_newest, v_row.last_inbound_at);
  end loop;
  return v_newest;
end $$;

-- p: account_id. The row, with last_inbound_at; of an account that was not checked yet only that.
create function public.chorus_account_health(p jsonb) returns jsonb
language sql stable set search_path = public, pg_temp as $$
  select chorus.ok(coalesce(
    (
      select jsonb_build_object('verdict', h.verdict, 'reason', h.reason, 'report', h.report,
        'checked_at', h.checked_at, 'tried_at', h.tried_at, 'failure', h.failure)
      from account_health h where h.account_id = chorus.as_uuid(p->>'account_id')
    ), '{}'
  ) || jsonb_build_object('last_inbound_at', chorus.last_inbound_at(chorus.as_uuid(p->>'account_id'))))
$$;

-- p: account_id, access_token (the stored text that was in use), verdict (null: the check could not be made), reason, block (a
-- BlockReason, or null), report, failure, confirm (as for chorus_account_refused).
-- 1. the account has another token by now: nothing is written, and it is due again
-- 2. the check could not be made: that is noted, everything else stays
-- 3. a block begins, or one that a check began ends; the triggers of the account tell and wake
-- 4. a reason that is no block, and keeps the account from its work all the same, is told in the same words
-- Answers {"current": it still had this token, "was": the verdict before, "was_blocked", "is_blocked"}.
create function public.chorus_record_account_health(p jsonb) returns jsonb
language plpgsql set search_path = public, pg_temp as $$
declare
  v_account whatsapp_accounts;
  v_old account_health;
  v_since timestamptz;
  v_told boolean;
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
  if p->>'verdict' is null then
    insert into account_health (account_id, tried_at, failure) values (v_account.id, now(), p->>'failure')
    on conflict (account_id) do update set tried_at = excluded.tried_at, failure = excluded.failure, is_due = false;
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
  insert into account_health as h (account_id, verdict, reason, report, checked_at, tried_at, told, blocked_since)
  values (v_account.id, p->>'verdict', p->>'reason', p->'report', now(), now(), v_told, v_old.blocked_since)
  on conflict (account_id) do update
  set verdict = excluded.verdict, reason = excluded.reason, report = excluded.report, checked_at = excluded.checked_at,
    tried_at = excluded.tried_at, failure = null, is_due = false, told = excluded.told,
    blocked_since = excluded.blocked_since;
  return chorus.ok(jsonb_build_object('current', true, 'was', v_old.verdict,
    'was_blocked', v_account.blocked_since is not null, 'is_blocked', v_since is not null));
end $$;

select chorus.secure_functions();
