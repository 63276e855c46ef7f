-- As 20261128000702 for replies. Apart, because a migration locks its table until it ends.

create function chorus.is_reply(author text, state text, fallback text) returns boolean
language plpgsql immutable as $$
begin
  return author in ('bot', 'human') and state in ('pending', 'sending', 'sent', 'failed', 'silenced')
    and coalesce(fallback in ('refused', 'unavailable', 'interim'), true);
end $$;

select chorus.secure_functions();

alter table public.replies
  drop constraint replies_author_check, drop constraint replies_state_check, drop constraint replies_fallback_check,
  add constraint replies_check check (chorus.is_reply(author, state, fallback)) not valid;
