/**
 * Gate 3, Sealer: the dead-letter queues remain empty under normal load, and retries are under 2 % of all jobs.
 *
 * A node as anybody runs it takes a steady load for most of a minute, seals and anchors on three rails. Then two
 * witnesses are asked: the counters of /metrics, and the rows that jobs leave in D1. They must agree.
 *
 *   share = (attempts at a batch that an earlier attempt had begun + attempts at an anchor that failed)
 *           / (batches sealed + anchor jobs)
 */

import { randomBytes } from 'node:crypto'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { createSigner, post, sign } from '../../functions/sdk.ts'
import { getText } from '../cli/remote.ts'
import { startDevnet } from '../devnet/devnet.ts'
import { portOrFree } from '../devnet/port.ts'
import { anchorVars } from '../devnet/settings.ts'
import { jobsOf, until } from '../lab/node.ts'
import { startNode, type RunningNode } from '../selfhost.ts'
import { notRun, type GateResult } from './gate.ts'

const GATE = '3 Sealer'
const SHOWN = 'a steady load, sealed and anchored on three rails; counters and rows asked'
/** So long, and so many requests and events a second. */
const LOAD_S = 45
const PER_S = { singles: 10, bulk: 40 } as const
/** The plan's limit. */
const LIMIT = 0.02

/** What one witness says of the queues' jobs. */
export interface JobCounts {
  readonly batches: number
  /** Attempts at a batch that failed or that an earlier one had begun. */
  readonly sealRetries: number
  readonly anchors: number
  /** Attempts at an anchor that failed. */
  readonly anchorRetries: number
  readonly deadLetters: number
}

/** The share of retries among all jobs; 0 jobs are no share at all, which is NaN. */
export function retryShare({ batches, sealRetries, anchors, anchorRetries }: JobCounts): number {
  return (sealRetries + anchorRetries) / (batches + anchors)
}

/** What speaks against the gate, one sentence each. */
export function objections(counted: JobCounts, stored: JobCounts): readonly string[] {
  const wrong: string[] = []
  for (const name of ['batches', 'anchorRetries', 'deadLetters'] as const) {
    if (counted[name] !== stored[name])
      wrong.push(`the counters say ${counted[name]} ${name}, the rows ${stored[name]}`)
  }
  for (const found of [counted, stored]) {
    const share = retryShare(found)
    // NaN, of a node that did nothing, is no pass.
    if (!(share < LIMIT)) wrong.push(`retries are ${percent(share)} of all jobs`)
    if (found.deadLetters > 0) wrong.push(`${found.deadLetters} dead letters`)
  }
  return [...new Set(wrong)]
}

/** Runs the gate; `log` takes a line for each step. */
export async function sealerGate(log: (line: string) => void): Promise<GateResult> {
  const row = { gate: GATE, shown: SHOWN }
  const folder = await mkdtemp(join(tmpdir(), 'vm-load-'))
  const identity = process.env['VAULTMESH_AGE_KEY_FILE']
  process.env['VAULTMESH_AGE_KEY_FILE'] = join(folder, 'age', 'keys.txt')
  const undo: (() => Promise<unknown>)[] = []
  try {
    const dir = join(folder, 'devnet')
    const devnet = await startDevnet({ dir, mineEveryMs: 500, say: log })
    undo.push(() => devnet.stop())
    if (devnet.absent.length > 0)
      return notRun(row, devnet.absent.map(({ line }) => line).join('; '))
    const node = await startNode({
      home: join(folder, 'node'),
      port: await portOrFree(0),
      log: () => undefined,
      vars: {
        ...(await anchorVars(devnet, dir)),
        ORIGIN: 'load.lab.vaultmesh.local/log',
        NODE_ID: 'load',
        SEAL_BATCH_MAX_INTERVAL_MS: '1000',
        ANCHOR_TSA_INTERVAL_MS: '2000',
        ANCHOR_EVM_INTERVAL_MS: '5000',
        ANCHOR_BTC_INTERVAL_MS: '5000',
      },
    })
    undo.push(() => node.stop())
    const events = await load(node, log)
    await atRest(node, events)
    // Counters are stored once a second.
    await sleep(1500)
    const counted = countedBy(await getText(`${node.url}/metrics`))
    const stored = await storedBy(node)
    const wrong = objections(counted, stored)
    const { batches, anchors, sealRetries, anchorRetries, deadLetters } = stored
    const retries = sealRetries + anchorRetries
    const figure = `${retries} retries in ${batches} batches and ${anchors} anchor jobs of ${events} events: ${percent(retryShare(stored))}; ${deadLetters} dead letters`
    return { ...row, figure: [figure, ...wrong].join('; '), ok: wrong.length === 0 }
  } finally {
    for (const step of undo.toReversed()) await step()
    if (identity === undefined) delete process.env['VAULTMESH_AGE_KEY_FILE']
    else process.env['VAULTMESH_AGE_KEY_FILE'] = identity
    await rm(folder, { recursive: true, force: true })
  }
}

/** Posts so much a second, evenly; resolves to the number of events. */
async function load({ url }: RunningNode, log: (line: string) => void): Promise<number> {
  const signer = await createSigner({ alg: 'EdDSA', secret: new Uint8Array(randomBytes(32)) })
  const event = (): Promise<string> => sign(signer, { type: 'vm.lab.event' })
  const begun = performance.now()
  let events = 0
  log(`${PER_S.singles} requests and a bulk of ${PER_S.bulk} each second, for ${LOAD_S} s`)
  for (let s = 0; s < LOAD_S; s++) {
    const bulk = await Promise.all(Array.from({ length: PER_S.bulk }, event))
    await post(url, bulk)
    for (let i = 0; i < PER_S.singles; i++) {
      await post(url, await event())
      const dueAt = begun + (s + (i + 1) / PER_S.singles) * 1000
      await sleep(Math.max(0, dueAt - performance.now()))
    }
    events += PER_S.bulk + PER_S.singles
  }
  log(`${events} events in ${((performance.now() - begun) / 1000).toFixed(0)} s`)
  return events
}

/** Until all is sealed and no anchor is under way. */
async function atRest({ url }: RunningNode, events: number): Promise<void> {
  await until('every event to be sealed and every anchor to end', async () => {
    const { log } = (await (await fetch(`${url}/healthz`)).json()) as { log: { treeSize: number } }
    const jobs = await jobsOf(url)
    const isOver = jobs.every(({ state }) => state === 'final' || state === 'failed')
    const isNewest = jobs.some(
      ({ treeSize, state }) => treeSize === log.treeSize && state === 'final',
    )
    return log.treeSize >= events && isOver && isNewest ? true : null
  })
}

/** What the page of metrics says. */
export function countedBy(page: string): JobCounts {
  const sum = (name: string, labels: RegExp = /./): number =>
    page
      .split('\n')
      .filter((line) => line.startsWith(`${name}{`) && labels.test(line))
      .reduce((total, line) => total + Number(line.slice(line.lastIndexOf(' ') + 1)), 0)
  return {
    batches: sum('vaultmesh_seal_batches_total', /outcome="sealed"/),
    sealRetries:
      sum('vaultmesh_seal_retries_total') + sum('vaultmesh_seal_batches_total', /outcome="failed"/),
    // A job counts when it ends; what a newer root covered was given up without an attempt.
    anchors: sum('vaultmesh_anchor_attempts_total', /outcome="final"/),
    anchorRetries: sum('vaultmesh_anchor_attempts_total', /outcome="failed"/),
    deadLetters: sum('vaultmesh_dead_letters_total'),
  }
}

/** What the rows say. */
async function storedBy({ host }: RunningNode): Promise<JobCounts> {
  const db = await host.miniflare.getD1Database('DB')
  const count = async (sql: string): Promise<number> =>
    (await db.prepare(sql).first<{ n: number }>())!.n
  return {
    batches: await count('SELECT count(*) AS n FROM batches WHERE committed = 1'),
    // A batch that an attempt left behind has its row and is not committed.
    sealRetries: await count('SELECT count(*) AS n FROM batches WHERE committed = 0'),
    anchors: await count("SELECT count(*) AS n FROM anchors WHERE state = 'final'"),
    anchorRetries: await count("SELECT count(*) AS n FROM anchor_attempts WHERE outcome = 'error'"),
    deadLetters: await count('SELECT count(*) AS n FROM dead_letters'),
  }
}

function percent(share: number): string {
  return Number.isNaN(share) ? 'no share' : `${(100 * share).toFixed(2)} %`
}
