-- A commit that notifies holds a lock of the whole server until it is on the disk: one such commit after the other, in all
-- databases, however many connections there are. So nothing is announced while the relay looks by itself.

-- Who moves events holds the lock in its session meanwhile (Notifications.mute). It is held here for a moment only: until the
-- end of the transaction it would keep the relay from taking it.
create or replace function chorus.announce_outbox() returns trigger
language plpgsql security definer set search_path = '' as $$
declare
  v_muted constant bigint := hashtext('chorus_outbox');
begin
  if pg_try_advisory_lock_shared(v_muted) then
    perform pg_advisory_unlock_shared(v_muted);
    perform pg_notify('chorus_outbox', '');
  end if;
  return null;
end $$;

select chorus.secure_functions();
