/**
 * Bad days of alerts that the node itself pushes: every step from a look at what is due to a notice marked as told
 * fails once, loses its reply, or kills the process.
 *
 * The law at the end: the receiver of webhooks was told of the opening and of the end under one id each, and
 * Alertmanager, which keeps what it was told last until that runs out, has the alert burn while it is open and not
 * after it.
 */

import { afterAll, beforeAll, expect, test, vi } from 'vitest'
import { alertKinds } from '../../functions/core/alert.ts'
import { clearAlert, openAlert, type Alert } from '../../functions/store/alerts.ts'
import { DUE } from '../../functions/store/alert-push.ts'
import { onAlerts, wakeAlerts } from '../../queues/alert-push.ts'
import { Platform, seeded, type Fault, type Plan } from './platform.ts'

const MANAGER = 'http://user:s3cr3t@am.internal:9093/prefix/'
const RECEIVER = 'http://10.0.0.7/told?key=s3cr3t'
const FAULTS: Fault[] = ['fail', 'lost', 'kill-before', 'kill-after']
const MINUTE = 60_000

const stalled: Alert = {
  kind: 'anchor_stalled',
  key: 'BTC/mainnet',
  severity: 'critical',
  detail: 'node.example could not be reached.',
  link: '/batches/7',
}

interface Posted {
  readonly labels: Readonly<Record<string, string>>
  readonly annotations: Readonly<Record<string, string>>
  readonly startsAt: string
  readonly endsAt: string
}

let platform: Platform
/** What the receiver was sent. */
let got: {
  readonly id: string
  readonly type: string
  readonly key: string
  readonly alertId: string
}[] = []
/** Alertmanager's memory, by labels. */
let burning = new Map<string, Posted>()
let posts = 0
let answers: (host: string, body: string) => number | Error = () => 200
const logged: string[] = []
const started = Date.now()

beforeAll(() => {
  vi.useFakeTimers({ toFake: ['Date'] })
  Object.assign(globalThis, { scheduler: { wait: () => Promise.resolve() } })
  for (const level of ['log', 'warn', 'error'] as const) {
    vi.spyOn(console, level).mockImplementation((...all: unknown[]) => {
      logged.push(all.map(String).join(' '))
    })
  }
  vi.stubGlobal('fetch', (url: string, init: RequestInit) => {
    const { host } = new URL(url)
    return platform.outside(`network ${host}`, () => receive(url, host, init))
  })
})

afterAll(() => {
  vi.useRealTimers()
  vi.unstubAllGlobals()
  vi.restoreAllMocks()
})

function receive(url: string, host: string, init: RequestInit): Response {
  const headers = init.headers as Record<string, string>
  const text = init.body as string
  expect(init.redirect).toBe('manual')
  const answer = answers(host, text)
  if (answer instanceof Error) throw answer
  if (answer >= 300) return new Response(null, { status: answer, headers: { location: '/login' } })
  if (host === '10.0.0.7') {
    expect(url).toBe(RECEIVER)
    const { type, data } = JSON.parse(text) as { type: string; data: { id: string; key: string } }
    got.push({ id: headers['webhook-id']!, type, key: data.key, alertId: data.id })
    return new Response(null, { status: answer })
  }
  expect(url).toBe('http://am.internal:9093/prefix/api/v2/alerts')
  expect(headers['authorization']).toBe(`Basic ${btoa('user:s3cr3t')}`)
  posts++
  for (const alert of JSON.parse(text) as Posted[]) {
    expect(Date.parse(alert.endsAt)).toBeGreaterThanOrEqual(Date.parse(alert.startsAt))
    burning.set(JSON.stringify(alert.labels), alert)
  }
  return new Response(null, { status: answer })
}

/** What Alertmanager would say burns now. */
function fires(): string[] {
  return [...burning.values()]
    .filter(({ endsAt }) => Date.parse(endsAt) > Date.now())
    .map(({ labels }) => `${labels['alertname']} ${labels['key']}`)
    .sort()
}

function build(vars: Readonly<Record<string, string>> = {}): void {
  vi.setSystemTime(started)
  got = []
  burning = new Map()
  posts = 0
  answers = () => 200
  platform = new Platform({
    NODE_SECRET: Buffer.alloc(32, 9).toString('base64url'),
    ORIGIN: 'sim.example/log',
    NODE_ID: 'sim',
    PUBLIC_URL: 'https://node.example',
    NETWORK: 'dev',
    INTAKE_SHARDS: '1',
    ALERTMANAGER_URL: MANAGER,
    ALERT_WEBHOOK_URL: RECEIVER,
    ...vars,
  })
}

/** A minute: its cron, and what the queues then hold. */
async function pass(ms = MINUTE, random = seeded(1)): Promise<void> {
  vi.setSystemTime(Date.now() + ms)
  await platform.tick(Date.now())
  await platform.deliver(random)
}

/** A look with `plan` at work, as a wake-up brings it; a lost one is the next minute's. */
async function wake(plan: Plan | null, random: () => number): Promise<void> {
  platform.plan = plan
  await wakeAlerts(platform.env).catch(() => undefined)
  await platform.deliver(random)
  platform.plan = null
}

async function told(): Promise<{ target: string; told: string }[]> {
  const { results } = await platform.env.DB.prepare(
    'SELECT target, told FROM alert_pushes ORDER BY target, alert_id',
  ).all<{ target: string; told: string }>()
  return results
}

/** An alert opens, is told, clears, is told; `plan` breaks a step of the first telling or of the second. */
async function day(
  plan: Plan | null,
  seed: number,
  when: 'opened' | 'resolved',
): Promise<string[]> {
  const random = seeded(seed)
  build()
  await pass()
  await openAlert(platform.env.DB, stalled, Date.now())
  let from = platform.steps.length
  await wake(when === 'opened' ? plan : null, random)
  let steps = platform.steps.slice(from)
  for (let i = 0; i < 4; i++) await pass(MINUTE, random)
  expect(fires()).toEqual(['AnchorStalled BTC/mainnet'])
  await clearAlert(platform.env.DB, stalled.kind, stalled.key, Date.now()).run()
  from = platform.steps.length
  await wake(when === 'resolved' ? plan : null, random)
  if (when === 'resolved') steps = platform.steps.slice(from)
  for (let i = 0; i < 4; i++) await pass(MINUTE, random)

  expect(fires()).toEqual([])
  const first = new Map(got.toReversed().map(({ id, type }) => [id, type]))
  expect([...first.values()].toReversed()).toEqual(['alert.opened', 'alert.resolved'])
  expect(await told()).toEqual([
    { target: 'alertmanager', told: 'resolved' },
    { target: 'webhook', told: 'resolved' },
  ])
  return steps
}

test('in peace each notice is sent once, and Alertmanager hears of an open alert each minute', async () => {
  await day(null, 1, 'opened')
  expect(got.map(({ type }) => type)).toEqual(['alert.opened', 'alert.resolved'])
  // At once, four minutes, the end.
  expect(posts).toBe(6)
})

test.each(
  (['opened', 'resolved'] as const).flatMap((when) =>
    FAULTS.map((fault) => [when, fault] as const),
  ),
)(
  'whichever step of telling that it %s goes wrong by "%s", both are told in the end',
  async (when, fault) => {
    const steps = await day(null, 1, when)
    for (const name of ['network am.internal:9093', 'network 10.0.0.7', 'queue.send alerts'])
      expect(steps).toContain(name)
    for (let k = 0; k < steps.length; k++) {
      let at = 0
      try {
        await day(() => (at++ === k ? fault : null), k, when)
      } catch (cause) {
        throw new Error(`${fault} at step ${k}, ${steps[k]}: ${String(cause)}`, { cause })
      }
    }
  },
  120_000,
)

test('a reply that is lost after the receiver took the notice repeats it under the same id', async () => {
  build()
  await openAlert(platform.env.DB, stalled, Date.now())
  await wake((name) => (name === 'network 10.0.0.7' ? 'lost' : null), seeded(1))
  await pass()
  expect(got.length).toBeGreaterThan(1)
  expect(new Set(got.map(({ id }) => id)).size).toBe(1)
})

test('two runs at once tell nobody twice', async () => {
  build()
  await openAlert(platform.env.DB, stalled, Date.now())
  const ctx = { waitUntil: () => undefined }
  await Promise.all(Array.from({ length: 4 }, () => onAlerts(platform.env, ctx)))
  expect(got.length).toBe(1)
  expect(posts).toBe(1)
})

test('an open alert burns in Alertmanager for as long as it is open, and five minutes at most once nobody sends it again', async () => {
  build()
  await openAlert(platform.env.DB, stalled, Date.now())
  for (let i = 0; i < 60; i++) {
    await pass()
    expect(fires()).toEqual(['AnchorStalled BTC/mainnet'])
  }
  vi.setSystemTime(Date.now() + 4 * MINUTE)
  expect(fires()).toEqual(['AnchorStalled BTC/mainnet'])
  vi.setSystemTime(Date.now() + MINUTE + 1)
  expect(fires()).toEqual([])
})

test('what opened and cleared unseen is told as history to the webhook and as a state to Alertmanager', async () => {
  build()
  await pass()
  await openAlert(platform.env.DB, stalled, Date.now())
  vi.setSystemTime(Date.now() + 1000)
  await clearAlert(platform.env.DB, stalled.kind, stalled.key, Date.now()).run()
  await wake(null, seeded(1))
  expect(got.map(({ type }) => type)).toEqual(['alert.opened', 'alert.resolved'])
  expect(posts).toBe(1)
  expect(fires()).toEqual([])
})

test('an alert that opens again is another one, and burns', async () => {
  build()
  for (let i = 0; i < 3; i++) {
    await openAlert(platform.env.DB, stalled, Date.now())
    await wake(null, seeded(1))
    expect(fires()).toEqual(['AnchorStalled BTC/mainnet'])
    await clearAlert(platform.env.DB, stalled.kind, stalled.key, Date.now() + 1000).run()
    vi.setSystemTime(Date.now() + 2000)
    await wake(null, seeded(1))
    expect(fires()).toEqual([])
  }
  expect(new Set(got.map(({ id }) => id)).size).toBe(6)
})

test('a target that is down costs the other nothing and is asked again after at most four minutes', async () => {
  build()
  const asked: number[] = []
  answers = (host) => {
    if (host !== '10.0.0.7') return 200
    asked.push(Date.now())
    return new Error('connection refused')
  }
  await openAlert(platform.env.DB, stalled, Date.now())
  for (let i = 0; i < 30; i++) {
    await pass()
    expect(fires()).toEqual(['AnchorStalled BTC/mainnet'])
  }
  expect(asked.length).toBeLessThan(20)
  const gaps = asked.slice(1).map((at, i) => at - asked[i]!)
  // The longest step is 240 s, looked at each minute.
  expect(Math.max(...gaps)).toBeLessThanOrEqual(5 * MINUTE)
  answers = () => 200
  for (let i = 0; i < 5; i++) await pass()
  expect(got.map(({ type }) => type)).toEqual(['alert.opened'])
})

test('a notice that the receiver refuses holds up no other', async () => {
  build()
  answers = (host, body) => (host === '10.0.0.7' && body.includes('BTC/mainnet') ? 500 : 200)
  await openAlert(platform.env.DB, stalled, Date.now())
  for (let i = 0; i < 10; i++) {
    await openAlert(platform.env.DB, { ...stalled, key: `TSA/${i}` }, Date.now())
    await wake(null, seeded(i))
    expect(got.at(-1)?.key).toBe(`TSA/${i}`)
    vi.setSystemTime(Date.now() + MINUTE)
  }
  answers = () => 200
  for (let i = 0; i < 5; i++) await pass()
  expect(got.at(-1)?.key).toBe('BTC/mainnet')
})

test('a redirect is not followed and counts as a refusal', async () => {
  build()
  answers = () => 302
  await openAlert(platform.env.DB, stalled, Date.now())
  await wake(null, seeded(1))
  expect((await told()).map(({ told: state }) => state)).toEqual([''])
  expect(got).toEqual([])
})

test('nobody is told of what was over before he was named', async () => {
  build({ ALERT_WEBHOOK_URL: '' })
  await openAlert(platform.env.DB, stalled, Date.now())
  await wake(null, seeded(1))
  vi.setSystemTime(Date.now() + 1000)
  await clearAlert(platform.env.DB, stalled.kind, stalled.key, Date.now()).run()
  vi.setSystemTime(Date.now() + 1000)
  Object.assign(platform.env, { ALERT_WEBHOOK_URL: RECEIVER })
  platform.env = { ...platform.env }
  await openAlert(platform.env.DB, { ...stalled, key: 'EVM/mainnet' }, Date.now())
  await wake(null, seeded(1))
  expect(got.map(({ key }) => key)).toEqual(['EVM/mainnet'])
})

test('without targets nothing is sent, looked at or kept', async () => {
  build({ ALERTMANAGER_URL: '', ALERT_WEBHOOK_URL: '' })
  await openAlert(platform.env.DB, stalled, Date.now())
  await pass()
  expect(platform.steps).not.toContain('queue.send alerts')
  expect(await told()).toEqual([])
})

test('more alerts than one look takes are all told', async () => {
  build()
  for (let i = 0; i < 230; i++)
    await openAlert(platform.env.DB, { ...stalled, key: `TSA/${i}` }, Date.now())
  await wake(null, seeded(1))
  expect(fires().length).toBe(230)
  expect(new Set(got.map(({ key }) => key)).size).toBe(230)
})

test('news goes before what is only told again, so that a flood of old alerts hides no new one and lets none lapse', async () => {
  build()
  for (let i = 0; i < 450; i++)
    await openAlert(platform.env.DB, { ...stalled, key: `TSA/${i}` }, Date.now())
  for (let i = 0; i < 3; i++) await pass()
  await openAlert(platform.env.DB, stalled, Date.now())
  await pass()
  expect(fires()).toContain('AnchorStalled BTC/mainnet')
  for (let i = 0; i < 10; i++) {
    await pass()
    expect(fires().length).toBe(451)
  }
})

test('webhooks of strangers that fail hide no alert of the node, however many', async () => {
  build()
  const { DB } = platform.env
  await openAlert(DB, stalled, Date.now())
  for (let i = 0; i < 120; i++)
    await openAlert(DB, { ...stalled, kind: 'webhook_failing', key: `wh_${i}` }, Date.now() + i)
  const answer = await platform.fetch('/alerts')
  const { alerts } = (await answer.json()) as { alerts: { kind: string }[] }
  expect(alerts.length).toBe(100)
  expect(alerts[0]!.kind).toBe('anchor_stalled')
})

test('a clock that ran a year ahead and was set back keeps no alert from being told', async () => {
  build()
  const year = 365 * 86_400_000
  await openAlert(platform.env.DB, stalled, Date.now())
  vi.setSystemTime(started + year)
  await wake(null, seeded(1))
  answers = () => new Error('connection refused')
  await pass()
  answers = () => 200
  vi.setSystemTime(started)
  burning = new Map()
  for (let i = 0; i < 3; i++) await pass()
  expect(fires()).toEqual(['AnchorStalled BTC/mainnet'])
  await clearAlert(platform.env.DB, stalled.kind, stalled.key, Date.now()).run()
  for (let i = 0; i < 3; i++) await pass()
  expect(fires()).toEqual([])
  expect(got.map(({ type }) => type)).toEqual(['alert.opened', 'alert.resolved'])
})

test('what was over long ago costs a look nothing: no table is read from end to end', async () => {
  build()
  const { results } = await platform.env.DB.prepare(`EXPLAIN QUERY PLAN ${DUE}`)
    .bind('webhook', 0, 0, 0)
    .all<{ detail: string }>()
  const scans = results.filter(({ detail }) => detail.startsWith('SCAN'))
  // That index holds open alerts alone.
  expect(scans.map(({ detail }) => detail)).toEqual(['SCAN alerts USING INDEX alerts_open'])
})

test('a row of a kind that this version does not know holds up no other', async () => {
  build()
  await openAlert(platform.env.DB, { ...stalled, kind: 'of_tomorrow' as 'fork' }, Date.now())
  await openAlert(platform.env.DB, stalled, Date.now())
  await wake(null, seeded(1))
  expect(fires()).toEqual(['AnchorStalled BTC/mainnet'])
})

test('what is pushed names node, log, batch and runbook, and the id of a webhook by its digest alone', async () => {
  build()
  const name = 'wh_AAAAAAAAAAAAAAAAAAAAAA'
  const failing = {
    ...stalled,
    kind: 'webhook_failing',
    key: name,
    link: `/webhooks/${name}`,
  } as const
  await openAlert(platform.env.DB, failing, Date.now())
  await openAlert(platform.env.DB, stalled, Date.now())
  await wake(null, seeded(1))
  const sent = JSON.stringify([...burning.values(), ...got])
  expect(sent).not.toContain(name)
  const [, alert] = [...burning.values()]
  expect(alert).toMatchObject({
    labels: {
      alertname: 'AnchorStalled',
      severity: 'critical',
      component: 'anchor',
      kind: 'anchor_stalled',
      key: 'BTC/mainnet',
      node_id: 'sim',
      origin: 'sim.example/log',
      told_by: 'node',
    },
    annotations: {
      summary: alertKinds.anchor_stalled.summary,
      description: stalled.detail,
      runbook_url: 'docs/alerts.md#anchor_stalled',
      drilldown: 'https://node.example/log/1/batches/7',
    },
    startsAt: new Date(started).toISOString(),
  })
  expect(alert!.labels['node_did']).toMatch(/^did:key:/)
  // What /alerts shows is the same alert under the same id.
  const { alerts } = (await (await platform.fetch('/alerts')).json()) as {
    alerts: { id: string; kind: string; url: string; runbook: string }[]
  }
  const shown = alerts.find(({ kind }) => kind === 'anchor_stalled')!
  expect(shown).toMatchObject({
    url: alert!.annotations['drilldown'],
    runbook: alert!.annotations['runbook_url'],
  })
  expect(got.map(({ alertId }) => alertId)).toContain(shown.id)
})

test('no log, row or answer of all these days holds a word of the addresses', async () => {
  build()
  answers = () => new Error(`cannot connect to ${RECEIVER} or ${MANAGER}`)
  await openAlert(platform.env.DB, stalled, Date.now())
  for (let i = 0; i < 3; i++) await pass()
  const { DB } = platform.env
  const rows = await Promise.all(
    ['alert_targets', 'alert_pushes', 'alerts'].map((table) =>
      DB.prepare(`SELECT * FROM ${table}`).all(),
    ),
  )
  const shown = await (await platform.fetch('/alerts')).text()
  expect(rows.map(({ results }) => results.length)).toEqual([2, 0, 1])
  const all = `${logged.join('\n')}\n${JSON.stringify(rows)}\n${shown}`
  expect(all).not.toMatch(/s3cr3t|am\.internal|10\.0\.0\.7/)
})
