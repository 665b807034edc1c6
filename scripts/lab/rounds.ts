/**
 * Ten anchors one after the other on a node as it is: an event, a seal, and the root final on every rail, its
 * receipts on disk and verified by what is on disk alone.
 */

import { join } from 'node:path'
import type { AnchorReceipt } from '#core/anchor-receipt.ts'
import type { Devnet } from '../devnet/devnet.ts'
import type { RunningNode } from '../selfhost.ts'
import { jobsOf, postEvent, untilFinal } from './node.ts'
import type { Shelf } from './shelf.ts'

/** What the rounds left behind. */
export interface Rounds {
  /** Each anchored once on every rail. */
  readonly roots: readonly string[]
  /** Receipt files in the folder for keeps. */
  readonly files: readonly string[]
  /** What did not hold, one sentence each. */
  readonly wrong: readonly string[]
}

/** Plays `count` rounds, a line each; receipts go to `keep`. */
export async function playRounds(
  node: RunningNode,
  {
    devnet,
    count,
    shelf,
    keep,
    say,
  }: {
    readonly devnet: Devnet
    readonly count: number
    readonly shelf: Shelf
    readonly keep: string
    readonly say: (line: string) => void
  },
): Promise<Rounds> {
  const { rails } = node.trust
  const roots: string[] = []
  const files: string[] = []
  const wrong: string[] = []
  say(` #  root            ${rails.map((rail) => HEADS[rail]!.padEnd(WIDTH)).join('')}offline`)
  for (let round = 1; round <= count; round++) {
    await postEvent(node.url, `round/${round}`)
    const jobs = await untilFinal(node, { devnet, treeSize: round })
    const [{ root }] = jobs as [(typeof jobs)[0]]
    const names = await shelf.fill(node.url)
    shelf.copy(names, keep)
    roots.push(root)
    files.push(...names.map((name) => join(keep, name)))
    if (names.length !== rails.length) {
      wrong.push(`round ${round} left ${names.length} receipts, not ${rails.length}`)
    }
    const found = await shelf.verify(root, keep)
    for (const { chain, isOk, detail } of found) {
      if (!isOk) wrong.push(`round ${round}: ${chain}: ${detail}`)
    }
    const cells = rails.map((rail) => {
      const receipt = found.find(({ chain }) => chain === rail)?.receipt ?? null
      return (receipt === null ? '–' : placeOf(receipt)).padEnd(WIDTH)
    })
    const verdicts = found.map(({ isOk }) => (isOk ? 'OK' : 'NO')).join(' ')
    say(`${String(round).padStart(2)}  ${root.slice(0, 14)}  ${cells.join('')}${verdicts}`)
  }
  const jobs = await jobsOf(node.url)
  const isEach = jobs.every(({ state, failures }) => state === 'final' && failures === 0)
  if (!isEach || jobs.length !== count * rails.length) {
    wrong.push(`${jobs.length} jobs, not all of them final`)
  }
  return { roots, files, wrong }
}

const WIDTH = 26
const HEADS: Readonly<Record<string, string>> = {
  BTC: 'BTC tx, block',
  EVM: 'EVM tx, block',
  TSA: 'TSA token, time',
}

function placeOf({ txHash, blockNumber, anchorTs }: AnchorReceipt): string {
  return `${txHash.slice(0, 12)}… ${blockNumber ?? anchorTs.slice(11, 19)}`
}
