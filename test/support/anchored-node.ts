/**
 * A whole node that anchors in real chains and by a real authority, as `make demo` runs one: for tests of
 * what users, auditors and operators see.
 */

import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import type { AnchorReceipt } from '#core/anchor-receipt.ts'
import type { Receipt } from '#core/receipt.ts'
import { createSigner, post, sign } from '../../functions/sdk.ts'
import { startDevnet, type Devnet } from '../../scripts/devnet/devnet.ts'
import { portOrFree } from '../../scripts/devnet/port.ts'
import { anchorVars } from '../../scripts/devnet/settings.ts'
import { startNode, type RunningNode } from '../../scripts/selfhost.ts'

/** An event as it was posted. */
export interface Posted {
  readonly jws: string
  readonly eventHash: string
}

/** A node, the world it anchors in, and the folder with all they keep. */
export interface AnchoredNode {
  readonly dir: string
  readonly devnet: Devnet
  readonly node: RunningNode
  readonly url: string
  /** Posts an event by a signer of its own, and returns once it is sealed. */
  post(data?: unknown): Promise<Posted>
  /** The receipt as it is now. */
  receipt(eventHash: string): Promise<Receipt>
  /** The receipt once `holds` (default: it is final), the crons run meanwhile; throws after two minutes. */
  until(eventHash: string, holds?: (receipt: Receipt) => boolean): Promise<Receipt>
  stop(): Promise<void>
}

/** The verified anchors of a receipt, bare. */
export function verifiedOf({ anchors }: Pick<Receipt, 'anchors'>): readonly AnchorReceipt[] {
  return anchors.flatMap((anchor) => {
    if (anchor.status !== 'verified') return []
    const { consistencyProof: _, ...bare } = anchor as AnchorReceipt & {
      consistencyProof?: unknown
    }
    return [bare as AnchorReceipt]
  })
}

/** The one verified anchor whose proof is of `type`; throws if there is none. */
export function anchorOf(receipt: Pick<Receipt, 'anchors'>, type: string): AnchorReceipt {
  const found = verifiedOf(receipt).find((anchor) => anchor.proof.type === type)
  if (found === undefined) throw new Error(`The receipt has no verified anchor of ${type}.`)
  return found
}

/**
 * Starts it. With `withCalendar` Bitcoin is used both ways. Roots are anchored when somebody asks, or each
 * `intervalMs`. What is absent here is in `devnet.absent`, and its rail off.
 */
export async function startAnchoredNode({
  withCalendar = false,
  intervalMs = 1000,
  vars = {},
  port,
  federation,
}: {
  readonly withCalendar?: boolean
  readonly intervalMs?: number
  readonly vars?: Readonly<Record<string, string>>
  /** A free one by default. */
  readonly port?: number
  /** A config/federation.yaml to join with. */
  readonly federation?: string
} = {}): Promise<AnchoredNode> {
  // Short: a Unix socket's path has at most 107 bytes.
  const dir = await mkdtemp(join(tmpdir(), 'vm-a-'))
  const identity = process.env['VAULTMESH_AGE_KEY_FILE']
  process.env['VAULTMESH_AGE_KEY_FILE'] = join(dir, 'age.txt')
  let devnet: Devnet | undefined
  let node: RunningNode | undefined
  const stop = async (): Promise<void> => {
    await node?.stop()
    await devnet?.stop()
    if (identity === undefined) delete process.env['VAULTMESH_AGE_KEY_FILE']
    else process.env['VAULTMESH_AGE_KEY_FILE'] = identity
    await rm(dir, { recursive: true, force: true })
  }
  try {
    const chains = join(dir, 'devnet')
    devnet = await startDevnet({ dir: chains, mineEveryMs: 300, withCalendar })
    const calendars: Record<string, string> =
      devnet.calendar === null
        ? {}
        : { ANCHOR_BTC_METHOD: 'both', OTS_CALENDARS: devnet.calendar.url }
    node = await startNode({
      home: join(dir, 'node'),
      port: port ?? (await portOrFree(0)),
      ...(federation === undefined ? {} : { federation }),
      vars: {
        ...(await anchorVars(devnet, chains)),
        ...calendars,
        ORIGIN: 'anchored.test/log',
        RATE_LIMIT_DID: '0',
        RATE_LIMIT_IP: '0',
        SEAL_BATCH_MAX_INTERVAL_MS: '300',
        ANCHOR_TSA_INTERVAL_MS: String(intervalMs),
        ANCHOR_BTC_INTERVAL_MS: String(intervalMs),
        ANCHOR_EVM_INTERVAL_MS: String(intervalMs),
        ...vars,
      },
    })
  } catch (error) {
    await stop()
    throw error
  }
  const { url, host } = node
  const receipt = async (eventHash: string): Promise<Receipt> => {
    const answer = await fetch(`${url}/receipts/${eventHash}`)
    if (!answer.ok) throw new Error(await answer.text())
    return (await answer.json()) as Receipt
  }
  return {
    dir,
    devnet,
    node,
    url,
    stop,
    receipt,
    async post(data = {}) {
      const secret = crypto.getRandomValues(new Uint8Array(32))
      const jws = await sign(await createSigner({ alg: 'EdDSA', secret }), { type: 't', data })
      const { eventHash } = await post(url, jws, { wait: 20 })
      return { jws, eventHash }
    },
    async until(eventHash, holds = ({ status }) => status === 'final') {
      const deadline = Date.now() + 120_000
      for (;;) {
        const now = await receipt(eventHash)
        if (holds(now)) return now
        if (Date.now() > deadline) {
          const said = await (await fetch(`${url}/anchors/status`)).text()
          throw new Error(`not so in two minutes: ${JSON.stringify(now.anchors)} ${said}`)
        }
        await sleep(300)
        // The crons of a minute: a test does not wait for the clock.
        await host.tick()
      }
    },
  }
}
