-- What was written before the search came. No table is locked for it; the newest conversations are found first.

insert into public.search_pending (conversation_id, seq) select id, 0 from public.conversations;
insert into public.search_pending (conversation_id, from_seq)
select id, 0 from public.conversations order by last_message_at desc;
