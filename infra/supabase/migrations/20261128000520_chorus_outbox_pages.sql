-- The queue of events has another life while very many events wait: they are looked at anew in pages. All in one statement took
-- longer than a statement may, so that no event was moved any more.

-- p: as before. Of those moved into an earlier life at most `limit`, the oldest first; as many as limit, and there may be more.
create or replace function public.chorus_outbox_begin(p jsonb) returns jsonb
language plpgsql set search_path = public, pg_temp as $$
declare
  v_again bigint;
  v_gone bigint;
begin
  with earlier as (
    select id from outbox where life <> p->>'life' order by seq limit (p->>'limit')::integer
  ), again as (
    update outbox o set life = null from earlier where o.id = earlier.id returning o.id
  ), unheld as (
    delete from outbox_held h using again where h.event_id = again.id
  )
  select count(*) into v_again from again;
  delete from outbox where id in (
    select o.id from (select id, created_at from outbox order by seq limit (p->>'limit')::integer) o
    where o.created_at < now() - make_interval(secs => (p->>'keep_seconds')::double precision)
  );
  get diagnostics v_gone = row_count;
  return chorus.ok(jsonb_build_object('again', v_again, 'gone', v_gone));
end $$;

select chorus.secure_functions();
