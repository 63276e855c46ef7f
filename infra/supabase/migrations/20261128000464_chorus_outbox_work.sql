-- Deliveries of many endpoints in one transaction: what their workers ask for and what they have told.

-- p: settlements (each as for chorus_outbox_settle), loads (each as for chorus_outbox_load). The settlements first. Answers
-- {settled, loaded}, each in the order of what was asked.
-- Order of locks, so that two calls do not wait for each other: all events by their ids, then the endpoints by theirs.
create function public.chorus_outbox_work(p jsonb) returns jsonb
language plpgsql set search_path = public, pg_temp as $$
declare
  v_settled jsonb[];
  v_loaded jsonb;
  v_one record;
begin
  perform from outbox
  where id in (
    select told::uuid from jsonb_array_elements(p->'settlements') s, jsonb_array_elements_text(s->'told') told)
  order by id for update;
  for v_one in
    select s, place::integer from jsonb_array_elements(p->'settlements') with ordinality as t (s, place)
    order by s->>'endpoint_id', place
  loop
    v_settled[v_one.place] := public.chorus_outbox_settle(v_one.s)->'ok';
  end loop;
  select coalesce(jsonb_agg(public.chorus_outbox_load(l)->'ok' order by place), '[]') into v_loaded
  from jsonb_array_elements(p->'loads') with ordinality as t (l, place);
  return chorus.ok(jsonb_build_object('settled', to_jsonb(coalesce(v_settled, '{}')), 'loaded', v_loaded));
end $$;

select chorus.secure_functions();
