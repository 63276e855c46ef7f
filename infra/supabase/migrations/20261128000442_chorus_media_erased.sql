-- A file may arrive after its row went with an erasure: the caller learns so, and deletes it where files are kept.

-- p: media_id, state, and for a file that is kept: sha256, size, mime. One that is kept stays so. Answers whether there is such a
-- row.
create or replace function public.chorus_settle_media(p jsonb) returns jsonb
language plpgsql set search_path = public, pg_temp as $$
begin
  update media
  set state = p->>'state', sha256 = coalesce(p->>'sha256', sha256), size = coalesce((p->>'size')::bigint, size),
    mime = coalesce(p->>'mime', mime)
  where id = (p->>'media_id')::uuid and state <> 'kept';
  return chorus.ok(to_jsonb(found or exists (select from media where id = (p->>'media_id')::uuid)));
end $$;

select chorus.secure_functions();
