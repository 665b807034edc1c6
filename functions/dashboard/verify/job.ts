/**
 * One verification, from files to what is shown: the work that a Worker does so that no file can hold up the page.
 *
 * Pure but for the stopwatch; the same function runs in the tests in Node. The verdict is that of `verifyReceipt`,
 * word for word (but what cannot be seen is shown): whoever verifies with the command line reads the same sentence.
 */

import { VaultMeshError } from '#core/errors.ts'
import { readReceiptFile, withoutNewline } from '#core/receipt-file.ts'
import { verifyReceipt, type Receipt, type Report } from '#core/receipt.ts'
import { trustOf } from '../../sdk.ts'
import { visibleText } from '../text.tsx'
import { readPins, tooLarge, type Kind } from './inputs.ts'
import { sectionsOf, type Section } from './sections.ts'

/** Where trust comes from: the visitor's own pins, or what a server says of itself. */
export type TrustSource =
  | { readonly from: 'visitor'; readonly text: string }
  | { readonly from: 'server'; readonly url: string; readonly wellKnown: string }

/** What is to be verified. */
export interface Job {
  readonly receipt: Uint8Array
  readonly event: Uint8Array | null
  readonly trust: TrustSource
  /** The event that it must be about, `sha256:…`, where the page is of one. */
  readonly about?: string
}

/** What came of it. */
export type Outcome =
  | {
      readonly kind: 'report'
      readonly verdict: Report['verdict']
      readonly sentence: string
      /** Whose word was taken, in a sentence. */
      readonly trust: string
      readonly sections: readonly Section[]
      readonly ms: number
    }
  /** Nothing was verified: a file cannot be read. */
  | { readonly kind: 'unreadable'; readonly file: Kind; readonly reason: string }
  /** Nothing was verified: this browser cannot. */
  | { readonly kind: 'unable'; readonly reason: string }

/** Runs a job. Never throws: what cannot be read is an outcome. */
export async function runJob(job: Job): Promise<Outcome> {
  const reason = await unable()
  if (reason !== null) return { kind: 'unable', reason }
  const startedAt = performance.now()
  let file: Kind = 'receipt'
  try {
    for (const kind of ['receipt', 'event'] as const) {
      file = kind
      const limit = tooLarge(kind, job[kind]?.length ?? 0)
      if (limit !== null) return { kind: 'unreadable', file, reason: limit }
    }
    file = 'receipt'
    const event = job.event === null ? undefined : withoutNewline(job.event)
    const receipt = readReceiptFile(job.receipt, event)
    if (job.about !== undefined && receipt.eventHash !== job.about)
      return { kind: 'unreadable', file, reason: 'It is of another event than this page.' }
    file = 'trust'
    const pins = await pinsOf(job.trust)
    file = 'receipt'
    const report = await verifyReceipt(receipt, pins, event)
    return {
      kind: 'report',
      verdict: report.verdict,
      sentence: visibleText(report.sentence),
      trust: trustSentence(job.trust, pins, receipt),
      sections: sectionsOf(receipt, report),
      ms: performance.now() - startedAt,
    }
  } catch (error) {
    return { kind: 'unreadable', file, reason: visibleText(reasonOf(error)) }
  }
}

interface Pins {
  readonly vkeys: readonly string[]
  readonly tsaRoots: readonly string[]
  readonly nodeDids?: readonly string[]
}

async function pinsOf(trust: TrustSource): Promise<Pins> {
  if (trust.from === 'visitor') {
    const limit = tooLarge('trust', trust.text.length)
    if (limit !== null) throw new VaultMeshError('bad-config', limit)
    return readPins(trust.text)
  }
  // The page has fetched the file; a Worker of ours may reach no network.
  const answer = async (): Promise<Response> => new Response(trust.wellKnown)
  return trustOf(trust.url, { fetch: answer, attempts: 1 })
}

/** How far the verdict leans on whom. */
function trustSentence(trust: TrustSource, pins: Pins, receipt: Receipt): string {
  if (trust.from === 'server') {
    return `The keys come from this very server, ${new URL(trust.url).host}: a server that lied could show you a log of its own making. Pin its keys to be independent of it.`
  }
  const { vkeys, tsaRoots, nodeDids = [] } = pins
  if (vkeys.length + tsaRoots.length + nodeDids.length === 0) {
    return `You have pinned no key, so nobody vouches that ${visibleText(receipt.origin)} is the log you mean. Give a trust file or the log’s key.`
  }
  const parts = [
    counted(vkeys.length, 'log key'),
    counted(tsaRoots.length, 'timestamp root'),
    counted(nodeDids.length, 'node'),
  ].filter((part) => part !== null)
  return `Taken is the word of those you have pinned: ${parts.join(', ')}.`
}

function counted(n: number, what: string): string | null {
  return n === 0 ? null : `${n} ${what}${n === 1 ? '' : 's'}`
}

/** For people: of an error that is none of ours only that there was one. */
function reasonOf(error: unknown): string {
  if (error instanceof VaultMeshError) return error.message
  return error instanceof Error && error.name === 'RemoteProblem'
    ? error.message
    : 'It could not be read to its end.'
}

/** The point B of RFC 8032 §5.1 as a key: any would do. */
const SOME_KEY = new Uint8Array(32).fill(0x66).fill(0x58, 0, 1)

/** Why nothing can be verified here; null if it can. */
async function unable(): Promise<string | null> {
  // Absent where a page came by plain http (Secure Contexts §3): the types do not know.
  const subtle = globalThis.crypto.subtle as SubtleCrypto | undefined
  if (subtle === undefined) {
    return 'Browsers lend their cryptography to secure pages alone: open this one by https, or on localhost.'
  }
  try {
    await subtle.importKey('raw', SOME_KEY, 'Ed25519', false, ['verify'])
    return null
  } catch {
    return 'This browser does not know Ed25519 signatures: use a newer one, or vaultmesh verify.'
  }
}
