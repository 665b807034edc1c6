import { ed25519 } from '@noble/curves/ed25519.js'
import * as fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { toBase64, utf8 } from '#core/bytes.ts'
import { addSignatures, cosignCheckpoint, signCheckpoint } from '#core/checkpoint.ts'
import { VaultMeshError } from '#core/errors.ts'
import { inclusionProof } from '#core/inclusion-proof.ts'
import { leafHashes, rootOf } from '#core/merkle.ts'
import { formatProofFile, parseProofFile, verifyProofFile } from '#core/proof-file.ts'
import { TYPE_COSIGNATURE, parseNote, verifierKey } from '#core/signed-note.ts'
import type { NoteSigner } from '#core/signed-note.ts'

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
const packed = leafHashes(Array.from({ length: 21 }, (_, i) => utf8(`event ${i}`)))
const leaf = (i: number): Uint8Array => packed.slice(32 * i, 32 * i + 32)

async function proofOf(
  index: number,
  size: number,
  extra: Uint8Array | null = null,
): Promise<string> {
  const tree = packed.subarray(0, 32 * size)
  const proof = await inclusionProof(
    async (coords) =>
      coords.map(({ level, index: at }) =>
        rootOf(tree.subarray(32 * at * 2 ** level, 32 * (at + 1) * 2 ** level)),
      ),
    index,
    size,
  )
  const signed = await signCheckpoint({ origin, size, root: rootOf(tree), extensions: [] }, log)
  const checkpoint = addSignatures(signed, [
    await cosignCheckpoint(parseNote(signed).text, witness, 77),
  ])
  return formatProofFile({ extra, index, proof, checkpoint })
}

describe('a proof file', () => {
  test('has the lines of c2sp.org/tlog-proof@v1', async () => {
    const lines = (await proofOf(2, 3, utf8('hi'))).split('\n')
    expect(lines.slice(0, 7)).toEqual([
      'c2sp.org/tlog-proof@v1',
      'extra aGk=',
      'index 2',
      toBase64(rootOf(packed.subarray(0, 64))),
      '',
      origin,
      '3',
    ])
  })

  test('proves every leaf of every tree, and comes back byte for byte', async () => {
    for (let size = 1; size <= 21; size++) {
      for (let index = 0; index < size; index += 3) {
        const file = await proofOf(index, size, index % 2 === 0 ? null : utf8('x'.repeat(index)))
        expect(formatProofFile(parseProofFile(utf8(file)))).toBe(file)
        const claim = { file, leafHash: leaf(index), log: log.key, witnesses: [witness.key] }
        const found = await verifyProofFile(claim)
        expect([found.index, found.checkpoint.size, found.cosignatures.length]).toEqual([
          index,
          size,
          1,
        ])
        const other = { ...claim, leafHash: leaf((index + 1) % 21) }
        await expect(verifyProofFile(other)).rejects.toMatchObject({ code: 'bad-proof' })
      }
    }
  })

  test('does not prove anything under another log key or without its signature', async () => {
    const file = parseProofFile(await proofOf(0, 1))
    const stranger = signer(origin, 9)
    await expect(
      verifyProofFile({ file, leafHash: leaf(0), log: stranger.key }),
    ).rejects.toMatchObject({ code: 'untrusted-key' })
  })

  test('with one bit changed before the signatures proves nothing', async () => {
    const file = utf8(await proofOf(4, 9))
    const claim = { leafHash: leaf(4), log: log.key, witnesses: [witness.key] }
    const end = new TextDecoder().decode(file).indexOf('\u2014')
    for (let i = 0; i < end; i++) {
      const changed = file.slice()
      changed[i] = changed.at(i)! ^ 1
      await expect(verifyProofFile({ ...claim, file: changed })).rejects.toBeInstanceOf(
        VaultMeshError,
      )
    }
  })

  const tail = `\n\no\n1\n${'A'.repeat(43)}=\n\n\u2014 a AAAAAQE=\n`
  const head = 'c2sp.org/tlog-proof@v1\n'
  test.each([
    ['nothing', ''],
    ['another version', `c2sp.org/tlog-proof@v2\nindex 0${tail}`],
    ['no index', `${head}extra aGk=${tail}`],
    ['a leading zero', `${head}index 00${tail}`],
    ['a negative index', `${head}index -1${tail}`],
    ['an index of 2^53', `${head}index 9007199254740992${tail}`],
    ['extra after index', `${head}index 0\nextra aGk=${tail}`],
    ['two extra lines', `${head}extra aGk=\nextra aGk=\nindex 0${tail}`],
    ['loose extra', `${head}extra aGl=\nindex 0${tail}`],
    ['a hash of 31 bytes', `${head}index 0\n${toBase64(new Uint8Array(31))}${tail}`],
    ['64 hashes', `${head}index 0${`\n${'A'.repeat(43)}=`.repeat(64)}${tail}`],
    ['no checkpoint', `${head}index 0\n\n`],
    ['no empty line', `${head}index 0\n`],
    ['carriage returns', `${head}index 0${tail}`.replaceAll('\n', '\r\n')],
  ])('with %s is refused', (_, file) => {
    expect(() => parseProofFile(file)).toThrow(VaultMeshError)
  })

  test('with 63 hashes and empty extra data is read', () => {
    const file = `${head}extra \nindex 0${`\n${'A'.repeat(43)}=`.repeat(63)}${tail}`
    const parsed = parseProofFile(file)
    expect([parsed.proof.length, parsed.extra?.length]).toEqual([63, 0])
    expect(formatProofFile(parsed)).toBe(file)
  })

  test('that is too long or not UTF-8 is refused', () => {
    expect(() => parseProofFile(new Uint8Array(3_000_000))).toThrow(VaultMeshError)
    expect(() => parseProofFile(Uint8Array.of(0xff))).toThrow(VaultMeshError)
  })

  test('of arbitrary text is written back as it was or refused', () => {
    const part = fc.constantFrom(
      head,
      'extra aGk=\n',
      'index 0',
      'index 5',
      '\n',
      `${'A'.repeat(43)}=\n`,
      tail,
      'x',
    )
    fc.assert(
      fc.property(
        fc.oneof(
          fc.string(),
          fc.array(part).map((p) => p.join('')),
        ),
        fc.uint8Array(),
        (text, bytes) => {
          for (const file of [text, bytes]) {
            try {
              expect(utf8(formatProofFile(parseProofFile(file)))).toEqual(
                typeof file === 'string' ? utf8(file) : file,
              )
            } catch (error) {
              expect(error).toBeInstanceOf(VaultMeshError)
            }
          }
        },
      ),
      { numRuns: 1000 },
    )
  })
})
