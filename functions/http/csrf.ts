/**
 * Whether a form was sent by a page of ours, in the session that it was made for.
 *
 * Two proofs, each enough against other sites by itself: the session's token in a hidden field, which no other site
 * can read, and what the browser says of where the form stands (Origin, RFC 6454 §7; Sec-Fetch-Site, Fetch Metadata).
 * Every browser sends one of the two with a POST; a request with neither is refused. A Bearer needs none of it:
 * no browser adds it by itself.
 */

import { equal, utf8 } from '#core/bytes.ts'
import { VaultMeshError } from '#core/errors.ts'
import { sha256 } from '#core/sha256.ts'
import { isMachine, signInOf, type Viewer } from './session.ts'
import type { Call } from './route.ts'

/** Throws `form-refused` unless the POST came from a page of ours with `viewer`'s token in `given`. */
export function checkForm(
  call: Call<unknown, unknown>,
  viewer: Viewer,
  given: string | undefined,
): void {
  const { headers } = call.request
  if (isMachine(call.request)) return
  const { publicOrigin } = signInOf(call)
  const origin = headers.get('origin')
  const site = headers.get('sec-fetch-site')
  if (origin === null && site === null)
    throw refused('does not say from which site it comes (Origin)')
  if (origin !== null && origin !== publicOrigin)
    throw refused(`comes from another site than ${publicOrigin}`)
  if (site !== null && site !== 'same-origin') throw refused('comes from another site')
  // Hashes have one length, so the comparison tells nothing about the token's.
  if (
    viewer.csrf === '' ||
    given === undefined ||
    !equal(sha256(utf8(given)), sha256(utf8(viewer.csrf)))
  )
    throw refused('does not carry the token of this session')
}

function refused(why: string): VaultMeshError {
  return new VaultMeshError('form-refused', `The form ${why}.`)
}
