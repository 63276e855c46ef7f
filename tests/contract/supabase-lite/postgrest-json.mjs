// Loaded before the server (node --import). supalite 0.10 encodes a JSON argument of an rpc twice, so that the function
// receives a string where PostgREST passes the object. This takes out the second time, in memory.
import { register } from 'node:module'
import { isMainThread } from 'node:worker_threads'

if (isMainThread) register(import.meta.url) // Node runs the hook below in a thread of its own

const TWICE = 'serialize:t=>JSON.stringify(t)'
const ONCE = 'serialize:t=>typeof t==="string"?t:JSON.stringify(t)'

export async function load(url, context, nextLoad) {
  const loaded = await nextLoad(url, context)
  if (!url.endsWith('/@supabase/lite/dist/db/postgres/PostgresConnection.js')) return loaded
  return { ...loaded, source: loaded.source.toString().replaceAll(TWICE, ONCE) }
}
