/**
 * What a verifier of proofs refuses with.
 */

import { expect } from 'vitest'
import { VaultMeshError } from '#core/errors.ts'

/** The message of the `bad-proof` that `run` throws, which names its check first; else `accepted`. */
export function refusal(run: () => unknown): string {
  try {
    run()
  } catch (error) {
    if (!(error instanceof VaultMeshError)) throw error
    expect(error.code).toBe('bad-proof')
    expect(error.extra).toEqual({ check: error.message.split(':')[0] })
    return error.message
  }
  return 'accepted'
}
