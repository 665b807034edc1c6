/**
 * What the lab asks of a node and of its chains: post, look at jobs, let blocks come, and wait for an end.
 */

import { randomBytes } from 'node:crypto'
import { setTimeout as sleep } from 'node:timers/promises'
import type { AnchorReceipt, Chain } from '#core/anchor-receipt.ts'
import { VaultMeshError } from '#core/errors.ts'
import { createSigner, post, sign } from '../../functions/sdk.ts'
import { getJson } from '../cli/remote.ts'
import { ELSEWHERE } from '../devnet/bitcoind.ts'
import type { Devnet } from '../devnet/devnet.ts'
import type { RunningNode } from '../selfhost.ts'

const PATIENCE_MS = 60_000

/** A row of GET /anchors/status. */
export interface Job {
  readonly id: number
  readonly root: string
  readonly treeSize: number
  readonly chain: Chain
  readonly network: string
  readonly state: string
  readonly failures: number
  readonly nextAt: string | null
}

/** One line of a job's history. */
export interface Attempt {
  readonly attempt: number
  readonly at: string
  readonly outcome: string
  readonly failures: number
  readonly delaySeconds: number
  readonly nextAt: string
  readonly provider: { readonly name: string; readonly why: string } | null
  readonly reason: string | null
}

/** A kept receipt as GET /anchors/receipts lists it. */
export interface Kept {
  readonly id: number
  readonly method: string
  readonly receipt: AnchorReceipt
}

/** Waits until `look` finds something, asking often; throws `anchor-failed` after a minute. */
export async function until<T>(what: string, look: () => Promise<T | null>): Promise<T> {
  const deadline = performance.now() + PATIENCE_MS
  for (;;) {
    const found = await look()
    if (found !== null) return found
    if (performance.now() > deadline) {
      throw new VaultMeshError('anchor-failed', `The lab waited a minute for ${what}.`)
    }
    await sleep(20)
  }
}

/** Posts one signed event. */
export async function postEvent(url: string, subject: string): Promise<void> {
  const signer = await createSigner({ alg: 'EdDSA', secret: new Uint8Array(randomBytes(32)) })
  await post(url, await sign(signer, { type: 'vm.lab.event', subject, data: { subject } }))
}

/** The newest jobs, newest first. */
export async function jobsOf(url: string): Promise<readonly Job[]> {
  return (await getJson<{ anchors: readonly Job[] }>(`${url}/anchors/status?limit=100`)).anchors
}

/** The attempts of a job, oldest first. */
export async function historyOf(url: string, id: number): Promise<readonly Attempt[]> {
  return (await getJson<{ history: readonly Attempt[] }>(`${url}/anchors/${id}`)).history
}

/** Every receipt that the node keeps. */
export async function receiptsOf(url: string): Promise<readonly Kept[]> {
  const all: Kept[] = []
  for (let after: number | null = 0; after !== null;) {
    const page: { receipts: readonly Kept[]; next: number | null } = await getJson(
      `${url}/anchors/receipts?after=${after}&limit=100`,
    )
    all.push(...page.receipts)
    after = page.next
  }
  return all
}

/** A block on each chain that is there. */
export async function mine({ btc, evm }: Devnet): Promise<void> {
  await btc?.mine(1, ELSEWHERE)
  await evm?.mine(1)
}

/** Lets blocks and the cron come until tree `treeSize` has a final anchor on every rail; its jobs. */
export async function untilFinal(
  { url, host, trust }: RunningNode,
  { devnet, treeSize, pass }: { devnet: Devnet; treeSize: number; pass?: () => Promise<unknown> },
): Promise<readonly Job[]> {
  return until(`tree ${treeSize} to be final`, async () => {
    await mine(devnet)
    await pass?.()
    await host.tick()
    await sleep(100)
    const jobs = (await jobsOf(url)).filter((job) => job.treeSize === treeSize)
    const isFinal = trust.rails.every((rail) =>
      jobs.some(({ chain, state }) => chain === rail && state === 'final'),
    )
    return isFinal ? jobs : null
  })
}
