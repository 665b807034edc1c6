/**
 * How long a receipt takes to verify, by kind of proof, in Node and in workerd, and how large it is.
 *
 * The receipts are real ones of a devnet: bitcoind on regtest, anvil, openssl, and a calendar where its library
 * is installed. workerd's clock stands still while it computes, so it is timed from outside: n verifications
 * in one request, less an empty request.
 */

import { randomBytes } from 'node:crypto'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { methodOf, type AnchorReceipt } from '#core/anchor-receipt.ts'
import { verifyAnchorReceipt } from '#core/anchor-verify.ts'
import { verifyReceipt, type Receipt } from '#core/receipt.ts'
import { createSigner, post, sign, trustOf, type Trust } from '../../functions/sdk.ts'
import { startDevnet } from '../devnet/devnet.ts'
import { anchorVars } from '../devnet/settings.ts'
import type { Host } from '../host.ts'

/** What the section needs of the bench. */
export interface Tools {
  readonly folder: string
  start(vars: Readonly<Record<string, string>>): Promise<Host>
  /** A Worker that answers POST /proof?n= with n verifications of its body. */
  bare(): Promise<Host>
  say(name: string, value: string, aim?: string): void
  readonly quick: boolean
}

/** Runs the section; false if nothing of the devnet is here. */
export async function proofs({ folder, start, bare, say, quick }: Tools): Promise<void> {
  process.env['VAULTMESH_AGE_KEY_FILE'] = join(folder, 'age.txt')
  const devnet = await startDevnet({ dir: folder, withCalendar: true, mineEveryMs: 250 })
  for (const { line } of devnet.absent) say(line, 'left out')
  const calendar: Record<string, string> =
    devnet.calendar === null
      ? {}
      : { ANCHOR_BTC_METHOD: 'both', OTS_CALENDARS: devnet.calendar.url }
  const interval = { ANCHOR_BTC_INTERVAL_MS: '1000', ANCHOR_EVM_INTERVAL_MS: '1000' }
  const node = await start({ ...(await anchorVars(devnet, folder)), ...calendar, ...interval })
  const worker = await bare()
  try {
    const signer = await createSigner({ alg: 'EdDSA', secret: new Uint8Array(randomBytes(32)) })
    const jws = await sign(signer, { type: 'bench', data: { text: 'x'.repeat(100) } })
    const { eventHash } = await post(node.url, jws, { wait: 10 })
    const trust = await trustOf(node.url)
    const receipt = await finalReceipt(node, eventHash, devnet.calendar !== null)
    const verified = receipt.anchors.filter((a) => a.status === 'verified') as AnchorReceipt[]
    const rounds = quick ? 20 : 100
    for (const anchor of verified) {
      const name = `${anchor.chain} ${methodOf(anchor)}`
      const inNode = await timed(rounds, async () => {
        const verdict = await verifyAnchorReceipt(anchor, trust)
        if (verdict.outcome !== 'verified') throw new Error(`${name}: ${verdict.reason}`)
      })
      const inWorkerd = await timedIn(worker, rounds, { anchor, trust })
      const size = JSON.stringify(anchor).length
      say(name, `${inNode.toFixed(2)} / ${inWorkerd.toFixed(2)} ms, ${size} bytes`)
    }
    // As it is served: per kind the first anchor. The aim is for three.
    const three = { ...receipt, anchors: verified.filter((a) => methodOf(a) !== 'calendar') }
    const event = new TextEncoder().encode(jws)
    const inNode = await timed(rounds, async () => {
      const report = await verifyReceipt(three, trust, event)
      if (report.anchored.length !== three.anchors.length) throw new Error(report.sentence)
    })
    const inWorkerd = await timedIn(worker, rounds, { receipt: three, trust, event: jws })
    const aim = 'aim < 25 ms, < 16,384 bytes'
    const size = JSON.stringify(three).length
    say(
      `whole receipt, ${three.anchors.length} anchors, with its event`,
      `${inNode.toFixed(2)} / ${inWorkerd.toFixed(2)} ms, ${size} bytes`,
      aim,
    )
  } finally {
    await worker.stop()
    await node.stop()
    await devnet.stop()
  }
}

/** Median ms of `rounds` runs. */
async function timed(rounds: number, run: () => Promise<void>): Promise<number> {
  const times: number[] = []
  for (let i = 0; i < rounds; i++) {
    const at = performance.now()
    await run()
    times.push(performance.now() - at)
  }
  return times.sort((a, b) => a - b)[Math.floor(rounds / 2)]!
}

/** Mean ms of one verification in workerd. */
async function timedIn(
  worker: Host,
  rounds: number,
  body: {
    readonly trust: Trust
    readonly anchor?: AnchorReceipt
    readonly receipt?: Receipt
    readonly event?: string
  },
): Promise<number> {
  const ask = async (n: number): Promise<number> => {
    const at = performance.now()
    const answer = await fetch(`${worker.url}/proof?n=${n}`, {
      method: 'POST',
      body: JSON.stringify(body),
    })
    if (!answer.ok) throw new Error(await answer.text())
    return performance.now() - at
  }
  await ask(10)
  const empty = await ask(0)
  return ((await ask(rounds)) - empty) / rounds
}

async function finalReceipt(node: Host, hash: string, withCalendar: boolean): Promise<Receipt> {
  for (const deadline = Date.now() + 120_000; Date.now() < deadline; await sleep(250)) {
    await node.tick()
    const answer = await fetch(`${node.url}/receipts/${hash}`)
    const receipt = (await answer.json()) as Receipt
    const isWhole =
      !withCalendar ||
      receipt.anchors.some((a) => 'proof' in a && methodOf(a as AnchorReceipt) === 'calendar')
    if (answer.ok && receipt.status === 'final' && isWhole) return receipt
  }
  throw new Error('The receipt did not become final within two minutes.')
}
