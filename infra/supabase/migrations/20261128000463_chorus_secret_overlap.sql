-- The secret of an endpoint is replaced without a gap: for a while deliveries are signed with both (Standard Webhooks), so that a
-- receiver may take the new one whenever it comes to it.

alter table public.webhook_endpoints
  add column previous_secret text,  -- ciphertext
  add column previous_secret_until timestamptz;

-- p: as before; changes also overlap_seconds: with another secret, for how long the one before still signs (0: no more).
create or replace function public.chorus_update_endpoint(p jsonb) returns jsonb
language plpgsql set search_path = public, pg_temp as $$
declare
  v_changes jsonb := p->'changes';
  v_overlap interval := make_interval(secs => coalesce((v_changes->>'overlap_seconds')::double precision, 0));
  v_endpoint webhook_endpoints;
begin
  update webhook_endpoints e
  set url = coalesce(v_changes->>'url', e.url),
    events = case when v_changes ? 'events' then array(select jsonb_array_elements_text(v_changes->'events')) else e.events end,
    secret = coalesce(v_changes->>'secret', e.secret),
    -- A repetition of this call finds its own secret.
    previous_secret = case when v_changes->>'secret' <> e.secret
      then case when v_overlap > interval '0' then e.secret end else e.previous_secret end,
    previous_secret_until = case when v_changes->>'secret' <> e.secret
      then case when v_overlap > interval '0' then now() + v_overlap end else e.previous_secret_until end,
    enabled = coalesce((v_changes->>'enabled')::boolean, e.enabled),
    disabled_reason = case (v_changes->>'enabled')::boolean
      when true then null when false then coalesce(e.disabled_reason, 'by_hand') else e.disabled_reason end,
    disabled_at = case (v_changes->>'enabled')::boolean
      when true then null when false then coalesce(e.disabled_at, now()) else e.disabled_at end,
    failing_since = case when v_changes ? 'enabled' or v_changes ? 'url' then null else e.failing_since end
  where e.id = chorus.as_uuid(p->>'endpoint_id') and e.account_id = chorus.as_uuid(p->>'account_id')
  returning * into v_endpoint;
  if not found then
    return chorus.not_found('webhook');
  end if;
  return chorus.ok(to_jsonb(v_endpoint));
end $$;

-- p: as before. A row for each secret that signs; those of one endpoint are in one page.
create or replace function public.chorus_endpoint_secrets(p jsonb) returns jsonb
language sql stable set search_path = public, pg_temp as $$
  select chorus.ok(coalesce(jsonb_agg(jsonb_build_object('id', e.id, 'secret', s.secret) order by e.id, s.secret), '[]'))
  from (
    select * from webhook_endpoints where p->>'after' is null or id > chorus.as_uuid(p->>'after')
    order by id limit (p->>'limit')::integer
  ) e
  cross join lateral (
    values (e.secret), (case when e.previous_secret_until > now() then e.previous_secret end)
  ) s (secret)
  where s.secret is not null
$$;

-- p: as before
create or replace function public.chorus_replace_endpoint_secret(p jsonb) returns jsonb
language plpgsql set search_path = public, pg_temp as $$
declare
  v_known constant text[] := array[p->>'expected', p->>'secret'];
begin
  update webhook_endpoints
  set secret = case when secret = any (v_known) then p->>'secret' else secret end,
    previous_secret = case when previous_secret = any (v_known) then p->>'secret' else previous_secret end
  where id = (p->>'endpoint_id')::uuid and (secret = any (v_known) or previous_secret = any (v_known));
  return chorus.ok(to_jsonb(found));
end $$;

select chorus.secure_functions();
