/**
 * Who vouches for a block before and after a rotation: receipts of an EVM chain hold the word of the identity key of
 * their day, and fsck and trust in the node take it for the node's (real anvil).
 */

import { afterAll, beforeAll, expect, test, vi } from 'vitest'
import type { AnchorReceipt } from '../../functions/core/anchor-receipt.ts'
import { verifyAnchorReceipt } from '../../functions/core/anchor-verify.ts'
import { deriveIdentity } from '../../functions/core/node-keys.ts'
import { signRotation } from '../../functions/core/rotation.ts'
import { checkBatch, checkState } from '../../functions/store/fsck.ts'
import { nodeOf } from '../../functions/store/node.ts'
import { trustOf } from '../../functions/sdk.ts'
import { absence, World } from './money.ts'

let world: World
beforeAll(async () => {
  world = await World.start()
})
afterAll(() => world.stop())

test.skipIf(absence.EVM !== null)(
  'anchors of both keys are the node’s own, and each is vouched for by one of them',
  async () => {
    const platform = await world.boot({ EVM: await world.ethereumKey() })
    await world.seal()
    await world.finish()
    const secret = new Uint8Array(32).fill(9)
    const [old, next] = [await deriveIdentity(secret, 1), await deriveIdentity(secret, 2)]
    const nbf = Math.floor(vi.getRealSystemTime() / 1000)
    const claims = { iss: old.did, key: next.did, epoch: 2, nbf, end: nbf, iat: nbf }
    const rotation = await signRotation(old, claims)
    platform.kill()
    Object.assign(platform.env, { ROTATION: rotation })
    await world.seal()
    await world.finish()

    const node = await nodeOf(platform.env)
    expect((await checkState(platform.env, node)).findings).toEqual([])
    for (const height of [1, 2])
      expect((await checkBatch(platform.env, node, height)).findings).toEqual([])
    const trust = await trustOf('http://node', {
      fetch: (url) => platform.fetch(new URL(url).pathname),
    })
    expect(trust.nodeDids).toEqual([old.did, next.did])
    const rows = await world.rows<{ json: string }>('SELECT json FROM receipts ORDER BY tree_size')
    const receipts = rows.map(({ json }) => JSON.parse(json) as AnchorReceipt)
    expect(receipts).toHaveLength(2)
    for (const [i, receipt] of receipts.entries()) {
      expect(await verifyAnchorReceipt(receipt, trust)).toMatchObject({ outcome: 'verified' })
      const own = { tsaRoots: [], nodeDids: [[old, next][i]!.did] }
      expect(await verifyAnchorReceipt(receipt, own)).toMatchObject({ outcome: 'verified' })
      const other = { tsaRoots: [], nodeDids: [[next, old][i]!.did] }
      expect(await verifyAnchorReceipt(receipt, other)).toMatchObject({ outcome: 'untrusted' })
    }
  },
  60_000,
)
