-- Where events wait in order while the queue is away (INGEST_FALLBACK=database).

create table public.inbox (
  id bigint generated always as identity primary key,
  event_id text not null unique,
  mailbox text not null,
  payload bytea not null,
  immediate boolean not null,
  created_at timestamptz not null default now()
);
create index inbox_mailbox on public.inbox (mailbox, id);
select chorus.secure_table('public.inbox');
