/**
 * The steps of a verification, recomputed here by Node's own hashes and not by the code that reports them.
 */

import { createHash } from 'node:crypto'
import * as fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { concat, fromHex, toHex, utf8 } from '#core/bytes.ts'
import { inclusionLevels, inclusionProof } from '#core/inclusion-proof.ts'
import { leafHashes, rootOf } from '#core/merkle.ts'
import type { Step } from '#core/receipt-steps.ts'
import { verifyReceipt, type Receipt, type Report } from '#core/receipt.ts'
import { tileHashReader } from '#core/tile-reader.ts'
import { anchorOfKind, event, receipt, receiptWith, trust } from '../support/anchor-vectors.ts'

const sha256 = (...parts: Uint8Array[]): Uint8Array =>
  new Uint8Array(
    createHash('sha256')
      .update(concat(...parts))
      .digest(),
  )
const stepsOf = (report: Report): readonly Step[] => report.checks.flatMap(({ steps }) => steps)
const other = (text: string, at = 0): string =>
  text.slice(0, at) + (text[at] === '1' ? '2' : '1') + text.slice(at + 1)

describe('the steps of a good receipt', async () => {
  const report = await verifyReceipt(receipt, trust, utf8(event))

  test('all hold, in the order in which they lead from the event to outside time', () => {
    expect(stepsOf(report).every(({ ok }) => ok)).toBe(true)
    expect(report.checks.slice(0, 3).map(({ steps }) => steps.map(({ name }) => name))).toEqual([
      ['event-hash', 'event-form', 'event-signature', 'event-names'],
      ['note', 'log-key', 'log-signature', 'tree-head'],
      ['leaf-hash', 'path', 'node-hash', 'root'],
    ])
    for (const { steps } of report.checks.slice(3, 7)) {
      expect(steps[0]!.name).toBe('anchored-root')
      expect(steps.slice(1, -1).every(({ name }) => name === 'proof')).toBe(true)
      expect(steps.at(-1)!.name).toBe('outside-time')
    }
  })

  test('show hashes that anybody else computes, too', () => {
    const values = (name: string): Step['values'] =>
      stepsOf(report).find((step) => step.name === name)!.values
    const eventHash = sha256(utf8(event))
    expect(values('event-hash')).toEqual({
      bytes: event.length,
      computed: toHex(eventHash),
      expected: toHex(eventHash),
    })
    const leaf = sha256(Uint8Array.of(0), eventHash)
    expect(values('leaf-hash')).toEqual({ eventHash: toHex(eventHash), leafHash: toHex(leaf) })
    const { left, right, result } = values('node-hash')
    expect([left, right]).toEqual([receipt.inclusionProof[0], toHex(leaf)])
    const root = sha256(Uint8Array.of(1), fromHex(String(left)), fromHex(String(right)))
    expect(result).toBe(toHex(root))
    expect(values('root')).toEqual({ computed: toHex(root), expected: receipt.root.slice(7) })
  })

  test('say what each proof says of itself at its end', () => {
    const last = report.checks.slice(3, 7).map(({ steps }) => steps.at(-1)!.values)
    for (const [i, values] of last.entries()) {
      const { chain, network, txHash, anchorTs } = receipt.anchors[i] as unknown as Step['values']
      expect(values).toMatchObject({ chain, network, txHash, anchorTs })
    }
    expect(last.map((values) => typeof values['blockHash'])).toEqual([
      'string',
      'string',
      'string',
      'undefined',
    ])
  })

  test('are none for an event that is not at hand, and for what the node merely says', async () => {
    const bare = await verifyReceipt(receipt, trust)
    expect(bare.checks[0]!.steps).toEqual([])
    expect(bare.checks.at(-1)!.steps).toEqual([])
  })
})

test('the levels of a proof are hashes of the level below with the proof’s own, up to the root', async () => {
  await fc.assert(
    fc.asyncProperty(fc.integer({ min: 1, max: 700 }), fc.nat(), async (size, at) => {
      const index = at % size
      const packed = leafHashes(Array.from({ length: size }, (_, i) => utf8(`${i}`)))
      const hashAt = (level: number, i: number): Uint8Array =>
        rootOf(packed.subarray(32 * i * 256 ** level, 32 * (i + 1) * 256 ** level))
      const read = tileHashReader(
        async (level, tile, width) =>
          concat(...Array.from({ length: width }, (_, i) => hashAt(level, tile * 256 + i))),
        size,
      )
      const proof = await inclusionProof(read, index, size)
      let below: Uint8Array = packed.slice(32 * index, 32 * (index + 1))
      const levels = inclusionLevels({ index, size, leafHash: below, proof })
      expect(levels).toHaveLength(proof.length)
      for (const [i, { left, right, hash, sibling }] of levels.entries()) {
        expect(sibling === 'left' ? [left, right] : [right, left]).toEqual([proof[i], below])
        expect(hash).toEqual(sha256(Uint8Array.of(1), left, right))
        below = hash
      }
      expect(below).toEqual(rootOf(packed))
    }),
  )
})

/** The event with another signature, and the receipt that is about it. */
function resigned(): { readonly event: string; readonly receipt: Receipt } {
  const jws = other(event, event.lastIndexOf('.') + 10)
  return { event: jws, receipt: { ...receipt, eventHash: `sha256:${toHex(sha256(utf8(jws)))}` } }
}

const bitcoin = anchorOfKind('bitcoin-tx')
const [hash] = receipt.inclusionProof as [string]

describe('of a receipt with', () => {
  test.each<[string, string, { event?: string; receipt?: Receipt }, string, object]>([
    ['another byte in the event', 'event', { event: other(event, 40) }, 'event-hash', {}],
    ['another signature on the event', 'event', resigned(), 'event-signature', { alg: 'EdDSA' }],
    ['another event id', 'event', { receipt: { ...receipt, eventId: 'x' } }, 'event-names', {}],
    [
      'another signature on the checkpoint',
      'checkpoint',
      {
        receipt: {
          ...receipt,
          checkpoint: other(receipt.checkpoint, receipt.checkpoint.length - 9),
        },
      },
      'log-signature',
      {},
    ],
    [
      'another root',
      'checkpoint',
      { receipt: { ...receipt, root: `sha256:${'0'.repeat(64)}` } },
      'tree-head',
      { claimedRoot: '0'.repeat(64), root: receipt.root.slice(7) },
    ],
    [
      'another hash in the path',
      'inclusion',
      { receipt: { ...receipt, inclusionProof: [other(hash)] } },
      'root',
      { expected: receipt.root.slice(7) },
    ],
    ['another leaf index', 'inclusion', { receipt: { ...receipt, leafIndex: 0 } }, 'root', {}],
    [
      'a hash too many',
      'inclusion',
      { receipt: { ...receipt, inclusionProof: [hash, hash] } },
      'path',
      { hashes: 2 },
    ],
    [
      'an anchor of another root',
      'anchor BTC regtest',
      { receipt: receiptWith({ ...bitcoin, root: `0x${'0'.repeat(64)}` }) },
      'anchored-root',
      { anchored: '0'.repeat(64) },
    ],
    [
      'another time of an anchor',
      'anchor BTC regtest',
      { receipt: receiptWith({ ...bitcoin, anchorTs: '2026-01-01T00:00:00.000Z' }) },
      'proof',
      { kind: 'bitcoin-tx', check: 'anchorTs' },
    ],
  ])('%s the first step that fails is in %s', async (_, name, changed, step, values) => {
    const report = await verifyReceipt(
      changed.receipt ?? receipt,
      trust,
      utf8(changed.event ?? event),
    )
    const last = report.checks.at(-1)!
    expect([report.verdict, last.name, last.ok]).toEqual(['refuted', name, false])
    expect(last.steps.at(-1)).toMatchObject({ name: step, ok: false, values })
    // Only the last one fails, and what comes after it is not claimed.
    expect(stepsOf(report).filter(({ ok }) => !ok)).toHaveLength(1)
  })

  test('a key that nobody pinned the step names who signed', async () => {
    const report = await verifyReceipt(receipt, { vkeys: [], tsaRoots: [] })
    const [name, id] = trust.vkeys[0]!.split('+')
    expect([report.verdict, report.checks.at(-1)!.steps.at(-1)]).toEqual([
      'untrusted',
      {
        name: 'log-key',
        ok: false,
        values: { origin: receipt.origin, signedBy: `${name}+${id}` },
      },
    ])
  })
})
