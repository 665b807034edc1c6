/**
 * Two memories that disagree: an outbox that was put back in time beside a Wallet that was not, and a job signed
 * by a key that the settings name no more. Neither may lead to a second payment (real bitcoind, real anvil).
 */

import { afterAll, beforeAll, expect, test } from 'vitest'
import { privateKeyToAccount } from 'viem/accounts'
import { ELSEWHERE } from '../../scripts/devnet/bitcoind.ts'
import { absence, World } from './money.ts'
import { seeded } from './platform.ts'

let world: World
beforeAll(async () => {
  world = await World.start()
})
afterAll(() => world.stop())

/** Seals an event and begins its anchor; returns the job's work. */
async function begin(): Promise<{ variants: readonly { txHash: string; raw: string }[] }> {
  await world.post()
  await world.platform.deliver(seeded(1))
  await world.pass(1500)
  return workNow()
}

async function workNow() {
  const [job] = await world.jobs()
  return JSON.parse(job!.work!) as { variants: readonly { txHash: string; raw: string }[] }
}

test.skipIf(absence.BTC !== null)(
  'a variant that D1 forgot and the Wallet knows is no foreign spend',
  async () => {
    const { env } = await world.boot({ BTC: await world.bitcoinKey(3) })
    await begin()
    const before = JSON.stringify(await workNow())
    for (let i = 0; i < 8; i++) {
      await world.bitcoind.rpc('generateblock', [ELSEWHERE, []])
      await world.pass(60_000)
    }
    expect((await workNow()).variants).toHaveLength(2)
    // As D1's time travel does, which knows nothing of Durable Objects.
    await env.DB.prepare(
      "UPDATE anchors SET work = ?, state = 'broadcast', lease_until = 0, version = version + 1",
    )
      .bind(before)
      .run()
    await world.mine('BTC', 8)
    await world.finish()
    expect((await world.alerts()).map(({ kind }) => kind)).toEqual([])
    expect(await world.expectPaidOnce()).toBe(1)
  },
  60_000,
)

test.skipIf(absence.EVM !== null)(
  'another key in the settings signs nothing for a root while what the first one signed can be mined',
  async () => {
    const [first, second] = [await world.ethereumKey(), await world.ethereumKey()]
    const platform = await world.boot({ EVM: first })
    const { address, signTransaction } = privateKeyToAccount(second as `0x${string}`)
    const fees = { gas: 21_000n, maxFeePerGas: 10n ** 11n, maxPriorityFeePerGas: 10n ** 9n }
    for (let nonce = 0; nonce < 3; nonce++) {
      const transfer = { type: 'eip1559', chainId: 31337, to: address, value: 0n, nonce } as const
      const raw = await signTransaction({ ...transfer, ...fees })
      await world.anvil.rpc('eth_sendRawTransaction', [raw])
      await world.mine('EVM', 1)
    }
    await world.mine('EVM', 80)
    const { variants } = await begin()
    const [{ txHash, raw }] = variants as [{ txHash: string; raw: string }]
    // Our provider's pool forgets it, another's does not; meanwhile the operator changes the key.
    await world.anvil.rpc('anvil_dropTransaction', [txHash])
    platform.kill()
    Object.assign(platform.env, { EVM_PRIVATE_KEY: second })
    for (let i = 0; i < 6; i++) await world.pass(150_000)
    await world.anvil.rpc('eth_sendRawTransaction', [raw])
    for (let i = 0; i < 20; i++) {
      await world.mine('EVM', 5)
      await world.pass(600_000)
    }
    expect([...(await world.paid('EVM')).values()]).toEqual([[txHash]])
    expect((await world.jobs()).map(({ state }) => state)).toEqual(['final'])
  },
  60_000,
)
