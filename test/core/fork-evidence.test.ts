/** Evidence holds for what was signed, and for nothing else. */

import { beforeAll, describe, expect, test } from 'vitest'
import { signManifest } from '#core/batch.ts'
import { toBase64, toHex, utf8 } from '#core/bytes.ts'
import { signCheckpoint } from '#core/checkpoint.ts'
import { verifyEvidence, type Evidence } from '#core/fork-evidence.ts'
import { emptyRoot, HASH_BYTES, leafHashes } from '#core/merkle.ts'
import { deriveIdentity, deriveKey, type IdentityKey, type SigningKey } from '#core/node-keys.ts'
import { appendPeaks, noPeaks, packPeaks, rootOfPeaks } from '#core/peaks.ts'
import { sha256 } from '#core/sha256.ts'
import { formatVkey, verifierKey } from '#core/signed-note.ts'

const ORIGIN = 'fork.example/log'
const secret = new Uint8Array(32).fill(7)
const entries = (name: string, n: number) =>
  Array.from({ length: n }, (_, i) => sha256(utf8(`${name} ${i}`)))

let identity: IdentityKey
let log: SigningKey
const before = appendPeaks(noPeaks, leafHashes(entries('before', 5)))

beforeAll(async () => {
  identity = await deriveIdentity(secret, 1)
  log = await deriveKey(secret, 'log', 1)
})

const key = () => verifierKey(ORIGIN, log.publicKey)

/** A signed batch after `before`; with `root` it signs that one instead of the right one. */
async function batch(leaves: readonly Uint8Array[], root?: Uint8Array) {
  const hashes = leafHashes(leaves)
  const own = rootOfPeaks(appendPeaks(before, hashes))
  const signed = root ?? own
  const treeSize = before.size + leaves.length
  return {
    manifest: await signManifest(identity, {
      origin: ORIGIN,
      height: 2,
      firstIndex: before.size,
      count: leaves.length,
      treeSize,
      root: signed,
      previousRoot: rootOfPeaks(before),
      batchRoot: rootOfPeaks(appendPeaks(noPeaks, hashes)),
      sealedAt: 1_790_000_000_000,
    }),
    checkpoint: await signCheckpoint(
      { origin: ORIGIN, size: treeSize, root: signed, extensions: [] },
      { key: key(), sign: (message) => log.sign(message) },
    ),
  }
}

function file(more: Partial<Evidence>): Evidence {
  return {
    v: 1,
    kind: 'fork',
    origin: ORIGIN,
    vkey: formatVkey(key()),
    operator: identity.did,
    statements: [],
    height: 2,
    batches: [],
    ...more,
  }
}

const packed = (leaves: readonly Uint8Array[]) => {
  const out = new Uint8Array(leaves.length * HASH_BYTES)
  leaves.forEach((leaf, i) => out.set(leaf, i * HASH_BYTES))
  return toBase64(out)
}

describe('a fork', () => {
  test('two roots at one height, both signed, are a fork', async () => {
    const batches = [await batch(entries('a', 3)), await batch(entries('b', 4))]
    expect(await verifyEvidence(file({ batches }))).toMatch(/signed 2 histories of fork.example/)
  })

  test('one batch twice is none', async () => {
    const one = await batch(entries('a', 3))
    await expect(verifyEvidence(file({ batches: [one, one] }))).rejects.toThrow(/no two roots/)
  })

  test('a checkpoint of another batch speaks for no manifest', async () => {
    const [a, b] = [await batch(entries('a', 3)), await batch(entries('b', 3))]
    const mixed = [a, { ...b, checkpoint: a.checkpoint }]
    await expect(verifyEvidence(file({ batches: mixed }))).rejects.toThrow(
      /not that of its manifest/,
    )
  })

  test('what another operator signed proves nothing', async () => {
    const batches = [await batch(entries('a', 3)), await batch(entries('b', 4))]
    const other = await deriveIdentity(new Uint8Array(32).fill(8), 1)
    await expect(verifyEvidence(file({ batches, operator: other.did }))).rejects.toMatchObject({
      code: 'untrusted-key',
    })
  })

  test('nor what another log key signed', async () => {
    const batches = [await batch(entries('a', 3)), await batch(entries('b', 4))]
    const other = await deriveKey(new Uint8Array(32).fill(8), 'log', 1)
    const vkey = formatVkey(verifierKey(ORIGIN, other.publicKey))
    await expect(verifyEvidence(file({ batches, vkey }))).rejects.toMatchObject({
      code: 'untrusted-key',
    })
  })

  test('a batch of another height is refused', async () => {
    const batches = [await batch(entries('a', 3)), await batch(entries('b', 4))]
    await expect(verifyEvidence(file({ batches, height: 3 }))).rejects.toThrow(/another batch/)
  })
})

describe('a bad root', () => {
  const leaves = entries('a', 3)
  const whole = async (more: Partial<Evidence> = {}) =>
    file({
      kind: 'bad-root',
      batches: [await batch(leaves, sha256(utf8('elsewhere')))],
      peaks: toHex(packPeaks(before)),
      entries: packed(leaves),
      ...more,
    })

  test('a signed root that the signed batch does not lead to is bad', async () => {
    expect(await verifyEvidence(await whole())).toMatch(/leads to/)
  })

  test('a root that follows from its batch is not', async () => {
    const good = await whole({ batches: [await batch(leaves)] })
    await expect(verifyEvidence(good)).rejects.toThrow(/follows from the entries/)
  })

  test.each([
    ['other entries', { entries: packed(entries('b', 3)) }, /not those of the batch/],
    ['fewer entries', { entries: packed(leaves.slice(1)) }, /not those of the batch/],
    ['entries of no whole length', { entries: toBase64(new Uint8Array(33)) }, /32 bytes each/],
    ['peaks of another tree', { peaks: toHex(new Uint8Array(64)) }, /not of the tree before/],
    ['too few peaks', { peaks: toHex(emptyRoot) }, /do not fit/],
  ])('%s prove nothing', async (_name, more, why) => {
    await expect(verifyEvidence(await whole(more))).rejects.toThrow(why)
  })

  test('without its entries it proves nothing', async () => {
    const { entries: _, ...less } = await whole()
    await expect(verifyEvidence(less)).rejects.toThrow(/lacks/)
  })
})

test('what is no evidence is refused in words', async () => {
  for (const hostile of [null, 1, 'x', [], {}, { v: 2 }, file({ vkey: 'nonsense' })]) {
    await expect(verifyEvidence(hostile)).rejects.toMatchObject({ name: 'VaultMeshError' })
  }
})
