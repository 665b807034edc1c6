import { spawnSync } from 'node:child_process'
import * as fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { merkleRootFrom } from '#core/bitcoin-proof.ts'
import { parseTransaction, sha256d } from '#core/bitcoin-transaction.ts'
import { concat, fromHex, toHex, utf8 } from '#core/bytes.ts'
import { VaultMeshError } from '#core/errors.ts'
import { rootFromInclusionProof } from '#core/inclusion-proof.ts'
import { leafHash, nodeHash } from '#core/merkle.ts'
import type { Attestation, BitcoinPath, Operation, Timestamp } from '#core/opentimestamps.ts'
import {
  attestationsOf,
  bitcoinOperations,
  emitOts,
  eventTimestamp,
  filterTimestamp,
  inclusionOperations,
  linearTimestamp,
  mergeTimestamps,
  parseOts,
} from '#core/opentimestamps.ts'
import { sha256 } from '#core/sha256.ts'

const MAGIC = '004f70656e54696d657374616d7073000050726f6f6600bf89e2e884e89294'
const HEAD = `${MAGIC}0108`
const message = sha256(utf8('event'))
const pending: Attestation = {
  type: 'pending',
  uri: 'https://alice.btc.calendar.opentimestamps.org',
}
const bitcoin: Attestation = { type: 'bitcoin', height: 800_000 }

/** Why it is refused, or the timestamp it holds. */
function parse(hex: string): Timestamp | string {
  try {
    return parseOts(fromHex(hex))
  } catch (error) {
    if (!(error instanceof VaultMeshError)) throw error
    expect([error.code, error.extra['check']]).toEqual(['bad-proof', 'ots'])
    return error.message
  }
}

/** Root and audit path of leaf `index` (RFC 6962 §2.1). */
function audit(
  entries: readonly Uint8Array[],
  index: number,
): { root: Uint8Array; proof: Uint8Array[] } {
  if (entries.length === 1) return { root: leafHash(entries[0]!), proof: [] }
  let k = 1
  while (k * 2 < entries.length) k *= 2
  const [left, right] = [entries.slice(0, k), entries.slice(k)]
  const inLeft = index < k
  const mine = inLeft ? audit(left, index) : audit(right, index - k)
  const other = inLeft ? audit(right, 0).root : audit(left, 0).root
  const root = inLeft ? nodeHash(mine.root, other) : nodeHash(other, mine.root)
  return { root, proof: [...mine.proof, other] }
}

/** An anchor of `root` as the wallet makes it, with a witness, at position 2 of 7. */
function anchor(root: Uint8Array): BitcoinPath {
  const outputs = concat(
    fromHex(`02e803000000000000160014${'22'.repeat(20)}0000000000000000226a20`),
    root,
  )
  const input = fromHex(`01${'11'.repeat(32)}0000000000fdffffff`)
  const rawTx = concat(fromHex('020000000001'), input, outputs, fromHex('0101aa00000000'))
  const branch = [1, 2, 3].map((i) => sha256d(Uint8Array.of(i)))
  return { rawTx, branch, position: 2, height: 812_345 }
}

describe('the reader refuses', () => {
  const m = '00'.repeat(32)
  const att = (payload: string, tag = '0102030405060708') =>
    `00${tag}${(payload.length / 2).toString(16).padStart(2, '0')}${payload}`
  const end = att('')

  test.each([
    ['an empty file', '', 'no OpenTimestamps proof'],
    ['another magic', `01${HEAD.slice(2)}${m}${end}`, 'no OpenTimestamps proof'],
    ['version 2', `${MAGIC}0208${m}${end}`, 'version 2'],
    ['no tree', `${HEAD}${m}`, 'cut short'],
    ['a short digest', `${HEAD}${m.slice(2)}`, 'cut short'],
    ['bytes behind the tree', `${HEAD}${m}${end}00`, 'bytes follow'],
    ['a fork without a second way', `${HEAD}${m}ff${end}`, 'cut short'],
    ['a fork of a fork', `${HEAD}${m}ffff${end}${end}`, 'operation ff'],
    ['reverse', `${HEAD}${m}f2${end}`, 'operation f2'],
    ['hexlify', `${HEAD}${m}f3${end}`, 'operation f3'],
    ['keccak256', `${HEAD}${m}67${end}`, 'operation 67'],
    ['an empty argument', `${HEAD}${m}f000${end}`, 'argument of 0 bytes'],
    [
      'an argument of 4097 bytes',
      `${HEAD}${m}f08120${'00'.repeat(4097)}${end}`,
      'argument of 4097 bytes',
    ],
    [
      'a message of 4097 bytes',
      `${HEAD}${m}f1e11f${'00'.repeat(4065)}${end}`,
      'message of 4097 bytes',
    ],
    [
      'a payload of 8193 bytes',
      `${HEAD}${m}000102030405060708 8140${'00'.repeat(8193)}`.replace(' ', ''),
      'attestation of 8193 bytes',
    ],
    ['a path of 256 operations', `${HEAD}${m}${'08'.repeat(256)}${end}`, '256 operations'],
    ['4097 operations', `${HEAD}${m}${`ff08${end}`.repeat(4096)}08${end}`, '4096 operations'],
    ['64 kB and a byte', '00'.repeat(65_537), '65537 bytes'],
    ['a length of non-minimal form', `${HEAD}${m}f08100aa${end}`, 'not minimal'],
    ['a length beyond 2^53', `${HEAD}${m}f0ffffffffffffffff7f${end}`, 'absurd'],
    [
      'a height of non-minimal form',
      `${HEAD}${m}${att('8000', '0588960d73d71901')}`,
      'not minimal',
    ],
    ['a height and more', `${HEAD}${m}${att('0100', '0588960d73d71901')}`, 'too long'],
    ['no height', `${HEAD}${m}${att('', '0588960d73d71901')}`, 'cut short'],
    ['an empty URI', `${HEAD}${m}${att('00', '83dfe30d2ef90c8e')}`, 'URI of 0 bytes'],
    [
      'a URI with a query',
      `${HEAD}${m}${att(`03${toHex(utf8('a?b'))}`, '83dfe30d2ef90c8e')}`,
      'URI is malformed',
    ],
    [
      'a URI with a user',
      `${HEAD}${m}${att(`03${toHex(utf8('a@b'))}`, '83dfe30d2ef90c8e')}`,
      'URI is malformed',
    ],
    [
      'a URI with a line end',
      `${HEAD}${m}${att(`03${toHex(utf8('ab\n'))}`, '83dfe30d2ef90c8e')}`,
      'URI is malformed',
    ],
    ['a URI and more', `${HEAD}${m}${att('016100', '83dfe30d2ef90c8e')}`, 'too long'],
  ])('%s', (_, hex, reason) => {
    expect(parse(hex)).toContain(reason)
  })

  test('but takes the largest of each, and writes it back', () => {
    const uri = `e807${toHex(utf8('a'.repeat(1000)))}`
    for (const hex of [
      `${HEAD}${m}${'08'.repeat(255)}${end}`,
      `${HEAD}${m}f1e01f${'00'.repeat(4064)}${end}`,
      `${HEAD}${m}0001020304050607088040${'00'.repeat(8192)}`,
      `${HEAD}${m}${`ff08${end}`.repeat(4000)}08${end}`,
      `${HEAD}${m}0083dfe30d2ef90c8eea07${uri}`,
      `${HEAD}${m}020308${att('ffffffffffffff0f', '0588960d73d71901')}`,
    ]) {
      const timestamp = parse(hex)
      expect(typeof timestamp === 'string' ? timestamp : toHex(emitOts(timestamp))).toBe(hex)
    }
  })

  test('whatever else it gets with one type of error, and writes back all that it takes', () => {
    const patched = fc.tuple(fc.nat(), fc.uint8Array({ maxLength: 3 })).map(([at, patch]) => {
      const bytes = emitOts(linearTimestamp(message, [{ type: 'sha256' }], pending))
      bytes.set(patch, at % (bytes.length - 3))
      return toHex(bytes)
    })
    const grown = fc.uint8Array({ maxLength: 80 }).map((tail) => `${HEAD}${m}${toHex(tail)}`)
    const law = (hex: string) => {
      const timestamp = parse(hex)
      if (typeof timestamp !== 'string') expect(toHex(emitOts(timestamp))).toBe(hex)
    }
    fc.assert(fc.property(fc.oneof(patched, grown), law), { numRuns: 1000 })
  })
})

describe('a tree of paths', () => {
  const operation: fc.Arbitrary<Operation> = fc.oneof(
    fc.constantFrom<Operation>({ type: 'sha256' }, { type: 'sha1' }, { type: 'ripemd160' }),
    fc.record({
      type: fc.constantFrom('append' as const, 'prepend' as const),
      bytes: fc.uint8Array({ minLength: 1, maxLength: 3 }),
    }),
  )
  const attestation: fc.Arbitrary<Attestation> = fc.oneof(
    fc.record({ type: fc.constant('bitcoin' as const), height: fc.maxSafeNat() }),
    fc.record({
      type: fc.constant('pending' as const),
      uri: fc.stringMatching(/^[A-Za-z0-9\-._/:]{1,20}$/),
    }),
    fc.record({
      type: fc.constant('unknown' as const),
      tag: fc.uint8Array({ minLength: 8, maxLength: 8 }),
      payload: fc.uint8Array({ maxLength: 5 }),
    }),
  )
  const path = fc
    .tuple(fc.array(operation, { maxLength: 6 }), attestation)
    .map(([operations, end]) => linearTimestamp(message, operations, end))
  const paths = fc.array(path, { minLength: 1, maxLength: 6 })
  const merged = ([first, ...rest]: readonly Timestamp[]) =>
    toHex(emitOts(mergeTimestamps(first!, ...rest)))

  test('is read as it was written', () => {
    fc.assert(
      fc.property(paths, ([first, ...rest]) => {
        const tree = mergeTimestamps(first!, ...rest)
        expect(parseOts(emitOts(tree))).toEqual(tree)
      }),
    )
  })

  test('has one file, in whatever order and however often its paths are merged', () => {
    fc.assert(
      fc.property(paths, fc.nat(), (all, by) => {
        const turned = [...all.slice(by % all.length), ...all.slice(0, by % all.length)]
        expect(merged(turned)).toBe(merged(all))
        expect(merged([...all, ...turned.toReversed()])).toBe(merged(all))
        expect(merged([mergeTimestamps(all[0]!), mergeTimestamps(turned[0]!, ...turned)])).toBe(
          merged(all),
        )
      }),
    )
  })

  test('loses no attestation', () => {
    fc.assert(
      fc.property(paths, ([first, ...rest]) => {
        const have = attestationsOf(mergeTimestamps(first!, ...rest)).map((a) =>
          JSON.stringify(a.attestation),
        )
        for (const one of [first!, ...rest].flatMap(attestationsOf)) {
          expect(have).toContain(JSON.stringify(one.attestation))
        }
      }),
    )
  })

  test('loses only the attestations that are not wanted, and the paths to them', () => {
    fc.assert(
      fc.property(paths, fc.constantFrom('bitcoin', 'pending', 'unknown'), (all, type) => {
        const [first, ...rest] = all
        const whole = mergeTimestamps(first!, ...rest)
        const wanted = attestationsOf(whole).filter(({ attestation: a }) => a.type === type)
        const left = filterTimestamp(whole, (said) => said.type === type)
        expect(left === null ? [] : attestationsOf(left)).toEqual(wanted)
        if (left !== null) expect(parseOts(emitOts(left))).toEqual(left)
      }),
    )
  })

  test('stands in the order of python-opentimestamps', () => {
    const say = (a: Attestation) => linearTimestamp(message, [], a)
    const unknown = (tag: string, payload: string): Attestation => ({
      type: 'unknown',
      tag: fromHex(tag),
      payload: fromHex(payload),
    })
    const order: Attestation[] = [
      unknown('0102030405060708', '02'),
      unknown('0102030405060708', '0101'),
      { type: 'bitcoin', height: 9 },
      { type: 'bitcoin', height: 300 },
      { type: 'pending', uri: 'b' },
      { type: 'pending', uri: 'aa' },
    ]
    const [first, ...rest] = order.toReversed().map(say)
    const got = attestationsOf(mergeTimestamps(first!, ...rest)).map((a) => a.attestation)
    expect(got).toEqual([order[1], order[0], order[2], order[3], order[5], order[4]])
  })

  test('is not written when it says nothing, lies about a message or breaks a limit', () => {
    const step = {
      operation: { type: 'sha256' },
      next: { message, items: [{ attestation: pending }] },
    } as const
    expect(() => emitOts({ message, items: [] })).toThrow('nothing is said')
    expect(() => emitOts({ message, items: [step] })).toThrow('not its path')
    expect(() => emitOts({ message: Uint8Array.of(1), items: [{ attestation: pending }] })).toThrow(
      'SHA-256',
    )
    const says = (a: Attestation) => () => emitOts({ message, items: [{ attestation: a }] })
    expect(says({ type: 'pending', uri: 'a b' })).toThrow('URI')
    expect(says({ type: 'bitcoin', height: -1 })).toThrow('absurd')
    expect(says({ type: 'bitcoin', height: 0.5 })).toThrow('absurd')
    expect(says({ type: 'unknown', tag: fromHex('00'), payload: message })).toThrow('tag')
    expect(says({ type: 'unknown', tag: fromHex('0588960d73d71901'), payload: message })).toThrow(
      'tag',
    )
    const long = Array.from({ length: 256 }, (): Operation => ({ type: 'sha256' }))
    expect(() => linearTimestamp(message, long, pending)).toThrow('256 operations')
    expect(() =>
      mergeTimestamps(
        linearTimestamp(message, [], pending),
        linearTimestamp(sha256(message), [], pending),
      ),
    ).toThrow('different messages')
  })
})

describe('our own proof', () => {
  const events = Array.from({ length: 13 }, (_, i) => utf8(`event ${i}`))
  const entries = events.map(sha256)

  test('leads from every event of trees of 1 to 13 leaves to the block', () => {
    for (let size = 1; size <= events.length; size++) {
      const some = entries.slice(0, size)
      for (let index = 0; index < size; index++) {
        const { root, proof } = audit(some, index)
        const path = anchor(root)
        const claim = { index, size, proof }
        expect(rootFromInclusionProof({ ...claim, leafHash: leafHash(some[index]!) })).toEqual(root)
        const timestamp = eventTimestamp(some[index]!, claim, path)
        const [found, ...rest] = attestationsOf(parseOts(emitOts(timestamp)))
        const { txid } = parseTransaction(path.rawTx)
        expect(rest).toEqual([])
        expect(found!.attestation).toEqual({ type: 'bitcoin', height: 812_345 })
        expect(found!.transaction!.txid).toEqual(txid)
        expect(found!.message).toEqual(merkleRootFrom(txid, path.position, path.branch))
      }
    }
  })

  test('is the bytes that anchors-and-timestamps §7.1 spells out', () => {
    const { root, proof } = audit(entries.slice(0, 3), 1)
    const { stripped } = parseTransaction(anchor(root).rawTx)
    const at = stripped.length - 36
    const bytes = (data: Uint8Array) => data.length.toString(16).padStart(2, '0') + toHex(data)
    const [a, b, c] = anchor(root).branch
    const expected = [
      HEAD,
      toHex(entries[1]!),
      'f1010008',
      `f12101${toHex(proof[0]!)}08`,
      `f020${toHex(proof[1]!)}f1010108`,
      `f1${bytes(stripped.subarray(0, at))}f0${bytes(stripped.subarray(at + 32))}0808`,
      `f0${bytes(a!)}0808f1${bytes(b!)}0808f0${bytes(c!)}0808`,
      '000588960d73d7190103b9ca31',
    ].join('')
    expect(
      toHex(emitOts(eventTimestamp(entries[1]!, { index: 1, size: 3, proof }, anchor(root)))),
    ).toBe(expected)
  })

  test('is refused where its parts do not fit', () => {
    const { root, proof } = audit(entries, 4)
    const path = anchor(root)
    const inclusion = { index: 4, size: 13, proof }
    const data = concat(fromHex('0000000000000000226a20'), root)
    const input = fromHex(`0200000001${'11'.repeat(32)}0000000000fdffffff`)
    const twice = concat(input, Uint8Array.of(2), data, data, new Uint8Array(4))
    expect(parseTransaction(twice).outputs).toHaveLength(2)
    for (const act of [
      () => inclusionOperations({ ...inclusion, index: 13 }),
      () => inclusionOperations({ ...inclusion, index: -1 }),
      () => inclusionOperations({ ...inclusion, proof: proof.slice(1) }),
      () => inclusionOperations({ ...inclusion, proof: [...proof, root] }),
      () => inclusionOperations({ ...inclusion, proof: proof.with(0, root.subarray(1)) }),
      () => eventTimestamp(entries[5]!, inclusion, path),
      () => bitcoinOperations(sha256(root), path),
      () => bitcoinOperations(root, { ...path, position: 8 }),
      () => bitcoinOperations(root, { ...path, position: 0.5 }),
      () => bitcoinOperations(root, { ...path, position: -1 }),
      () => bitcoinOperations(root, { ...path, branch: path.branch.with(1, root.subarray(1)) }),
      () => bitcoinOperations(root, { ...path, rawTx: twice }),
    ]) {
      expect(act).toThrow(VaultMeshError)
    }
  })
})

/** Reads hex lines; answers per line the file as the stock library writes it, and what it attests. */
const STOCK = `
import sys, json
from opentimestamps.core.timestamp import DetachedTimestampFile
from opentimestamps.core.serialize import BytesDeserializationContext, BytesSerializationContext
out = []
for line in sys.stdin.read().split():
    f = DetachedTimestampFile.deserialize(BytesDeserializationContext(bytes.fromhex(line)))
    c = BytesSerializationContext()
    f.serialize(c)
    out.append([c.getbytes().hex(), sorted([m.hex(), type(a).__name__] for m, a in f.timestamp.all_attestations())])
print(json.dumps(out))
`

function stock(lines: readonly string[]): unknown {
  const { status, stdout, stderr } = spawnSync('/usr/bin/python3', ['-c', STOCK], {
    input: lines.join('\n'),
    encoding: 'utf8',
  })
  if (status !== 0) throw new Error(stderr)
  return JSON.parse(stdout)
}
const isInstalled =
  spawnSync('/usr/bin/python3', ['-c', 'import opentimestamps.core.timestamp']).status === 0
const title = isInstalled
  ? 'python3-opentimestamps reads our files and writes the same bytes'
  : 'not run: python3-opentimestamps is not installed (apt-get install python3-opentimestamps)'

test.skipIf(!isInstalled)(title, () => {
  const entries = Array.from({ length: 5 }, (_, i) => sha256(Uint8Array.of(i)))
  const ours = entries.map((entry, index) => {
    const { root, proof } = audit(entries, index)
    const own = eventTimestamp(entry, { index, size: 5, proof }, anchor(root))
    const nonce: Operation = { type: 'append', bytes: fromHex('aa'.repeat(16)) }
    const calendar = [
      ...inclusionOperations({ index, size: 5, proof }),
      nonce,
      { type: 'sha256' } as const,
    ]
    const more = [
      pending,
      bitcoin,
      { type: 'unknown', tag: fromHex('0102030405060708'), payload: root } as const,
    ]
    return index === 0
      ? own
      : mergeTimestamps(own, ...more.map((a) => linearTimestamp(entry, calendar, a)))
  })
  const longest = linearTimestamp(
    message,
    Array.from({ length: 255 }, (): Operation => ({ type: 'ripemd160' })),
    pending,
  )
  const names = {
    bitcoin: 'BitcoinBlockHeaderAttestation',
    pending: 'PendingAttestation',
    unknown: 'UnknownAttestation',
  }
  const expected = [...ours, longest].map((timestamp) => [
    toHex(emitOts(timestamp)),
    attestationsOf(timestamp)
      .map(({ attestation, message: at }) => [toHex(at), names[attestation.type]])
      .sort((a, b) => (a.join() < b.join() ? -1 : 1)),
  ])
  expect(stock(expected.map(([hex]) => String(hex)))).toEqual(expected)
})
