import { ed25519 } from '@noble/curves/ed25519.js'
import * as fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { fromBase64, fromHex, utf8 } from '#core/bytes.ts'
import {
  addSignatures,
  cosignCheckpoint,
  formatCheckpoint,
  parseCheckpoint,
  parseDecimal,
  signCheckpoint,
  verifyCheckpoint,
} from '#core/checkpoint.ts'
import { verifyConsistencyProof } from '#core/consistency-proof.ts'
import { VaultMeshError } from '#core/errors.ts'
import {
  TYPE_COSIGNATURE,
  formatSignature,
  parseNote,
  parseVkey,
  verifierKey,
} from '#core/signed-note.ts'
import type { NoteSigner } from '#core/signed-note.ts'
import vectors from '../vectors/checkpoints.json' with { type: 'json' }

function signer(name: string, seedByte: number, type: 1 | 4 = 1): NoteSigner {
  const seed = new Uint8Array(32).fill(seedByte)
  return {
    key: verifierKey(name, ed25519.getPublicKey(seed), type),
    sign: async (message) => ed25519.sign(message, seed),
  }
}

const origin = 'vm-node-01.example/log'
const log = signer(origin, 1)
const witness = signer('witness.example', 2, TYPE_COSIGNATURE)
const checkpoint = { origin, size: 5, root: new Uint8Array(32).fill(7), extensions: [] }
const root = 'AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA='

describe('real checkpoints', () => {
  test('one signed by a log in two ways and by four witnesses verifies', async () => {
    const { text, signatures, log: vkey, witnesses, timestamp } = vectors.cosigned
    const trust = { log: parseVkey(vkey), witnesses: witnesses.map(parseVkey) }
    const found = await verifyCheckpoint(utf8(`${text}\n${signatures}`), trust)
    expect(found.checkpoint.size).toBe(1_432_088_532)
    expect(formatCheckpoint(found.checkpoint)).toBe(text)
    expect(found.note.signatures).toHaveLength(6)
    expect(found.cosignatures.map((c) => c.key.name).sort()).toEqual(
      trust.witnesses.map((w) => w.name).sort(),
    )
    expect(new Set(found.cosignatures.map((c) => c.timestamp))).toEqual(new Set([timestamp]))
  })

  test('of a log growing from 1 to 3 to 5 leaves verify and are consistent', async () => {
    const { origin: name, publicKey, checkpoints, proofs } = vectors.grown
    const key = verifierKey(name, fromHex(publicKey))
    const roots = new Map<number, Uint8Array>()
    for (const { size, root: hash, signature } of checkpoints) {
      const note = `${name}\n${size}\n${hash}\n\n\u2014 ${name} ${signature}\n`
      roots.set(size, (await verifyCheckpoint(note, { log: key })).checkpoint.root)
      const flipped = note.replace(signature, signature.replace('UgIom', 'UgIon'))
      await expect(verifyCheckpoint(flipped, { log: key })).rejects.toThrow(VaultMeshError)
    }
    for (const { size1, size2, proof } of proofs) {
      const claim = { size1, size2, root1: roots.get(size1)!, root2: roots.get(size2)! }
      verifyConsistencyProof({ ...claim, proof: proof.map(fromBase64) })
      expect(() => verifyConsistencyProof({ ...claim, proof: [] })).toThrow(VaultMeshError)
    }
  })
})

describe('the text of a checkpoint', () => {
  test('comes back as what it was written for', () => {
    const line = fc.stringMatching(/^[!-~ é]{1,40}$/)
    fc.assert(
      fc.property(
        line,
        fc.maxSafeNat(),
        fc.uint8Array({ minLength: 32, maxLength: 32 }),
        fc.array(line),
        (o, size, hash, extensions) => {
          const value = { origin: o, size, root: hash, extensions }
          expect(parseCheckpoint(formatCheckpoint(value))).toEqual(value)
        },
      ),
    )
  })

  test.each([
    ['an empty text', ''],
    ['two lines', 'o\n1\n'],
    ['no final newline', `o\n1\n${root}`],
    ['an empty origin', `\n1\n${root}\n`],
    ['an origin of 256 bytes', `${'o'.repeat(256)}\n1\n${root}\n`],
    ['a leading zero', `o\n01\n${root}\n`],
    ['a sign', `o\n+1\n${root}\n`],
    ['a negative size', `o\n-1\n${root}\n`],
    ['an exponent', `o\n1e3\n${root}\n`],
    ['hex', `o\n0x1\n${root}\n`],
    ['no size', `o\n\n${root}\n`],
    ['a size of 2^53', `o\n9007199254740992\n${root}\n`],
    ['a space', `o\n1 \n${root}\n`],
    ['a root of 31 bytes', `o\n1\n${root.slice(0, 42)}==\n`],
    ['a root of 33 bytes', `o\n1\n${root.slice(0, 43)}A\n`],
    ['a loose root', `o\n1\n${root.slice(0, 42)}B=\n`],
    ['a root in base64url', `o\n1\n-${root.slice(1)}\n`],
    ['an empty extension', `o\n1\n${root}\n\n`],
    ['an empty line within', `o\n1\n${root}\nx\n\ny\n`],
  ])('%s is refused', (_, text) => {
    expect(() => parseCheckpoint(text)).toThrow(expect.objectContaining({ code: 'bad-note' }))
  })

  test('an origin of 255 bytes, size 0, the largest size and extension lines are fine', () => {
    const name = 'o'.repeat(255)
    expect(parseCheckpoint(`${name}\n0\n${root}\nx y\n`)).toMatchObject({
      origin: name,
      size: 0,
      extensions: ['x y'],
    })
    expect(parseDecimal('9007199254740991')).toBe(Number.MAX_SAFE_INTEGER)
  })

  test.each([
    { ...checkpoint, origin: '' },
    { ...checkpoint, origin: 'a\nb' },
    { ...checkpoint, origin: 'é'.repeat(128) },
    { ...checkpoint, size: -1 },
    { ...checkpoint, size: 0.5 },
    { ...checkpoint, size: 2 ** 53 },
    { ...checkpoint, root: new Uint8Array(31) },
    { ...checkpoint, extensions: [''] },
    { ...checkpoint, extensions: ['a\nb'] },
  ])('%o is not written', (value) => {
    expect(() => formatCheckpoint(value)).toThrow(VaultMeshError)
  })

  test('of arbitrary strings throws nothing but VaultMeshError', () => {
    const part = fc.constantFrom('o', '\n', '1', '0', root, 'x', ' ')
    fc.assert(
      fc.property(
        fc.oneof(
          fc.string(),
          fc.array(part).map((p) => p.join('')),
        ),
        (text) => {
          try {
            expect(formatCheckpoint(parseCheckpoint(text))).toBe(text)
          } catch (error) {
            expect(error).toBeInstanceOf(VaultMeshError)
          }
        },
      ),
      { numRuns: 1000 },
    )
  })
})

describe('a signed checkpoint', () => {
  test('takes cosignatures, each once, and reports those of trusted witnesses', async () => {
    const note = await signCheckpoint(checkpoint, log)
    const { text } = parseNote(note)
    const cosignature = await cosignCheckpoint(text, witness, 1_700_000_000)
    const both = addSignatures(note, [cosignature])
    expect(addSignatures(both, [cosignature])).toBe(both)
    const found = await verifyCheckpoint(both, { log: log.key, witnesses: [witness.key] })
    expect(found.checkpoint).toEqual(checkpoint)
    expect(found.signature.key).toBe(log.key)
    expect(found.cosignatures.map(({ timestamp }) => timestamp)).toEqual([1_700_000_000])
    expect((await verifyCheckpoint(both, { log: log.key })).cosignatures).toEqual([])
  })

  test('is refused without the log’s signature, however many witnesses saw it', async () => {
    const text = formatCheckpoint(checkpoint)
    const cosigned = `${text}\n`
    const line = formatSignature(await cosignCheckpoint(text, witness, 9))
    const trust = { log: log.key, witnesses: [witness.key] }
    await expect(verifyCheckpoint(cosigned + line, trust)).rejects.toMatchObject({
      code: 'untrusted-key',
    })
  })

  test('is refused under another origin, and a witness key is no log key', async () => {
    const note = await signCheckpoint(checkpoint, log)
    await expect(verifyCheckpoint(note, { log: log.key, origin: 'else' })).rejects.toMatchObject({
      code: 'bad-note',
    })
    expect((await verifyCheckpoint(note, { log: log.key, origin })).checkpoint.size).toBe(5)
    await expect(verifyCheckpoint(note, { log: witness.key, origin })).rejects.toMatchObject({
      code: 'bad-note',
    })
    await expect(signCheckpoint({ ...checkpoint, origin: 'else' }, log)).rejects.toMatchObject({
      code: 'bad-note',
    })
  })

  test('that is not a checkpoint is not cosigned', async () => {
    await expect(cosignCheckpoint('hello\n', witness, 9)).rejects.toMatchObject({
      code: 'bad-note',
    })
  })
})
