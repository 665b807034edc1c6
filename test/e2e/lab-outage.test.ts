/**
 * `make lab-outage` as a user runs it, on what is installed here; its output is read again and held against the
 * schedule by this file's own arithmetic. And that its judge of the schedule can say no.
 */

import { existsSync, readdirSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { ROOT } from '../../scripts/build.ts'
import { anvilBinary, missingAnvil } from '../../scripts/devnet/anvil.ts'
import { onPath } from '../../scripts/devnet/child.ts'
import type { Attempt } from '../../scripts/lab/node.ts'
import { breaches } from '../../scripts/lab/outage.ts'
import { absent, bitcoindAbsence } from './devnet-support.ts'
import { run, sandbox } from './support.ts'

const SCRIPT = join(ROOT, 'scripts', 'lab-outage.ts')
const here = {
  btc: !absent(bitcoindAbsence),
  evm: !absent(anvilBinary() === null ? missingAnvil : null),
  tsa: !absent(onPath('openssl') === null ? 'openssl is not installed' : null),
}
const parts = Object.entries(here)
const rails = parts.filter(([, isHere]) => isHere).map(([part]) => part.toUpperCase())
const missing = parts.filter(([, isHere]) => !isHere).map(([part]) => part)

let dir: string
let remove: () => Promise<void>
beforeAll(async () => {
  ;({ dir, remove } = await sandbox())
})
afterAll(() => remove())

test.skipIf(rails.length === 0)(
  'ten anchors stand in a row, and every outage keeps the schedule, alerts once, and costs nothing twice',
  async () => {
    const without = missing.length === 0 ? [] : ['--without', missing.join(',')]
    const { code, stdout, stderr } = await run([SCRIPT, ...without], { cwd: dir })
    expect(code, stdout + stderr).toBe(0)

    const rounds = stdout.match(/^ ?\d+  0x[0-9a-f]{12} .*$/gm) ?? []
    expect(rounds.length).toBe(10)
    for (const round of rounds) expect(round).toMatch(new RegExp(`(?: OK){${rails.length}}$`))
    expect(new Set(rounds.map((round) => /0x\w+/.exec(round)![0])).size).toBe(10)
    const kept = readdirSync(join(dir, 'anchors', 'receipts'))
    for (const rail of rails) {
      expect(
        kept.filter((name) => name.endsWith('.json') && name.includes(`.${rail}.`)).length,
      ).toBe(10)
      expect(stdout).toMatch(new RegExp(`^OK  ${rail} `, 'm'))
    }
    // A folder that real nodes use keeps its own mark of what it has.
    expect(existsSync(join(dir, 'anchors', 'receipts', '.cursor'))).toBe(false)

    const outages = stdout.split(/^(?=(?:BTC|EVM|TSA): )/m).slice(1)
    expect(outages.map((text) => text.slice(0, 3)).sort()).toEqual(
      rails.flatMap((rail) => (rail === 'TSA' ? [rail] : [rail, rail])),
    )
    for (const text of outages) {
      const lines = [...text.matchAll(/^ (\d)  \S+ +(\d+) s +(\d+) s +\S+ +(\S+) +\S/gm)]
      const steps = [30, 60, 120, 240, 480, 960, 1800, 1800, 1800]
      expect(lines.map(([, n, step]) => [Number(n), Number(step)])).toEqual(
        steps.map((step, i) => [i + 1, step]),
      )
      for (const [line, , step, delay] of lines) {
        expect(Number(delay), line).toBeGreaterThanOrEqual(Number(step) / 2)
        expect(Number(delay), line).toBeLessThan(Number(step))
      }
      const [, opened] = /anchor_stalled opened (\S+), cleared \S+; final /.exec(text)!
      const [eighth, ninth] = ['8', '9'].map(
        (n) => new RegExp(`^ ${n}  (\\S+)`, 'm').exec(text)![1]!,
      )
      // Printed in whole seconds.
      expect(seconds(opened!)).toBeGreaterThanOrEqual(seconds(eighth!) - 1)
      expect(seconds(opened!)).toBeLessThan(seconds(ninth!))
    }
    for (const rail of rails.filter((name) => name !== 'TSA')) {
      expect(stdout).toContain(`on the ${rail} chain itself: 10 roots, 10 transactions of ours`)
    }
  },
  300_000,
)

test('a part that is absent is named in one line, with what to do about it', async () => {
  const env = { PATH: '/nonexistent', VAULTMESH_CACHE: join(dir, 'no-cache') }
  const { code, stderr } = await run([SCRIPT, '--without', 'evm'], { cwd: dir, env })
  expect(code).toBe(1)
  expect(stderr).toContain('rail BTC is off')
  expect(stderr).toContain('rail TSA is off')
  expect(stderr).toContain('make lab-outage ARGS="--without btc,tsa"')
  const wrong = await run([SCRIPT, '--without', 'doge'], { cwd: dir })
  expect(wrong).toMatchObject({ code: 1 })
  expect(wrong.stderr).toContain('the parts are btc, evm, tsa')
})

function seconds(clock: string): number {
  return clock.split(':').reduce((sum, part) => 60 * sum + Number(part), 0)
}

describe('the judge of a schedule', () => {
  /** Nine attempts after delays of three quarters of each step. */
  function schedule(): Attempt[] {
    let at = Date.parse('2026-01-01T00:00:00Z')
    return [30, 60, 120, 240, 480, 960, 1800, 1800, 1800].map((step, i) => {
      const delaySeconds = Math.floor(0.75 * step)
      const began = at
      at += delaySeconds * 1000
      return {
        attempt: i + 1,
        at: new Date(began).toISOString(),
        outcome: 'error',
        failures: i + 1,
        delaySeconds,
        nextAt: new Date(at).toISOString(),
        provider: null,
        reason: null,
      }
    })
  }

  test('finds nothing wrong with one that keeps the law', () => {
    expect(breaches(schedule())).toEqual([])
  })

  test.each<[string, (attempts: Attempt[]) => void]>([
    ['an attempt is missing', (all) => all.pop()],
    ['one too many was made', (all) => all.push(all[8]!)],
    ['an attempt is not counted', (all) => (all[3] = { ...all[3]!, failures: 3 })],
    ['an attempt did not fail', (all) => (all[3] = { ...all[3]!, outcome: 'broadcast' })],
    ['another attempt came between', (all) => (all[3] = { ...all[3]!, attempt: 5 })],
    ['a delay is under half of its step', (all) => (all[5] = { ...all[5]!, delaySeconds: 479 })],
    ['a delay is the whole step', (all) => (all[5] = { ...all[5]!, delaySeconds: 960 })],
    ['the wait is not the delay', (all) => (all[5] = { ...all[5]!, delaySeconds: 700 })],
    ['an attempt came early', (all) => (all[6] = { ...all[6]!, at: all[5]!.at })],
  ])('objects if %s', (_, spoil) => {
    const attempts = schedule()
    spoil(attempts)
    expect(breaches(attempts)).not.toEqual([])
  })
})
