-- A file that WhatsApp refuses is settled in one call. It was two: begun, so that the message is there, then failed. A worker that
-- ended in between left a message that was being sent although nothing had been.

-- p: as for chorus_begin_part without resend, and error. The part begins and fails for good. Answers as chorus_begin_part: "send" is
-- what failed now, "ambiguous" an earlier attempt of unknown outcome that fails with it; after any other nothing has changed.
create function public.chorus_refuse_part(p jsonb) returns jsonb
language plpgsql set search_path = public, pg_temp as $$
declare
  v_begun jsonb := public.chorus_begin_part(p || jsonb_build_object('resend', false));
begin
  if v_begun->>'ok' in ('send', 'ambiguous') then
    perform public.chorus_fail_part(p || jsonb_build_object('final', true));
  end if;
  return v_begun;
end $$;

select chorus.secure_functions();
