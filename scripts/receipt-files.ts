/**
 * Verified anchor receipts as files: `<root>.<chain>.<network>[.calendar].json` in a folder that anybody can
 * copy, read and verify without a node; beside one of Bitcoin the same as `….ots` for stock OpenTimestamps clients,
 * and a revocation as `….revoked.json`.
 *
 * Files are written whole or not at all and never changed; a deep reorganisation adds `.1` and so on. What is
 * there is not fetched again: `<folder>/.cursor` has the id of the last receipt and its file's name. If the node has
 * another receipt there (it is another node, or was put back from a backup) all are asked for again.
 *
 * Nothing that a node says becomes a path but what has the shape of a receipt.
 */

import { existsSync, mkdirSync, readFileSync, renameSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import * as z from 'zod'
import { anchorReceiptSchema, type AnchorReceipt } from '#core/anchor-receipt.ts'
import { rootOts } from '#core/anchor-ots.ts'
import { VaultMeshError } from '#core/errors.ts'
import { getJson } from './cli/remote.ts'

/** Where receipts are kept unless the operator says otherwise. */
export const RECEIPTS_DIR = join('anchors', 'receipts')
const PAGE = 100

const pageSchema = z.object({
  receipts: z.array(
    z.object({
      id: z.int().positive(),
      method: z.enum(['tx', 'calendar', 'rfc3161']),
      receipt: anchorReceiptSchema,
      revision: z.int().nonnegative(),
      revoked: z.record(z.string(), z.unknown()).nullable(),
    }),
  ),
  next: z.int().positive().nullable(),
})
type Page = z.infer<typeof pageSchema>

/** The file name of a receipt. */
export function receiptFile(
  { root, chain, network }: Pick<AnchorReceipt, 'root' | 'chain' | 'network'>,
  method: string,
  revision = 0,
): string {
  const calendar = method === 'calendar' ? '.calendar' : ''
  // A network is a host name or a chain's name; whatever else it held would not become a path.
  const safe = network.replaceAll(/[^A-Za-z0-9.\-[\]]/g, '_')
  return `${root}.${chain}.${safe}${calendar}${revision === 0 ? '' : `.${revision}`}.json`
}

/** Copies what is new at the node of `url` into `folder`; resolves to the names of the files written. */
export async function exportReceipts(url: string, folder: string): Promise<string[]> {
  mkdirSync(folder, { recursive: true })
  const cursor = join(folder, '.cursor')
  const before = existsSync(cursor) ? readFileSync(cursor, 'utf8') : ''
  const written: string[] = []
  let after: number | null = await resumeAt(url, before)
  let last = ''
  while (after !== null) {
    const page = await pageOf(url, `after=${after}`)
    for (const entry of page.receipts) written.push(...filesOf(folder, entry))
    const newest = page.receipts.at(-1)
    if (newest !== undefined) last = cursorOf(newest)
    // Whoever is killed here goes on with the page after this one.
    if (last !== '' && last !== before) put(cursor, last)
    after = nextOf(page, after)
  }
  // A revocation may come weeks after its receipt, which is then long behind the cursor.
  after = 0
  while (after !== null) {
    const page = await pageOf(url, `after=${after}&revoked=only`)
    for (const entry of page.receipts) written.push(...filesOf(folder, entry))
    after = nextOf(page, after)
  }
  return written
}

/** The id after which to ask: the cursor's, if the node still has that receipt there, else 0. */
async function resumeAt(url: string, cursor: string): Promise<number> {
  const id = Number(/^(\d{1,15}) /.exec(cursor)?.[1] ?? 0)
  if (id === 0) return 0
  const { receipts } = await pageOf(url, `after=${id - 1}`, 1)
  return receipts[0] !== undefined && cursorOf(receipts[0]) === cursor ? id : 0
}

function cursorOf({ id, receipt, method, revision }: Page['receipts'][number]): string {
  return `${id} ${receiptFile(receipt, method, revision)}\n`
}

/** A node that leads in circles is not followed. */
function nextOf({ next }: Page, after: number): number | null {
  if (next === null || next > after) return next
  throw new VaultMeshError('bad-receipt', 'The node’s pages of receipts do not go on.')
}

/** Writes a receipt's files that are not there yet; returns their names. */
function filesOf(
  folder: string,
  { receipt, method, revision, revoked }: Page['receipts'][number],
): readonly string[] {
  const name = receiptFile(receipt, method, revision)
  const written: string[] = []
  if (writeOnce(join(folder, name), receipt)) written.push(name)
  const ots = name.replace(/\.json$/, '.ots')
  if (receipt.chain === 'BTC' && !existsSync(join(folder, ots))) {
    put(join(folder, ots), rootOts(receipt))
    written.push(ots)
  }
  const record = name.replace(/\.json$/, '.revoked.json')
  if (revoked !== null && writeOnce(join(folder, record), revoked)) written.push(record)
  return written
}

async function pageOf(url: string, query: string, limit = PAGE): Promise<Page> {
  const answer = await getJson<Page>(`${url}/anchors/receipts?limit=${limit}&${query}`)
  const parsed = pageSchema.safeParse(answer)
  // As the node wrote it: a schema's own order of keys would make other files of the same receipts.
  if (parsed.success) return answer
  const field = parsed.error.issues[0]!.path.join('.')
  const detail = `The node answered with something else than receipts (${field}).`
  throw new VaultMeshError('bad-receipt', detail)
}

/** Writes a receipt to `folder` unless it is there; returns its path. */
export function writeReceipt(
  folder: string,
  receipt: AnchorReceipt,
  { method, revision }: { readonly method: string; readonly revision: number },
): string {
  mkdirSync(folder, { recursive: true })
  const path = join(folder, receiptFile(receipt, method, revision))
  writeOnce(path, receipt)
  return path
}

function writeOnce(path: string, value: unknown): boolean {
  if (existsSync(path)) return false
  put(path, `${JSON.stringify(value, null, 2)}\n`)
  return true
}

function put(path: string, text: string | Uint8Array): void {
  const part = `${path}.${process.pid}.part`
  writeFileSync(part, text)
  renameSync(part, path)
}

/** Keeps `folder` current until stopped: asks every `everyMs`, one question at a time. */
export function keepReceipts(
  url: string,
  folder: string,
  everyMs = 5000,
): { stop(): Promise<void> } {
  let running: Promise<unknown> = Promise.resolve()
  let isBusy = false
  const copy = (): void => {
    if (isBusy) return
    isBusy = true
    running = exportReceipts(url, folder)
      .catch((error: unknown) => {
        const message = error instanceof Error ? error.message : String(error)
        console.error(
          JSON.stringify({ level: 'error', msg: 'receipts not exported', error: message }),
        )
      })
      .finally(() => (isBusy = false))
  }
  const timer = setInterval(copy, everyMs)
  copy()
  return {
    async stop() {
      clearInterval(timer)
      await running
      // What became final while the node was ending its work.
      await exportReceipts(url, folder).catch(() => undefined)
    },
  }
}
