/**
 * The real process, killed without warning at random moments of a busy day: runtime and all, again and
 * again, on one home. Miniflare's queues die with it, and that must not matter.
 */

import { expect, test } from 'vitest'
import { createSigner, sign } from '../../functions/sdk.ts'
import { freePort, sandbox, start, vaultmesh, type Running } from './support.ts'

const KILLS = 8

test('after eight kills in the middle of intake and sealing every accepted event is in the log once', async () => {
  const { dir, remove } = await sandbox()
  const port = await freePort()
  const url = `http://127.0.0.1:${port}`
  const up = (): Promise<Running> =>
    start(['scripts/selfhost.ts', '--home', `${dir}/node`, '--port', String(port)], 'rails:', {
      SEAL_BATCH_MAX_ITEMS: '300',
      SEAL_BATCH_MAX_INTERVAL_MS: '300',
      RATE_LIMIT_DID: '0',
    })
  const signer = await createSigner({ alg: 'EdDSA', secret: new Uint8Array(32).fill(11) })
  const accepted = new Set<string>()
  let n = 0
  const postSome = async (): Promise<void> => {
    const lines = await Promise.all(
      Array.from({ length: 100 }, () => sign(signer, { id: `e${n++}`, type: 'kill.test' })),
    )
    const response = await fetch(`${url}/events`, {
      method: 'POST',
      headers: { 'content-type': 'application/x-ndjson' },
      body: lines.join('\n'),
    })
    const { results } = (await response.json()) as { results: { eventHash?: string }[] }
    for (const { eventHash } of results) if (eventHash !== undefined) accepted.add(eventHash)
  }
  try {
    for (let kill = 0; kill < KILLS; kill++) {
      const node = await up()
      const doomAt = Date.now() + 150 + Math.random() * 1200
      const load = (async () => {
        while (Date.now() < doomAt + 500) await postSome()
      })().catch(() => undefined) // the connection dies with the node
      await new Promise((resolve) => setTimeout(resolve, doomAt - Date.now()))
      await node.stop('SIGKILL', true)
      await load
    }
    const node = await up()
    await expect
      .poll(
        async () => {
          await vaultmesh(['seal', '--home', `${dir}/node`])
          const { log } = (await (await fetch(`${url}/healthz`)).json()) as {
            log: { treeSize: number }
          }
          return log.treeSize >= accepted.size
        },
        { timeout: 30_000, interval: 500 },
      )
      .toBe(true)
    const fsck = await vaultmesh(['fsck', '--home', `${dir}/node`, '--json'])
    expect(fsck.code, fsck.stdout + fsck.stderr).toBe(0)
    const sealed = new Map<string, number>()
    for (let cursor = ''; ;) {
      const page = (await (await fetch(`${url}/events?limit=1000${cursor}`)).json()) as {
        events: { eventHash: string }[]
        next: string | null
      }
      for (const { eventHash } of page.events)
        sealed.set(eventHash, (sealed.get(eventHash) ?? 0) + 1)
      if (page.next === null) break
      cursor = `&cursor=${page.next}`
    }
    expect(accepted.size).toBeGreaterThan(100)
    expect([...accepted].filter((hash) => sealed.get(hash) !== 1)).toEqual([])
    expect([...sealed.values()].every((times) => times === 1)).toBe(true)
    await node.stop('SIGTERM')
  } finally {
    await remove()
  }
}, 180_000)
