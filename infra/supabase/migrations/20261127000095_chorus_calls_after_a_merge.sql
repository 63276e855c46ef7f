-- A call for a person reaches the conversation that a merge of two contacts left over.

-- p: conversation_id, reason. The first reason stays until the flag is cleared.
create or replace function public.chorus_set_needs_human(p jsonb) returns jsonb
language plpgsql set search_path = public, pg_temp as $$
begin
  update conversations
  set needs_human = true, needs_human_reason = p->>'reason', needs_human_since = clock_timestamp()
  where id = chorus.live_conversation(p->>'conversation_id') and not needs_human;
  return chorus.ok(null);
end $$;

select chorus.secure_functions();
