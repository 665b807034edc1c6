/**
 * DIDs that may sign: did:key (Ed25519, P-256, secp256k1) and did:pkh on eip155.
 *
 * did:key is multibase base58btc of a multicodec prefix and the public key (W3C CCG did:key §3);
 * did:pkh:eip155:<chain>:<address> is CAIP-10 below a DID (did:pkh §3). A DID URL fragment is
 * accepted only where the method defines it: the identifier itself for did:key.
 * Identity, limits and allow-lists compare `canonical`: addresses in lowercase, the rest as written.
 */

import { keccak_256 } from '@noble/hashes/sha3.js'
import { base58 } from '@scure/base'
import { concat, toHex, utf8 } from '#core/bytes.ts'
import { VaultMeshError } from '#core/errors.ts'

/** A signer as its DID tells it. `key` is the raw public key; an address has none until it signs. */
export type DidKey =
  | {
      readonly kind: 'ed25519'
      readonly did: string
      readonly canonical: string
      readonly key: Uint8Array
    }
  | {
      readonly kind: 'p256'
      readonly did: string
      readonly canonical: string
      readonly key: Uint8Array
    }
  | {
      readonly kind: 'secp256k1'
      readonly did: string
      readonly canonical: string
      readonly key: Uint8Array
    }
  | {
      readonly kind: 'eip155'
      readonly did: string
      readonly canonical: string
      readonly chainId: string
      readonly address: string
    }

/** Multicodec prefixes as unsigned varints: 0xed, 0x1200, 0xe7 (multicodec table). */
const codecs = [
  { kind: 'ed25519', prefix: [0xed, 0x01], size: 32 },
  { kind: 'p256', prefix: [0x80, 0x24], size: 33 },
  { kind: 'secp256k1', prefix: [0xe7, 0x01], size: 33 },
] as const

/** Longest DID URL read; a did:key of 33 bytes with fragment has 113 characters, rounded up. */
const MAX_KID_CHARS = 256

/**
 * The signer that `kid` (a DID or DID URL) names.
 * Throws `bad-did` for any other method, codec, length, checksum or fragment.
 */
export function parseDid(kid: string): DidKey {
  if (kid.length > MAX_KID_CHARS) throw bad(`kid is longer than ${MAX_KID_CHARS} characters.`)
  const hash = kid.indexOf('#')
  const did = hash < 0 ? kid : kid.slice(0, hash)
  const fragment = hash < 0 ? null : kid.slice(hash + 1)
  if (did.startsWith('did:key:z')) return parseDidKey(did, fragment)
  if (did.startsWith('did:pkh:eip155:')) return parseDidPkh(did, fragment)
  throw bad('kid is neither did:key:z… nor did:pkh:eip155:….')
}

/** The did:key of a raw public key. */
export function didKey(kind: 'ed25519' | 'p256' | 'secp256k1', key: Uint8Array): string {
  const codec = codecs.find((c) => c.kind === kind)!
  if (key.length !== codec.size) throw bad(`a ${kind} public key has ${codec.size} bytes.`)
  return 'did:key:z' + base58.encode(concat(Uint8Array.from(codec.prefix), key))
}

/** The DID URL of a did:key's one verification method: `<did>#<identifier>`. */
export function didKeyUrl(did: string): string {
  return `${did}#${did.slice('did:key:'.length)}`
}

/** The EIP-55 form of a lowercase 0x address. */
export function checksumAddress(address: string): string {
  const digits = address.slice(2).toLowerCase()
  const hash = toHex(keccak_256(utf8(digits)))
  let out = '0x'
  for (let i = 0; i < 40; i++)
    out += parseInt(hash[i]!, 16) >= 8 ? digits[i]!.toUpperCase() : digits[i]!
  return out
}

/** `did` as identity, limits and allow-lists compare it: a did:pkh in lowercase, others unchanged. */
export function canonicalDid(did: string): string {
  return did.startsWith('did:pkh:') ? did.toLowerCase() : did
}

function parseDidKey(did: string, fragment: string | null): DidKey {
  const id = did.slice('did:key:'.length)
  if (fragment !== null && fragment !== id)
    throw bad('the fragment of a did:key is its identifier.')
  let bytes: Uint8Array
  try {
    bytes = base58.decode(id.slice(1))
  } catch (cause) {
    throw new VaultMeshError('bad-did', 'The did:key is not base58btc.', { cause })
  }
  for (const { kind, prefix, size } of codecs) {
    if (bytes[0] !== prefix[0] || bytes[1] !== prefix[1]) continue
    if (bytes.length !== 2 + size) throw bad(`a ${kind} did:key holds ${size} key bytes.`)
    return { kind, did, canonical: did, key: bytes.slice(2) }
  }
  throw bad('the did:key is not Ed25519, P-256 or secp256k1.')
}

function parseDidPkh(did: string, fragment: string | null): DidKey {
  if (fragment !== null && fragment !== 'blockchainAccountId') {
    throw bad('the fragment of a did:pkh is blockchainAccountId.')
  }
  const m = /^did:pkh:eip155:([1-9][0-9]{0,31}):(0x[0-9a-fA-F]{40})$/.exec(did)
  if (m === null) throw bad('did:pkh is did:pkh:eip155:<chain id>:<0x address>.')
  const address = m[2]!
  const lower = address.toLowerCase()
  if (address !== lower && address !== checksumAddress(lower)) {
    throw bad('the address is neither lowercase nor valid EIP-55.')
  }
  return { kind: 'eip155', did, canonical: did.toLowerCase(), chainId: m[1]!, address: lower }
}

function bad(why: string): VaultMeshError {
  return new VaultMeshError('bad-did', `The signer is refused: ${why}`)
}
