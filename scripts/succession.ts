/**
 * What the operator's process does when the log of its node has forked (design §7, docs/operate-fork.md):
 *
 *   1 notice    GET /admin/log says that the log was halted
 *   2 keep      <home>/evidence/<n>.jws: the event that will open the successor, signed by the node
 *   3 decide    <home>/logs.json: the old log with its evidence; from here on log n + 1 is the current one
 *   4 restart   one instance for each log, the newest with the public address
 *   5 open      POST /admin/open seals the evidence as leaf 0
 *   6 move      POST /admin/succeed, until nothing is left in the old log that could be moved
 *
 * Files are replaced whole or not at all, each step looks for what the one before left, and 5 and 6 change nothing
 * when they are repeated. So whatever ends the process, the next start goes on.
 */

import { existsSync, readFileSync } from 'node:fs'
import { mkdir, open, rename } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import * as z from 'zod'
import { toHex } from '#core/bytes.ts'
import { VaultMeshError } from '#core/errors.ts'
import { sha256 } from '#core/sha256.ts'
import { previousLogsSchema, type PreviousLog } from '#core/succession.ts'
import type { Home } from './home.ts'

/** How often a node is asked whether its log still grows. */
const LOOK_EVERY_MS = 2000
/** What was not decided yet, or could not be moved, is looked at again more and more seldom. */
const LAST_LOOK_MS = 60_000
/** A log that was just started may have to hear its peers before it seals. */
const OPEN_WITHIN_MS = 90_000

const fileSchema = z.strictObject({ logs: previousLogsSchema })

/** The logs that were ended, oldest first; none if there is no file. Throws `bad-config` if it cannot be read. */
export function readLogs(home: Home): readonly PreviousLog[] {
  if (!existsSync(home.logs)) return []
  try {
    return fileSchema.parse(JSON.parse(readFileSync(home.logs, 'utf8'))).logs
  } catch (cause) {
    throw new VaultMeshError(
      'bad-config',
      `Cannot read ${home.logs}, which says which log of this node is the current one. Put the file back from a backup.`,
      { cause },
    )
  }
}

/** A running node as its operator asks it. */
export interface Operated {
  readonly url: string
  readonly token: string
}

/** What a watched node says of its log. */
interface Standing {
  readonly origin: string
  readonly number: number
  readonly vkey: string
  readonly halted: string | null
}

/** If the node's log was halted: keeps the evidence, notes the end of the log, and says why. Null if it grows. */
export async function endLog(node: Operated, home: Home): Promise<string | null> {
  const { origin, number, vkey, halted } = await answered<Standing>(
    await ask(node, 'GET', '/admin/log'),
  )
  if (halted === null) return null
  const logs = readLogs(home)
  // Decided by a process that ended before it restarted the node.
  if (logs.length >= number) return halted
  const file = evidenceFile(home, number)
  if (!existsSync(file)) {
    const response = await ask(node, 'GET', '/admin/evidence')
    if (!response.ok) throw await refusal(response)
    await replace(file, await response.text())
  }
  const evidence = `sha256:${toHex(sha256(readFileSync(file)))}`
  const ended = fileSchema.parse({ logs: [...logs, { origin, vkey, evidence }] })
  await replace(home.logs, `${JSON.stringify(ended, null, 2)}\n`)
  return halted
}

/** Opens the newest log with the evidence of the one before it, unless it is open; there is nothing to do for a first. */
export async function openLog(node: Operated, home: Home, signal: AbortSignal): Promise<void> {
  const { length } = readLogs(home)
  if (length === 0) return
  const file = evidenceFile(home, length)
  if (!existsSync(file)) {
    throw new VaultMeshError(
      'bad-config',
      `${file} is missing: it is the first leaf of the current log. Put the file back from a backup.`,
    )
  }
  const evidence = readFileSync(file)
  const deadline = Date.now() + OPEN_WITHIN_MS
  for (;;) {
    const response = await ask(node, 'POST', '/admin/open', evidence)
    if (response.ok) return
    if (response.status !== 503 || Date.now() > deadline || signal.aborted)
      throw await refusal(response)
    await new Promise((resolve) => setTimeout(resolve, 250))
  }
}

/** One look at a node after another, until it is stopped or its log was ended; nothing ends the process from here. */
export function watchLog(
  node: Operated,
  home: Home,
  onEnded: (why: string) => void,
): { stop(): Promise<void> } {
  let isStopped = false
  let isMoved = false
  let moveAt = 0
  let restMs = LOOK_EVERY_MS
  let timer: NodeJS.Timeout | undefined
  const look = async (): Promise<void> => {
    const why = await endLog(node, home)
    if (isStopped) return
    if (why !== null) {
      isStopped = true
      onEnded(why)
      return
    }
    if (isMoved || Date.now() < moveAt || readLogs(home).length === 0) return
    const report = await answered<{ readonly moved: number; readonly waiting: readonly string[] }>(
      await ask(node, 'POST', '/admin/succeed'),
    )
    isMoved = report.waiting.length === 0
    restMs = report.moved > 0 ? LOOK_EVERY_MS : Math.min(2 * restMs, LAST_LOOK_MS)
    moveAt = Date.now() + restMs
  }
  let said = ''
  const next = (): void => {
    if (isStopped) return
    timer = setTimeout(() => {
      looking = look()
        .then(
          () => undefined,
          (error: unknown) => {
            const text = error instanceof Error ? error.message : String(error)
            // A node that is busy or not there is asked again; what goes on is said once.
            if (text !== said && !isStopped) console.error(`vaultmesh: ${text}`)
            said = text
          },
        )
        .finally(next)
    }, LOOK_EVERY_MS)
  }
  let looking: Promise<unknown> = Promise.resolve()
  next()
  return {
    async stop() {
      isStopped = true
      clearTimeout(timer)
      await looking
    },
  }
}

/** The evidence that ended log `number`. */
export function evidenceFile(home: Home, number: number): string {
  return join(home.evidence, `${number}.jws`)
}

function ask(
  { url, token }: Operated,
  method: 'GET' | 'POST',
  path: string,
  body?: Uint8Array<ArrayBuffer>,
): Promise<Response> {
  return fetch(`${url}${path}`, {
    method,
    headers: { authorization: `Bearer ${token}` },
    ...(body === undefined ? {} : { body }),
    signal: AbortSignal.timeout(60_000),
  })
}

async function answered<T>(response: Response): Promise<T> {
  if (!response.ok) throw await refusal(response)
  return (await response.json()) as T
}

async function refusal(response: Response): Promise<VaultMeshError> {
  const problem = (await response.json().catch(() => ({}))) as { readonly detail?: string }
  return new VaultMeshError(
    'bad-config',
    problem.detail ?? `The node answered ${response.status} to its operator.`,
  )
}

/** Writes a file so that it is there whole or as it was, also after a power cut. */
async function replace(path: string, content: string): Promise<void> {
  await mkdir(dirname(path), { recursive: true, mode: 0o700 })
  const part = `${path}.part`
  const file = await open(part, 'w', 0o644)
  try {
    await file.writeFile(content)
    await file.sync()
  } finally {
    await file.close()
  }
  await rename(part, path)
  const folder = await open(dirname(path), 'r')
  try {
    await folder.sync()
  } finally {
    await folder.close()
  }
}
