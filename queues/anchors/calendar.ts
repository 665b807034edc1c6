/**
 * The calendar rail: Bitcoin without a key, by OpenTimestamps (design §6).
 *
 * What leaves is SHA-256(root ‖ nonce), so a calendar learns nothing; the nonce is stored before. Each
 * calendar answers with a promise (a pending attestation); hours later it answers with a path to a
 * block header. A calendar can delay but not forge: a path counts only if it ends in the Merkle root
 * of the block that our own providers have at that height, and only such paths are kept. Nor can it keep
 * us busy: a promise has no blocks in it, and of each answer a few things are looked at and kept.
 *
 * `work` is the nonce and the file so far, pending attestations and unknown ones included, as anybody
 * could take it and go on with a stock client. URIs in it come from strangers: only those of configured
 * calendars and of the public ones that stock clients know are followed, over https, never a redirect.
 */

import * as z from 'zod'
import { calendarReceipt } from '#core/anchor-bitcoin.ts'
import type { AnchorReceipt } from '#core/anchor-receipt.ts'
import { verifyAnchorReceipt } from '#core/anchor-verify.ts'
import { MIN_FOLLOWING, parseHeader } from '#core/bitcoin-proof.ts'
import { toDisplay } from '#core/bitcoin-transaction.ts'
import type { Hash } from '#core/bytes.ts'
import { concat, equal, fromBase64, fromHex, toBase64, toHex } from '#core/bytes.ts'
import { VaultMeshError } from '#core/errors.ts'
import type { Operation, Timestamp } from '#core/opentimestamps.ts'
import {
  attestationsOf,
  emitOts,
  extendTimestamp,
  linearTimestamp,
  mergeTimestamps,
  parseOts,
  parseTimestamp,
} from '#core/opentimestamps.ts'
import { sha256 } from '#core/sha256.ts'
import { agreedHeaders, checkOptions, pollMs, verdictOnline, disproofOf } from './bitcoin-chain.ts'
import type { BitcoinClient } from './bitcoin-client.ts'
import type { Endpoint } from './bounded-fetch.ts'
import { boundedFetch, DEFAULT_TIMEOUT_MS, failure, parseEndpoint } from './bounded-fetch.ts'
import { chainOf, keptOf, proven, type Block, type Chain } from './calendar-blocks.ts'
import type { AnchorJob, Rail, RailContext, RailStep } from './rail.ts'

export interface CalendarRailOptions {
  /** As in receipts: the network whose headers the calendars lead to. */
  readonly network: string
  readonly calendars: readonly string[]
  /** Calendars that must promise: one may be gone for good tomorrow. */
  readonly minimum?: number
  /** Providers of headers. */
  readonly clients: readonly BitcoinClient[]
  /** Confirmations wanted, at least 7. */
  readonly requiredDepth?: number
  readonly version: string
  readonly timeoutMs?: number
}

const DEFAULT_MINIMUM = 2
const NONCE_BYTES = 16
/** What stock clients read of an answer. */
const MAX_ANSWER_BYTES = 10_000
/** Things of a kind that one answer may hold: real ones hold one promise, or one block. */
const MAX_OF_A_KIND = 4
/** Promises of one calendar that are followed in one check. */
const MAX_FOLLOWED = 8
const HOUR_MS = 3_600_000
/** Calendars pay for a transaction every 6 to 12 hours, and wait for 6 blocks. */
const LATE_MS = 48 * HOUR_MS
/** Then the promises are asked for anew, in case they were forgotten. */
const RENEW_MS = 72 * HOUR_MS
/** The servers that stock clients follow pending attestations to. */
const PUBLIC_CALENDARS = [
  '.calendar.opentimestamps.org',
  '.calendar.eternitywall.com',
  '.calendar.catallaxy.com',
]

const workSchema = z.strictObject({
  nonce: z.string().regex(/^[0-9a-f]{32}$/),
  /** Base64 of a detached file about the root; null before anybody promised. */
  ots: z.string().max(90_000).nullable(),
  /** Epoch ms of the newest promises; null when they are to be asked for. */
  promisedAt: z.int().nonnegative().nullable(),
})
export type CalendarWork = z.infer<typeof workSchema>
type Step = RailStep<CalendarWork>

/** The rail to some calendars. Throws `bad-config`. */
export function calendarRail(options: CalendarRailOptions): Rail<CalendarWork> {
  const { network, clients, version, timeoutMs = DEFAULT_TIMEOUT_MS } = options
  const requiredDepth = options.requiredDepth ?? MIN_FOLLOWING + 1
  const calendars = options.calendars.map((url) => parseEndpoint(url, 'a calendar'))
  const minimum = Math.min(options.minimum ?? DEFAULT_MINIMUM, calendars.length)
  checkOptions(network, clients)
  const isDeep = Number.isSafeInteger(requiredDepth) && requiredDepth > MIN_FOLLOWING
  if (calendars.length === 0 || !(minimum >= 1) || !isDeep) {
    throw new VaultMeshError('bad-config', 'Calendars: at least one, and 7 confirmations or more.')
  }
  const patience = network === 'regtest' ? pollMs(network) : HOUR_MS

  async function promise(job: AnchorJob, work: CalendarWork, context: RailContext): Promise<Step> {
    const path: Operation[] = [{ type: 'append', bytes: fromHex(work.nonce) }, { type: 'sha256' }]
    const commitment = sha256(concat(job.root, fromHex(work.nonce)))
    const answers = await Promise.allSettled(
      calendars.map((calendar) => ask(calendar, context, () => stamp(calendar, commitment))),
    )
    async function stamp(calendar: Endpoint, digest: Hash): Promise<Timestamp> {
      const body = await call(calendar, context, {
        path: '/digest',
        method: 'POST',
        body: digest.slice(),
      })
      const promises = keptOf(read(calendar, digest, body!), [], MAX_OF_A_KIND)
      const said = promises === null ? [] : attestationsOf(promises)
      if (promises !== null && said.some(({ attestation }) => attestation.type === 'pending')) {
        return extendTimestamp(job.root, path, promises)
      }
      throw failure(calendar, 'promised nothing')
    }
    let file = work.ots === null ? null : parseOts(fromBase64(work.ots))
    let count = 0
    const faults: string[] = []
    for (const answer of answers) {
      if (answer.status === 'rejected') {
        faults.push(answer.reason instanceof VaultMeshError ? answer.reason.message : 'Unknown.')
        continue
      }
      const merged = mergedOrNull(file, answer.value)
      if (merged === null) continue
      file = merged
      count++
    }
    if (file === null || (work.ots === null && count < minimum)) {
      const detail = `${count} of ${calendars.length} calendars promised, not ${minimum}. ${faults.join(' ')}`
      throw new VaultMeshError('anchor-failed', detail.trim())
    }
    const now = context.now()
    const next = { ...work, ots: toBase64(emitOts(file)), promisedAt: now }
    return { state: 'waiting', work: next, againAt: now + patience }
  }

  /** One request to a calendar; null is 404, "not yet". */
  async function call(
    calendar: Endpoint,
    { fetch }: RailContext,
    request: { path: string; method: 'GET' | 'POST'; body?: Uint8Array<ArrayBuffer> },
  ): Promise<Uint8Array | null> {
    const { path, method, body } = request
    const answer = await boundedFetch({
      fetch,
      endpoint: calendar,
      path,
      init: {
        method,
        headers: {
          accept: 'application/vnd.opentimestamps.v1',
          'content-type': 'application/octet-stream',
          'user-agent': `vaultmesh/${version}`,
        },
        ...(body === undefined ? {} : { body }),
      },
      statuses: method === 'GET' ? [200, 404] : [200],
      maxBytes: MAX_ANSWER_BYTES,
      timeoutMs,
    })
    return answer.status === 404 ? null : answer.body
  }

  /** Each calendar is a provider of its own, so that the route knows how it does. */
  async function ask<T>(calendar: Endpoint, { route }: RailContext, run: () => Promise<T>) {
    const [answer] = await route.all([calendar], run)
    return answer!
  }

  /** Where to follow a pending attestation to, or null: it stays in the file and is not followed. */
  function followed(uri: string): Endpoint | null {
    if (!URL.canParse(uri)) return null
    const url = new URL(uri)
    const known = calendars.find(({ address }) => new URL(address).origin === url.origin)
    if (known !== undefined) return { ...known, address: url.href.replace(/\/+$/, '') }
    const isPublic =
      url.protocol === 'https:' &&
      url.port === '' &&
      PUBLIC_CALENDARS.some((suffix) => url.hostname.endsWith(suffix))
    return isPublic ? parseEndpoint(uri, 'a calendar') : null
  }

  /** What calendars know by now of the promises in the file; what they cannot prove is left out. */
  async function upgraded(
    file: Timestamp,
    { blocks, chain }: { blocks: readonly Block[]; chain: Chain },
    context: RailContext,
  ): Promise<Timestamp> {
    const counts = new Map<string, number>()
    const open = attestationsOf(file).flatMap(({ attestation, message, path }) => {
      const isProven = blocks.some(({ attested }) =>
        path.every((step, i) => step === attested.path[i]),
      )
      if (attestation.type !== 'pending' || isProven) return []
      const calendar = followed(attestation.uri)
      const count = counts.get(calendar?.name ?? '') ?? 0
      if (calendar === null || count === MAX_FOLLOWED) return []
      counts.set(calendar.name, count + 1)
      return [{ calendar, message, path }]
    })
    const answers = await Promise.allSettled(
      open.map(({ calendar, message, path }) =>
        ask(calendar, context, async () => {
          const get = { path: `/timestamp/${toHex(message)}`, method: 'GET' } as const
          const body = await call(calendar, context, get)
          if (body === null) return null
          const answer = read(calendar, message, body)
          const found = await proven(answer, chain, MAX_OF_A_KIND)
          const [best] = found
          const kept = keptOf(answer, found, MAX_OF_A_KIND)
          if (kept === null || best === undefined) {
            throw failure(calendar, 'answered with a path that leads to no block')
          }
          const whole = [...path, ...best.attested.path]
          return {
            all: extendTimestamp(file.message, path, kept),
            best: linearTimestamp(file.message, whole, best.attested.attestation),
          }
        }),
      ),
    )
    let merged = file
    for (const answer of answers) {
      if (answer.status === 'rejected' || answer.value === null) continue
      // Too much beside the path that counts: keep that one.
      const { all, best } = answer.value
      merged = mergedOrNull(merged, all) ?? mergedOrNull(merged, best) ?? merged
    }
    return merged
  }

  async function finish(
    job: AnchorJob,
    { file, blocks }: { file: Timestamp; blocks: readonly Block[] },
    context: RailContext,
  ): Promise<AnchorReceipt | null> {
    const { height } = blocks[0]!
    const chain = await agreedHeaders(context, clients, { network, height, count: requiredDepth })
    if (chain === null) return null
    const [header, ...following] = chain.map((link) => link.header)
    // What a reorganisation made untrue was kept as long as it could come back.
    const borneOut = keptOf(file, blocks, Infinity)!
    return calendarReceipt({
      root: job.root,
      treeSize: job.treeSize,
      network,
      ots: emitOts(borneOut),
      header: header!,
      following,
      height,
      requiredDepth,
      version,
      observedAt: context.now(),
    })
  }

  async function check(job: AnchorJob, work: CalendarWork, context: RailContext): Promise<Step> {
    if (work.ots === null || work.promisedAt === null) return { state: 'dropped', work }
    const stored = parseOts(fromBase64(work.ots))
    if (!equal(stored.message, job.root)) {
      throw new VaultMeshError('bad-state', 'The stored timestamp is of another root.')
    }
    const chain = chainOf(context, clients, network)
    const file = await upgraded(stored, { blocks: await proven(stored, chain), chain }, context)
    const next: CalendarWork = { ...work, ots: toBase64(emitOts(file)) }
    const blocks = await proven(file, chain)
    const [block] = blocks
    const now = context.now()
    if (block === undefined) {
      const age = now - work.promisedAt
      if (age >= RENEW_MS) return { state: 'dropped', work: { ...next, promisedAt: null } }
      const hours = Math.floor(age / HOUR_MS)
      const late = { reason: `the calendars have promised for ${hours} hours` }
      const wait = { state: 'waiting', work: next, againAt: now + patience } as const
      return age >= LATE_MS ? { ...wait, ...late } : wait
    }
    const observedDepth = (await chain.tip()) - block.height + 1
    if (observedDepth >= requiredDepth) {
      const receipt = await finish(job, { file, blocks }, context)
      if (receipt !== null) return { state: 'final', receipt }
    }
    const hash = await context.route.first(clients, (client) => client.hashAt(block.height))
    if (hash === null) return { state: 'waiting', work: next, againAt: now + pollMs(network) }
    const header = await context.route.first(clients, (client) => client.header(hash))
    const { transaction, path, attestation } = block.attested
    const linear = () => emitOts(linearTimestamp(job.root, path, attestation))
    return {
      state: 'included',
      work: next,
      againAt: now + pollMs(network),
      inclusion: {
        txHash: transaction === null ? toHex(sha256(linear())) : toDisplay(transaction.txid),
        blockNumber: block.height,
        anchorTs: new Date(parseHeader(fromHex(header)).time).toISOString(),
        observedDepth,
        requiredDepth,
      },
    }
  }

  return {
    chain: 'BTC',
    network,
    method: 'calendar',

    async submit(job, work, context) {
      if (work !== null) return promise(job, parsedWork(work), context)
      const nonce = toHex(context.random(NONCE_BYTES))
      return { state: 'signed', work: { nonce, ots: null, promisedAt: null } }
    },

    check: (job, work, context) => check(job, parsedWork(work), context),

    async verify(receipt, context) {
      if (receipt.chain !== 'BTC' || receipt.network !== network) {
        return { outcome: 'refuted', check: 'network', reason: `not a receipt of ${network}` }
      }
      const verdict = await verifyAnchorReceipt(receipt, { tsaRoots: [] })
      if (verdict.outcome !== 'verified') return verdict
      const blockHash = toDisplay(parseHeader(fromHex(String(receipt.proof['header']))).hash)
      return verdictOnline(context, clients, { receipt, verdict, blockHash })
    },

    disproof: (receipt, context) => disproofOf(context, clients, receipt),
  }
}

/** A calendar's answer about `message`; what is no timestamp is its failure, not ours. */
function read(calendar: Endpoint, message: Uint8Array, body: Uint8Array): Timestamp {
  try {
    return parseTimestamp(message, body)
  } catch (error) {
    if (!(error instanceof VaultMeshError) || error.code !== 'bad-proof') throw error
    throw failure(calendar, 'answered with no timestamp')
  }
}

/** Both in one file, or null if that would pass the limits of what is read. */
function mergedOrNull(file: Timestamp | null, more: Timestamp): Timestamp | null {
  try {
    const merged = file === null ? mergeTimestamps(more) : mergeTimestamps(file, more)
    emitOts(merged)
    return merged
  } catch (error) {
    if (!(error instanceof VaultMeshError) || error.code !== 'bad-proof') throw error
    return null
  }
}

function parsedWork(work: unknown): CalendarWork {
  const parsed = workSchema.safeParse(work)
  if (parsed.success) return parsed.data
  throw new VaultMeshError('bad-state', 'The stored calendar work is not what this rail writes.')
}
