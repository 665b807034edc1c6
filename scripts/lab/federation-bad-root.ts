/**
 * A node that lies with its own true keys: it signs a batch whose events it hands out and whose root is not theirs.
 *
 * It speaks for B at B's address while B is away: envelopes by B's identity key, a feed with one batch in it, and the
 * events of that batch. Manifest and checkpoint are signed as B's would be, so no signature gives it away; only
 * whoever recomputes the root from the events can see it.
 */

import { randomBytes, randomUUID } from 'node:crypto'
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http'
import { signManifest } from '#core/batch.ts'
import { fromBase64Url, fromHex, toHex, utf8 } from '#core/bytes.ts'
import { signCheckpoint } from '#core/checkpoint.ts'
import { readEnvelope, signEnvelope } from '#core/gossip.ts'
import { leafHash } from '#core/merkle.ts'
import { deriveIdentity, deriveKey, type IdentityKey } from '#core/node-keys.ts'
import { sha256 } from '#core/sha256.ts'
import { TYPE_ED25519, verifierKey } from '#core/signed-note.ts'
import type { PeersView, TipView } from '#store/federation-api.ts'
import { createSigner, sign } from '../../functions/sdk.ts'
import { nodeSecret } from '../keystore.ts'
import {
  alertOf,
  conflictsOf,
  sayTips,
  short,
  tipOf,
  untilAlike,
  type Lab,
} from './federation-lab.ts'
import type { LabNode } from './federation-node.ts'
import { sealed } from './federation-steps.ts'
import { until } from './node.ts'

/** B signs a root that its own events contradict; A and C hold it and stay where they are. */
export async function badRoot(lab: Lab): Promise<void> {
  const { a, b, c, report } = lab
  const { origin } = b.names
  report.step('B’s key signs a root that is not that of its events')
  const before = (await tipOf(a, origin))!
  const { lawHash } = await b.get<PeersView>('/federation/peers')
  await b.stop()
  const liar = await startLiar(b, { tip: before, lawHash })
  lab.undo.push(() => liar.stop())
  try {
    report.say(
      `at B's address something with B's keys signs ${short(liar.root)} at height ${before.height + 1}`,
    )
    for (const node of [a, c]) {
      await liar.speakTo(node)
      const held = await until(`${node.name} to hold the bad root`, async () => {
        const view = await conflictsOf(node)
        return view?.quarantine.find(({ root }) => root === `sha256:${liar.root}`) ?? null
      })
      const alert = await until(`the alert of ${node.name}`, () =>
        alertOf(node, 'quarantine', liar.root.slice(0, 16)),
      )
      report.say(`${node.name} holds it until ${held.until}: ${held.reason}`)
      report.say(`${node.name} alert: ${alert.slice(0, 96)}…`)
    }
    const after = await Promise.all([a, c].map((node) => tipOf(node, origin)))
    report.check(
      after.every((tip) => tip?.root === before.root && tip.height === before.height),
      `the root is held on A and C, the tip of ${origin} stays at height ${before.height}`,
    )
  } finally {
    await liar.stop()
  }
  await b.start()
  const height = await sealed(b, 'the true batch at that height')
  const tips = await untilAlike([a, b, c], 'after the true B came back')
  sayTips(lab, tips)
  report.check(
    height === before.height + 1,
    `the true B seals height ${height}, and all go on from there`,
  )
}

interface Liar {
  /** 64 hex digits: the root that it signed. */
  readonly root: string
  /** Sends an envelope, so that it is visited at once. */
  speakTo(node: LabNode): Promise<void>
  stop(): Promise<void>
}

async function startLiar(
  b: LabNode,
  { tip, lawHash }: { readonly tip: TipView; readonly lawHash: string },
): Promise<Liar> {
  const secret = fromBase64Url(await nodeSecret(b.home.path))
  const identity = await deriveIdentity(secret, 1)
  const batch = await badBatch(b, { tip, secret, identity })
  const feed = { id: randomUUID(), end: 1 }
  const envelope = (aud: string): Promise<string> => {
    const iat = Math.floor(Date.now() / 1000)
    const { origin, height, treeSize, root } = batch
    const body = { nodeId: 'b', witness: null, feed, tips: [{ origin, height, treeSize, root }] }
    const bound = { iss: b.names.did, aud, iat, exp: iat + 30, jti: randomUUID() }
    return signEnvelope(identity, { ...bound, lawHash, body })
  }
  const item = { seq: 1, type: 'batch', origin: batch.origin, ...batch.signed }
  const answer = async (request: IncomingMessage, response: ServerResponse): Promise<void> => {
    const { pathname, searchParams } = new URL(request.url ?? '/', b.url)
    if (pathname === '/federation/gossip') {
      const { iss } = readEnvelope(await bodyOf(request))
      response.writeHead(200, { 'content-type': 'application/jose' }).end(await envelope(iss))
    } else if (pathname === '/federation/feed') {
      const items = Number(searchParams.get('after') ?? 0) < item.seq ? [item] : []
      response.writeHead(200, { 'content-type': 'application/json' })
      response.end(JSON.stringify({ feedId: feed.id, items, more: false }))
    } else if (/\/batches\/\d+\/[0-9a-f]{64}\/events\/0$/.test(pathname)) {
      response.writeHead(200, { 'content-type': 'application/x-ndjson' }).end(`${batch.event}\n`)
    } else {
      response.writeHead(404).end()
    }
  }
  const server = createServer((request, response) => {
    answer(request, response).catch(() => response.writeHead(500).end())
  })
  await new Promise<void>((ready, reject) => {
    server.once('error', reject)
    server.listen(Number(new URL(b.url).port), '127.0.0.1', ready)
  })
  return {
    root: batch.root,
    async speakTo(node) {
      const response = await fetch(`${node.url}/federation/gossip`, {
        method: 'POST',
        headers: { 'content-type': 'application/jose' },
        body: await envelope(node.names.did),
      })
      if (!response.ok) throw new Error(`${node.name} does not hear the liar: ${response.status}`)
    },
    async stop() {
      const closed = new Promise<void>((resolve) => server.close(() => resolve()))
      server.closeAllConnections()
      await closed
    },
  }
}

/** One true event in a batch that follows the tip, under a root out of thin air. */
async function badBatch(
  { names: { origin, vkey } }: LabNode,
  { tip, secret, identity }: { tip: TipView; secret: Uint8Array; identity: IdentityKey },
) {
  const signer = await createSigner({ alg: 'EdDSA', secret: new Uint8Array(randomBytes(32)) })
  const event = await sign(signer, { type: 'vm.lab.event', subject: 'under a bad root' })
  const root = new Uint8Array(randomBytes(32))
  const height = tip.height + 1
  const treeSize = tip.treeSize + 1
  const manifest = await signManifest(identity, {
    origin,
    height,
    firstIndex: tip.treeSize,
    count: 1,
    treeSize,
    root,
    previousRoot: fromHex(tip.root.slice('sha256:'.length)),
    batchRoot: leafHash(sha256(utf8(event))),
    sealedAt: Date.now(),
  })
  const log = await deriveKey(secret, 'log', 1)
  const key = verifierKey(origin, log.publicKey, TYPE_ED25519)
  const checkpoint = await signCheckpoint(
    { origin, size: treeSize, root, extensions: [] },
    { key, sign: (message) => log.sign(message) },
  )
  return {
    origin,
    vkey,
    height,
    treeSize,
    root: toHex(root),
    event,
    signed: { manifest, checkpoint },
  }
}

async function bodyOf(request: IncomingMessage): Promise<Uint8Array> {
  const chunks: Buffer[] = []
  for await (const chunk of request) chunks.push(chunk as Buffer)
  return Buffer.concat(chunks)
}
