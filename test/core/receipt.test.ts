import { ed25519 } from '@noble/curves/ed25519.js'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import path from 'node:path'
import * as fc from 'fast-check'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { timestampReceipt } from '#core/anchor-timestamp.ts'
import { concat, toHex, utf8 } from '#core/bytes.ts'
import { addSignatures, cosignCheckpoint, signCheckpoint } from '#core/checkpoint.ts'
import { consistencyProof } from '#core/consistency-proof.ts'
import { VaultMeshError } from '#core/errors.ts'
import { inclusionProof } from '#core/inclusion-proof.ts'
import { leafHash, leafHashes, rootOf } from '#core/merkle.ts'
import { parseProofFile, verifyProofFile } from '#core/proof-file.ts'
import { readReceiptFile, receiptAsProofFile } from '#core/receipt-file.ts'
import { parseReceipt, verifyReceipt, type Receipt, type Report } from '#core/receipt.ts'
import { sha256 } from '#core/sha256.ts'
import {
  formatNote,
  formatVkey,
  parseNote,
  TYPE_COSIGNATURE,
  verifierKey,
  type NoteSigner,
} from '#core/signed-note.ts'
import { tileHashReader, type HashReader } from '#core/tile-reader.ts'
import { verifyTimestamp } from '#core/timestamp-proof.ts'
import { timestampRequest, tokenFromResponse } from '#core/timestamp-request.ts'
import { startTsa, type Tsa } from '../../scripts/devnet/tsa.ts'
import { signEvent, testSigner } from '../support/signing.ts'

function noteSigner(name: string, seedByte: number, type: 1 | 4 = 1): NoteSigner {
  const seed = new Uint8Array(32).fill(seedByte)
  return {
    key: verifierKey(name, ed25519.getPublicKey(seed), type),
    sign: async (message) => ed25519.sign(message, seed),
  }
}

const origin = 'vm-node-01.example/log'
const log = noteSigner(origin, 1)
const otherLog = noteSigner('vm-node-02.example/log', 2)
const witness = noteSigner('witness.example', 3, TYPE_COSIGNATURE)

// A log of 300 events: one full tile, a second level, a partial tile. Signers of all four kinds.
const people = (['EdDSA', 'ES256', 'ES256K', 'EIP191'] as const).map((alg) => testSigner(alg, 'r'))
const events = Array.from({ length: 300 }, (_, i) =>
  utf8(signEvent(people[i % 4]!, { payload: { id: `e${i}` } })),
)
const hashes = events.map((bytes) => sha256(bytes))
const packed = leafHashes(hashes)
const rootAt = (size: number): Uint8Array => rootOf(packed.subarray(0, 32 * size))

function reader(size: number): HashReader {
  return tileHashReader(async (level, index, width) => {
    const span = 256 ** level
    const nodes = Array.from({ length: width }, (_, i) => {
      const at = (index * 256 + i) * span
      return rootOf(packed.subarray(32 * at, 32 * (at + span)))
    })
    return concat(...nodes)
  }, size)
}

async function makeReceipt(index: number, size: number): Promise<Receipt> {
  const root = rootAt(size)
  return {
    v: 1,
    eventHash: `sha256:${toHex(hashes[index]!)}`,
    eventId: `e${index}`,
    source: people[index % 4]!.did,
    status: 'sealed',
    origin,
    height: 3,
    leafIndex: index,
    treeSize: size,
    root: `sha256:${toHex(root)}`,
    inclusionProof: (await inclusionProof(reader(size), index, size)).map(toHex),
    checkpoint: await signCheckpoint({ origin, size, root, extensions: [] }, log),
    anchors: [],
  }
}

let dir: string
let tsa: Tsa
let same: Receipt['anchors'][number]
let later: Receipt['anchors'][number]
let receipt: Receipt
let trust: { vkeys: string[]; tsaRoots: string[] }

async function anchorAt(size: number): Promise<Receipt['anchors'][number]> {
  const root = rootAt(size)
  const nonce = crypto.getRandomValues(new Uint8Array(16))
  const body = timestampRequest({ root, nonce }) as BodyInit
  const headers = { 'content-type': 'application/timestamp-query' }
  const answer = await fetch(tsa.url, { method: 'POST', body, headers })
  const token = tokenFromResponse(new Uint8Array(await answer.arrayBuffer()))
  const verdict = await verifyTimestamp({ token, root, nonce, trustedRoots: [tsa.rootPem] })
  return timestampReceipt({
    root,
    treeSize: size,
    network: '127.0.0.1',
    token,
    nonce,
    verdict,
    version: '0.1.0',
    observedAt: verdict.genTime + 5,
  })
}

beforeAll(async () => {
  dir = await mkdtemp(path.join(tmpdir(), 'vaultmesh-receipt-'))
  tsa = await startTsa({ dir, port: 0 })
  trust = { vkeys: [formatVkey(log.key)], tsaRoots: [tsa.rootPem] }
  same = await anchorAt(270)
  const proof = {
    from: 270,
    to: 300,
    hashes: (await consistencyProof(reader(300), 270, 300)).map(toHex),
  }
  later = { ...(await anchorAt(300)), consistencyProof: proof }
  receipt = { ...(await makeReceipt(261, 270)), status: 'anchored', anchors: [same, later] }
})
afterAll(async () => {
  await tsa.stop()
  await rm(dir, { recursive: true })
})

const copyOf = <T>(value: T): T => JSON.parse(JSON.stringify(value)) as T
const failed = (report: Report): string | undefined =>
  report.checks.find((c) => c.ok === false)?.name

/** What a verifier of the file says: refused as unreadable, or the verdict with the first failed check. */
async function judge(changed: unknown, event?: Uint8Array): Promise<string> {
  let read: Receipt
  try {
    read = parseReceipt(JSON.stringify(changed))
  } catch (error) {
    if (!(error instanceof VaultMeshError && error.code === 'bad-receipt')) throw error
    return 'unreadable'
  }
  const report = await verifyReceipt(read, trust, event)
  expect(report.checks.filter((c) => c.ok === false).length).toBe(
    report.verdict === 'verified' ? 0 : 1,
  )
  if (report.verdict !== 'verified') return `${report.verdict} at ${failed(report)}`
  const claimed = read.anchors.filter(({ status }) => status === 'verified').length
  return report.anchored.length === claimed ? 'verified' : 'an anchor not proven'
}

describe('a receipt', () => {
  test('verifies for every kind of signer at any place of a log of tiles, and says what was proven', async () => {
    for (const [index, size] of [
      [0, 1],
      [0, 2],
      [1, 2],
      [2, 3],
      [255, 256],
      [256, 257],
      [17, 300],
      [299, 300],
    ] as const) {
      const report = await verifyReceipt(await makeReceipt(index, size), trust, events[index])
      expect([report.verdict, report.checks.map((c) => c.ok)]).toEqual([
        'verified',
        [true, true, true, null],
      ])
      expect(report.sentence).toContain('no outside time was proven')
      expect(report.beforeAt).toBeNull()
    }
  })

  test('with anchors names the earliest moment and who would have to lie', async () => {
    const report = await verifyReceipt(receipt, trust, events[261])
    expect(report.verdict).toBe('verified')
    expect(report.anchored).toEqual(['TSA', 'TSA'])
    expect(report.checks.map((c) => c.name)).toEqual([
      'event',
      'checkpoint',
      'inclusion',
      'anchor TSA 127.0.0.1',
      'anchor TSA 127.0.0.1',
      'height, status',
    ])
    // The authority's clock may have run behind by the accuracy it states.
    const times = receipt.anchors.map((a) => {
      const { anchorTs, proof } = a as unknown as {
        anchorTs: string
        proof: { accuracyMs: number }
      }
      return Date.parse(anchorTs) + proof.accuracyMs
    })
    expect(report.beforeAt).toBe(Math.min(...times))
    expect(report.sentence).toContain('Only the holder of a certificate under TSA root')
    expect(report.checks[4]!.detail).toContain('consistent with size 300')
  })

  test('verifies after a trip through its file, whatever the order of anchors', async () => {
    expect(readReceiptFile(utf8(JSON.stringify(receipt, null, 2)))).toEqual(receipt)
    expect(await judge({ ...receipt, anchors: [later, same] }, events[261])).toBe('verified')
  })

  test('without the event’s bytes says so, and speaks of the hash only', async () => {
    const report = await verifyReceipt(receipt, trust)
    expect(report.verdict).toBe('verified')
    expect(report.checks[0]).toMatchObject({ name: 'event', ok: null })
  })

  test('is believed in nothing that only the event’s bytes could prove, and names these fields', async () => {
    const forged = { ...receipt, source: people[3]!.did, eventId: 'forged' }
    const bare = await verifyReceipt(forged, trust)
    expect(bare.unproven).toEqual(['source', 'eventId', 'height', 'status'])
    expect(bare.checks.slice(-2)).toEqual([
      {
        name: 'source, id',
        ok: null,
        detail: "said by the node; give the event's bytes to check who signed it",
        steps: [],
      },
      { name: 'height, status', ok: null, detail: 'said by the node', steps: [] },
    ])
    expect(bare.sentence).toMatch(/ Who signed the event was not checked\.$/)
    const whole = await verifyReceipt(receipt, trust, events[261])
    expect(whole.unproven).toEqual(['height', 'status'])
    expect(whole.checks.at(-1)).toMatchObject({ name: 'height, status', ok: null })
    expect(whole.sentence).not.toContain('not checked')
    const refuted = await verifyReceipt(forged, trust, events[261])
    expect([refuted.verdict, refuted.unproven]).toEqual(['refuted', ['height', 'status']])
  })

  test('as a tlog-proof file verifies with the log’s key alone', async () => {
    const file = receiptAsProofFile(receipt)
    const found = await verifyProofFile({ file, leafHash: leafHash(hashes[261]!), log: log.key })
    expect([found.index, found.checkpoint.size]).toEqual([261, 270])
    const extra = JSON.parse(new TextDecoder().decode(parseProofFile(file).extra!)) as object
    expect(extra).toEqual({
      v: 1,
      eventHash: receipt.eventHash,
      height: 3,
      anchors: copyOf(receipt.anchors),
    })
  })
})

/** Another valid value of the same shape for each leaf of the JSON tree. */
function otherValue(value: unknown): unknown {
  if (typeof value === 'number') return value + 1
  if (value === null) return 1
  if (typeof value !== 'string') return value
  const at = value.search(/[0-9a-f](?=[^0-9a-f]*$)/)
  const i = at < 0 ? value.length - 1 : at
  const c = value[i] === '1' ? '2' : '1'
  return value.slice(0, i) + c + value.slice(i + 1)
}

function* leaves(
  value: unknown,
  at: readonly (string | number)[] = [],
): Generator<readonly (string | number)[]> {
  if (typeof value !== 'object' || value === null) yield at
  else
    for (const [key, child] of Object.entries(value))
      yield* leaves(child, [...at, Array.isArray(value) ? Number(key) : key])
}

function changedAt(
  root: unknown,
  at: readonly (string | number)[],
  change: (old: unknown) => unknown,
): unknown {
  const copy = copyOf(root) as Record<string | number, unknown>
  let node = copy
  for (const key of at.slice(0, -1)) node = node[key] as Record<string | number, unknown>
  node[at.at(-1)!] = change(node[at.at(-1)!])
  return copy
}

/**
 * What nothing binds. height and status are the node's word (a manifest binds height); a token knows no
 * host, no verifier version and no moment of observation.
 */
const UNBOUND = /^(height|status|anchors\.[01]\.(network|verifier|observedAt))$/

describe('a changed receipt', () => {
  test('is never verified, whichever single value is changed; but what nothing binds is known by name', async () => {
    const unbound: string[] = []
    for (const at of leaves(receipt)) {
      const name = at.join('.')
      const changed =
        name === 'status' ? { ...receipt, status: 'final' } : changedAt(receipt, at, otherValue)
      const verdict = await judge(changed, events[261])
      if (UNBOUND.test(name)) {
        expect(verdict, name).toBe('verified')
        unbound.push(name)
      } else if (name.endsWith('.status')) {
        expect(verdict, name).toBe('unreadable')
      } else expect(verdict, name).not.toBe('verified')
    }
    expect(unbound).toHaveLength(8)
  })

  test.each<[string, (r: Receipt) => unknown, string]>([
    ['v', (r) => ({ ...r, v: 2 }), 'unreadable'],
    ['eventHash', (r) => ({ ...r, eventHash: `sha256:${toHex(hashes[1]!)}` }), 'refuted at event'],
    ['eventId', (r) => ({ ...r, eventId: 'e262' }), 'refuted at event'],
    ['source', (r) => ({ ...r, source: people[0]!.did }), 'refuted at event'],
    ['origin', (r) => ({ ...r, origin: otherLog.key.name }), 'refuted at checkpoint'],
    ['leafIndex', (r) => ({ ...r, leafIndex: 260 }), 'refuted at inclusion'],
    ['leafIndex beyond', (r) => ({ ...r, leafIndex: 270 }), 'refuted at inclusion'],
    ['treeSize', (r) => ({ ...r, treeSize: 271 }), 'refuted at checkpoint'],
    ['root', (r) => ({ ...r, root: `sha256:${toHex(rootAt(269))}` }), 'refuted at checkpoint'],
    [
      'a hash less',
      (r) => ({ ...r, inclusionProof: r.inclusionProof.slice(1) }),
      'refuted at inclusion',
    ],
    [
      'a hash more',
      (r) => ({ ...r, inclusionProof: [...r.inclusionProof, 'ab'.repeat(32)] }),
      'refuted at inclusion',
    ],
    [
      'hashes swapped',
      (r) => ({ ...r, inclusionProof: r.inclusionProof.toReversed() }),
      'refuted at inclusion',
    ],
    ['an unknown field', (r) => ({ ...r, extra: 1 }), 'unreadable'],
    ['a missing field', (r) => ({ ...r, height: undefined }), 'unreadable'],
    ['a negative index', (r) => ({ ...r, leafIndex: -1 }), 'unreadable'],
    ['an index of 2^53', (r) => ({ ...r, leafIndex: 2 ** 53 }), 'unreadable'],
    ['a fraction', (r) => ({ ...r, treeSize: 270.5 }), 'unreadable'],
    ['65 hashes', (r) => ({ ...r, inclusionProof: Array(65).fill('ab'.repeat(32)) }), 'unreadable'],
    [
      'roots of anchors swapped',
      (r) => ({ ...r, anchors: [{ ...r.anchors[0], root: r.anchors[1]!.root }] }),
      'refuted at anchor TSA 127.0.0.1',
    ],
    [
      'an anchor of another size',
      (r) => ({ ...r, anchors: [{ ...r.anchors[0], treeSize: 269 }] }),
      'refuted at anchor TSA 127.0.0.1',
    ],
    [
      'a later anchor without its consistency proof',
      (r) => ({ ...r, anchors: [{ ...r.anchors[1], consistencyProof: undefined }] }),
      'refuted at anchor TSA 127.0.0.1',
    ],
    [
      'a consistency proof on the wrong anchor',
      (r) => ({
        ...r,
        anchors: [
          {
            ...r.anchors[0],
            consistencyProof: (r.anchors[1] as { consistencyProof: unknown }).consistencyProof,
          },
        ],
      }),
      'refuted at anchor TSA 127.0.0.1',
    ],
    [
      'an anchor of an unknown status',
      (r) => ({ ...r, anchors: [{ ...r.anchors[0], status: 'good' }] }),
      'unreadable',
    ],
  ])('(%s) is refused where it is wrong', async (_, change, verdict) => {
    expect(await judge(change(receipt), events[261])).toBe(verdict)
  })

  test('(of another event) is refuted by the event', async () => {
    expect(await judge(receipt, events[260])).toBe('refuted at event')
    expect(await judge(receipt, new Uint8Array(0))).toBe('refuted at event')
    const bent = events[261]!.slice()
    bent[bent.length - 5]! ^= 1
    expect(await judge({ ...receipt, eventHash: `sha256:${toHex(sha256(bent))}` }, bent)).toBe(
      'refuted at event',
    )
  })

  test('(any byte of the checkpoint) is refuted or untrusted at the checkpoint', async () => {
    const bytes = utf8(receipt.checkpoint)
    for (let i = 0; i < bytes.length; i++) {
      const changed = bytes.slice()
      changed[i]! ^= 1
      const checkpoint = new TextDecoder().decode(changed)
      expect(await judge({ ...receipt, checkpoint }), `byte ${i}`).toMatch(
        /^(refuted|untrusted) at checkpoint$/,
      )
    }
  })

  test('(checkpoint without signature, by another log, by another key, by a witness alone) proves nothing', async () => {
    const { text } = parseNote(receipt.checkpoint)
    const swap = (checkpoint: string): Promise<string> => judge({ ...receipt, checkpoint })
    expect(await swap(`${text}\n`)).toBe('refuted at checkpoint')
    expect(await swap(text)).toBe('refuted at checkpoint')
    const tree = { size: 270, root: rootAt(270), extensions: [] }
    expect(await swap(await signCheckpoint({ origin: otherLog.key.name, ...tree }, otherLog))).toBe(
      'untrusted at checkpoint',
    )
    expect(await swap(await signCheckpoint({ origin, ...tree }, noteSigner(origin, 9)))).toBe(
      'untrusted at checkpoint',
    )
    const cosigned = await cosignCheckpoint(text, witness, 77)
    expect(await swap(formatNote({ text, signatures: [cosigned] }))).toBe('untrusted at checkpoint')
    expect(await swap(addSignatures(receipt.checkpoint, [cosigned]))).toBe('verified')
    expect(await swap((await makeReceipt(261, 299)).checkpoint)).toBe('refuted at checkpoint')
  })

  test('(any text at all) is unreadable, never an error of another kind', () => {
    fc.assert(
      fc.property(fc.oneof(fc.string(), fc.json()), (text) => {
        try {
          parseReceipt(text)
          expect.unreachable()
        } catch (error) {
          expect(error).toBeInstanceOf(VaultMeshError)
          expect(['bad-receipt', 'duplicate-key']).toContain((error as VaultMeshError).code)
        }
      }),
    )
    const twice = JSON.stringify(receipt).replace('{"v":1', '{"v":1,"v":1')
    expect(() => parseReceipt(twice)).toThrow('repeats a key')
    expect(() => readReceiptFile(Uint8Array.of(0xff))).toThrow(VaultMeshError)
  })
})

describe('the trust of the verifying party', () => {
  test('decides: without the log’s key nothing is proven', async () => {
    const report = await verifyReceipt(receipt, { ...trust, vkeys: [] })
    expect([report.verdict, failed(report)]).toEqual(['untrusted', 'checkpoint'])
    expect(report.sentence).toContain('Nothing was proven')
    const other = await verifyReceipt(receipt, { ...trust, vkeys: [formatVkey(otherLog.key)] })
    expect(other.verdict).toBe('untrusted')
  })

  test('may name several keys of one name, and keys of other kinds', async () => {
    const cosigner = noteSigner(origin, 4, TYPE_COSIGNATURE)
    const vkeys = [cosigner, noteSigner(origin, 9), otherLog, log].map((s) => formatVkey(s.key))
    expect((await verifyReceipt(receipt, { ...trust, vkeys })).verdict).toBe('verified')
    const without = await verifyReceipt(receipt, { ...trust, vkeys: vkeys.slice(0, 3) })
    expect(without.verdict).toBe('untrusted')
  })

  test('that is unreadable is an error of the caller, never a verdict on the receipt', async () => {
    await expect(verifyReceipt(receipt, { ...trust, vkeys: ['x'] })).rejects.toMatchObject({
      code: 'bad-note',
    })
    await expect(verifyReceipt(receipt, { ...trust, tsaRoots: ['x'] })).rejects.toMatchObject({
      code: 'bad-config',
    })
  })

  test('without the TSA’s root leaves its anchors unproven, and says so', async () => {
    const report = await verifyReceipt(receipt, { ...trust, tsaRoots: [] })
    expect([report.verdict, report.anchored, report.beforeAt]).toEqual(['verified', [], null])
    expect(report.checks.slice(3, 5).map((c) => c.ok)).toEqual([null, null])
    expect(report.sentence).toContain('no outside time was proven')
  })

  test('is not asked for anchors under way or of unknown kinds: they prove nothing yet', async () => {
    const pending = {
      root: same.root,
      chain: 'BTC',
      network: 'regtest',
      status: 'submitted',
    } as const
    const foreign = { ...(same as object), chain: 'EVM' } as Receipt['anchors'][number]
    const report = await verifyReceipt(
      parseReceipt(JSON.stringify({ ...receipt, anchors: [pending, foreign] })),
      trust,
    )
    expect([report.verdict, report.anchored]).toEqual(['verified', []])
    expect(report.checks.slice(3, 5).map((c) => c.ok)).toEqual([null, null])
  })
})
