-- For how long events have waited to be moved, asked by every replica: what moves them cannot tell while it fails.

-- p: nothing. Seconds since the oldest event that was not moved, 0 if all were. Reads one row of outbox_unmoved.
create function public.chorus_outbox_oldest(p jsonb) returns jsonb
language sql stable set search_path = public, pg_temp as $$
  select chorus.ok(to_jsonb(coalesce((
    select greatest(0, extract(epoch from clock_timestamp() - o.created_at))
    from outbox o where o.life is null order by o.seq limit 1), 0)))
$$;

select chorus.secure_functions();
