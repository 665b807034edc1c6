/**
 * The plain steps of the federation lab: three nodes converge, cosign each other, lose one of them and have it
 * back, and one of them changes its key.
 */

import { spawnSync } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { join } from 'node:path'
import { fromBase64Url, fromUtf8 } from '#core/bytes.ts'
import { verifyCheckpoint } from '#core/checkpoint.ts'
import { parseVkey } from '#core/signed-note.ts'
import type { PeersView } from '#store/federation-api.ts'
import { createSigner, eventHashOf, post, sign } from '../../functions/sdk.ts'
import { ROOT } from '../build.ts'
import {
  headOf,
  sayMesh,
  sayPeers,
  sayTips,
  timed,
  untilAlike,
  federate,
  type Lab,
} from './federation-lab.ts'
import type { LabNode } from './federation-node.ts'
import { until } from './node.ts'

/** How long a client waits for its event's receipt, in seconds. */
const WAIT_S = 30

/** Posts one signed event and waits until it is sealed; the height of its batch. */
export async function sealed(node: LabNode, subject: string): Promise<number> {
  const signer = await createSigner({ alg: 'EdDSA', secret: new Uint8Array(randomBytes(32)) })
  const jws = await sign(signer, { type: 'vm.lab.event', subject })
  const { receipt } = await post(node.url, jws, { wait: WAIT_S })
  if (receipt !== undefined) return receipt.height
  throw new Error(`${node.name} did not seal ${subject} within ${WAIT_S} s`)
}

/** Posts events in one request and has them sealed as one batch; its height, and the events' hashes. */
export async function sealedTogether(
  node: LabNode,
  subjects: readonly string[],
): Promise<{ readonly height: number; readonly events: readonly string[] }> {
  const { height: before } = await until(`${node.name} to answer`, () => headOf(node))
  const signer = await createSigner({ alg: 'EdDSA', secret: new Uint8Array(randomBytes(32)) })
  const events = await Promise.all(
    subjects.map((subject) => sign(signer, { type: 'vm.lab.event', subject })),
  )
  await post(node.url, events)
  return until(`${node.name} to seal`, async () => {
    // A node that has just started waits until its peers were heard.
    await node.admin('/admin/seal')
    const { height } = (await headOf(node)) ?? { height: before }
    return height > before ? { height, events: events.map(eventHashOf) } : null
  })
}

/** Three nodes start, take events, and stand on the same tips. */
export async function converge(
  lab: Lab,
  vars: ReadonlyMap<LabNode, Readonly<Record<string, string>>>,
): Promise<void> {
  const { a, b, c, report } = lab
  const nodes = [a, b, c]
  report.step('three nodes, three logs, one federation')
  await federate([
    [a, [b, c]],
    [b, [a, c]],
    [c, [a, b]],
  ])
  const [, started] = await timed(() =>
    Promise.all(nodes.map(async (node) => node.start(vars.get(node)))),
  )
  for (const { name, url, names } of nodes)
    report.say(`${name}  ${url}  ${names.origin}  ${names.did}`)
  for (const round of [1, 2]) {
    await Promise.all(nodes.map(async (node) => sealed(node, `round ${round} of ${node.name}`)))
  }
  const [tips, took] = await timed(() => untilAlike(nodes, 'after two rounds of events'))
  report.say(`started in ${started}; after the last seal they agreed within ${took}`)
  sayTips(lab, tips)
  await sayPeers(lab, nodes)
  report.check(tips.length === nodes.length, 'every node stands on the same tip of all three logs')
  report.check(await sayMesh(lab, nodes), 'the three mesh roots are equal')
}

/** Every node's checkpoint carries the cosignatures of the other two. */
export async function cosign({ a, b, c, report }: Lab): Promise<void> {
  report.step('each checkpoint is cosigned by the other two')
  const nodes = [a, b, c]
  for (const node of nodes) {
    const others = nodes.filter((other) => other !== node)
    const witnesses = await Promise.all(
      others.map(async (other) => {
        const { witness } = await other.get<{ witness: { vkey: string } }>(
          '/.well-known/vaultmesh.json',
        )
        return parseVkey(witness.vkey)
      }),
    )
    const log = parseVkey(node.names.vkey)
    const verified = await until(`the cosignatures of ${node.name}'s checkpoint`, async () => {
      const found = await verifyCheckpoint(await node.text('/log/checkpoint'), { log, witnesses })
      return found.cosignatures.length === witnesses.length ? found : null
    })
    const { size } = verified.checkpoint
    const by = verified.cosignatures.map(({ key }) => key.name).join(' and ')
    report.check(
      true,
      `${node.names.origin} at size ${size}: log's own signature, cosigned by ${by}`,
    )
  }
}

/** A node is away while the others go on, and catches up. */
export async function cutOff(lab: Lab): Promise<void> {
  const { a, b, c, report } = lab
  report.step('C is cut off and comes back')
  await c.stop()
  for (let i = 1; i <= 5; i++) await sealed(b, `while C is away, ${i}`)
  await sealed(a, 'while C is away')
  const heads = await Promise.all([a, b].map((node) => headOf(node)))
  report.say(
    `C stopped; meanwhile ${heads.map((head) => `${head!.origin} came to height ${head!.height}`).join(', ')}`,
  )
  const [tips, took] = await timed(async () => {
    await c.start()
    return untilAlike([a, b, c], 'after C came back')
  })
  sayTips(lab, tips)
  report.check(true, `C caught up: all tips equal ${took} after it was started`)
}

/** B changes its key by the command that its operator would use; its peers follow its statement. */
export async function rotate(lab: Lab): Promise<void> {
  const { a, b, c, report } = lab
  const { did } = b.names
  report.step('B rotates its identity key')
  const command = [join(ROOT, 'scripts', 'vaultmesh.ts'), 'keys', 'rotate', '--home', b.home.path]
  const { status, stdout, stderr } = spawnSync(process.execPath, command, { encoding: 'utf8' })
  report.say(`$ vaultmesh keys rotate --home ${b.home.path}`)
  for (const line of `${stdout}${stderr}`.trimEnd().split('\n')) report.say(line)
  if (status !== 0) throw new Error(`vaultmesh keys rotate ended with ${status}`)
  await b.stop()
  await b.start()
  const height = await sealed(b, 'under the new key')
  const tips = await untilAlike([a, b, c], 'after B rotated its key')
  const { origin } = (await headOf(b))!
  for (const node of [a, c]) {
    const peer = await until(`${node.name} to hear B under its new key`, async () => {
      const view = await node.ask<PeersView>('/federation/peers')
      const found = view?.peers.find((entry) => entry.did === did)
      return found?.state === 'ok' && found.keys.length === 2 ? found : null
    })
    for (const { epoch, did: key, end } of peer.keys) {
      report.say(`${node.name} of B: epoch ${epoch}  ${key}${end === null ? '' : ` until ${end}`}`)
    }
    const path = `/remembrancer/roots/${height}?origin=${encodeURIComponent(origin)}`
    const { manifest } = await node.get<{ manifest: string }>(path)
    const { sealer } = JSON.parse(fromUtf8(fromBase64Url(manifest.split('.')[1]!))) as {
      sealer: string
    }
    report.check(
      sealer === peer.keys[1]!.did && sealer !== did,
      `${node.name} took batch ${height} of ${origin}, sealed by the key of epoch 2`,
    )
  }
  sayTips(lab, tips)
}
