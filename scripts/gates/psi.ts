/**
 * Gate 4, Analytics/Ψ: an alert fires when Ψ drops below its threshold, and its link opens the exact batch and its
 * receipts.
 *
 * A real Prometheus and a real Alertmanager with the files of config/ look after a node whose timestamp authority
 * falls out. The pager is called; its link is followed as a person would, to the batch, to the receipts that wait, to
 * the very event that was posted in the outage. When the authority is back, the pager is told that it is over.
 */

import { randomBytes } from 'node:crypto'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createSigner, eventHashOf, post, sign } from '../../functions/sdk.ts'
import { getJson } from '../cli/remote.ts'
import { onPath } from '../devnet/child.ts'
import { startFaultProxy } from '../devnet/fault-proxy.ts'
import { portOrFree } from '../devnet/port.ts'
import { startTsa } from '../devnet/tsa.ts'
import {
  monitoringAbsence,
  startAlertmanager,
  startPager,
  startPrometheus,
  type Called,
} from '../lab/monitoring.ts'
import { until } from '../lab/node.ts'
import { startNode, type RunningNode } from '../selfhost.ts'
import { notRun, type GateResult } from './gate.ts'

const GATE = '4 Analytics/Ψ'
const SHOWN =
  'Prometheus and Alertmanager over a node whose authority falls out; the alert’s link followed'
/** Slow against the three low samples that the Guardian wants, so that the alert is a rule's and no accident. */
const EVALUATION_S = 2
const TOKEN = 'm3trics'
/** Above it all is well. */
const HEALTHY = 0.9

interface Batch {
  readonly height: number
  readonly links: { readonly receipts: string; readonly events: string }
}
interface BatchReceipts {
  readonly missing: readonly string[]
  readonly receipts: readonly { readonly eventHash: string; readonly links: { receipt: string } }[]
}

/** Runs the gate; `log` takes a line for each step. */
export async function psiGate(log: (line: string) => void): Promise<GateResult> {
  const row = { gate: GATE, shown: SHOWN }
  const absence =
    monitoringAbsence() ??
    (onPath('openssl') === null ? 'openssl not installed (apt install openssl)' : null)
  if (absence !== null) return notRun(row, absence)
  const dir = await mkdtemp(join(tmpdir(), 'vm-psi-'))
  const identity = process.env['VAULTMESH_AGE_KEY_FILE']
  process.env['VAULTMESH_AGE_KEY_FILE'] = join(dir, 'age', 'keys.txt')
  const undo: (() => Promise<unknown>)[] = []
  const owned = async <T extends { stop(): Promise<unknown> }>(
    starting: Promise<T>,
  ): Promise<T> => {
    const part = await starting
    undo.push(() => part.stop())
    return part
  }
  try {
    const pager = await owned(startPager())
    const alertmanager = await owned(startAlertmanager(join(dir, 'am'), pager.url))
    const tsa = await owned(startTsa({ dir: join(dir, 'tsa'), port: 0 }))
    const proxy = await owned(startFaultProxy({ target: tsa.url }))
    const stamps = new URL(tsa.url)
    stamps.port = String(proxy.port)
    const node = await owned(
      startNode({
        home: join(dir, 'home'),
        port: await portOrFree(0),
        log: () => undefined,
        tsa: { urls: stamps.href, rootsPem: tsa.rootPem },
        vars: {
          ORIGIN: 'psi.lab.vaultmesh.local/log',
          NODE_ID: 'watched',
          SEAL_BATCH_MAX_INTERVAL_MS: '200',
          ANCHOR_TSA_INTERVAL_MS: '300',
          GUARDIAN_INTERVAL_MS: '200',
          METRICS_TOKEN: TOKEN,
        },
      }),
    )
    const prometheus = await owned(
      startPrometheus(join(dir, 'prom'), {
        target: node.url,
        token: TOKEN,
        alertmanager: alertmanager.url,
        evaluationS: EVALUATION_S,
      }),
    )
    const psi = async (): Promise<number | null> => {
      const { data } = await getJson<{ data: { result: { value: [number, string] }[] } }>(
        `${prometheus.url}/api/v1/query?query=psi_field_density`,
      )
      const [first] = data.result
      return first === undefined ? null : Number(first.value[1])
    }
    const well = await posted(node)
    const before = await until('a healthy Ψ', async () => {
      const isFinal = (await statusOf(node, well)) === 'final'
      const now = await psi()
      return isFinal && now !== null && now > HEALTHY ? now : null
    })
    if (pager.called.length > 0) throw new Error('the pager was called while all was well')
    log(`Ψ is ${before.toFixed(2)}, scraped by Prometheus; the pager is silent`)

    await proxy.setFault('down')
    const outAt = performance.now()
    const suffering = await posted(node)
    log('the timestamp authority is out, and an event is posted')
    const call = await until('the pager to be called', async () => isPsiLow(pager.called, 'firing'))
    const fired = performance.now() - outAt
    const low = (await psi()) ?? Number.NaN
    const link = call.annotations['drilldown'] ?? ''
    log(
      `PsiLow fired after ${(fired / 1000).toFixed(1)} s, Ψ ${low.toFixed(2)}; it links to ${link}`,
    )
    const found = await followed(node, link, suffering)
    log(found.said)

    await proxy.setFault('ok')
    const backAt = performance.now()
    // The job under way waits for its next attempt; the root of one event more covers its own and is tried at once.
    await posted(node)
    await until('the pager to be told that it is over', async () =>
      isPsiLow(pager.called, 'resolved'),
    )
    const over = performance.now() - backAt
    const isFinal = (await statusOf(node, suffering)) === 'final'
    log(`over ${(over / 1000).toFixed(1)} s after the authority was back`)
    const figure = `Ψ ${before.toFixed(2)} → ${low.toFixed(2)} fired in ${(fired / 1000).toFixed(1)} s; ${found.said}; resolved ${(over / 1000).toFixed(1)} s after the outage`
    return { ...row, figure, ok: low < 0.5 && found.isExact && isFinal }
  } finally {
    for (const step of undo.toReversed()) await step()
    if (identity === undefined) delete process.env['VAULTMESH_AGE_KEY_FILE']
    else process.env['VAULTMESH_AGE_KEY_FILE'] = identity
    await rm(dir, { recursive: true, force: true })
  }
}

/** Follows an alert's link to the batch, to its receipts, and to the receipt and the bytes of `eventHash`. */
async function followed(
  { url }: RunningNode,
  link: string,
  eventHash: string,
): Promise<{ readonly isExact: boolean; readonly said: string }> {
  const batch = await getJson<Batch>(link)
  const page = await getJson<BatchReceipts>(`${url}${batch.links.receipts}`)
  const entry = page.receipts.find((receipt) => receipt.eventHash === eventHash)
  if (entry === undefined) {
    return {
      isExact: false,
      said: `batch ${batch.height} opened, but not that of the event that waits`,
    }
  }
  const receipt = await getJson<{ status: string; height: number }>(`${url}${entry.links.receipt}`)
  const bytes = await (await fetch(`${url}${batch.links.events}`)).text()
  const isExact =
    receipt.height === batch.height &&
    receipt.status === 'sealed' &&
    page.missing.join() === 'TSA' &&
    bytes.split(/\s+/).some((jws) => jws !== '' && eventHashOf(jws) === eventHash)
  const count = page.receipts.length
  const said = `the link opened batch ${batch.height} and its ${count === 1 ? 'receipt, which waits' : `${count} receipts, which wait`} for ${page.missing.join(', ')}`
  return { isExact, said: isExact ? said : `${said}, which are not as they should be` }
}

function isPsiLow(called: readonly Called[], status: Called['status']): Called | null {
  return (
    called.find(
      (call) =>
        call.status === status &&
        call.labels['alertname'] === 'PsiLow' &&
        call.labels['told_by'] === 'prometheus',
    ) ?? null
  )
}

/** Posts an event and resolves to its hash once it is sealed. */
async function posted({ url }: RunningNode): Promise<string> {
  const signer = await createSigner({ alg: 'EdDSA', secret: new Uint8Array(randomBytes(32)) })
  const jws = await sign(signer, { type: 'vm.lab.event' })
  const { receipt } = await post(url, jws, { wait: 20 })
  if (receipt === undefined) throw new Error('an event was not sealed within 20 s')
  return eventHashOf(jws)
}

async function statusOf({ url }: RunningNode, eventHash: string): Promise<string> {
  return (await getJson<{ status: string }>(`${url}/receipts/${eventHash}`)).status
}
