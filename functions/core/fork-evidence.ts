/**
 * Evidence against a log, as a file that anybody can check without us (design §7).
 *
 *   fork      two batches at one height, both signed by the log's key and by its operator
 *   bad-root  a signed batch whose own entries, after the tree that it says it extends, lead to another root
 *
 * A batch is its manifest (vm-batch+jws) and the checkpoint of its size and root; entries prove themselves by
 * the manifest's `batchRoot`, the tree before by its `previousRoot`. Who the keys belong to is the reader's to
 * know: the file says for which key and DID it holds.
 */

import * as z from 'zod'
import { verifyManifest, type Manifest } from '#core/batch-manifest.ts'
import { fromBase64, fromHex, toHex } from '#core/bytes.ts'
import { verifyCheckpoint } from '#core/checkpoint.ts'
import { VaultMeshError } from '#core/errors.ts'
import { HASH_BYTES, leafHashes } from '#core/merkle.ts'
import { appendPeaks, noPeaks, rootOfPeaks, unpackPeaks } from '#core/peaks.ts'
import { verifyStatements, wasEverKey } from '#core/rotation.ts'
import { parseVkey } from '#core/signed-note.ts'

const signedSchema = z.object({
  manifest: z.string().max(4096),
  checkpoint: z.string().max(16_384),
})

/** Batches in a file: two prove a fork. */
export const MAX_EVIDENCE_BATCHES = 16

/** The file. */
export const evidenceSchema = z
  .object({
    v: z.literal(1),
    kind: z.enum(['fork', 'bad-root']),
    origin: z.string().min(1).max(255),
    vkey: z.string().max(512).describe('the log’s key'),
    operator: z.string().max(256).describe('DID of the node whose log it is'),
    statements: z.array(z.string().max(4096)).max(64).describe('its key statements'),
    height: z.int().min(1),
    batches: z.array(signedSchema).min(1).max(MAX_EVIDENCE_BATCHES),
    peaks: z
      .string()
      .regex(/^(?:[0-9a-f]{64})*$/)
      .optional()
      .describe('of bad-root: the tree before the batch, its peaks in hex, largest first'),
    entries: z
      .string()
      .optional()
      .describe('of bad-root: the batch’s entries, base64, 32 bytes each'),
  })
  .meta({ id: 'Evidence' })

export type Evidence = z.infer<typeof evidenceSchema>

/**
 * What a file of evidence proves, in one sentence. Throws `bad-proof` if it proves nothing, and what the
 * verification of its manifests, checkpoints and statements throws.
 */
export async function verifyEvidence(file: unknown): Promise<string> {
  const parsed = evidenceSchema.safeParse(file)
  if (!parsed.success) {
    const issue = parsed.error.issues[0]!
    throw bad(`${issue.path.join('.') || 'the file'}: ${issue.message}`)
  }
  const evidence = parsed.data
  const batches = await readBatches(evidence)
  return evidence.kind === 'fork' ? forkOf(evidence, batches) : badRootOf(evidence, batches)
}

async function readBatches(evidence: Evidence): Promise<Manifest[]> {
  const { origin, vkey, operator, statements, height } = evidence
  const log = parseVkey(vkey)
  const history = await verifyStatements(operator, statements)
  const batches: Manifest[] = []
  for (const { manifest: jws, checkpoint } of evidence.batches) {
    const manifest = await verifyManifest(jws, (keyDid) => wasEverKey(history, keyDid))
    const signed = await verifyCheckpoint(checkpoint, { log, origin })
    const { size, root } = signed.checkpoint
    if (manifest.origin !== origin || manifest.height !== height) {
      throw bad('a manifest is of another batch')
    }
    if (manifest.treeSize !== size || manifest.root !== toHex(root)) {
      throw bad('a checkpoint is not that of its manifest')
    }
    batches.push(manifest)
  }
  return batches
}

function forkOf({ origin, vkey, height }: Evidence, batches: readonly Manifest[]): string {
  const roots = new Set(batches.map(({ root }) => root))
  if (roots.size < 2) throw bad('there are no two roots')
  return `The holder of ${vkey} signed ${roots.size} histories of ${origin}: at height ${height} the roots ${[...roots].map((root) => `${root.slice(0, 16)}…`).join(' and ')}.`
}

function badRootOf(evidence: Evidence, [batch]: readonly Manifest[]): string {
  const { origin, vkey, height, peaks, entries } = evidence
  if (batch === undefined || peaks === undefined || entries === undefined) {
    throw bad('it lacks the tree before the batch or its entries')
  }
  const before = unpackPeaks(batch.firstIndex, fromHex(peaks))
  if (toHex(rootOfPeaks(before)) !== batch.previousRoot) {
    throw bad('the peaks are not of the tree before the batch')
  }
  const hashes = leafHashes(split(fromBase64(entries)))
  const own = appendPeaks(noPeaks, hashes)
  if (own.size !== batch.count || toHex(rootOfPeaks(own)) !== batch.batchRoot) {
    throw bad('the entries are not those of the batch')
  }
  const root = toHex(rootOfPeaks(appendPeaks(before, hashes)))
  if (root === batch.root) throw bad('the signed root follows from the entries')
  return `The holder of ${vkey} signed for ${origin} at height ${height} the root ${batch.root.slice(0, 16)}…; the batch that is signed with it leads to ${root.slice(0, 16)}….`
}

function split(packed: Uint8Array): Uint8Array[] {
  if (packed.length % HASH_BYTES !== 0) throw bad('entries have 32 bytes each')
  return Array.from({ length: packed.length / HASH_BYTES }, (_, i) =>
    packed.subarray(i * HASH_BYTES, (i + 1) * HASH_BYTES),
  )
}

function bad(why: string): VaultMeshError {
  return new VaultMeshError('bad-proof', `The evidence proves nothing: ${why}.`)
}
