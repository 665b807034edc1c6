/**
 * The first 53 bits of a hash as a safe integer: the key under which SQLite finds it.
 *
 * An 8-byte integer key makes an index a third the size of a 32-byte one and twice as fast to fill
 * (measured). It is a hint, never an identity: whoever finds a row compares the whole hash.
 */

/** 53 bits of `bytes` from `at`, big-endian. */
export function hashKey(bytes: Uint8Array, at = 0): number {
  const high = ((bytes[at]! << 13) | (bytes[at + 1]! << 5) | (bytes[at + 2]! >>> 3)) >>> 0
  const low =
    (((bytes[at + 2]! & 7) << 29) |
      (bytes[at + 3]! << 21) |
      (bytes[at + 4]! << 13) |
      (bytes[at + 5]! << 5) |
      (bytes[at + 6]! >>> 3)) >>>
    0
  return high * 0x1_0000_0000 + low
}

/** One past the largest key: 2^53. */
export const HASH_KEYS = 2 ** 53
