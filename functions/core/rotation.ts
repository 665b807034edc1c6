/**
 * kid rotation (design §7): which keys speak for a node, and when. A key statement is a JWS
 * `vm-rotation+jws` that adds the key of the next epoch and may end the key that signed it.
 *
 * A did:key node is its own epoch 1; the first statement is epoch 2. A did:pkh node speaks through
 * did:keys only: its statement of epoch 1 is a delegation, signed by the address (EIP191).
 * Times are whole seconds, iat ≤ nbf ≤ end: old and new key overlap or meet, so there is no gap.
 *
 * A key that was given an end signs no further statement, not even in the overlap. Nobody can see when a
 * statement was really signed, so whoever finds a retired key could date a statement back; as it is, such
 * a key can only contradict the epoch that is known, which is a conflict and no takeover.
 */

import * as z from 'zod'
import { fromBase64Url, fromUtf8, toBase64Url, utf8 } from '#core/bytes.ts'
import { parseDid, type DidKey } from '#core/did.ts'
import { VaultMeshError } from '#core/errors.ts'
import type { IdentityKey } from '#core/node-keys.ts'
import { parseHeader, Signers } from '#core/signer.ts'
import { parseStrictJson } from '#core/strict-json.ts'

/** `typ` of a key statement. */
export const ROTATION_TYP = 'vm-rotation+jws'
/** Most statements of one node: a rotation each month for five years; verified in 60 ms (measured). */
export const MAX_STATEMENTS = 64
/** Longest statement; one of Ed25519 keys has about 550 (measured). */
export const MAX_STATEMENT_BYTES = 4096

/** What a statement says. */
export interface RotationClaims {
  /** The node's stable name: did:key of identity/1, or the did:pkh that delegated. */
  readonly iss: string
  /** did:key (Ed25519) of the identity key that the statement adds. */
  readonly key: string
  /** The added key is that of identity/<epoch>. */
  readonly epoch: number
  /** Seconds from which the added key is valid. */
  readonly nbf: number
  /** Seconds from which the signing key is no longer valid; null sets no end. Null in a delegation. */
  readonly end: number | null
  /** Seconds at which it was signed. */
  readonly iat: number
}

/** A key of a node and the seconds `[nbf, end)` in which it speaks for it. */
export interface KeyPeriod {
  readonly epoch: number
  readonly did: string
  readonly nbf: number
  readonly end: number | null
}

/** Every key that a node ever had, by epoch. */
export interface KeyHistory {
  /** Canonical (core/did.ts). */
  readonly nodeDid: string
  readonly keys: readonly KeyPeriod[]
  /** The statements that prove it, one an epoch, in their order. */
  readonly statements: readonly string[]
}

/** Statements of both sides, or the two that contradict each other. */
export interface MergedStatements {
  readonly statements: readonly string[]
  /** The first epoch of which there are two valid statements: `a` is mine, `b` theirs. */
  readonly conflict: null | { readonly epoch: number; readonly a: string; readonly b: string }
}

/** End of the year 9999. Milliseconds in place of seconds are beyond it. */
const MAX_SECONDS = Date.UTC(10_000, 0) / 1000 - 1
const seconds = z.int().min(0).max(MAX_SECONDS)
const claimsSchema = z.strictObject({
  iss: z.string(),
  key: z.string(),
  epoch: z.int().min(1),
  nbf: seconds,
  end: seconds.nullable(),
  iat: seconds,
})

/**
 * The ASCII signing input of a statement, for wallets and other signers elsewhere; the statement is
 * `<input>.<base64url of the signature>`. Throws `bad-rotation` or `bad-did` for claims that no verifier
 * takes.
 */
export function rotationInput(
  claims: RotationClaims,
  kid: string,
  alg: 'EdDSA' | 'EIP191',
): string {
  const { iss, key, epoch, nbf, end, iat } = claimsOf(claims)
  const header = { alg, kid, typ: ROTATION_TYP }
  return [header, { iss, key, epoch, nbf, end, iat }]
    .map((part) => toBase64Url(utf8(JSON.stringify(part))))
    .join('.')
}

/** The statement `claims`, signed by `key`, an older key of the node. */
export async function signRotation(key: IdentityKey, claims: RotationClaims): Promise<string> {
  const input = rotationInput(claims, key.kid, 'EdDSA')
  return `${input}.${toBase64Url(await key.sign(utf8(input)))}`
}

/**
 * The keys of `nodeDid` as its statements prove them; their order and repeats do not matter. Throws
 * `bad-rotation`, `bad-jws`, `bad-encoding`, `bad-header`, `bad-did`, `duplicate-key` or `bad-signature`,
 * with a detail that names the statement. A did:pkh without a delegation has no keys.
 */
export async function verifyStatements(
  nodeDid: string,
  statements: readonly string[],
): Promise<KeyHistory> {
  return (await readChain(nodeDid, statements)).history
}

/**
 * The union of two chains of which one extends the other. Two valid statements of one epoch that differ
 * are a key conflict: it is returned as evidence, and mine stay as they are. Throws what
 * `verifyStatements` throws, for either side.
 */
export async function mergeStatements(
  nodeDid: string,
  mine: readonly string[],
  theirs: readonly string[],
): Promise<MergedStatements> {
  const ours = await readChain(nodeDid, mine)
  const other = await readChain(nodeDid, theirs)
  const statements: string[] = []
  for (let i = 0; i < Math.max(ours.links.length, other.links.length); i++) {
    const a = ours.links[i]
    const b = other.links[i]
    if (a !== undefined && b !== undefined && meaning(a) !== meaning(b)) {
      const conflict = { epoch: a.claims.epoch, a: a.text, b: b.text }
      return { statements: ours.history.statements, conflict }
    }
    // Of two spellings of one statement all nodes keep the same, whichever came first.
    statements.push([a, b].flatMap((link) => link?.text ?? []).sort()[0]!)
  }
  return { statements, conflict: null }
}

/** True if `keyDid` speaks for the node at `at` (epoch ms). A did:pkh never does, only its did:keys. */
export function isValidKey(history: KeyHistory, keyDid: string, at: number): boolean {
  return history.keys.some((key) => key.did === keyDid && isWithin(key, at))
}

/** True if `keyDid` spoke for the node at any time: enough for what was sealed long ago. */
export function wasEverKey(history: KeyHistory, keyDid: string): boolean {
  return history.keys.some((key) => key.did === keyDid)
}

/** The newest key that is valid at `at` (epoch ms), or null if none is. */
export function currentKey(history: KeyHistory, at: number): KeyPeriod | null {
  return history.keys.findLast((key) => isWithin(key, at)) ?? null
}

function isWithin({ nbf, end }: KeyPeriod, at: number): boolean {
  return nbf * 1000 <= at && (end === null || at < end * 1000)
}

/** A statement that was read but not verified. */
interface Link {
  readonly text: string
  readonly claims: RotationClaims
  readonly signer: DidKey
}

async function readChain(
  nodeDid: string,
  statements: readonly string[],
): Promise<{ readonly links: readonly Link[]; readonly history: KeyHistory }> {
  const node = nodeOf(nodeDid)
  const texts = [...new Set(statements)]
  if (texts.length > MAX_STATEMENTS) {
    throw bad(`A node has at most ${MAX_STATEMENTS} key statements`, { limit: MAX_STATEMENTS })
  }
  const sorted = texts
    .map((text, i) => naming(`Key statement ${i + 1} of ${texts.length}`, () => open(text)))
    .sort((a, b) => a.claims.epoch - b.claims.epoch || (a.text < b.text ? -1 : 1))
  const signers = new Signers(ROTATION_TYP)
  const links: Link[] = []
  let keys: readonly KeyPeriod[] =
    node.kind === 'ed25519' ? [{ epoch: 1, did: node.did, nbf: 0, end: null }] : []
  for (const link of sorted) {
    const last = links.at(-1)
    if (last === undefined || last.claims.epoch !== link.claims.epoch) {
      keys = extend(node, keys, link)
      links.push(link)
    } else if (meaning(last) !== meaning(link)) {
      throw badLink(link, 'there is another one of this epoch, which differs')
    }
    await verifyLink(signers, link)
  }
  const history = { nodeDid: node.canonical, keys, statements: links.map((link) => link.text) }
  return { links, history }
}

/** The keys with the one that `link` adds. Throws `bad-rotation` if its signer may not add it. */
function extend(node: DidKey, keys: readonly KeyPeriod[], link: Link): readonly KeyPeriod[] {
  const { iss, key, epoch, nbf, end, iat } = link.claims
  if (parseDid(iss).canonical !== node.canonical) throw badLink(link, 'it is of another node')
  if (epoch <= keys.length) throw badLink(link, 'epoch 1 of a did:key is the node itself')
  if (epoch !== keys.length + 1) throw badLink(link, `that of epoch ${keys.length + 1} is missing`)
  if (keys.some(({ did }) => did === key)) throw badLink(link, 'its key had an epoch before')
  const added = { epoch, did: key, nbf, end: null }
  const newest = keys.at(-1)
  if (newest === undefined) {
    if (link.signer.canonical !== node.canonical)
      throw badLink(link, 'a delegation is signed by the address that delegates')
    if (end !== null) throw badLink(link, 'a delegation ends no key, so "end" is null')
    return [added]
  }
  const older = keys.find(({ did }) => did === link.signer.did)
  if (older === undefined) throw badLink(link, 'it is signed by no older key of the node')
  if (older.end !== null) throw badLink(link, 'it is signed by a key that has its end')
  if (iat < older.nbf) throw badLink(link, 'it is signed by a key that was not valid yet')
  if (nbf < newest.nbf) throw badLink(link, `it begins before epoch ${newest.epoch}`)
  return [...keys.map((k) => (k === older ? { ...k, end } : k)), added]
}

async function verifyLink(signers: Signers, { text, claims }: Link): Promise<void> {
  const [header, payload, signature] = text.split('.') as [string, string, string]
  const name = `The statement of epoch ${claims.epoch}`
  const signer = await signers.of(header).catch((error: unknown) => {
    throw named(name, error)
  })
  const bytes = naming(name, () => fromBase64Url(signature))
  if (!(await signer.verify(utf8(`${header}.${payload}`), bytes))) {
    throw new VaultMeshError('bad-signature', `${name} is not signed by the key it names.`)
  }
}

const SUBJECT = { code: 'bad-rotation', name: 'The payload' } as const

function open(text: string): Link {
  if (text.length > MAX_STATEMENT_BYTES) {
    throw bad(`It has more than ${MAX_STATEMENT_BYTES} bytes`, { limit: MAX_STATEMENT_BYTES })
  }
  const parts = text.split('.')
  if (parts.length !== 3) throw new VaultMeshError('bad-jws', 'It is not a compact JWS.')
  const signer = parseDid(parseHeader(parts[0]!, ROTATION_TYP).kid)
  const claims = parseStrictJson(fromUtf8(fromBase64Url(parts[1]!)), SUBJECT)
  return { text, signer, claims: claimsOf(claims) }
}

function claimsOf(value: unknown): RotationClaims {
  const parsed = claimsSchema.safeParse(value)
  if (!parsed.success) {
    const { path, message } = parsed.error.issues[0]!
    throw bad(path.length === 0 ? message : `"${path.join('.')}": ${message}`)
  }
  const claims = parsed.data
  if (claims.nbf < claims.iat) throw bad('"nbf" is before "iat"')
  if (claims.end !== null && claims.end < claims.nbf) throw bad('"end" is before "nbf"')
  nodeOf(claims.iss)
  if (parseDid(claims.key).kind !== 'ed25519' || claims.key.includes('#'))
    throw bad('"key" is no did:key of an Ed25519 key')
  return claims
}

/** Somebody who can be a node. Throws `bad-did` or `bad-rotation`. */
function nodeOf(did: string): DidKey {
  const node = parseDid(did)
  if ((node.kind !== 'ed25519' && node.kind !== 'eip155') || did.includes('#'))
    throw bad('A node is a did:key of an Ed25519 key, or a did:pkh')
  return node
}

/** What two statements have in common that say the same, whoever's signature is spelt how. */
function meaning({ claims, signer }: Link): string {
  const { key, epoch, nbf, end, iat } = claims
  return JSON.stringify([signer.canonical, key, epoch, nbf, end, iat])
}

function naming<T>(name: string, run: () => T): T {
  try {
    return run()
  } catch (error) {
    throw named(name, error)
  }
}

function named(name: string, error: unknown): unknown {
  if (!(error instanceof VaultMeshError)) return error
  const { code, message, extra } = error
  return new VaultMeshError(code, `${name}: ${message}`, { cause: error, extra })
}

function badLink({ claims }: Link, why: string): VaultMeshError {
  return bad(`The statement of epoch ${claims.epoch} is refused: ${why}`)
}

function bad(why: string, extra: Readonly<Record<string, number>> = {}): VaultMeshError {
  return new VaultMeshError('bad-rotation', `${why}.`, { extra })
}
