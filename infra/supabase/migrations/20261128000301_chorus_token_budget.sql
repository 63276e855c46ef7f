-- What an account's day has cost, with the messages that were answered; and the tokens that an account may have in a day, by its
-- own setting. It is told once a day.

alter table public.account_usage
  add column messages bigint not null default 0,  -- of customers, that the answers are to
  add column budget_told boolean not null default false;
alter table public.whatsapp_accounts
  add column daily_token_budget bigint check (daily_token_budget > 0);  -- null: none
grant select (daily_token_budget) on public.whatsapp_accounts to authenticated;

-- As before, and the messages that the answer is to, once, with it.
create or replace function chorus.count_spent(key text, p jsonb) returns jsonb
language plpgsql set search_path = public, pg_temp as $$
declare
  v_reply replies;
  v_before jsonb;
  v_answers integer;
begin
  select * into v_reply from replies where reply_key = key;
  if p->>'spent_id' is null or v_reply.spent_id = (p->>'spent_id')::uuid then
    return null;
  end if;
  -- The row first: of answers that are saved at the same moment each sees its own before and after.
  insert into account_usage (account_id, day) values (v_reply.account_id, chorus.today())
  on conflict (account_id, day) do nothing;
  perform from account_usage where account_id = v_reply.account_id and day = chorus.today() for no key update;
  v_before := chorus.usage(v_reply.account_id, v_reply.conversation_id);
  v_answers := (v_reply.spent_id is null and p->>'fallback' is null)::integer;
  update account_usage
  set answers = answers + v_answers, messages = messages + v_answers * cardinality(v_reply.covers),
    input_tokens = input_tokens + (p->>'input_tokens')::bigint, output_tokens = output_tokens + (p->>'output_tokens')::bigint
  where account_id = v_reply.account_id and day = chorus.today();
  update replies
  set spent_id = (p->>'spent_id')::uuid, spent_at = now(),
    input_tokens = coalesce(input_tokens, 0) + (p->>'input_tokens')::bigint,
    output_tokens = coalesce(output_tokens, 0) + (p->>'output_tokens')::bigint
  where reply_key = key;
  return jsonb_build_object(
    'before', v_before, 'after', chorus.usage(v_reply.account_id, v_reply.conversation_id));
end $$;

-- p: account_id, notice (as for chorus_account_notice). The account has used up its budget of today: kept as its last notice,
-- once a day. Answers true if this call was the first of the day. Order of locks: the account, then the day's row.
create function public.chorus_tell_budget(p jsonb) returns jsonb
language plpgsql set search_path = public, pg_temp as $$
declare
  v_account uuid := chorus.as_uuid(p->>'account_id');
begin
  if not exists (
    select from account_usage where account_id = v_account and day = chorus.today() and not budget_told) then
    return chorus.ok('false');
  end if;
  perform from whatsapp_accounts where id = v_account for no key update;
  update account_usage set budget_told = true where account_id = v_account and day = chorus.today() and not budget_told;
  if not found then
    return chorus.ok('false');
  end if;
  update whatsapp_accounts set last_notice = p->'notice' where id = v_account;
  return chorus.ok('true');
end $$;

select chorus.secure_functions();
