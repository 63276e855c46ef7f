-- An erasure takes nothing of another account. Events that cannot be read are looked through for the customer's numbers and ids,
-- and one that came to another account's number may have them, too: they stay, as readable ones do. Before, they went.

-- Of an event that cannot be read.
create function chorus.mentions_own(mailbox text, payload bytea, erasure chorus.erasure) returns boolean
language sql stable set search_path = '' as $$
  select chorus.mentions(payload, erasure.words) and not exists (
    select from public.whatsapp_accounts a
    where a.phone_number_id = substr(mailbox, length('unknown:') + 1) and a.id <> erasure.account_id)
$$;

create or replace function chorus.erase_from_inbox(erasure chorus.erasure) returns bigint
language sql set search_path = '' as $$
  with gone as (
    delete from public.inbox i where i.mailbox = any (erasure.mailboxes)
      or (i.mailbox like 'unknown:%' and chorus.mentions_own(i.mailbox, i.payload, erasure)) returning 1)
  select count(*) from gone
$$;

create or replace function chorus.erase_from_journal(erasure chorus.erasure) returns bigint
language sql set search_path = '' as $$
  with gone as (
    delete from public.journal i where i.mailbox = any (erasure.mailboxes)
      or (i.mailbox like 'unknown:%' and chorus.mentions_own(i.mailbox, i.payload, erasure)) returning 1)
  select count(*) from gone
$$;

create or replace function chorus.erase_from_overflow(erasure chorus.erasure) returns bigint
language sql set search_path = '' as $$
  with gone as (
    delete from public.overflow i where i.mailbox = any (erasure.mailboxes)
      or (i.mailbox like 'unknown:%' and chorus.mentions_own(i.mailbox, i.payload, erasure)) returning 1)
  select count(*) from gone
$$;

select chorus.secure_functions();
