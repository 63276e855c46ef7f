-- Why a person is called, and since when; and profiles whose next column needs no new function.

alter table public.conversations
  add column needs_human_reason text,  -- the application's word for it (HandoverReason); kept from the first call
  add column needs_human_since timestamptz;

alter table public.bot_profiles
  add column greeting_text text,
  add column auto_reply_limit integer,
  add column auto_reply_minutes integer;

-- p: conversation_id, reason. The first reason stays until a person has answered for the conversation.
create or replace function public.chorus_set_needs_human(p jsonb) returns jsonb
language plpgsql set search_path = public, pg_temp as $$
begin
  update conversations
  set needs_human = true, needs_human_reason = p->>'reason', needs_human_since = clock_timestamp()
  where id = chorus.as_uuid(p->>'conversation_id') and not needs_human;
  return chorus.ok(null);
end $$;

-- Whoever clears the flag clears what belongs to it: a trigger, because several operations do.
create function chorus.clear_handover() returns trigger
language plpgsql set search_path = '' as $$
begin
  new.needs_human_reason := null;
  new.needs_human_since := null;
  return new;
end $$;
create trigger clear_handover before update on public.conversations for each row
  when (old.needs_human and not new.needs_human) execute function chorus.clear_handover();

-- p: account_id, changes (any columns but the key and the time of the last change)
create or replace function public.chorus_update_profile(p jsonb) returns jsonb
language plpgsql set search_path = public, pg_temp as $$
declare
  v_columns text;
  v_profile bot_profiles;
begin
  select string_agg(format('%1$I = n.%1$I', attname), ', ') into v_columns
  from pg_attribute
  where attrelid = 'public.bot_profiles'::regclass and attnum > 0 and not attisdropped
    and attname not in ('account_id', 'updated_at') and p->'changes' ? attname::text;
  if v_columns is null then
    select * into v_profile from bot_profiles b where b.account_id = chorus.as_uuid(p->>'account_id');
  else
    execute format(
      'update public.bot_profiles b set %s
       from jsonb_populate_record(null::public.bot_profiles, $1) n where b.account_id = $2 returning b.*', v_columns)
    into v_profile using p->'changes', chorus.as_uuid(p->>'account_id');
  end if;
  if v_profile.account_id is null then
    return chorus.not_found('account');
  end if;
  return chorus.ok(to_jsonb(v_profile));
end $$;

select chorus.secure_functions();
