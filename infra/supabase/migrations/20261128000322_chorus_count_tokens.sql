-- Tokens of calls that answered no customer: the simulator's.

-- p: account_id, input_tokens, output_tokens. Added to today's. A call that is repeated counts again.
create function public.chorus_count_tokens(p jsonb) returns jsonb
language sql set search_path = public, pg_temp as $$
  insert into account_usage as u (account_id, day, input_tokens, output_tokens)
  values (
    chorus.as_uuid(p->>'account_id'), chorus.today(), (p->>'input_tokens')::bigint, (p->>'output_tokens')::bigint)
  on conflict (account_id, day) do update
  set input_tokens = u.input_tokens + excluded.input_tokens, output_tokens = u.output_tokens + excluded.output_tokens;
  select chorus.ok(null)
$$;

select chorus.secure_functions();
