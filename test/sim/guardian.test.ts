/**
 * The Guardian on bad days: every step between a look at the node and the news of what was done fails once, succeeds and
 * loses its reply, or is the last thing the process does before or after its effect.
 *
 * The law at the end of each day: of each seq there is one statement and no seq is missing; an outage was one alert,
 * which is cleared; one intervention was recorded, and its event is in the log once.
 */

import { afterAll, beforeAll, expect, test, vi } from 'vitest'
import { Killed, Platform, seeded, type Fault, type Plan } from './platform.ts'

const START = Date.parse('2026-11-23T12:00:00Z')
const MINUTE = 60_000
const VARS = {
  NODE_SECRET: Buffer.alloc(32, 9).toString('base64url'),
  ORIGIN: 'sim.example/log',
  NODE_ID: 'sim',
  NETWORK: 'dev',
  INTAKE_SHARDS: '1',
  INTAKE_BACKLOG_MAX: '100000',
  SEAL_BATCH_MAX_INTERVAL_MS: '2000',
  GUARDIAN_INTERVAL_MS: String(MINUTE),
}
/** Samples that an alarm needs, and room for those that a fault costs. */
const SICK_MINUTES = 4
const WELL_MINUTES = 7

beforeAll(() => {
  vi.useFakeTimers({ toFake: ['Date'] })
  Object.assign(globalThis, { scheduler: { wait: () => Promise.resolve() } })
  vi.spyOn(console, 'error').mockImplementation(() => undefined)
  vi.spyOn(console, 'log').mockImplementation(() => undefined)
})

afterAll(() => {
  vi.useRealTimers()
  vi.restoreAllMocks()
})

/** A day: a node that is well, suffers, and is well again. */
class Day {
  readonly platform = new Platform(VARS, ['COUNTERS', 'GUARDIAN'])
  /** What was ever signed, by seq. */
  readonly said = new Map<number, string>()
  /** Of each minute the steps it began and ended with, and what had come of it. */
  readonly minutes: { readonly from: number; readonly to: number; readonly state: string }[] = []
  readonly #random = seeded(1)

  constructor(plan: Plan | null) {
    this.platform.plan = plan
  }

  async live(): Promise<void> {
    vi.setSystemTime(START)
    await this.#minutes(2)
    this.platform.index(
      `INSERT INTO dead_letters (id, queue, body, received_at)
       WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 500)
       SELECT i, 'sealer-dlq', '{}', 0 FROM n`,
    )
    await this.#minutes(SICK_MINUTES)
    this.platform.index('UPDATE dead_letters SET replayed_at = 1')
    await this.#minutes(WELL_MINUTES)
    this.platform.plan = null
    await this.#minutes(2)
  }

  async #minutes(n: number): Promise<void> {
    for (let i = 0; i < n; i++) {
      vi.setSystemTime(Date.now() + MINUTE)
      const from = this.platform.steps.length
      await this.platform.tick(Date.now())
      this.#look()
      await this.platform.deliver(this.#random)
      await this.platform.settle()
      const state = JSON.stringify([
        this.said.size > 0,
        this.#disk('SELECT kind FROM interventions'),
        this.platform.index("SELECT cleared_at FROM alerts WHERE kind = 'psi_low'"),
      ])
      this.minutes.push({ from, to: this.platform.steps.length, state })
    }
  }

  /** Whatever is on disk could be told to somebody. */
  #look(): void {
    const kept = this.#disk('SELECT jws FROM nodes').map(({ jws }) => String(jws))
    const pending = this.#disk("SELECT v FROM config WHERE k = 'pending'").map(
      ({ v }) => (JSON.parse(String(v)) as { jws: string }).jws,
    )
    for (const jws of [...kept, ...pending]) {
      const { seq } = JSON.parse(Buffer.from(jws.split('.')[1]!, 'base64url').toString()) as {
        seq: number
      }
      expect(this.said.get(seq) ?? jws, `two statements of seq ${seq}`).toBe(jws)
      this.said.set(seq, jws)
    }
  }

  #disk(sql: string): Record<string, unknown>[] {
    try {
      return this.platform.disk('GUARDIAN/node', sql)
    } catch {
      return [] // the first step of all was the one that failed
    }
  }

  async holds(): Promise<void> {
    const seqs = this.#disk('SELECT seq FROM telemetry ORDER BY at, seq').map(({ seq }) =>
      Number(seq),
    )
    expect(seqs).toEqual(seqs.map((_, i) => seqs[0]! + i))
    expect(seqs.length).toBeGreaterThan(SICK_MINUTES + WELL_MINUTES)
    const alerts = this.platform.index('SELECT kind, key, cleared_at FROM alerts')
    expect(alerts.filter(({ kind }) => kind === 'psi_low')).toHaveLength(1)
    expect(alerts.filter((alert) => alert['cleared_at'] === null)).toEqual([])
    const done = this.#disk('SELECT kind, seq, acted_at, posted_at, event_hash FROM interventions')
    expect(done).toEqual([
      expect.objectContaining({ kind: 'albedo', acted_at: expect.any(Number) as number }),
    ])
    const answer = await this.platform.fetch('/events?type=vm.guardian.intervention')
    const { events } = (await answer.json()) as { events: { eventHash: string; eventId: string }[] }
    expect(events.map(({ eventHash }) => eventHash)).toEqual([done[0]!['event_hash']])
    expect(events[0]!.eventId).toBe(`guardian/${Number(done[0]!['seq'])}/albedo`)
  }
}

async function lived(plan: Plan | null): Promise<Day> {
  const day = new Day(plan)
  await day.live().catch((error: unknown) => {
    if (!(error instanceof Killed)) throw error
  })
  return day
}

/** The steps of the Guardian itself, and of what it asks others to do. */
const OWN =
  /^(?:GUARDIAN|rpc (?:GUARDIAN|COUNTERS\.read|SEQUENCER\.watch|FEDERATION\.(?:peersView|tellHealth|admission)|POOL\.admit)|POOL transaction|d1 batch of INSERT INTO alerts|queue\.send alerts)/

test('an outage is one alert, one intervention and one event, and is over when it is over', async () => {
  const day = await lived(null)
  await day.holds()
})

test('what cannot be read is null and never 0, and after three intervals an alert says so until it is read', async () => {
  let isBlind = false
  const { platform } = new Day((name) => (isBlind && name === 'rpc COUNTERS.read' ? 'fail' : null))
  const minutes = async (n: number): Promise<void> => {
    for (let i = 0; i < n; i++) {
      vi.setSystemTime(Date.now() + MINUTE)
      await platform.tick(Date.now())
    }
  }
  const alerts = () =>
    platform.index(
      "SELECT key, severity, detail FROM alerts WHERE kind = 'watch_blind' AND cleared_at IS NULL",
    )
  vi.setSystemTime(START)
  await minutes(4)
  isBlind = true
  await minutes(2)
  expect(alerts()).toEqual([])
  await minutes(1)
  expect(alerts()).toEqual([
    {
      key: 'guardian',
      severity: 'warning',
      detail:
        'The Guardian cannot read 5 of 14 signals, so Ψ says nothing of them. Counters could not be read: it failed; see the log.',
    },
  ])
  isBlind = false
  await minutes(2)
  expect(alerts()).toEqual([])
  const rates = platform
    .disk('GUARDIAN/node', 'SELECT s_intake_rate AS rate FROM telemetry ORDER BY at')
    .map(({ rate }) => rate)
  // The first has nothing to compare with.
  expect(rates).toEqual([null, 0, 0, null, null, null, 0, 0])
})

/** A platform, and minutes of it. */
function world() {
  const { platform } = new Day(null)
  vi.setSystemTime(START)
  const minutes = async (n: number): Promise<void> => {
    for (let i = 0; i < n; i++) {
      vi.setSystemTime(Date.now() + MINUTE)
      await platform.tick(Date.now())
      await platform.deliver(seeded(1))
      await platform.settle()
    }
  }
  const last = () =>
    platform.disk('GUARDIAN/node', 'SELECT seq, at FROM nodes')[0] as { seq: number; at: number }
  return { platform, minutes, last }
}

test('a statement that cannot be read is left behind, and the next one is made', async () => {
  const { platform, minutes, last } = world()
  await minutes(2)
  const { seq } = last()
  const pending = JSON.stringify({ jws: 'of.another.version', newest: {} })
  platform.disk(
    'GUARDIAN/node',
    `INSERT INTO config (k, v) VALUES ('pending', '${pending}') ON CONFLICT DO UPDATE SET v = excluded.v`,
  )
  await minutes(2)
  expect(last().seq).toBeGreaterThan(seq)
})

test('after a silence the seq is the clock again, so that a node put back from a backup says nothing twice', async () => {
  const { platform, minutes, last } = world()
  await minutes(100)
  const said = last()
  platform.disk('GUARDIAN/node', 'UPDATE nodes SET seq = seq - 95, at = at - 95 * 60000')
  platform.disk('GUARDIAN/node', `DELETE FROM telemetry WHERE seq > ${said.seq - 95}`)
  platform.kill()
  await minutes(1)
  expect(last().seq).toBeGreaterThan(said.seq)
  const { seq } = last()
  await minutes(1)
  expect(last().seq).toBe(seq + 1)
})

test('a clock that ran a year ahead and was set back leaves no time to come behind', async () => {
  const { platform, minutes, last } = world()
  await minutes(2)
  const before = last()
  const right = Date.now()
  vi.setSystemTime(right + 365 * 86_400_000)
  await minutes(2)
  vi.setSystemTime(right + 2 * MINUTE)
  await minutes(2)
  const after = last()
  expect(after.seq).toBeGreaterThan(before.seq)
  expect(Math.abs(after.at - Date.now())).toBeLessThanOrEqual(MINUTE)
  const late = `SELECT seq FROM telemetry WHERE at > ${Date.now()}`
  expect(platform.disk('GUARDIAN/node', late)).toEqual([])
})

test('an alert is what the node says also when its index was lost or put back', async () => {
  const { platform, minutes } = world()
  const open = () =>
    platform.index("SELECT kind FROM alerts WHERE kind = 'psi_low' AND cleared_at IS NULL").length
  await minutes(2)
  platform.index(
    `INSERT INTO dead_letters (id, queue, body, received_at)
     WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 500)
     SELECT i, 'anchor-dlq', '{}', 0 FROM n`,
  )
  await minutes(10)
  expect(open()).toBe(1)
  platform.index("DELETE FROM alerts WHERE kind = 'psi_low'")
  await minutes(62)
  expect(open()).toBe(1)
  platform.index('UPDATE dead_letters SET replayed_at = 1')
  await minutes(40)
  expect(open()).toBe(0)
  platform.index("UPDATE alerts SET cleared_at = NULL WHERE kind = 'psi_low'")
  platform.kill()
  await minutes(2)
  expect(open()).toBe(0)
})

test('a stranger whose requests are refused moves no Ψ and opens no alarm', async () => {
  const { platform, minutes } = world()
  await minutes(20)
  for (let i = 0; i < 8; i++) {
    const headers = { 'content-type': 'application/jose' }
    const bad = { method: 'POST', body: 'e30.e30.e30', headers }
    expect((await platform.fetch('/events', bad)).status).toBe(400)
    await minutes(1)
  }
  const [least] = platform.disk('GUARDIAN/node', 'SELECT min(psi) AS psi FROM telemetry')
  expect(least!['psi']).toBeGreaterThan(0.98)
  expect(platform.index("SELECT 1 FROM alerts WHERE kind = 'psi_low'")).toEqual([])
})

test('a Guardian that is retired leaves no alert behind that nobody would clear', async () => {
  const { platform, minutes } = world()
  const open = () =>
    platform.index("SELECT kind FROM alerts WHERE kind = 'psi_low' AND cleared_at IS NULL").length
  platform.index(
    `INSERT INTO dead_letters (id, queue, body, received_at)
     WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 500)
     SELECT i, 'anchor-dlq', '{}', 0 FROM n`,
  )
  await minutes(10)
  expect(open()).toBe(1)
  await platform.env.GUARDIAN.getByName('node').retire()
  await minutes(3)
  expect(open()).toBe(0)
})

const FAULTS: readonly Fault[] = ['fail', 'lost', 'kill-before', 'kill-after']

test.each(FAULTS)(
  'so it is when any one step of it goes wrong: %s',
  async (fault) => {
    const { platform, minutes } = await lived(null)
    // Minutes in which nothing comes of it are all alike.
    const eventful = minutes.filter(({ state }, i) => i > 0 && state !== minutes[i - 1]!.state)
    expect(eventful).toHaveLength(3)
    const steps = [...platform.steps.entries()].filter(
      ([n, name]) => eventful.some(({ from, to }) => n >= from && n < to) && OWN.test(name),
    )
    expect(steps.length).toBeGreaterThan(30)
    for (const [number, name] of steps) {
      const day = await lived((_, n) => (n === number ? fault : null))
      await day.holds().catch((error: unknown) => {
        throw new Error(`after ${fault} of step ${number}, ${name}`, { cause: error })
      })
    }
  },
  120_000,
)
