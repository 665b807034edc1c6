/**
 * Statements of a node: a compact JWS (RFC 7515) of its own `typ` over a JSON object whose `iss` is the
 * signer. Promises and block witnesses are statements; node-keys.ts signs them.
 */

import { fromBase64Url, fromUtf8, utf8 } from '#core/bytes.ts'
import { VaultMeshError } from '#core/errors.ts'
import { Signers } from '#core/signer.ts'
import { parseStrictJson } from '#core/strict-json.ts'

/** The claims of a statement and whose it is. */
export interface Statement {
  /** DID of the key that signed. Whether it is trusted is the caller's to check. */
  readonly did: string
  readonly claims: Readonly<Record<string, unknown>>
}

/**
 * Reads a statement whose signature verifies under the key it names. `name` begins the messages ("The
 * promise"). Throws `bad-jws`, `bad-encoding`, `bad-header`, `bad-did`, `duplicate-key` or `bad-signature`.
 */
export async function verifyStatement(jws: string, typ: string, name: string): Promise<Statement> {
  const parts = jws.split('.')
  if (parts.length !== 3) throw new VaultMeshError('bad-jws', `${name} is not a compact JWS.`)
  const signer = await new Signers(typ).of(parts[0]!)
  if (!(await signer.verify(utf8(`${parts[0]}.${parts[1]}`), fromBase64Url(parts[2]!)))) {
    throw new VaultMeshError('bad-signature', `${name} is not signed by the key it names.`)
  }
  const claims = parseStrictJson(fromUtf8(fromBase64Url(parts[1]!)), { code: 'bad-jws', name })
  if (typeof claims !== 'object' || claims === null || Array.isArray(claims)) {
    throw new VaultMeshError('bad-jws', `${name} is not a JSON object.`)
  }
  const object = claims as Readonly<Record<string, unknown>>
  if (object['iss'] !== signer.did) {
    throw new VaultMeshError('bad-jws', `${name} names another issuer.`)
  }
  return { did: signer.did, claims: object }
}
