-- What a message may say of itself is checked by one constraint, which calls a function. There were three: the
-- server reads the text of a constraint anew for every statement, and a list of words is a long text; a function is parsed once for
-- a connection. The words are the same. Not validated: what is there was checked by the constraints before.

create function chorus.is_message(direction text, author text, status text) returns boolean
language plpgsql immutable as $$
begin
  return direction in ('inbound', 'outbound') and author in ('customer', 'bot', 'human')
    and status in ('received', 'pending', 'sending', 'sent', 'delivered', 'read', 'played', 'failed');
end $$;

select chorus.secure_functions();

alter table public.messages
  drop constraint messages_direction_check, drop constraint messages_author_check, drop constraint messages_status_check,
  add constraint messages_check check (chorus.is_message(direction, author, status)) not valid;
