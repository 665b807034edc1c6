/**
 * Telemetry is believed only as its node signed it: whole, in range, of now, and once.
 */

import * as fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { toBase64Url, utf8 } from '#core/bytes.ts'
import { didKey, didKeyUrl } from '#core/did.ts'
import { VaultMeshError } from '#core/errors.ts'
import { deriveIdentity, signJws } from '#core/node-keys.ts'
import {
  checkSequence,
  MAX_AGE_MS,
  MAX_AHEAD_MS,
  MAX_TELEMETRY_BYTES,
  readTelemetry,
  SIGNAL_NAMES,
  SIGNALS,
  signTelemetry,
  TELEMETRY_TYP,
  verifyTelemetry,
  type Signals,
  type Telemetry,
  type TelemetryTrust,
} from '#core/telemetry.ts'
import { isoTime } from '#core/time.ts'
import { testSigner } from '../support/signing.ts'

const NOW = 1_795_414_936_500
const key = await deriveIdentity(new Uint8Array(32).fill(1), 1)
const next = await deriveIdentity(new Uint8Array(32).fill(1), 2)
const stranger = await deriveIdentity(new Uint8Array(32).fill(2), 1)
const signals: Signals = {
  intake_rate: 12.5,
  reject_ratio: 0.01,
  seal_latency_p50_s: 60,
  seal_latency_p95_s: 121.5,
  seal_retry_ratio: null,
  queue_backlog: 1200,
  dead_letters: 0,
  anchor_lag_btc_s: 4000,
  anchor_lag_evm_s: null,
  anchor_lag_tsa_s: 30.25,
  anchor_failure_ratio: 0,
  peer_agreement: 1,
  peer_lag: 0,
  checkpoint_age_s: 45,
}
const told: Telemetry = {
  nodeDid: key.did,
  seq: 7,
  at: NOW,
  intervalMs: 60_000,
  expect: { seal_s: 120, anchor_btc_s: 7800, anchor_tsa_s: 65, backlog: 500_000 },
  signals,
}
const claims = {
  node_did: key.did,
  seq: 7,
  ts: isoTime(NOW),
  interval_ms: 60_000,
  expect: told.expect,
  signals,
}
const trust: TelemetryTrust = { nowAt: NOW, isKey: (did) => did === key.did }

/** Signed without the guards of `signTelemetry`. */
async function forge(change: Readonly<Record<string, unknown>>, by = key): Promise<Uint8Array> {
  return utf8(await signJws(by, TELEMETRY_TYP, { ...claims, ...change }))
}

/** Telemetry of a payload's exact text; its signature is not good. */
function written(payload: string, header: object = good): Uint8Array {
  const part = (text: string): string => toBase64Url(utf8(text))
  return utf8(`${part(JSON.stringify(header))}.${part(payload)}.${part('signature')}`)
}
const good = { alg: 'EdDSA', kid: key.kid, typ: TELEMETRY_TYP }

function refusal(run: () => unknown): { readonly code: string; readonly message: string } {
  try {
    run()
    return { code: 'ok', message: '' }
  } catch (error) {
    if (!(error instanceof VaultMeshError)) throw error
    return error
  }
}

describe('telemetry', () => {
  test('says what its node signed, by whichever of its keys', async () => {
    const jws = await signTelemetry(key, told)
    expect(await verifyTelemetry(readTelemetry(utf8(jws)), trust)).toEqual(told)
    // ≈ 1,200 bytes: a limit of 8,192 has room for every number at its longest.
    expect(jws.length).toBeLessThan(MAX_TELEMETRY_BYTES / 4)
    const opened = readTelemetry(utf8(await signTelemetry(next, told)))
    expect(opened).toMatchObject({ nodeDid: key.did, keyDid: next.did, unverified: told })
    const isKey = (did: string): boolean => did === next.did
    expect(await verifyTelemetry(opened, { ...trust, isKey })).toEqual(told)
  })

  test('may say of every signal that there is none', async () => {
    const none = Object.fromEntries(SIGNAL_NAMES.map((name) => [name, null])) as Signals
    const all = { ...told, expect: { seal_s: 1, backlog: 1 }, signals: none }
    expect(readTelemetry(utf8(await signTelemetry(key, all))).unverified).toEqual(all)
  })

  test('is refused as a whole when one number is out of its range, and the number is named', async () => {
    const rails = { expect: { ...told.expect, anchor_evm_s: 4560 } }
    for (const name of SIGNAL_NAMES) {
      const { min, max, unit } = SIGNALS[name]
      const whole = unit === 'events' || unit === 'count' || unit === 'batches'
      for (const edge of [min, max]) {
        const read = readTelemetry(await forge({ signals: { ...signals, [name]: edge }, ...rails }))
        expect(read.unverified.signals[name]).toBe(edge)
      }
      const wrong = [min - 1, max * 1.01, '1', true, [], undefined, ...(whole ? [1.5] : [])]
      for (const value of wrong) {
        const bytes = await forge({ signals: { ...signals, [name]: value }, ...rails })
        const { code, message } = refusal(() => readTelemetry(bytes))
        expect([name, value, code]).toEqual([name, value, 'bad-telemetry'])
        expect(message).toContain(`"signals.${name}"`)
      }
    }
  })

  test.each<[string, Readonly<Record<string, unknown>>]>([
    ['a signal that nobody knows', { signals: { ...signals, mood: 1 } }],
    ['a claim that nobody knows', { psi: 1 }],
    ['a fractional seq', { seq: 1.5 }],
    ['a seq below 0', { seq: -1 }],
    ['a seq beyond what a number holds', { seq: 2 ** 53 }],
    ['a time with an offset', { ts: '2026-11-23T05:36:00.000+00:00' }],
    ['a time without milliseconds', { ts: '2026-11-23T05:36:00Z' }],
    ['a day that is none', { ts: '2026-02-30T05:36:00.000Z' }],
    ['a time in numbers', { ts: NOW }],
    ['an interval below 200 ms', { interval_ms: 199 }],
    ['an interval beyond a day', { interval_ms: 86_400_001 }],
    ['no promise of a seal', { expect: { backlog: 1 } }],
    ['a promise of nothing', { expect: { ...told.expect, seal_s: 0 } }],
    ['no room in the backlog', { expect: { ...told.expect, backlog: 0 } }],
    ['a promise that nobody knows', { expect: { ...told.expect, luck_s: 1 } }],
    ['a lag without its promise', { signals: { ...signals, anchor_lag_evm_s: 1 } }],
    ['a DID that is none', { node_did: 'vm-node-01' }],
    ['a DID URL', { node_did: key.kid }],
    ['the DID of a person', { node_did: testSigner('ES256', 'person').did }],
  ])('with %s is malformed', async (_, change) => {
    const bytes = await forge(change)
    expect(refusal(() => readTelemetry(bytes)).code).toBe('bad-telemetry')
  })

  test('cannot hold infinity, a repeated key or half of a JSON', () => {
    const text = JSON.stringify(claims)
    for (const payload of [
      text.replace('12.5', '1e999'),
      text.replace('"seq":7', '"seq":7,"seq":8'),
      text.slice(0, -1),
      '[]',
      'null',
      '',
    ])
      expect([payload, refusal(() => readTelemetry(written(payload))).code]).toEqual([
        payload,
        'bad-telemetry',
      ])
    expect(refusal(() => readTelemetry(written(text))).code).toBe('ok')
  })

  test('that nobody signed is called so', () => {
    const payload = JSON.stringify(claims)
    const [header, body] = new TextDecoder().decode(written(payload)).split('.')
    const none = written(payload, { alg: 'none', kid: key.kid, typ: TELEMETRY_TYP })
    for (const bytes of [
      utf8(payload),
      utf8(`  \n${payload}`),
      utf8(`[${payload}]`),
      utf8(`${header}.${body}`),
      utf8(`${header}.${body}.`),
      none,
      written(payload, { alg: 'NoNe' }),
    ])
      expect(refusal(() => readTelemetry(bytes)).code).toBe('telemetry-unsigned')
  })

  test.each<[string, object]>([
    ['another type', { ...good, typ: 'vm-gossip+jws' }],
    ['another algorithm', { ...good, alg: 'ES256' }],
    ['a key that is no did:key Ed25519', { ...good, kid: testSigner('ES256', 'person').did }],
    ['a parameter more', { ...good, crit: ['exp'] }],
    ['no key', { alg: 'EdDSA', typ: TELEMETRY_TYP }],
    ['no object', []],
  ])('whose header has %s is malformed', (_, header) => {
    const bytes = written(JSON.stringify(claims), header)
    expect(refusal(() => readTelemetry(bytes)).code).toBe('bad-telemetry')
  })

  test('of more than 8,192 bytes is refused unread, and the limit is said', () => {
    const error = refusal(() => readTelemetry(new Uint8Array(MAX_TELEMETRY_BYTES + 1)))
    expect(error).toMatchObject({ code: 'body-too-large', extra: { limit: MAX_TELEMETRY_BYTES } })
    const fits = refusal(() => readTelemetry(new Uint8Array(MAX_TELEMETRY_BYTES)))
    expect(fits.code).toBe('bad-telemetry')
  })

  test('of any bytes is read or refused by one of three codes', async () => {
    const jws = utf8(await signTelemetry(key, told))
    const spoilt = fc
      .tuple(fc.nat(jws.length - 1), fc.nat(255))
      .map(([at, byte]) => jws.map((was, i) => (i === at ? byte : was)))
    const codes = ['ok', 'bad-telemetry', 'telemetry-unsigned']
    fc.assert(
      fc.property(fc.oneof(fc.uint8Array({ maxLength: 300 }), spoilt), (bytes) => {
        expect(codes).toContain(refusal(() => readTelemetry(bytes)).code)
      }),
    )
  })

  test('is not signed when its reader would refuse it', async () => {
    for (const wrong of [
      { ...told, at: Number.NaN },
      { ...told, at: 1e17 },
      { ...told, seq: -1 },
      { ...told, signals: { ...signals, intake_rate: Number.NaN } },
      { ...told, signals: { ...signals, intake_rate: Infinity } },
    ])
      await expect(signTelemetry(key, wrong)).rejects.toMatchObject({ code: 'bad-telemetry' })
  })
})

describe('the verification of telemetry', () => {
  test('refuses what is spoilt, and whoever is no key of the node', async () => {
    const text = await signTelemetry(key, told)
    const spoilt = `${text.slice(0, -8)}${text.at(-8) === 'A' ? 'B' : 'A'}${text.slice(-7)}`
    await expect(verifyTelemetry(readTelemetry(utf8(spoilt)), trust)).rejects.toMatchObject({
      code: 'bad-signature',
    })
    const foreign = readTelemetry(utf8(await signTelemetry(stranger, told)))
    await expect(verifyTelemetry(foreign, trust)).rejects.toMatchObject({ code: 'unknown-peer' })
    // Not even a peer's key signs for another: the signature is asked of the key in the header.
    const trusting = { ...trust, isKey: () => true }
    expect(await verifyTelemetry(foreign, trusting)).toEqual(told)
    const swapped = utf8(text.replace(/^[^.]*/, foreign.header))
    await expect(verifyTelemetry(readTelemetry(swapped), trusting)).rejects.toMatchObject({
      code: 'bad-signature',
    })
  })

  test('asks whether the key is valid now', async () => {
    const opened = readTelemetry(utf8(await signTelemetry(key, told)))
    const asked: unknown[] = []
    const isKey = (...args: readonly unknown[]): boolean => asked.push(args) > 0
    await verifyTelemetry(opened, { nowAt: NOW + 5, isKey })
    expect(asked).toEqual([[key.did, NOW + 5]])
  })

  test.each([
    [MAX_AHEAD_MS, 'ok'],
    [MAX_AHEAD_MS + 1, 'telemetry-future'],
    [-MAX_AGE_MS, 'ok'],
    [-MAX_AGE_MS - 1, 'telemetry-stale'],
  ])('of a time that is %i ms ahead says %s', async (ahead, code) => {
    const opened = readTelemetry(utf8(await signTelemetry(key, { ...told, at: NOW + ahead })))
    const verdict = verifyTelemetry(opened, trust)
    if (code === 'ok') expect((await verdict).at).toBe(NOW + ahead)
    else await expect(verdict).rejects.toMatchObject({ code })
  })

  test('refuses a key of small order, which signs everything', async () => {
    const zero = new Uint8Array(32).fill(0, 1)
    zero[0] = 1
    const did = didKey('ed25519', zero)
    const weak = { ...key, did, kid: didKeyUrl(did) }
    const opened = readTelemetry(utf8(await signTelemetry(weak, told)))
    await expect(verifyTelemetry(opened, { ...trust, isKey: () => true })).rejects.toMatchObject({
      code: 'bad-did',
    })
  })
})

describe('the sequence of telemetry', () => {
  const last = { seq: 7, at: NOW }
  test.each<[string, { seq: number; at: number } | null, { seq: number; at: number }, string]>([
    ['the first', null, { seq: 0, at: 0 }, 'ok'],
    ['the next', last, { seq: 8, at: NOW + 1 }, 'ok'],
    ['one after a gap', last, { seq: 900, at: NOW + 1 }, 'ok'],
    ['the next at the same time', last, { seq: 8, at: NOW }, 'ok'],
    ['the same again', last, last, 'telemetry-replayed'],
    ['the same seq later', last, { seq: 7, at: NOW + 1 }, 'telemetry-replayed'],
    ['one before', last, { seq: 6, at: NOW + 1 }, 'telemetry-out-of-order'],
    ['the next, earlier', last, { seq: 8, at: NOW - 1 }, 'telemetry-out-of-order'],
  ])('has a verdict for %s', (_, before, then, code) => {
    expect(refusal(() => checkSequence(before, then)).code).toBe(code)
  })
})
