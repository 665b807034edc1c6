/**
 * Makes test/vectors/anchor-receipts.json anew from a devnet run:
 *
 *   node test/support/make-anchor-vectors.ts >test/vectors/anchor-receipts.json
 *
 * A node anchors one root in bitcoind (regtest, by a transaction and by a calendar), anvil and an openssl
 * authority; the keys of all of them end with the run. Which check refuses a change is written here by hand.
 */

import type { AnchorReceipt } from '#core/anchor-receipt.ts'
import { startAnchoredNode, verifiedOf } from './anchored-node.ts'

type Path = readonly (string | number)[]
/** kind, path, change, check. */
type Row = readonly [string, Path, object, string]

const zero = '00'.repeat(32)
const proof = (...path: Path): Path => ['proof', ...path]
const flip = (at: number): object => ({ flip: at })
/** Of a header: version, previous block, Merkle root, time, bits, nonce (hex digits). */
const AT = { previous: 8, merkleRoot: 72 } as const

function rowsFor(of: (kind: string) => AnchorReceipt): readonly Row[] {
  const root = of('bitcoin-tx').root.slice(2)
  const inTx = (of('bitcoin-tx').proof['rawTx'] as string).indexOf(root)
  const inCall = (of('evm-tx').proof['rawTx'] as string).indexOf(root)
  const when = '2026-01-01T00:00:00.000Z'
  return [
    ['bitcoin-tx', ['root'], { value: `0x${zero}` }, 'commitment'],
    ['bitcoin-tx', proof('rawTx'), flip(inTx), 'commitment'],
    ['bitcoin-tx', proof('branch', 0), flip(0), 'branch'],
    ['bitcoin-tx', proof('following', 1), flip(AT.previous), 'link'],
    ['bitcoin-tx', proof('following'), { keep: 5 }, 'depth'],
    ['bitcoin-tx', ['anchorTs'], { value: when }, 'anchorTs'],
    ['opentimestamps', ['root'], { value: `0x${zero}` }, 'commitment'],
    ['opentimestamps', proof('header'), flip(AT.merkleRoot), 'branch'],
    ['opentimestamps', proof('following', 1), flip(AT.previous), 'link'],
    ['opentimestamps', proof('following'), { keep: 5 }, 'depth'],
    ['opentimestamps', ['txHash'], { value: zero }, 'txHash'],
    ['opentimestamps', ['anchorTs'], { value: when }, 'anchorTs'],
    ['evm-tx', ['root'], { value: `0x${zero}` }, 'calldata'],
    ['evm-tx', proof('rawTx'), flip(inCall), 'calldata'],
    ['evm-tx', proof('nodes', 0), flip(40), 'trie'],
    ['evm-tx', proof('chainId'), { value: 1 }, 'network'],
    ['evm-tx', ['blockNumber'], { value: 1 }, 'blockNumber'],
    ['evm-tx', ['anchorTs'], { value: when }, 'anchorTs'],
    ['rfc3161', ['root'], { value: `0x${zero}` }, 'imprint'],
    ['rfc3161', proof('nonce'), flip(0), 'nonce'],
    ['rfc3161', proof('policy'), { value: '1.2.3' }, 'policy'],
    ['rfc3161', proof('accuracyMs'), { value: 1 }, 'accuracyMs'],
    ['rfc3161', ['txHash'], { value: zero }, 'txHash'],
    ['rfc3161', ['anchorTs'], { value: when }, 'anchorTs'],
  ]
}

async function make(): Promise<string> {
  const it = await startAnchoredNode({ withCalendar: true })
  try {
    if (it.devnet.absent.length > 0) throw new Error(it.devnet.absent[0]!.line)
    // Two leaves, so that the receipt has an inclusion proof.
    await it.post()
    const { jws, eventHash } = await it.post({ text: 'an event with four anchors' })
    const receipt = await it.until(
      eventHash,
      ({ anchors }) => anchors.length === 4 && anchors.every((a) => a.status === 'verified'),
    )
    const { vkeys, tsaRoots, nodeDids } = it.node.trust
    const anchors = verifiedOf(receipt)
    const of = (kind: string) => anchors.find(({ proof: { type } }) => type === kind)!
    const tampered = rowsFor(of).map(([kind, path, change, check]) => ({
      kind,
      path,
      change,
      check,
    }))
    const source = 'our own: made by test/support/make-anchor-vectors.ts'
    const comment =
      'An event, its receipt with an anchor of each kind from a devnet (worth nothing), whom to trust, and changes with the check that must refuse each.'
    return JSON.stringify(
      { source, comment, event: jws, trust: { vkeys, tsaRoots, nodeDids }, receipt, tampered },
      null,
      2,
    )
  } finally {
    await it.stop()
  }
}

if (import.meta.main) {
  const text = await make()
  process.stdout.write(`${text}\n`, () => process.exit(0))
}
