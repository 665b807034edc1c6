/**
 * A trust file: whom somebody believes, as `vaultmesh trust` writes it and `verify` reads it. JSON; names for people in it
 * are passed over.
 */

import * as z from 'zod'
import { certificateSha256 } from '#core/certificate.ts'
import { VaultMeshError } from '#core/errors.ts'
import { parseVkey } from '#core/signed-note.ts'

const trustSchema = z.object({
  vkeys: z.array(z.string()),
  tsaRoots: z.array(z.string()).default([]),
  nodeDids: z.array(z.string()).default([]),
  rails: z.array(z.string()).default([]),
  network: z.string().optional(),
})

/** Pinned keys, the rails that make an event final, and whether the log is of a dev network. */
export type TrustFile = z.infer<typeof trustSchema>

/** Reads a trust file. Throws `bad-config` for broken JSON or another shape, and what `checkPins` throws. */
export function parseTrustFile(text: string): TrustFile {
  let value: unknown
  try {
    value = JSON.parse(text)
  } catch (cause) {
    throw new VaultMeshError('bad-config', 'It is not JSON.', { cause })
  }
  const parsed = trustSchema.safeParse(value)
  if (!parsed.success) {
    const [issue] = parsed.error.issues
    throw new VaultMeshError('bad-config', `"${issue!.path.join('.')}": ${issue!.message}.`)
  }
  checkPins(parsed.data)
  return parsed.data
}

/** Throws `bad-note` for a key that cannot be read, `bad-config` for such a certificate. */
export function checkPins({ vkeys, tsaRoots }: Pick<TrustFile, 'vkeys' | 'tsaRoots'>): void {
  for (const vkey of vkeys) parseVkey(vkey)
  for (const pem of tsaRoots) certificateSha256(pem)
}
