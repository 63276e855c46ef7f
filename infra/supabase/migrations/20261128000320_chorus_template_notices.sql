-- What Meta reports of a template names the WhatsApp Business account, not a number: which of our accounts belong to it is known
-- from the check of their health.
create index account_health_waba on public.account_health ((report #>> '{subscription,waba_id}'));

-- p: waba_id, template {id, name, language, field, event, words, reason}. Answers the ids of its accounts.
create function public.chorus_template_notice(p jsonb) returns jsonb
language sql set search_path = public, pg_temp as $$
  with belonging as (
    select account_id from account_health where report #>> '{subscription,waba_id}' = p->>'waba_id'
  ), told as materialized (
    select account_id,
      case when chorus.is_heard(account_id, 'template.updated')
        then chorus.tell(account_id, null, 'template.updated', jsonb_build_object('template', p->'template')) end
    from belonging
  )
  select chorus.ok(coalesce(jsonb_agg(account_id), '[]')) from told
$$;

select chorus.secure_functions();
