-- What the model's answers cost: by account and day, and of each conversation since midnight UTC. Counted with the answer
-- itself, read with the history: neither costs a round trip. And a history of which only the beginning of long messages
-- leaves the database.
--
-- Order of locks: the day's row of an account comes last, and nothing is done under it.

create table public.account_usage (
  account_id uuid not null references public.whatsapp_accounts on delete cascade,
  day date not null,  -- UTC
  answers bigint not null default 0,
  input_tokens bigint not null default 0,
  output_tokens bigint not null default 0,
  primary key (account_id, day)
);
select chorus.secure_table('public.account_usage');
grant select on public.account_usage to authenticated;
create policy members_read on public.account_usage for select to authenticated
  using (account_id in (select chorus.my_accounts()));

alter table public.replies
  add column spent_id uuid,         -- the last making of this answer that was counted; null: none
  add column spent_at timestamptz,  -- when
  add column input_tokens bigint,   -- of all its makings
  add column output_tokens bigint;
create index replies_spent on public.replies (conversation_id, spent_at) where spent_id is not null;

create function chorus.today() returns date
language sql stable set search_path = '' as $$
  select (now() at time zone 'utc')::date
$$;

create function chorus.usage(account uuid, conversation uuid) returns jsonb
language sql stable set search_path = '' as $$
  select jsonb_build_object(
    'conversation', (
      select jsonb_build_object('answers', count(*) filter (where r.fallback is null), 'input_tokens', coalesce(sum(r.input_tokens), 0),
        'output_tokens', coalesce(sum(r.output_tokens), 0))
      from public.replies r
      where r.conversation_id = conversation and r.spent_id is not null
        and r.spent_at >= (chorus.today()::timestamp at time zone 'utc')
    ),
    'account', coalesce((
      select jsonb_build_object('answers', u.answers, 'input_tokens', u.input_tokens, 'output_tokens', u.output_tokens)
      from public.account_usage u where u.account_id = account and u.day = chorus.today()
    ), '{"answers": 0, "input_tokens": 0, "output_tokens": 0}')
  )
$$;

-- p: as for chorus_history, and characters: of each message so many come back.
-- Answers {"turns": as chorus_history, "usage": {"conversation", "account"}}.
create function public.chorus_background(p jsonb) returns jsonb
language sql stable set search_path = public, pg_temp as $$
  select chorus.ok(jsonb_build_object(
    'turns', (
      select coalesce(jsonb_agg(jsonb_build_object(
        'role', t.value->'role', 'text', left(t.value->>'text', (p->>'characters')::integer)) order by t.ordinality), '[]')
      from jsonb_array_elements(public.chorus_history(p)->'ok') with ordinality t
    ),
    'usage', (
      select chorus.usage(c.account_id, c.id) from conversations c
      where c.id = chorus.live_conversation(p->>'conversation_id')
    )
  ))
$$;

-- p: as for chorus_save_body or, with a fallback, chorus_save_fallback, and spent_id, input_tokens, output_tokens, all null
-- if the model was not asked. Counted once for a spent_id, whether or not the text is taken: it was paid for. A fallback text
-- is no answer; what was asked
-- before it costs all the same. Answers the reply, with "usage_change" {"before", "after"} if this call counted.
create function public.chorus_save_answer(p jsonb) returns jsonb
language plpgsql set search_path = public, pg_temp as $$
declare
  v_saved jsonb;
  v_reply replies;
  v_before jsonb;
begin
  v_saved := case when p->>'fallback' is null then public.chorus_save_body(p) else public.chorus_save_fallback(p) end;
  if not v_saved ? 'ok' then
    return v_saved;
  end if;
  select * into v_reply from replies where reply_key = v_saved->'ok'->>'reply_key' for no key update;
  if p->>'spent_id' is null or v_reply.spent_id = (p->>'spent_id')::uuid then
    return chorus.ok(chorus.addressed(v_reply));  -- nothing was asked, or a repetition after a lost answer
  end if;
  -- The row first: of answers that are saved at the same moment each sees its own before and after.
  insert into account_usage (account_id, day) values (v_reply.account_id, chorus.today())
  on conflict (account_id, day) do nothing;
  perform from account_usage where account_id = v_reply.account_id and day = chorus.today() for no key update;
  v_before := chorus.usage(v_reply.account_id, v_reply.conversation_id);
  update account_usage
  set answers = answers + (v_reply.spent_id is null and p->>'fallback' is null)::integer,
    input_tokens = input_tokens + (p->>'input_tokens')::bigint, output_tokens = output_tokens + (p->>'output_tokens')::bigint
  where account_id = v_reply.account_id and day = chorus.today();
  update replies
  set spent_id = (p->>'spent_id')::uuid, spent_at = now(),
    input_tokens = coalesce(input_tokens, 0) + (p->>'input_tokens')::bigint,
    output_tokens = coalesce(output_tokens, 0) + (p->>'output_tokens')::bigint
  where reply_key = v_reply.reply_key;
  return chorus.ok(chorus.addressed(v_reply) || jsonb_build_object('usage_change', jsonb_build_object(
    'before', v_before, 'after', chorus.usage(v_reply.account_id, v_reply.conversation_id))));
end $$;

-- p: account_ids, since (a date, UTC). The newest day first; days without an answer have no row.
create function public.chorus_account_usage(p jsonb) returns jsonb
language sql stable set search_path = public, pg_temp as $$
  select chorus.ok(coalesce(jsonb_agg(to_jsonb(u) order by u.day desc, u.account_id), '[]'))
  from account_usage u
  where u.account_id = any (array(select chorus.as_uuid(a) from jsonb_array_elements_text(p->'account_ids') a))
    and u.day >= coalesce((p->>'since')::date, chorus.today())
$$;

select chorus.secure_functions();
