import { describe, expect, test } from 'vitest'
import { fromBase64Url, fromUtf8, utf8 } from '#core/bytes.ts'
import { parseConfig } from '#core/config.ts'
import { MAX_EVENT_BYTES, EVENT_TYP, openEnvelope, verifyEnvelope } from '#core/envelope.ts'
import { VaultMeshError } from '#core/errors.ts'
import { deriveIdentity } from '#core/node-keys.ts'
import { Signers } from '#core/signer.ts'
import { isLaterLog, originOf, signEvidence, type ForkEvidence } from '#core/succession.ts'
import { placed } from '../../functions/http/log-path.ts'

const FIRST = 'a.test/log'
const previous = {
  origin: FIRST,
  vkey: 'a.test/log+983fa0d5+AX1z',
  evidence: `sha256:${'a'.repeat(64)}`,
}

describe('the name of a log', () => {
  test('is the first origin, with its number from the second on', () => {
    expect([1, 2, 17].map((n) => originOf(FIRST, n))).toEqual([FIRST, `${FIRST}/2`, `${FIRST}/17`])
  })

  test.each([
    [`${FIRST}/2`, FIRST],
    [`${FIRST}/3`, FIRST],
    [`${FIRST}/3`, `${FIRST}/2`],
    [`${FIRST}/10`, `${FIRST}/9`],
    // The operator's own name ends in a number.
    ['a.test/2/2', 'a.test/2'],
  ])('%s follows %s', (later, known) => {
    expect(isLaterLog(later, known)).toBe(true)
  })

  test.each([
    [FIRST, FIRST],
    [FIRST, `${FIRST}/2`],
    [`${FIRST}/2`, `${FIRST}/2`],
    [`${FIRST}/2`, `${FIRST}/3`],
    [`${FIRST}/1`, FIRST],
    [`${FIRST}/02`, FIRST],
    [`${FIRST}/100`, FIRST],
    [`${FIRST}/2/x`, FIRST],
    [`${FIRST}2`, FIRST],
    ['b.test/log/2', FIRST],
    ['b.test/log/3', `${FIRST}/2`],
  ])('%s does not follow %s', (other, known) => {
    expect(isLaterLog(other, known)).toBe(false)
  })
})

describe('the settings of a successor', () => {
  const env = { ORIGIN: FIRST, LOG_NUMBER: '2', PREVIOUS_LOGS: JSON.stringify([previous]) }

  test('name the log by its number, and those before it', () => {
    expect(parseConfig(env)).toMatchObject({
      origin: `${FIRST}/2`,
      logNumber: 2,
      previousLogs: [previous],
    })
    expect(parseConfig({ ORIGIN: FIRST })).toMatchObject({
      origin: FIRST,
      logNumber: 1,
      previousLogs: [],
    })
  })

  test.each([
    [{ LOG_NUMBER: '3' }, 'PREVIOUS_LOGS: lists 1 logs, and LOG_NUMBER is 3.'],
    [{ LOG_NUMBER: '1' }, 'PREVIOUS_LOGS: lists 1 logs, and LOG_NUMBER is 1.'],
    [{ LOG_NUMBER: '100' }, 'LOG_NUMBER: must be between 1 and 99.'],
    [{ PREVIOUS_LOGS: '' }, 'PREVIOUS_LOGS: lists 0 logs, and LOG_NUMBER is 2.'],
    [{ PREVIOUS_LOGS: '[' }, 'PREVIOUS_LOGS: is no JSON.'],
    [
      { PREVIOUS_LOGS: JSON.stringify([{ ...previous, origin: 'b.test/log' }]) },
      'PREVIOUS_LOGS: names b.test/log, which is not the log in that place.',
    ],
    [
      { PREVIOUS_LOGS: JSON.stringify([{ ...previous, evidence: 'a' }]) },
      'PREVIOUS_LOGS: 0.evidence: is not sha256:<64 hex digits>.',
    ],
    [{ ORIGIN: 'a'.repeat(255) }, 'ORIGIN: has no room for the number 2 in 255 bytes.'],
  ])('are refused where they contradict each other: %o', (more, message) => {
    let refusal: unknown
    try {
      parseConfig({ ...env, ...more })
    } catch (error) {
      refusal = error
    }
    expect(refusal).toBeInstanceOf(VaultMeshError)
    expect((refusal as VaultMeshError).message).toBe(message)
  })
})

describe('the evidence', () => {
  const candidate = (digit: string, bytes: number) => ({
    root: `sha256:${digit.repeat(64)}`,
    treeSize: 2,
    manifest: 'm'.repeat(bytes),
    checkpoint: 'c'.repeat(bytes),
  })
  const evidence = (candidates: ForkEvidence['candidates']): ForkEvidence => ({
    origin: FIRST,
    height: 2,
    candidates,
    canonical: null,
  })

  test('is an event of the node that holds both histories', async () => {
    const key = await deriveIdentity(new Uint8Array(32).fill(3), 1)
    const said = evidence([candidate('1', 900), candidate('2', 900)])
    const jws = await signEvidence(key, said, 1_700_000_000_000)
    const open = await openEnvelope(utf8(jws), new Signers(EVENT_TYP))
    await verifyEnvelope(open)
    expect(open.event).toMatchObject({
      id: `vm.log.forked/${FIRST}`,
      source: key.did,
      type: 'vm.log.forked',
      subject: FIRST,
      timeAt: 1_700_000_000_000,
    })
    const payload = JSON.parse(fromUtf8(fromBase64Url(jws.split('.')[1]!))) as { data: unknown }
    expect(payload.data).toEqual(said)
  })

  test('names as many rivals as an event has room for, and never fewer than two', async () => {
    const key = await deriveIdentity(new Uint8Array(32).fill(3), 1)
    for (const [size, kept] of [
      [900, 16],
      [8000, 3],
      [12_000, 2],
    ] as const) {
      const many = Array.from({ length: 20 }, (_, i) => candidate(i.toString(16).slice(0, 1), size))
      const jws = await signEvidence(key, evidence(many), 0)
      expect(jws.length).toBeLessThanOrEqual(MAX_EVENT_BYTES)
      const payload = JSON.parse(fromUtf8(fromBase64Url(jws.split('.')[1]!))) as {
        data: ForkEvidence
      }
      expect(payload.data.candidates).toHaveLength(kept)
    }
  })
})

describe('the log of a path', () => {
  const place = (path: string, number: number): string | null =>
    placed(new URL(`http://node.test${path}`), number)

  test.each([
    // The first log, alone.
    ['/log/checkpoint', 1, '/log/checkpoint'],
    ['/log/1/checkpoint', 1, '/log/checkpoint'],
    ['/log/1/tile/0/000.p/2', 1, '/log/tile/0/000.p/2'],
    ['/log/1/receipts/abc', 1, '/receipts/abc'],
    ['/log/2/checkpoint', 1, '/log/2/checkpoint'],
    ['/admin/log?log=1', 1, '/admin/log'],
    ['/receipts/abc', 1, '/receipts/abc'],
    // The second, which asks the first.
    ['/log/checkpoint', 2, null],
    ['/log/tile/0/000', 2, null],
    ['/log/1/checkpoint', 2, null],
    ['/log/1/receipts/abc', 2, null],
    ['/log/2/checkpoint', 2, '/log/checkpoint'],
    ['/log/2/proof/inclusion', 2, '/log/proof/inclusion'],
    ['/log/2/batches/1', 2, '/batches/1'],
    ['/log/2/federation/feed', 2, '/federation/feed'],
    ['/log/2/federation/peers', 2, '/log/2/federation/peers'],
    ['/log/3/checkpoint', 2, '/log/3/checkpoint'],
    ['/admin/log?log=1', 2, null],
    ['/admin/log?log=2', 2, '/admin/log'],
    ['/admin/log', 2, '/admin/log'],
    ['/batches?log=1', 2, '/batches'],
    // Guarded by its name, so it has no other.
    ['/log/2/admin/log', 2, '/log/2/admin/log'],
    ['/log/2/log/checkpoint', 2, '/log/2/log/checkpoint'],
    ['/log/2/checkpoint/', 2, '/log/2/checkpoint/'],
    ['/log/2/receiptsx/abc', 2, '/log/2/receiptsx/abc'],
    ['/log/02/checkpoint', 2, null],
  ])('%s of log %i', (path, number, expected) => {
    expect(place(path, number)).toBe(expected)
  })
})
