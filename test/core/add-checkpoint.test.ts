import { ed25519 } from '@noble/curves/ed25519.js'
import * as fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import {
  MAX_ADD_CHECKPOINT_BYTES,
  SIZE_TYPE,
  cosignatureLines,
  formatAddCheckpoint,
  judgeCheckpoint,
  malformed,
  ownSignatureOnly,
  parseAddCheckpoint,
  readCosignatures,
  type AddCheckpoint,
  type CosignedTree,
  type Judgement,
} from '#core/add-checkpoint.ts'
import { concat, fromUtf8, toBase64, toHex, utf8, type Hash } from '#core/bytes.ts'
import {
  addSignatures,
  cosignCheckpoint,
  parseCheckpoint,
  signCheckpoint,
} from '#core/checkpoint.ts'
import { consistencyProof } from '#core/consistency-proof.ts'
import { VaultMeshError } from '#core/errors.ts'
import { emptyRoot, leafHashes, rootOf } from '#core/merkle.ts'
import {
  TYPE_COSIGNATURE,
  cosignatureMessage,
  formatSignature,
  parseNote,
  parseVkey,
  signText,
  verifierKey,
  verifyNote,
  type NoteSignature,
  type NoteSigner,
  type VerifierKey,
} from '#core/signed-note.ts'
import vectors from '../vectors/checkpoints.json' with { type: 'json' }

const origin = 'vm-node-01.example/log'
const log = signer(origin, 1)
const witness = signer('witness.example', 2, TYPE_COSIGNATURE)
/** Two histories of one log that part after five leaves. */
const FORK_AT = 5
const MAX_SIZE = 12
const trees = ['left', 'right'].map((side) =>
  leafHashes(
    Array.from({ length: MAX_SIZE }, (_, i) => utf8(i < FORK_AT ? `leaf ${i}` : `${side} ${i}`)),
  ),
)

function signer(name: string, seedByte: number, type: 1 | 4 = 1): NoteSigner {
  const seed = new Uint8Array(32).fill(seedByte)
  return {
    key: verifierKey(name, ed25519.getPublicKey(seed), type),
    sign: async (message) => ed25519.sign(message, seed),
  }
}

function rootAt(size: number, side = 0): Hash {
  return rootOf(trees[side]!.subarray(0, 32 * size))
}

function treeAt(size: number, side = 0): CosignedTree {
  return { size, root: rootAt(size, side) }
}

async function noteAt(size: number, side = 0, by = log): Promise<string> {
  return signCheckpoint({ origin, size, root: rootAt(size, side), extensions: [] }, by)
}

async function proofOf(from: number, to: number, side = 0): Promise<Hash[]> {
  const read = async (coords: readonly { level: number; index: number }[]) =>
    coords.map(({ level, index }) => {
      const width = 32 * 2 ** level
      return rootOf(trees[side]!.subarray(index * width, (index + 1) * width))
    })
  return consistencyProof(read, from, to)
}

/** The judgement of a request after it went over the wire. */
async function judge(
  request: AddCheckpoint,
  latest: CosignedTree | null,
  key: VerifierKey | null = log.key,
): Promise<Judgement> {
  return judgeCheckpoint({
    request: parseAddCheckpoint(formatAddCheckpoint(request)),
    log: key,
    latest,
  })
}

/** The request of C2SP tlog-witness, "add-checkpoint". */
const EXAMPLE = `old 20852014
PlRNCrwHpqhGrupue0L7gxbjbMiKA9temvuZZDDpkaw=
jrJZDmY8Y7SyJE0MWLpLozkIVMSMZcD5kvuKxPC3swk=
5+pKlUdi2LeF/BcMHBn+Ku6yhPGNCswZZD1X/6QgPd8=
/6WVhPs2CwSsb5rYBH5cjHV/wSmA79abXAwhXw3Kj/0=

example.com/behind-the-sofa
20852163
CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=

— example.com/behind-the-sofa Az3grlgtzPICa5OS8npVmf1Myq/5IZniMp+ZJurmRDeOoRDe4URYN7u5/Zhcyv2q1gGzGku9nTo+zyWE+xeMcTOAYQ8=
— example.com/behind-the-sofa opLqBQsREYCgu6xQkYQwJr9fo45a62DN9EdmHXnZdXNqlcVGlCum2Wks+49/V6267UEjw6QUXTS5Rovnzv++qbSzm9Q=
`
const HASH = toBase64(new Uint8Array(32).fill(7))
const NOTE = await noteAt(7)
const ZEROS = Array.from({ length: 64 }, () => new Uint8Array(32))

describe('a request', () => {
  test('of the specification comes back byte for byte', () => {
    const request = parseAddCheckpoint(utf8(EXAMPLE))
    expect(request).toMatchObject({
      oldSize: 20_852_014,
      checkpoint: { origin: 'example.com/behind-the-sofa', size: 20_852_163, extensions: [] },
    })
    expect(request.proof.map(toBase64)).toEqual(EXAMPLE.split('\n').slice(1, 5))
    expect(request.note).toBe(EXAMPLE.slice(EXAMPLE.indexOf('\n\n') + 2))
    expect(request.signed.signatures).toHaveLength(2)
    expect(fromUtf8(formatAddCheckpoint(request))).toBe(EXAMPLE)
  })

  test('comes back as what it was written for', () => {
    const hash = fc.uint8Array({ minLength: 32, maxLength: 32 })
    fc.assert(
      fc.property(fc.maxSafeNat(), fc.array(hash, { maxLength: 63 }), (oldSize, proof) => {
        const {
          signed: _s,
          checkpoint: _c,
          ...rest
        } = parseAddCheckpoint(formatAddCheckpoint({ oldSize, proof, note: NOTE }))
        expect(rest).toEqual({ oldSize, proof, note: NOTE })
      }),
    )
  })

  test.each([
    ['nothing', ''],
    ['an empty line', '\n'],
    ['two empty lines', '\n\n'],
    ['a note alone', NOTE],
    ['no old size', `\n${NOTE}`],
    ['a proof before the old size', `${HASH}\nold 0\n\n${NOTE}`],
    ['no empty line', `old 0\n${NOTE.replace('\n\n', '\n')}`],
    ['two empty lines before the note', `old 0\n\n\n${NOTE}`],
    ['a leading zero', `old 01\n\n${NOTE}`],
    ['two zeros', `old 00\n\n${NOTE}`],
    ['a sign', `old +1\n\n${NOTE}`],
    ['a negative size', `old -1\n\n${NOTE}`],
    ['an exponent', `old 1e1\n\n${NOTE}`],
    ['a fraction', `old 1.0\n\n${NOTE}`],
    ['hex', `old 0x1\n\n${NOTE}`],
    ['a size of 2^53', `old 9007199254740992\n\n${NOTE}`],
    ['a size of 17 digits', `old 10000000000000000\n\n${NOTE}`],
    ['a size without digits', `old \n\n${NOTE}`],
    ['two spaces', `old  1\n\n${NOTE}`],
    ['no space', `old1\n\n${NOTE}`],
    ['a tab', `old\t1\n\n${NOTE}`],
    ['a space at the end', `old 1 \n\n${NOTE}`],
    ['a space at the beginning', ` old 1\n\n${NOTE}`],
    ['another word', `new 1\n\n${NOTE}`],
    ['a capital', `Old 1\n\n${NOTE}`],
    ['lines that end in CR LF', `old 1\r\n\r\n${NOTE}`],
    ['a byte order mark', `\ufeffold 1\n\n${NOTE}`],
    ['digits of another script', `old ١\n\n${NOTE}`],
    ['a proof line of 31 bytes', `old 1\n${toBase64(new Uint8Array(31))}\n\n${NOTE}`],
    ['a proof line of 33 bytes', `old 1\n${toBase64(new Uint8Array(33))}\n\n${NOTE}`],
    ['a loose proof line', `old 1\n${HASH.slice(0, 42)}d=\n\n${NOTE}`],
    ['a proof line in base64url', `old 1\n_${HASH.slice(1)}\n\n${NOTE}`],
    ['a proof line without padding', `old 1\n${HASH.slice(0, 43)}\n\n${NOTE}`],
    ['a proof line with a space', `old 1\n${HASH} \n\n${NOTE}`],
    ['hex in the proof', `old 1\n${toHex(new Uint8Array(22))}\n\n${NOTE}`],
    ['64 proof lines', `old 1\n${`${HASH}\n`.repeat(64)}\n${NOTE}`],
    ['no note', 'old 1\n\n'],
    ['a note without signatures', `old 1\n\n${NOTE.slice(0, NOTE.indexOf('\n\n') + 2)}`],
    ['a note without a final newline', `old 1\n\n${NOTE.slice(0, -1)}`],
    ['a note that is no checkpoint', `old 1\n\nhello\n\n${NOTE.slice(NOTE.indexOf('—'))}`],
    ['a checkpoint with a sign', `old 1\n\n${NOTE.replace('\n7\n', '\n+7\n')}`],
    ['a line after the signatures', `old 1\n\n${NOTE}x\n`],
  ])('with %s is malformed, which is 400', (_, text) => {
    const error = thrown(() => parseAddCheckpoint(utf8(text)))
    expect(malformed(error)).toEqual({
      kind: 'refuse',
      status: 400,
      body: `${error.message}\n`,
      contentType: 'text/plain; charset=utf-8',
      reason: error.message,
      rival: false,
    })
  })

  test('that is not UTF-8, or holds a NUL, is malformed', () => {
    const good = formatAddCheckpoint({ oldSize: 0, proof: [], note: NOTE })
    for (const byte of [0xff, 0x80, 0x00]) {
      for (const at of [0, 4, 8, good.length - 1]) {
        const bad = good.slice()
        bad[at] = byte
        thrown(() => parseAddCheckpoint(bad))
      }
    }
  })

  test('has 63 lines and 65,536 bytes at most', async () => {
    const longest = formatAddCheckpoint({ oldSize: 1, proof: ZEROS.slice(1), note: NOTE })
    expect(parseAddCheckpoint(longest).proof).toHaveLength(63)
    const full = await noteOfLength(MAX_ADD_CHECKPOINT_BYTES - 'old 0\n\n'.length)
    const body = formatAddCheckpoint({ oldSize: 0, proof: [], note: full })
    expect(body).toHaveLength(65_536)
    const more = thrown(() => parseAddCheckpoint(concat(utf8('old 10'), body.subarray(5))))
    expect(more).toMatchObject({ code: 'body-too-large', extra: { limit: 65_536 } })
  })

  test.each([
    [{ oldSize: -1, proof: [], note: NOTE }],
    [{ oldSize: 0.5, proof: [], note: NOTE }],
    [{ oldSize: Number.NaN, proof: [], note: NOTE }],
    [{ oldSize: 2 ** 53, proof: [], note: NOTE }],
    [{ oldSize: 1e21, proof: [], note: NOTE }],
    [{ oldSize: 1, proof: ZEROS, note: NOTE }],
    [{ oldSize: 1, proof: [new Uint8Array(31)], note: NOTE }],
    [{ oldSize: 1, proof: [new Uint8Array(0)], note: NOTE }],
    [{ oldSize: 1, proof: [], note: '' }],
    [{ oldSize: 1, proof: [], note: `\n${NOTE}` }],
    [{ oldSize: 1, proof: [], note: 'hello\n' }],
  ])('that nobody could read is not written: %o', (request) => {
    thrown(() => formatAddCheckpoint(request))
  })

  test('of arbitrary bytes throws nothing but VaultMeshError, or comes back', () => {
    const good = formatAddCheckpoint({ oldSize: 3, proof: ZEROS.slice(0, 2), note: NOTE })
    const part = fc.constantFrom('old ', '0', '7', '\n', '\n\n', HASH, NOTE, '— ', origin, ' ')
    const changed = fc
      .tuple(fc.nat(good.length - 1), fc.nat(3), fc.uint8Array({ maxLength: 3 }))
      .map(([at, drop, put]) => concat(good.subarray(0, at), put, good.subarray(at + drop)))
    const bytes = fc.oneof(
      fc.uint8Array(),
      changed,
      fc.array(part).map((parts) => utf8(parts.join(''))),
    )
    fc.assert(
      fc.property(bytes, (body) => {
        try {
          expect(toHex(formatAddCheckpoint(parseAddCheckpoint(body)))).toBe(toHex(body))
        } catch (error) {
          expect(error).toBeInstanceOf(VaultMeshError)
        }
      }),
      { numRuns: 2000 },
    )
  })
})

describe('a witness', () => {
  const stranger = signer(origin, 9)

  interface Row {
    readonly words: string
    readonly status: 200 | 400 | 403 | 404 | 409 | 422
    readonly latest?: CosignedTree
    readonly size: number
    readonly side?: number
    readonly old: number
    /** Where the proof begins; none if absent. */
    readonly from?: number
    readonly proofSide?: number
    readonly extra?: number
    readonly by?: NoteSigner
    readonly known?: VerifierKey | null
    readonly says?: string
    readonly rival?: boolean
  }
  const table: readonly Row[] = [
    { words: 'cosigns the first checkpoint it sees', status: 200, size: 7, old: 0 },
    { words: 'cosigns a first tree without leaves', status: 200, size: 0, old: 0 },
    {
      words: 'cosigns a tree without leaves again',
      status: 200,
      latest: treeAt(0),
      size: 0,
      old: 0,
    },
    { words: 'cosigns what grew from nothing', status: 200, latest: treeAt(0), size: 4, old: 0 },
    { words: 'cosigns what grew', status: 200, latest: treeAt(3), size: 7, old: 3, from: 3 },
    {
      words: 'cosigns what grew from 2^n by a proof without the old root',
      status: 200,
      latest: treeAt(4),
      size: 8,
      old: 4,
      from: 4,
    },
    { words: 'cosigns the same again', status: 200, latest: treeAt(7), size: 7, old: 7 },
    {
      words: 'does not know the origin, whatever else is wrong',
      status: 404,
      known: null,
      by: stranger,
      size: 3,
      old: 9,
    },
    { words: 'refuses a stranger’s signature', status: 403, by: stranger, size: 7, old: 0 },
    {
      words: 'refuses a stranger before it looks at sizes',
      status: 403,
      by: stranger,
      size: 3,
      old: 9,
    },
    { words: 'refuses an old size above the size', status: 400, size: 3, old: 4 },
    {
      words: 'refuses an old size above the size before it says its own',
      status: 400,
      latest: treeAt(7),
      size: 3,
      old: 4,
    },
    { words: 'says 0 if it never cosigned', status: 409, size: 7, old: 3, from: 3, says: '0\n' },
    {
      words: 'says its size to who asks with old 0',
      status: 409,
      latest: treeAt(5),
      size: 7,
      old: 0,
      says: '5\n',
    },
    {
      words: 'says its size to who is behind',
      status: 409,
      latest: treeAt(10),
      size: 7,
      old: 3,
      from: 3,
      says: '10\n',
    },
    {
      words: 'says its size to who is ahead',
      status: 409,
      latest: treeAt(3),
      size: 7,
      old: 4,
      from: 4,
      says: '3\n',
    },
    {
      words: 'says its size before it looks at a proof',
      status: 409,
      latest: treeAt(5),
      size: 7,
      old: 4,
      extra: 9,
      says: '5\n',
    },
    {
      words: 'says its size to who sends a root of size 0',
      status: 409,
      latest: treeAt(5),
      size: 0,
      old: 0,
      says: '5\n',
    },
    { words: 'refuses a proof from nothing', status: 422, size: 7, old: 0, extra: 1 },
    {
      words: 'refuses a proof between equal sizes',
      status: 422,
      latest: treeAt(7),
      size: 7,
      old: 7,
      extra: 1,
    },
    { words: 'refuses a missing proof', status: 422, latest: treeAt(3), size: 7, old: 3 },
    {
      words: 'refuses a proof that is too long',
      status: 422,
      latest: treeAt(3),
      size: 7,
      old: 3,
      from: 3,
      extra: 1,
    },
    {
      words: 'refuses a proof from elsewhere',
      status: 422,
      latest: treeAt(3),
      size: 7,
      old: 3,
      from: 2,
    },
    {
      words: 'refuses a proof of another history',
      status: 422,
      latest: treeAt(3),
      size: 7,
      old: 3,
      from: 3,
      proofSide: 1,
    },
    {
      words: 'refuses a history that parted before the old size',
      status: 422,
      latest: treeAt(6),
      size: 9,
      side: 1,
      old: 6,
      from: 6,
      proofSide: 1,
    },
    {
      words: 'refuses another root of the same size',
      status: 422,
      latest: treeAt(7),
      size: 7,
      side: 1,
      old: 7,
      rival: true,
    },
    {
      words: 'sees the rival in a request that it refuses for its old size',
      status: 409,
      latest: treeAt(7),
      size: 7,
      side: 1,
      old: 0,
      says: '7\n',
      rival: true,
    },
    {
      words: 'sees the rival in a request whose old size is above its size',
      status: 400,
      latest: treeAt(7),
      size: 7,
      side: 1,
      old: 8,
      rival: true,
    },
    {
      words: 'calls nothing a rival that its log did not sign',
      status: 403,
      latest: treeAt(7),
      size: 7,
      side: 1,
      old: 7,
      by: stranger,
    },
  ]

  test.each(table)('$words: $status', async (row) => {
    const { size, side = 0, old, from, proofSide = side } = row
    const real = from === undefined ? [] : await proofOf(from, size, proofSide)
    const proof = [...real, ...ZEROS.slice(0, row.extra ?? 0)]
    const request = { oldSize: old, proof, note: await noteAt(size, side, row.by) }
    const judgement = await judge(request, row.latest ?? null, row.known)
    if (row.status === 200) {
      const { text } = parseNote(request.note)
      expect(judgement).toEqual({ kind: 'cosign', checkpoint: parseCheckpoint(text), text })
      return
    }
    if (judgement.kind !== 'refuse') throw new Error('not refused')
    const { reason } = judgement
    expect(judgement).toEqual({
      kind: 'refuse',
      status: row.status,
      body: row.says ?? `${reason}\n`,
      contentType: row.status === 409 ? SIZE_TYPE : 'text/plain; charset=utf-8',
      reason,
      rival: row.rival ?? false,
    })
    expect(reason).toMatch(/^[^\n]+\.$/)
  })

  test('spells the content type of a size as the specification does', () => {
    expect(SIZE_TYPE).toBe('text/x.tlog.size')
  })

  test('refuses size 0 with a root: the empty tree has but one', async () => {
    const bad = { origin, size: 0, root: rootAt(1), extensions: [] }
    const request = { oldSize: 0, proof: [], note: await signCheckpoint(bad, log) }
    expect(await judge(request, null)).toMatchObject({ status: 422, rival: false })
    const latest = { size: 0, root: emptyRoot }
    expect(await judge(request, latest)).toMatchObject({ status: 422, rival: true })
  })

  test('passes over unknown keys, but one wrong signature of the known key is 403', async () => {
    const note = await noteAt(7)
    const { text } = parseNote(note)
    const foreign = await signText(text, stranger)
    const cosigned = await cosignCheckpoint(text, witness, 9)
    const unknown = addSignatures(note, [foreign, cosigned])
    expect(await judge({ oldSize: 0, proof: [], note: unknown }, null)).toMatchObject({
      kind: 'cosign',
    })
    const wrong = { ...foreign, keyId: log.key.keyId }
    const condemned = addSignatures(note, [wrong])
    expect(await judge({ oldSize: 0, proof: [], note: condemned }, null)).toMatchObject({
      kind: 'refuse',
      status: 403,
    })
  })

  test('refuses a good signature over another text', async () => {
    const { signatures } = parseNote(await noteAt(7))
    const { text } = parseNote(await noteAt(8))
    const note = `${text}\n${signatures.map(formatSignature).join('')}`
    expect(await judge({ oldSize: 0, proof: [], note }, null)).toMatchObject({ status: 403 })
  })

  test('does not take the key of a witness for that of a log', async () => {
    const request = { oldSize: 0, proof: [], note: await noteAt(7) }
    await expect(judge(request, null, witness.key)).rejects.toMatchObject({ code: 'bad-config' })
  })

  test('passes on what is not about the request', async () => {
    const request = parseAddCheckpoint(
      formatAddCheckpoint({ oldSize: 0, proof: [], note: await noteAt(7) }),
    )
    for (const fault of [new TypeError('broken'), new VaultMeshError('internal', 'broken')]) {
      const proof = new Proxy([], {
        get: () => {
          throw fault
        },
      })
      const question = { request: { ...request, proof }, log: log.key, latest: null }
      await expect(judgeCheckpoint(question)).rejects.toBe(fault)
    }
  })
})

describe('a history of requests in any order', () => {
  const request = fc.record({
    side: fc.nat(1),
    growth: fc.oneof(fc.constant(0), fc.integer({ min: -2, max: 6 })),
    // Most often what the witness has just said.
    old: fc.oneof(
      { weight: 3, arbitrary: fc.constant(null) },
      { weight: 1, arbitrary: fc.nat(MAX_SIZE + 1) },
    ),
    proof: fc.constantFrom('right', 'right', 'none', 'wrong', 'other'),
    stranger: fc.nat(9).map((n) => n === 0),
  })

  test('never shrinks a witness, and gives it one root a size', async () => {
    const stranger = signer(origin, 9)
    const notes = await Promise.all(
      [0, 1].map((side) =>
        Promise.all(Array.from({ length: MAX_SIZE + 1 }, (_, size) => noteAt(size, side))),
      ),
    )
    let cosigned = 0
    let rivals = 0
    await fc.assert(
      fc.asyncProperty(fc.array(request, { minLength: 4, maxLength: 12 }), async (requests) => {
        let latest: CosignedTree | null = null
        const roots = new Map<number, string>()
        for (const { side, growth, old, proof: kind, stranger: isStranger } of requests) {
          const known: number = latest?.size ?? 0
          const size = Math.max(0, Math.min(known + growth, MAX_SIZE))
          const oldSize = old ?? known
          const note = isStranger ? await noteAt(size, side, stranger) : notes[side]![size]!
          const isProved = kind !== 'none' && 0 < oldSize && oldSize < size
          let proof = isProved
            ? await proofOf(oldSize, size, kind === 'other' ? 1 - side : side)
            : []
          if (kind === 'wrong') proof = [...proof, ZEROS[0]!]
          const judgement: Judgement = await judge({ oldSize, proof, note }, latest)
          if (judgement.kind === 'refuse') {
            if (judgement.status === 409) expect(judgement.body).toBe(`${known}\n`)
            const seen: string | undefined = roots.get(size)
            const isRival =
              !isStranger && size === latest?.size && seen !== toHex(rootAt(size, side))
            expect(judgement.rival).toBe(isRival)
            if (isRival) rivals++
            continue
          }
          cosigned++
          const { checkpoint } = judgement
          expect(isStranger).toBe(false)
          expect(oldSize).toBe(known)
          expect(checkpoint.size).toBeGreaterThanOrEqual(known)
          const root = toHex(checkpoint.root)
          expect(roots.get(size) ?? root).toBe(root)
          // It stays on the side it chose when the histories parted.
          for (const [s, r] of roots) expect(r).toBe(toHex(rootAt(s, s > FORK_AT ? side : 0)))
          roots.set(size, root)
          latest = { size, root: checkpoint.root }
        }
      }),
      { numRuns: 300 },
    )
    expect(cosigned).toBeGreaterThan(300)
    expect(rivals).toBeGreaterThan(10)
  })
})

describe('the answer', () => {
  const { text } = parseNote(NOTE)

  test('has a line for each cosignature and is read by who knows the key', async () => {
    const signature = await cosignCheckpoint(text, witness, 1_700_000_000)
    const lines = cosignatureLines([signature])
    expect(lines).toBe(formatSignature(signature))
    expect(lines).toMatch(/^— witness\.example [A-Za-z0-9+/]+=*\n$/)
    expect(await readCosignatures(utf8(lines), text, witness.key)).toEqual([signature])
    const both = cosignatureLines([signature, await cosignCheckpoint(text, witness, 9)])
    expect(both.split('\n')).toHaveLength(3)
  })

  test('is never empty and never of the time 0', async () => {
    expect(thrown(() => cosignatureLines([])).code).toBe('bad-note')
    expect(thrown(() => cosignatureLines([timeless(text)])).code).toBe('bad-note')
    const good = await cosignCheckpoint(text, witness, 1)
    expect(thrown(() => cosignatureLines([good, timeless(text)])).code).toBe('bad-note')
    const lines = formatSignature(timeless(text))
    await expect(readCosignatures(utf8(lines), text, witness.key)).rejects.toMatchObject({
      code: 'bad-note',
    })
  })

  test('of real witnesses yields the line of each of them', async () => {
    const { text: real, signatures, witnesses, timestamp } = vectors.cosigned
    const log1 = parseVkey(vectors.cosigned.log)
    for (const key of witnesses.map(parseVkey)) {
      const [found, ...more] = await readCosignatures(utf8(signatures), real, key)
      expect(more).toEqual([])
      const [verified] = await verifyNote({ text: real, signatures: [found!] }, [key])
      expect(verified).toMatchObject({ key, timestamp })
    }
    await expect(readCosignatures(utf8(signatures), real, log1)).rejects.toMatchObject({
      code: 'bad-config',
    })
  })

  test('counts once, however many lines there are: the latest that verifies', async () => {
    const times = [5, 9, 7]
    const signatures = await Promise.all(times.map((t) => cosignCheckpoint(text, witness, t)))
    const other = await cosignCheckpoint(text, signer('else.example', 3, TYPE_COSIGNATURE), 11)
    const forged = { ...other, name: witness.key.name, keyId: witness.key.keyId }
    const short = { ...forged, signature: forged.signature.subarray(0, 71) }
    const all = [forged, short, ...signatures, other, timeless(text), signatures[1]!]
    const lines = utf8(all.map(formatSignature).join(''))
    expect(await readCosignatures(lines, text, witness.key)).toEqual([signatures[1]])
  })

  test.each([
    ['nothing', () => ''],
    ['no line', () => '\n'],
    ['no newline', (good: string) => good.slice(0, -1)],
    ['a page', () => '<!doctype html>\n'],
    ['a problem', () => '{"status":200}\n'],
    ['a whole note', (good: string) => `${text}\n${good}`],
    ['a line of another key', (good: string) => good.replace(witness.key.name, 'else.example')],
    ['a line of another key ID', (good: string) => good.replace(/example ./, 'example A')],
    [
      'a changed line',
      (good: string) => good.replace(/.(?==*\n$)/, (c) => (c === 'A' ? 'Q' : 'A')),
    ],
    ['101 lines', (good: string) => good.repeat(101)],
    ['a NUL', (good: string) => `${good}\0\n`],
  ])('of %s is refused', async (_, change) => {
    const good = formatSignature(await cosignCheckpoint(text, witness, 1_700_000_000))
    const body = utf8(change(good))
    expect(body).not.toEqual(utf8(good))
    await expect(readCosignatures(body, text, witness.key)).rejects.toMatchObject({
      code: 'bad-note',
    })
  })

  test('for another checkpoint is refused', async () => {
    const elsewhere = parseNote(await noteAt(8)).text
    const lines = utf8(formatSignature(await cosignCheckpoint(elsewhere, witness, 9)))
    await expect(readCosignatures(lines, text, witness.key)).rejects.toMatchObject({
      code: 'bad-note',
    })
  })

  test('of arbitrary bytes throws nothing but VaultMeshError', async () => {
    const good = utf8(formatSignature(await cosignCheckpoint(text, witness, 9)))
    const changed = fc
      .tuple(fc.nat(good.length - 1), fc.uint8Array({ minLength: 1, maxLength: 2 }))
      .map(([at, put]) => concat(good.subarray(0, at), put, good.subarray(at + put.length)))
    await fc.assert(
      fc.asyncProperty(fc.oneof(fc.uint8Array(), changed), async (body) => {
        const found = await readCosignatures(body, text, witness.key).catch((e: unknown) => e)
        if (Array.isArray(found)) expect(found).toHaveLength(1)
        else expect(found).toBeInstanceOf(VaultMeshError)
      }),
    )
  })

  function timeless(of: string): NoteSignature {
    const bare = ed25519.sign(cosignatureMessage(of, 0), new Uint8Array(32).fill(2))
    const { name, keyId } = witness.key
    return { name, keyId, signature: concat(new Uint8Array(8), bare) }
  }
})

describe('what a log sends', () => {
  test('is its own signature alone, whoever else signed', async () => {
    const { text } = parseNote(NOTE)
    const others = await Promise.all(
      [3, 4, 5].map((n) => cosignCheckpoint(text, signer(`w${n}`, n, TYPE_COSIGNATURE), n)),
    )
    const full = addSignatures(NOTE, others)
    expect(ownSignatureOnly(full, log.key)).toBe(NOTE)
    expect(ownSignatureOnly(NOTE, log.key)).toBe(NOTE)
    const reversed = parseNote(full).signatures.toReversed().map(formatSignature).join('')
    const twice = `${text}\n${reversed}${formatSignature(parseNote(NOTE).signatures[0]!)}`
    expect(ownSignatureOnly(twice, log.key)).toBe(NOTE)
  })

  test('is nothing if it did not sign', () => {
    for (const key of [witness.key, signer(origin, 9).key, signer('else.example', 1).key]) {
      expect(thrown(() => ownSignatureOnly(NOTE, key)).code).toBe('untrusted-key')
    }
  })
})

/** A checkpoint note of exactly `length` bytes, long by its extension line. */
async function noteOfLength(length: number): Promise<string> {
  const checkpoint = { origin, size: 7, root: rootAt(7), extensions: ['x'] }
  const bare = utf8(await signCheckpoint(checkpoint, log)).length
  return signCheckpoint({ ...checkpoint, extensions: ['x'.repeat(1 + length - bare)] }, log)
}

function thrown(run: () => unknown): VaultMeshError {
  try {
    run()
  } catch (error) {
    if (error instanceof VaultMeshError) return error
    throw error
  }
  throw new Error('not refused')
}
