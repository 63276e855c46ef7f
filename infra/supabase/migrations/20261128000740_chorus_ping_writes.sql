-- A database that takes no writes answers, and no message can be stored in it: looking at it tells.

-- p: nothing. False on a standby, and where default_transaction_read_only is on, as a provider sets it when the disk is full.
-- Not transaction_read_only: PostgREST calls what is stable in a transaction of that kind.
create or replace function public.chorus_ping(p jsonb) returns jsonb
language sql stable set search_path = public, pg_temp as $$
  select chorus.ok(to_jsonb(not pg_is_in_recovery() and not current_setting('default_transaction_read_only')::boolean))
$$;

select chorus.secure_functions();
