/**
 * The one search box: every meaning that a text may have is looked for at once, each by an index.
 */

import { fromHex } from '#core/bytes.ts'
import type { SearchTerm } from '#core/search-term.ts'
import {
  batchesOfRoot,
  batchLines,
  eventOfHash,
  eventsOfHead,
  eventsOfLeaves,
  namesLike,
  readAll,
  receiptsOfRoot,
  receiptsOfTx,
} from '#store/dashboard.ts'
import { cursorOf, searchEvents, type EventHit, type Place } from '#store/search.ts'
import type { EventsProps, HitList } from '../dashboard/events.tsx'
import { locate } from './events.ts'
import type { Call } from './route.ts'

/** Hits of a list. */
const LIMIT = 25

/** Filters of which a list can go on: one at a time, on a page of its own, whose text names it. */
const FILTERS = ['source', 'type', 'subject'] as const
type Filter = (typeof FILTERS)[number]

type Found = Omit<EventsProps, 'nowAt' | 'term'>
const NOTHING: Found = {
  lists: [],
  batches: [],
  receipts: [],
  waiting: null,
  likeTypes: [],
  likeSources: [],
}

/** Everything that the text may mean and that is here; `after` goes on in the list of its one filter. */
export async function lookUp(
  call: Call<unknown, unknown>,
  term: SearchTerm,
  after: Place | undefined,
): Promise<Found> {
  const { DB } = call.env
  const by = FILTERS.find((name) => term[name] !== null)
  if (term.text === '') return { ...NOTHING, lists: [await list(DB, null, '', after)] }
  if (by !== undefined && after !== undefined)
    return { ...NOTHING, lists: [await list(DB, by, term[by]!, after)] }
  if (term.hash !== null) return ofHash(call, term.hash)
  const named = FILTERS.filter((name) => term[name] !== null)
  const { number, head, type, source } = term
  const [lists, found] = await Promise.all([
    Promise.all(named.map((name) => list(DB, name, term[name]!))),
    readAll(DB, {
      ...(head === null ? {} : { heads: eventsOfHead(head, LIMIT) }),
      ...(number === null
        ? {}
        : {
            batches: batchLines({ below: number + 1, limit: 1 }),
            leaves: eventsOfLeaves({ from: number, to: number + 1, limit: 1 }),
          }),
      ...(type === null ? {} : { likeTypes: namesLike('type', type) }),
      ...(source === null ? {} : { likeSources: namesLike('source', source) }),
    }),
  ])
  const { heads = [], batches = [], leaves = [], likeTypes = [], likeSources = [] } = found
  return {
    ...NOTHING,
    lists: [
      titled(`Leaf ${number}`, leaves),
      titled(`Events whose hash begins with ${head}`, heads),
      ...lists,
    ],
    batches: batches.filter(({ height }) => height === number),
    likeTypes,
    likeSources,
  }
}

async function ofHash(call: Call<unknown, unknown>, hash: string): Promise<Found> {
  const { DB } = call.env
  const { hit, batches, byTx, byRoot } = await readAll(DB, {
    hit: eventOfHash(hash),
    batches: batchesOfRoot(hash),
    byTx: receiptsOfTx(hash),
    byRoot: receiptsOfRoot(hash),
  })
  const isKnown = hit !== null || batches.length > 0 || byTx.length > 0 || byRoot.length > 0
  // The pools are asked last, and only about what the index does not know.
  const status = isKnown
    ? null
    : (await locate(call, fromHex(hash), (pool) => pool.status(fromHex(hash)))).waiting
  return {
    ...NOTHING,
    lists: [titled('Event', hit === null ? [] : [hit])],
    batches,
    receipts: [...byTx, ...byRoot],
    waiting: status === null ? null : { hash: `sha256:${hash}`, state: status.state },
  }
}

function titled(title: string, hits: readonly EventHit[]): HitList {
  return { title, hits, older: undefined }
}

const TITLES: Readonly<Record<Filter, string>> = {
  source: 'Events of this source',
  type: 'Events of this type',
  subject: 'Events with this subject',
}

async function list(
  db: D1Database,
  by: Filter | null,
  text: string,
  after?: Place,
): Promise<HitList> {
  const filter = by === null ? {} : { [by]: text }
  const { hits, next } = await searchEvents(db, { ...filter, limit: LIMIT, after })
  const query = new URLSearchParams()
  if (by !== null)
    query.set('q', by === 'source' && text.startsWith('did:') ? text : `${by}:${text}`)
  if (next !== null) query.set('after', cursorOf(next))
  return {
    title: by === null ? 'Newest events' : TITLES[by],
    hits,
    older: next === null ? undefined : `/dashboard/events?${query.toString()}`,
  }
}
