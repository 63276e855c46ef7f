-- What of customers' files the model gets, by profile. Null: as the application says.

alter table public.bot_profiles
  add column media_kinds text[],
  add column media_max_bytes bigint,  -- of one run of messages
  add column media_max_seconds integer,  -- of a recording or a video
  add column media_max_pages integer;  -- of a PDF
