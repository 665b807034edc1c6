/**
 * What a federation costs and how quick it is: bytes and requests of an idle round against the number of peers
 * and the size of the logs, and the time from a seal to the canonical tip on the other nodes.
 *
 * Real nodes; what crosses between them is counted by a proxy in front of each.
 */

import { randomBytes } from 'node:crypto'
import { request as httpRequest, createServer, type Server } from 'node:http'
import { setTimeout as sleep } from 'node:timers/promises'
import { deriveIdentity } from '../../functions/core/node-keys.ts'
import { createSigner, post, sign } from '../../functions/sdk.ts'
import type { Host } from '../host.ts'
import { quantile } from './client.ts'
import { makeEvents } from './events.ts'

const INTERVAL_MS = 1500

/** What bench.ts lends. */
export interface FederationBench {
  readonly start: (
    vars: Readonly<Record<string, string>>,
    script?: string,
  ) => Promise<Host & { port: number }>
  readonly token: string
  readonly say: (name: string, value: string, aim?: string) => void
  readonly quick: boolean
}

interface Counter {
  readonly url: string
  bytes: number
  requests: number
  stop(): Promise<void>
}

interface Member {
  readonly origin: string
  readonly did: string
  readonly host: Host & { port: number }
  readonly counter: Counter
}

/** Runs the section. */
export async function federation(bench: FederationBench): Promise<void> {
  const { say, quick } = bench
  for (const peers of [1, 2, 4]) {
    const members = await mesh(bench, peers + 1)
    await converged(members)
    const idle = await perRound(members, quick ? 4 : 10)
    say(`idle round of a node with ${peers} peers, ${idle.size} leaves`, kilo(idle), '')
    if (peers === 2) {
      await fill(members[0]!, quick ? 5000 : 50_000)
      await converged(members, 120_000)
      const full = await perRound(members, quick ? 4 : 10)
      say(`  the same with ${full.size} leaves in one log`, kilo(full), 'flat in log size')
      await latency(bench, members)
    }
    for (const { host, counter } of members) {
      await host.stop()
      await counter.stop()
    }
  }
}

function kilo({ bytes, requests }: { bytes: number; requests: number }): string {
  return `${(bytes / 1000).toFixed(1)} kB, ${requests.toFixed(1)} requests`
}

/** `n` nodes that allow each other, each with one event. */
export async function mesh(bench: FederationBench, n: number): Promise<readonly Member[]> {
  const members: Member[] = []
  for (let i = 0; i < n; i++) {
    const secret = randomBytes(32)
    const origin = `bench-${i}.example/log`
    const { did } = await deriveIdentity(new Uint8Array(secret), 1)
    const host = await bench.start({
      NODE_SECRET: secret.toString('base64url'),
      NODE_ID: `bench-${i}`,
      ORIGIN: origin,
      SEAL_BATCH_MAX_ITEMS: '5000',
      SEAL_BATCH_MAX_INTERVAL_MS: '1000',
    })
    members.push({ origin, did, host, counter: await count(host.port) })
  }
  for (const member of members) {
    const peers = members
      .filter((other) => other !== member)
      .map(({ did, counter }) => `  - {did: "${did}", url: "${counter.url}"}`)
    const yaml = `gossip: {interval_ms: ${INTERVAL_MS}}\npeers_allowlist:\n${peers.join('\n')}\n`
    const response = await fetch(`${member.host.url}/admin/federation`, {
      method: 'POST',
      headers: { authorization: `Bearer ${bench.token}` },
      body: yaml,
    })
    if (!response.ok) throw new Error(`federation refused: ${await response.text()}`)
  }
  for (const { host } of members) await one(host)
  return members
}

async function one(host: Host): Promise<void> {
  const signer = await createSigner({ alg: 'EdDSA', secret: new Uint8Array(randomBytes(32)) })
  await post(host.url, await sign(signer, { type: 'vm.bench' }), { wait: 20 })
}

async function fill({ host }: Member, events: number): Promise<void> {
  const all = await makeEvents(events)
  for (let at = 0; at < all.length; at += 1000) {
    await fetch(`${host.url}/events`, {
      method: 'POST',
      headers: { 'content-type': 'application/x-ndjson' },
      body: all.slice(at, at + 1000).join('\n'),
    })
  }
  await one(host)
}

interface Tip {
  readonly origin: string
  readonly own: boolean
  readonly root: string
  readonly treeSize: number
  readonly tipAt: string | null
  readonly height: number
}

async function tips(member: Member): Promise<readonly Tip[]> {
  const response = await fetch(`${member.host.url}/federation/tips`)
  return ((await response.json()) as { tips: readonly Tip[] }).tips
}

/** Waits until every node stands on the same non-empty tip of every log. */
export async function converged(members: readonly Member[], limitMs = 60_000): Promise<void> {
  const deadline = Date.now() + limitMs
  for (;;) {
    const views = await Promise.all(members.map(tips))
    const texts = views.map((view) =>
      view
        .filter(({ treeSize }) => treeSize > 0)
        .map(({ origin, root }) => `${origin} ${root}`)
        .toSorted()
        .join(),
    )
    const isWhole = views.every(
      (view) => view.filter((t) => t.treeSize > 0).length === members.length,
    )
    if (isWhole && new Set(texts).size === 1) return
    if (Date.now() > deadline) throw new Error(`not converged:\n${texts.join('\n')}`)
    await sleep(50)
  }
}

/** Bytes and requests that one node causes in an idle round, on average over all nodes. */
async function perRound(members: readonly Member[], rounds: number) {
  await sleep(2 * INTERVAL_MS)
  const sum = (key: 'bytes' | 'requests'): number =>
    members.reduce((total, { counter }) => total + counter[key], 0)
  const before = { bytes: sum('bytes'), requests: sum('requests') }
  await sleep(rounds * INTERVAL_MS)
  const share = rounds * members.length
  const size = Math.max(...(await tips(members[0]!)).map(({ treeSize }) => treeSize))
  return {
    bytes: (sum('bytes') - before.bytes) / share,
    requests: (sum('requests') - before.requests) / share,
    size,
  }
}

/** From `sealedAt` of a batch to the moment the others stood on it (same clock). */
async function latency({ say, quick }: FederationBench, members: readonly Member[]): Promise<void> {
  const samples: number[] = []
  const [first, ...others] = members
  for (let i = 0; i < (quick ? 15 : 100); i++) {
    // Anywhere in the interval.
    await sleep(Math.random() * INTERVAL_MS)
    await one(first!.host)
    const batches = (await (await fetch(`${first!.host.url}/batches?limit=1`)).json()) as {
      batches: readonly { height: number; sealedAt: string }[]
    }
    const { height, sealedAt } = batches.batches[0]!
    for (const other of others) {
      for (;;) {
        const tip = (await tips(other)).find(({ origin }) => origin === first!.origin)
        if (tip !== undefined && tip.height >= height) {
          if (tip.height === height) samples.push(Date.parse(tip.tipAt!) - Date.parse(sealedAt))
          break
        }
        await sleep(10)
      }
    }
  }
  const sorted = samples.toSorted((a, b) => a - b)
  say(
    `seal → canonical tip on the others, ${members.length} nodes`,
    `p50 ${quantile(sorted, 0.5).toFixed(0)}, p99 ${quantile(sorted, 0.99).toFixed(0)} ms`,
    `aim ≤ ${2 * INTERVAL_MS} ms (2 intervals)`,
  )
}

/** A proxy that counts bodies and heads of both directions. */
async function count(target: number): Promise<Counter> {
  const counter = { bytes: 0, requests: 0 }
  const server: Server = createServer((request, response) => {
    counter.requests++
    counter.bytes += headBytes(request.rawHeaders) + (request.url?.length ?? 0)
    const onward = httpRequest(
      {
        host: '127.0.0.1',
        port: target,
        method: request.method,
        path: request.url,
        headers: request.headers,
      },
      (answer) => {
        counter.bytes += headBytes(answer.rawHeaders)
        response.writeHead(answer.statusCode ?? 502, answer.headers)
        answer.on('data', (chunk: Buffer) => (counter.bytes += chunk.length))
        answer.pipe(response)
      },
    )
    onward.on('error', () => response.destroy())
    request.on('data', (chunk: Buffer) => (counter.bytes += chunk.length))
    request.pipe(onward)
  })
  await new Promise<void>((ready) => server.listen(0, '127.0.0.1', ready))
  const { port } = server.address() as { port: number }
  return Object.assign(counter, {
    url: `http://127.0.0.1:${port}`,
    async stop() {
      server.closeAllConnections()
      await new Promise((closed) => server.close(closed))
    },
  })
}

function headBytes(raw: readonly string[]): number {
  return raw.reduce((sum, text) => sum + text.length + 2, 0)
}
