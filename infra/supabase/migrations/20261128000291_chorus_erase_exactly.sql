-- Of events that cannot be read, those go that have one of the customer's numbers or ids as a whole JSON string. Before, a user
-- id that begins with another one's counted as well.

create or replace function chorus.mentions(payload bytea, words text[]) returns boolean
language sql immutable set search_path = '' as $$
  select exists (select from unnest(words) w where position(convert_to('"' || w || '"', 'utf8') in payload) > 0)
$$;

select chorus.secure_functions();
