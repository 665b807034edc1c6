/**
 * What the doctor makes of what it found: where each check turns, and what it never does.
 */

import * as fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { VARIABLES } from '#core/config.ts'
import {
  ageText,
  check,
  clockCheck,
  diskChecks,
  misspelt,
  providerChecks,
  settingsChecks,
  tlsExpiryCheck,
  tsaExpiryCheck,
  walletCheck,
  worst,
  type ProviderAnswer,
  type Settings,
} from '#core/doctor.ts'

const DAY = 86_400_000
const NOW = Date.parse('2026-11-23T12:00:00Z')
const state = (c: { readonly state: string }) => c.state

test('the worst of all checks counts, and what was not looked at counts for nothing', () => {
  const all = (states: readonly ('ok' | 'warn' | 'fail' | 'skip')[]) =>
    worst(states.map((s) => check('a', s, 'b')))
  expect(all([])).toBe('ok')
  expect(all(['ok', 'skip'])).toBe('ok')
  expect(all(['skip', 'warn', 'ok'])).toBe('warn')
  expect(all(['warn', 'fail', 'ok'])).toBe('fail')
})

test('a check that is ok asks for nothing to be done', () => {
  expect(check('a', 'ok', 'b', 'do it')).not.toHaveProperty('next')
  expect(check('a', 'warn', 'b', 'do it').next).toBe('do it')
})

describe('the clock', () => {
  const of = (...skews: number[]) =>
    clockCheck(skews.map((skewMs, i) => ({ who: `c${i}`, skewMs })))

  test('is judged by the median: warn from 30 s, fail from 300 s, whichever way', () => {
    for (const way of [1, -1]) {
      expect(state(of(30_000 * way))).toBe('ok')
      expect(state(of(30_001 * way))).toBe('warn')
      expect(state(of(300_000 * way))).toBe('warn')
      expect(state(of(300_001 * way))).toBe('fail')
    }
    expect(of(-40_000).says).toContain('40.0 s behind the median of 1 (c0)')
    expect(of(40_000, 60_000).says).toContain('50.0 s ahead of')
    expect(state(of())).toBe('skip')
  })

  test('stays as it is while fewer than half of the others are wrong, however wrong', () => {
    fc.assert(
      fc.property(
        fc.array(fc.integer({ min: -30_000, max: 30_000 }), { minLength: 1, maxLength: 9 }),
        fc.array(fc.integer(), { maxLength: 8 }),
        (right, wrong) => {
          const liars = wrong.slice(0, right.length - 1)
          expect(state(of(...right, ...liars))).toBe('ok')
        },
      ),
    )
  })
})

test('certificates are looked after 90 days before their end, and fail at 14; those of TLS at 20 and 3', () => {
  const tsa = (days: number) => state(tsaExpiryCheck('root', NOW + days * DAY, NOW))
  expect([91, 90, 89, 14, 13, -1].map(tsa)).toEqual(['ok', 'ok', 'warn', 'warn', 'fail', 'fail'])
  const tls = (days: number) => state(tlsExpiryCheck('host', NOW + days * DAY, NOW))
  expect([21, 19, 3, 2, -1].map(tls)).toEqual(['ok', 'warn', 'warn', 'fail', 'fail'])
  expect(tsaExpiryCheck('root', NOW - 2 * DAY, NOW).says).toBe('root ends (ended 2 days ago)')
})

test('a wallet that was not read is not called empty', () => {
  const of = (anchorsLeft: number | null) =>
    walletCheck({ rail: 'EVM anvil', address: '0xab', balance: null, anchorsLeft })
  expect(state(of(null))).toBe('skip')
  expect([0, 9, 10, 99, 100].map((n) => state(of(n)))).toEqual([
    'fail',
    'fail',
    'warn',
    'warn',
    'ok',
  ])
  expect(of(3).next).toContain('0xab')
})

test('room is judged in bytes and in inodes, where there are any to count', () => {
  expect(diskChecks({ freeBytes: 6e9, freeInodes: null }).map(state)).toEqual(['ok'])
  expect(diskChecks({ freeBytes: 1e9, freeInodes: 200_000 }).map(state)).toEqual(['warn', 'ok'])
  expect(diskChecks({ freeBytes: 1e8, freeInodes: 5000 }).map(state)).toEqual(['fail', 'fail'])
})

describe('providers', () => {
  const answer = (change: Partial<ProviderAnswer>): ProviderAnswer => ({
    rail: 'BTC',
    name: 'a.example',
    latencyMs: 12.4,
    fault: null,
    height: 100,
    ...change,
  })

  test('are held against the best of their own rail alone', () => {
    const checks = providerChecks([
      answer({ height: 100 }),
      answer({ name: 'b.example', height: 98 }),
      answer({ name: 'c.example', height: 97 }),
      answer({ rail: 'EVM', name: 'd.example', height: 5 }),
    ])
    expect(checks.map(state)).toEqual(['ok', 'ok', 'warn', 'ok'])
    expect(checks[2]!.says).toBe('BTC c.example: right network, block 97 (3 behind), 12 ms')
  })

  test('that are silent fail, and authorities have no height', () => {
    const checks = providerChecks([
      answer({ fault: 'could not be reached', height: null }),
      answer({ rail: 'TSA', height: null }),
    ])
    expect(checks.map(state)).toEqual(['fail', 'ok'])
    expect(checks[0]!.next).toContain('BTC_URLS')
  })
})

describe('a name is nearly ours', () => {
  const meant = (name: string) => misspelt([name], VARIABLES)[0]?.meant

  test.each([
    ['SEAL_BATCH_MAX_ITEM', 'SEAL_BATCH_MAX_ITEMS'],
    ['ORIGN', 'ORIGIN'],
    ['PUBILC_URL', 'PUBLIC_URL'],
    ['origin', 'ORIGIN'],
    ['INTAKE_ALOW', 'INTAKE_ALLOW'],
  ])('%s is %s', (name, right) => expect(meant(name)).toBe(right))

  test('and none of these is', () => {
    for (const name of [
      'PATH',
      'HOME',
      'LANG',
      'NODE_ENV',
      'NODE_PATH',
      'TERM',
      'USER',
      ...VARIABLES,
    ])
      expect([name, meant(name)]).toEqual([name, undefined])
  })

  test('with one letter left out of any name of eight or more, or two swapped', () => {
    const long = VARIABLES.filter((name) => name.length >= 8)
    fc.assert(
      fc.property(fc.constantFrom(...long), fc.nat(), (name, at) => {
        const i = at % (name.length - 1)
        const without = name.slice(0, i) + name.slice(i + 1)
        const swapped = name.slice(0, i) + name[i + 1]! + name[i]! + name.slice(i + 2)
        for (const wrong of [without, swapped])
          if (!VARIABLES.includes(wrong)) expect(meant(wrong)).toBeDefined()
      }),
    )
  })
})

describe('settings that parse', () => {
  const good: Settings = {
    network: 'production',
    origin: 'log.you.org/log',
    publicUrl: 'https://log.you.org',
    rails: ['TSA'],
    providers: { BTC: 0, EVM: 0, TSA: 2 },
    webhookAllowPrivate: false,
    rateLimitDid: 1,
    rateLimitIp: 0,
    sigRequired: true,
  }
  const states = (change: Partial<Settings>) => settingsChecks({ ...good, ...change }).map(state)

  test('are ok as they are meant for production', () => expect(states({})).toEqual(['ok']))

  test.each<[string, Partial<Settings>, string]>([
    ['a name that nobody owns', { origin: 'vm-node-01.example/log' }, 'fail'],
    ['no address', { publicUrl: '' }, 'warn'],
    ['an address without TLS', { publicUrl: 'http://log.you.org' }, 'warn'],
    ['no rail', { rails: [] }, 'warn'],
    ['one provider alone', { providers: { TSA: 1 } }, 'warn'],
    ['webhooks into our own network', { webhookAllowPrivate: true }, 'warn'],
    ['no limit', { rateLimitDid: 0 }, 'warn'],
    ['unsigned bodies', { sigRequired: false }, 'warn'],
  ])('in production with %s are told of', (_, change, said) => {
    expect(states(change)).toEqual([said])
    expect(states({ ...change, network: 'dev' })).toEqual(['ok'])
  })
})

test('ages are said in one unit', () => {
  expect([0, 90_000, 600_000, 7_300_000, 3 * DAY].map(ageText)).toEqual([
    '0 s',
    '90 s',
    '10 min',
    '2 h',
    '3 d',
  ])
})
