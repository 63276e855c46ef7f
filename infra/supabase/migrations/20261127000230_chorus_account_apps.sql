-- Which Meta app speaks for an account's number: its secret is the only one whose signature counts for that number.

alter table public.whatsapp_accounts
  add column app_id text check (app_id ~ '^[0-9]{5,20}$');  -- null: the first app of META_APP_SECRET
grant select (app_id) on public.whatsapp_accounts to authenticated;

-- p: id, name, slug, phone_number_id, access_token, verify_token, phone_number, bot_auto_on, owner_id, app_id (may be
-- absent). As before, with the app.
create or replace function public.chorus_create_account(p jsonb) returns jsonb
language plpgsql set search_path = public, pg_temp as $$
declare
  v_account whatsapp_accounts;
  v_constraint text;
begin
  begin
    insert into whatsapp_accounts
      (id, name, slug, phone_number_id, access_token, verify_token, phone_number, bot_auto_on, app_id)
    values (
      (p->>'id')::uuid, p->>'name', p->>'slug', p->>'phone_number_id', p->>'access_token', p->>'verify_token',
      p->>'phone_number', (p->>'bot_auto_on')::boolean, p->>'app_id'
    )
    returning * into v_account;
  exception when unique_violation then
    get stacked diagnostics v_constraint = constraint_name;
    select * into v_account from whatsapp_accounts where id = (p->>'id')::uuid;
    if not found then
      return chorus.conflict(case v_constraint
        when 'whatsapp_accounts_slug_key' then 'slug_taken' else 'phone_number_id_taken' end);
    end if;
  end;
  if p->>'owner_id' is not null then
    insert into account_members (account_id, user_id, role) values (v_account.id, p->>'owner_id', 'owner')
    on conflict do nothing;
  end if;
  return chorus.ok(to_jsonb(v_account));
end $$;

select chorus.secure_functions();
