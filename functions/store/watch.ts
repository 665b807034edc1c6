/**
 * The watchers: each minute they look at what is stored and make the open alerts of their kinds those that are due.
 *
 * What they decide is core/watch.ts; here is what they read. Each derives its alerts from storage alone, so a missed
 * or doubled look changes nothing but the moment. A watcher that cannot read leaves its alerts as they are and says
 * so by an alert of its own, `watch_blind`, which its next success clears: silence never passes for health. All that
 * one run found is written at once. Watchers that ask chains are in queues/watch.ts.
 */

import type { AlertKind } from '#core/alert.ts'
import type { AnchorReceipt } from '#core/anchor-receipt.ts'
import { verifyAnchorReceipt } from '#core/anchor-verify.ts'
import { fromBase64, hashFromHex } from '#core/bytes.ts'
import { VaultMeshError } from '#core/errors.ts'
import { isoTime } from '#core/time.ts'
import { verifyTimestamp } from '#core/timestamp-proof.ts'
import {
  isDown,
  isExpiring,
  isRetrying,
  isStale,
  PEER_DOWN_MS,
  SEAL_WINDOW_MS,
} from '#core/watch.ts'
import { clearAlert, raiseAlert, settledAlerts, type Alert } from '#store/alerts.ts'
import { configuredRails } from '#store/anchors.ts'
import { count } from '#store/metrics.ts'
import { nodeOf, type NodeContext } from '#store/node.ts'
import { batchLink, heightOfTree } from '#store/suffering.ts'

/** What a watcher remembers. */
export interface Memory {
  readonly value: unknown
  /** When its watcher wants to look again, epoch ms; 0 if that means nothing to it. */
  readonly dueAt: number
}

/** One look, as a watcher is handed it. */
export interface Look {
  readonly env: Env
  readonly node: NodeContext
  /** Epoch ms. */
  readonly nowAt: number
  /** What watchers remember, by name. */
  readonly memory: ReadonlyMap<string, Memory>
  /** Alerts that are open. */
  readonly open: readonly OpenAlert[]
}

type OpenAlert = Pick<Alert, 'kind' | 'key' | 'detail' | 'link'>

/** What a look found. */
export interface Found {
  /** By kind all alerts that are due; with `prefix`, of those whose key begins with it. */
  readonly alerts: readonly {
    readonly kind: AlertKind
    readonly prefix?: string
    readonly due: readonly Omit<Alert, 'kind'>[]
  }[]
  /** What to remember from now on; null to forget. */
  readonly memory?: Readonly<Record<string, Memory | null>>
}

/** A watcher; `name` is the key of its `watch_blind`. */
export interface Watcher {
  readonly name: string
  look(look: Look): Promise<Found>
}

/** Runs watchers one after another; one that fails keeps no other from looking. Throws if nothing can be written. */
export async function runWatchers(
  env: Env,
  watchers: readonly Watcher[],
  nowAt: number,
): Promise<void> {
  const { DB } = env
  const [state, alerts] = await DB.batch<StateRow & OpenAlert>([
    DB.prepare(STATE),
    DB.prepare('SELECT kind, key, detail, link FROM alerts WHERE cleared_at IS NULL'),
  ])
  const memory = memoryOf(state!.results, nowAt)
  const open = alerts!.results
  const look = { env, node: await nodeOf(env), nowAt, memory, open }
  const writes: D1PreparedStatement[] = []
  for (const { name, look: lookAt } of watchers) {
    try {
      const found = await lookAt(look)
      for (const { kind, prefix = '', due } of found.alerts) {
        const before = open.filter((o) => o.kind === kind && o.key.startsWith(prefix))
        if (areSame(before, due)) continue
        const all = due.map((alert) => ({ ...alert, kind }))
        writes.push(...settledAlerts(DB, kind, all, { nowAt, prefix }))
      }
      for (const [key, value] of Object.entries(found.memory ?? {})) {
        if (JSON.stringify(memory.get(key) ?? null) !== JSON.stringify(value))
          writes.push(remembered(DB, key, value))
      }
      if (open.some(({ kind, key }) => kind === 'watch_blind' && key === name))
        writes.push(clearAlert(DB, 'watch_blind', name, nowAt))
    } catch (error) {
      const msg = 'a watcher cannot read'
      console.error(JSON.stringify({ level: 'error', msg, watcher: name, error: String(error) }))
      writes.push(raiseAlert(DB, blind(name, error), nowAt))
    }
  }
  // Mostly nothing has changed.
  if (writes.length > 0) await DB.batch(writes)
}

function areSame(open: readonly OpenAlert[], due: readonly Omit<OpenAlert, 'kind'>[]): boolean {
  const name = ({ key, detail, link }: Omit<OpenAlert, 'kind'>) =>
    JSON.stringify([key, detail, link])
  const names = new Set(open.map(name))
  return names.size === due.length && due.every((alert) => names.has(name(alert)))
}

function blind(name: string, error: unknown): Alert {
  // Only our own errors are made to be shown.
  const why = error instanceof VaultMeshError ? error.message : 'See the log.'
  const detail = `The watcher "${name}" could not look; its alerts stand as they were. ${why}`
  return { kind: 'watch_blind', key: name, severity: 'warning', detail, link: '/healthz' }
}

interface StateRow {
  readonly name: string
  readonly dueAt: number
  readonly value: string
}

const STATE = 'SELECT name, due_at AS dueAt, value FROM watch_state'

/** No watcher waits longer: what is due later was written by a clock that was set back since, and is due now. */
export const LONGEST_WAIT_MS = 7_200_000

function memoryOf(rows: readonly StateRow[], nowAt: number): ReadonlyMap<string, Memory> {
  return new Map(
    rows.map(({ name, dueAt, value }) => [
      name,
      { value: JSON.parse(value) as unknown, dueAt: dueAt > nowAt + LONGEST_WAIT_MS ? 0 : dueAt },
    ]),
  )
}

function remembered(db: D1Database, name: string, memory: Memory | null): D1PreparedStatement {
  if (memory === null) return db.prepare('DELETE FROM watch_state WHERE name = ?').bind(name)
  return db
    .prepare(
      `INSERT INTO watch_state (name, due_at, value) VALUES (?1, ?2, ?3)
       ON CONFLICT (name) DO UPDATE SET due_at = ?2, value = ?3`,
    )
    .bind(name, memory.dueAt, JSON.stringify(memory.value))
}

/** A value to remember that is due at no moment. */
function always(value: unknown): Memory {
  return { value, dueAt: 0 }
}

// ── seals ──────────────────────────────────────────────────────────────────────────────────────

/** Seals that fail, events that wait too long, promises that broke. An ended log seals nothing: `fork` says that. */
const seals: Watcher = {
  name: 'seals',
  async look({ env, node: { config }, nowAt }) {
    const { origin: key, sealBatchMaxIntervalMs: intervalMs, sealPromiseSlackMs } = config
    const seen = await env.SEQUENCER.getByName('log').watch({
      overdueBefore: nowAt - intervalMs - sealPromiseSlackMs,
      since: nowAt - SEAL_WINDOW_MS,
    })
    const { halted, waiting, oldestAt, overdue, sealed, failed } = seen
    // What waits has no batch yet.
    const link = batchLink(seen.height === 0 ? null : seen.height, '/batches')
    const since = oldestAt === null ? '' : `, the oldest since ${isoTime(oldestAt)}`
    const only = (isDue: boolean, severity: Alert['severity'], detail: string) =>
      isDue && !halted ? [{ key, severity, detail, link }] : []
    return {
      alerts: [
        {
          kind: 'promise_broken',
          due: only(
            overdue > 0,
            'critical',
            `${overdue} of ${waiting} events that wait are past the sealBy of their promise${since}.`,
          ),
        },
        {
          kind: 'checkpoint_stale',
          due: only(
            isStale(oldestAt, nowAt, intervalMs),
            'warning',
            `${waiting} events wait for their seal${since}; the interval is ${intervalMs / 1000} s.`,
          ),
        },
        {
          kind: 'seal_retries',
          due: only(
            isRetrying(seen),
            'warning',
            `${failed} of ${sealed + failed} attempts to seal failed within an hour.`,
          ),
        },
      ],
    }
  },
}

// ── receipts ───────────────────────────────────────────────────────────────────────────────────

/** Stored receipts verified again in one look, in turn, at ≤ 3 ms each (measured): 300 an hour. */
const RECEIPTS_PER_LOOK = 5
/** Each was verified when it was kept: a round that came to its end is followed by the next after an hour. */
const ROUND_MS = 3_600_000
/** Of those that failed; the others wait for their turn, and their alerts stand. */
const FAILED_PER_LOOK = 20
const STORED = 'stored/'

interface StoredReceipt {
  readonly id: number
  readonly treeSize: number
  readonly chain: string
  readonly network: string
  readonly json: string
}

const RECEIPT = `SELECT r.id, r.tree_size AS treeSize, r.chain, r.network, r.json FROM receipts r
WHERE NOT EXISTS (SELECT 1 FROM revocations v WHERE v.receipt_id = r.id)`

/** Holds stored receipts against their own proofs, offline: those next in turn, and those that failed before. */
const receipts: Watcher = {
  name: 'receipts',
  async look({ env, node, nowAt, memory, open }) {
    const { DB } = env
    const round = memory.get('receipts') ?? always({ after: 0 })
    const { after } = round.value as { readonly after: number }
    const isDue = round.dueAt <= nowAt
    const failed = open
      .filter(({ kind, key }) => kind === 'receipt_failed' && key.startsWith(STORED))
      .map(({ key }) => Number(key.slice(STORED.length)))
    if (!isDue && failed.length === 0) return { alerts: [] }
    const [next, failing, left] = await DB.batch<StoredReceipt>([
      DB.prepare(`${RECEIPT} AND r.id > ? ORDER BY r.id LIMIT ?`).bind(
        after,
        isDue ? RECEIPTS_PER_LOOK : 0,
      ),
      DB.prepare(
        `${RECEIPT} AND r.id IN (SELECT value FROM json_each(?)) ORDER BY r.id LIMIT ${FAILED_PER_LOOK}`,
      ).bind(JSON.stringify(failed)),
      DB.prepare(
        `SELECT id FROM (${RECEIPT} AND r.id IN (SELECT value FROM json_each(?))) ORDER BY id LIMIT -1 OFFSET ${FAILED_PER_LOOK}`,
      ).bind(JSON.stringify(failed)),
    ])
    const trust = {
      tsaRoots: node.config.tsaRoots,
      nodeDids: node.history.keys.map(({ did }) => did),
    }
    const due: Found['alerts'][0]['due'][0][] = []
    const all = new Map([...failing!.results, ...next!.results].map((r) => [r.id, r]))
    for (const { id, treeSize, chain, network, json } of all.values()) {
      const verdict = await verifyAnchorReceipt(parsed(json), trust)
      // A root that is pinned no more, or a proof of another version, speaks against no receipt.
      if (verdict.outcome === 'verified' || verdict.outcome === 'refuted') {
        const outcome = verdict.outcome === 'verified' ? 'ok' : 'failed'
        const labels = { chain: chain as AnchorReceipt['chain'], outcome } as const
        count(env, undefined, 'vaultmesh_receipt_verifications_total', labels)
      }
      if (verdict.outcome !== 'refuted') continue
      due.push({
        key: `${STORED}${id}`,
        severity: 'critical',
        detail: `The stored receipt ${id} of ${chain}/${network} does not verify: ${verdict.check}, ${verdict.reason}.`,
        link: batchLink(await heightOfTree(DB, treeSize), '/anchors/receipts'),
      })
    }
    for (const { id } of left!.results) {
      const key = `${STORED}${id}`
      const before = open.find((alert) => alert.kind === 'receipt_failed' && alert.key === key)
      if (before !== undefined && !all.has(id)) due.push({ ...before, severity: 'critical' })
    }
    const found = next!.results
    // A page that is not full is the end of the round.
    const isOver = isDue && found.length < RECEIPTS_PER_LOOK
    const on = isOver
      ? { value: { after: 0 }, dueAt: nowAt + ROUND_MS }
      : always({ after: found.at(-1)?.id ?? after })
    return {
      alerts: [{ kind: 'receipt_failed', prefix: STORED, due }],
      memory: { receipts: isDue ? on : round },
    }
  },
}

/** A row whose text is no JSON any more is a receipt that does not verify, not a watcher that cannot read. */
function parsed(json: string): unknown {
  try {
    return JSON.parse(json)
  } catch {
    return null
  }
}

// ── peers ──────────────────────────────────────────────────────────────────────────────────────

/** Peers of the configuration that are not heard. One that was never heard counts from when it was first looked for. */
const peers: Watcher = {
  name: 'peers',
  async look({ env, nowAt, memory }) {
    const view = await env.FEDERATION.getByName('node').peersView()
    const known = (memory.get('peers')?.value ?? {}) as Readonly<Record<string, number>>
    const all = (view?.peers ?? []).map((peer) => ({ ...peer, since: known[peer.did] ?? nowAt }))
    const down = all.filter(({ lastSeen, since }) =>
      isDown(lastSeen === null ? since : Date.parse(lastSeen), nowAt),
    )
    const due = down.map(({ did, node_id: name, lastSeen, state }) => {
      const heard = lastSeen === null ? 'was never heard' : `was heard last at ${lastSeen}`
      return {
        key: did,
        severity: 'warning',
        detail: `The peer ${name ?? did} ${heard} (${state}); the limit is ${PEER_DOWN_MS / 60_000} minutes.`,
        link: '/federation/peers',
      } as const
    })
    const since = Object.fromEntries(all.map((peer) => [peer.did, peer.since]))
    return {
      alerts: [{ kind: 'peer_down', due }],
      memory: { peers: all.length === 0 ? null : always(since) },
    }
  },
}

// ── timestamp authorities ──────────────────────────────────────────────────────────────────────

/** When the chain of an authority's newest token ends. */
export interface TsaExpiry {
  readonly authority: string
  /** Epoch ms. */
  readonly expiresAt: number
  /** Of the tree that this token stamped. */
  readonly treeSize: number
}

/** Chains change once in years: the newest token of each authority is read once an hour. */
const CHAIN_MS = 3_600_000

/** Certificates in the newest token of each authority, and the pinned root they lead to. */
const authorities: Watcher = {
  name: 'tsa',
  async look({ env, node: { config }, nowAt, memory }) {
    const { DB } = env
    const before = memory.get('tsa')
    const known = (before?.value ?? []) as readonly TsaExpiry[]
    const found: TsaExpiry[] = []
    for (const { chain, network: authority } of configuredRails(config)) {
      if (chain !== 'TSA') continue
      const last = known.find((expiry) => expiry.authority === authority)
      if (last !== undefined && before!.dueAt > nowAt) {
        found.push(last)
        continue
      }
      const newest = await newestToken(DB, authority)
      if (newest === null) continue
      const { treeSize } = newest
      found.push({ authority, expiresAt: await expiryOf(newest, config.tsaRoots), treeSize })
    }
    const dueAt = before !== undefined && before.dueAt > nowAt ? before.dueAt : nowAt + CHAIN_MS
    const expiring = found.filter(({ expiresAt }) => isExpiring(expiresAt, nowAt))
    const due = expiring.map(async ({ authority, expiresAt, treeSize }) => ({
      key: `TSA/${authority}`,
      severity: 'warning' as const,
      detail: `A certificate that tokens of ${authority} lead through ends at ${isoTime(expiresAt)}, in ${Math.floor((expiresAt - nowAt) / 86_400_000)} days.`,
      link: batchLink(await heightOfTree(DB, treeSize), '/anchors/receipts'),
    }))
    return {
      alerts: [{ kind: 'tsa_chain_expiring', due: await Promise.all(due) }],
      memory: { tsa: found.length === 0 ? null : { value: found, dueAt } },
    }
  },
}

/** Ends of the authorities' chains as the last look found them; those without a token yet are left out. */
export async function tsaExpiries(db: D1Database): Promise<readonly TsaExpiry[]> {
  const { results } = await db.prepare(STATE).all<StateRow>()
  return (memoryOf(results, 0).get('tsa')?.value ?? []) as readonly TsaExpiry[]
}

function newestToken(db: D1Database, network: string): Promise<StoredReceipt | null> {
  return db
    .prepare(
      `${RECEIPT} AND r.chain = 'TSA' AND r.network = ? AND r.method = 'rfc3161' ORDER BY r.tree_size DESC LIMIT 1`,
    )
    .bind(network)
    .first<StoredReceipt>()
}

async function expiryOf({ json }: StoredReceipt, trustedRoots: readonly string[]): Promise<number> {
  const { root, proof } = JSON.parse(json) as AnchorReceipt
  const token = fromBase64(String(proof['token']))
  const verdict = await verifyTimestamp({ root: hashFromHex(root.slice(2)), token, trustedRoots })
  return verdict.chainExpiresAt
}

// ── wallets (queues/watch.ts reads them) ───────────────────────────────────────────────────────

/** What is known of a wallet. */
export interface WalletReading {
  readonly chain: 'BTC' | 'EVM'
  readonly network: string
  /** At the fee cap. */
  readonly anchorsLeft: number
  /** Epoch ms. */
  readonly readAt: number
}

/** The wallets as they were read last; those never read are left out. */
export async function walletReadings(db: D1Database): Promise<readonly WalletReading[]> {
  const { results } = await db
    .prepare(`SELECT value FROM watch_state WHERE name LIKE 'wallet/%' ORDER BY name`)
    .all<{ value: string }>()
  return results
    .map(({ value }) => JSON.parse(value) as WalletReading | null)
    .filter((reading) => reading !== null)
}

/** The watchers that need nothing but storage. */
export const watchers: readonly Watcher[] = [seals, receipts, peers, authorities]
