/**
 * One provider falls out, for hours of the lab's clock: every failed attempt is held against the law of design §6
 * as the node recorded it, the alert must come once and go, and the root that waited must end final.
 *
 *   step n = min(1800, 30·2^(n−1)) s;  step/2 ≤ delay < step;  no attempt before its time;  the alert opens
 *   with the first failure after a whole step of 1,800 s
 *
 * The node looks (its cron runs) in the middle of each wait too: that nothing is tried then is part of the law.
 */

import type { Chain } from '#core/anchor-receipt.ts'
import { getJson } from '../cli/remote.ts'
import type { Devnet } from '../devnet/devnet.ts'
import type { Fault, FaultProxy } from '../devnet/fault-proxy.ts'
import type { RunningNode } from '../selfhost.ts'
import { historyOf, jobsOf, mine, postEvent, until, untilFinal, type Attempt } from './node.ts'

/** Seconds, written out: the lab must not take the schedule from the code that it watches. */
const STEPS = [30, 60, 120, 240, 480, 960, 1800, 1800, 1800] as const
/** The failure with which the alert opens: the seventh step is the first of 1,800 s, the eighth attempt follows it. */
const ALERT_AT = 8
/** How the provider fails, attempt by attempt. */
const FAULTS: readonly Fault[] = [
  'down',
  'reset',
  'html',
  'hang',
  'limited',
  'error500',
  'cut',
  'down',
  'hang',
]
/** A provider that hangs is given up after ten seconds, here after half of one. */
const HASTE = 20
/** Longer than any rail's interval in the lab. */
const HOUR_MS = 3_600_000

/** An outage to play. */
export interface Outage {
  readonly chain: Chain
  readonly title: string
  readonly proxy: FaultProxy
  /** The call that is carried out and whose reply is lost: with it the outage begins. */
  readonly loses?: Fault
  /** Confirmed transactions of ours that hold a root, by the chain itself; absent where nothing is paid. */
  readonly paid?: (root: string) => Promise<number>
}

/** What became of it. */
export interface Endured {
  readonly root: string
  readonly wrong: readonly string[]
}

/** A node under the lab's clock, and its devnet. */
export interface Stage {
  readonly node: RunningNode
  readonly devnet: Devnet
  /** Size of the log so far. */
  treeSize: number
  readonly say: (line: string) => void
}

/** Plays one outage from the first failed attempt to the final receipt. */
export async function playOutage(stage: Stage, outage: Outage): Promise<Endured> {
  const { node, devnet, say } = stage
  const { chain, proxy, loses } = outage
  const { url, host } = node
  const wrong: string[] = []
  const faults = loses === undefined ? FAULTS : [loses, ...FAULTS.slice(1)]
  const alertsBefore = (await alertsOf(node, chain)).length
  say(`\n${chain}: ${outage.title}`)
  say(' n  at        step     delay    next      fault       what the node recorded')

  await proxy.setFault(faults[0]!)
  const treeSize = ++stage.treeSize
  await postEvent(url, `outage/${treeSize}`)
  const begunAt = await clock(url, { at: (await clock(url, {})) + HOUR_MS, factor: HASTE })
  await host.tick()
  const job = await until(`a job for ${chain}`, async () => {
    const jobs = await jobsOf(url)
    return jobs.find((row) => row.chain === chain && row.treeSize === treeSize) ?? null
  })
  let attempts: readonly Attempt[] = []
  for (const [i, step] of STEPS.entries()) {
    attempts = await until(`attempt ${i + 1} on ${chain}`, async () => {
      const history = await historyOf(url, job.id)
      return history.length > i ? history : null
    })
    const attempt = attempts[i]!
    say(lineOf(attempt, { step, fault: faults[i]!, begunAt }))
    if (i + 1 === ALERT_AT) {
      await until(`the alert of ${chain}`, async () =>
        (await alertsOf(node, chain)).length > alertsBefore ? true : null,
      )
    }
    // The chain goes on while the node is blind.
    await mine(devnet)
    const next = faults[i + 1]
    if (next === undefined) break
    await proxy.setFault(next)
    await waitOut(node, attempt, HASTE)
  }
  wrong.push(...breaches(attempts))
  if (loses !== undefined && proxy.lost !== 1) wrong.push(`${proxy.lost} replies were lost, not 1`)
  const paid = loses === undefined ? 0 : 1
  const seen = (await outage.paid?.(job.root)) ?? paid
  if (seen !== paid)
    wrong.push(`${seen} transactions were confirmed before it was over, not ${paid}`)

  await proxy.setFault('ok')
  await waitOut(node, attempts.at(-1)!, 1)
  const pass = async (): Promise<number> => clock(url, { at: (await clock(url, {})) + 1000 })
  await untilFinal(node, { devnet, treeSize, pass })
  const alerts = await until(`the alert of ${chain} to be cleared`, async () => {
    const rows = (await alertsOf(node, chain)).slice(alertsBefore)
    return rows.every(({ cleared_at: at }) => at !== null) ? rows : null
  })
  const [eighth, ninth] = attempts.slice(ALERT_AT - 1).map(({ at }) => Date.parse(at))
  const [alert] = alerts
  if (alerts.length !== 1 || alert!.opened_at < eighth! || alert!.opened_at > ninth!) {
    wrong.push(`the alert did not open once, with failure ${ALERT_AT}`)
  }
  const last = (await historyOf(url, job.id)).at(-1)!
  if (last.outcome !== 'final' || last.failures !== 0) wrong.push('the job did not end final')
  const asked = new Set(attempts.map(({ provider: p }) => (p ? `${p.name}, ${p.why}` : '')))
  // A timestamp job names its one authority.
  say(`asked: ${[...asked].join('; ') || job.network}`)
  const times = [alert?.opened_at, alert?.cleared_at, Date.parse(last.at)]
  const [opened, cleared, final] = times.map((at) => since(at ?? 0, begunAt))
  say(
    `alert anchor_stalled opened ${opened}, cleared ${cleared}; final ${final}, attempt ${last.attempt}`,
  )
  for (const sentence of wrong) say(`✗ ${sentence}`)
  return { root: job.root, wrong: wrong.map((sentence) => `${chain}: ${sentence}`) }
}

/** Lets the wait after an attempt pass, with a look in its middle at which nothing may be tried. */
async function waitOut({ url, host }: RunningNode, attempt: Attempt, factor: number) {
  const nextAt = Date.parse(attempt.nextAt)
  await clock(url, { at: (Date.parse(attempt.at) + nextAt) / 2, factor })
  await host.tick()
  await clock(url, { at: nextAt, factor })
  await host.tick()
}

/** What the attempts of an outage break of the law, one sentence each. */
export function breaches(attempts: readonly Attempt[]): string[] {
  const wrong: string[] = []
  if (attempts.length !== STEPS.length) {
    wrong.push(`${attempts.length} attempts were made, not ${STEPS.length}`)
  }
  for (const [i, { attempt, at, outcome, failures, delaySeconds, nextAt }] of attempts.entries()) {
    const n = i + 1
    const step = STEPS[i] ?? 1800
    const isCounted = outcome === 'error' && failures === n && attempt === n
    if (!isCounted) wrong.push(`attempt ${n} is recorded as ${outcome}, failure ${failures}`)
    if (delaySeconds < step / 2 || delaySeconds >= step) {
      wrong.push(`the delay after failure ${n} is ${delaySeconds} s, not of [${step / 2}, ${step})`)
    }
    // The line is written a moment after the delay was drawn.
    const waited = (Date.parse(nextAt) - Date.parse(at)) / 1000
    if (waited > delaySeconds || waited < delaySeconds - 10) {
      wrong.push(`after failure ${n} the wait is ${waited} s, not the ${delaySeconds} s drawn`)
    }
    const following = attempts[i + 1]
    if (following !== undefined && Date.parse(following.at) < Date.parse(nextAt)) {
      wrong.push(`attempt ${n + 1} came before its time`)
    }
  }
  return wrong
}

interface AlertRow {
  readonly opened_at: number
  readonly cleared_at: number | null
}

/** Every `anchor_stalled` that this rail ever raised, cleared ones too. */
async function alertsOf({ host }: RunningNode, chain: Chain): Promise<readonly AlertRow[]> {
  const db = await host.miniflare.getD1Database('DB')
  const { results } = await db
    .prepare(
      "SELECT opened_at, cleared_at FROM alerts WHERE kind = 'anchor_stalled' AND key LIKE ? ORDER BY id",
    )
    .bind(`${chain}/%`)
    .all<AlertRow>()
  return results
}

/** Sets the lab's clock and returns what it says, epoch ms; it never goes back. */
async function clock(
  url: string,
  { at = 0, factor = 1 }: { at?: number; factor?: number },
): Promise<number> {
  const query = `at=${Math.ceil(at)}&factor=${factor}`
  return (await getJson<{ now: number }>(`${url}/lab/clock?${query}`)).now
}

function lineOf(
  { failures, at, delaySeconds, nextAt, reason }: Attempt,
  { step, fault, begunAt }: { step: number; fault: Fault; begunAt: number },
): string {
  const cells = [
    String(failures).padStart(2),
    since(Date.parse(at), begunAt).padEnd(8),
    `${step} s`.padEnd(7),
    `${delaySeconds} s`.padEnd(7),
    since(Date.parse(nextAt), begunAt).padEnd(8),
    fault.split(':')[0]!.padEnd(10),
    reason ?? '',
  ]
  return cells.join('  ')
}

/** Hours, minutes and seconds of the lab's clock. */
function since(at: number, begunAt: number): string {
  const s = Math.max(0, Math.round((at - begunAt) / 1000))
  const two = (n: number): string => String(n).padStart(2, '0')
  return `${Math.floor(s / 3600)}:${two(Math.floor(s / 60) % 60)}:${two(s % 60)}`
}
