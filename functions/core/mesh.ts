/**
 * The mesh root: one hash that two nodes compare to know that they stand on the same histories.
 *
 *   leaf data = <origin>\n<height>\n<treeSize>\n<root>\n      mesh root = MTH(sorted leaf data)
 *
 * MTH is RFC 6962 §2.1. Lines are sorted by their UTF-8 bytes and repeats dropped, so the root
 * depends on the set alone. An origin holds no newline, which makes the four lines of a leaf
 * readable in one way only.
 */

import { compareBytes, equal, hashFromHex, utf8, type Hash } from '#core/bytes.ts'
import { VaultMeshError } from '#core/errors.ts'
import { leafHashes, rootOf } from '#core/merkle.ts'

/** Where a node stands in one log. */
export interface MeshEntry {
  readonly origin: string
  /** Batches sealed. */
  readonly height: number
  readonly treeSize: number
  /** 64 lowercase hex digits. */
  readonly root: string
}

/** The root over `entries`, in whatever order and number they come. */
export function meshRoot(entries: readonly MeshEntry[]): Hash {
  const lines = entries.map(lineOf).sort(compareBytes)
  return rootOf(leafHashes(lines.filter((line, i) => i === 0 || !equal(line, lines[i - 1]!))))
}

/** The data of one leaf; throws `bad-encoding` for what would read as something else. */
function lineOf({ origin, height, treeSize, root }: MeshEntry): Uint8Array {
  if (origin === '' || origin.includes('\n') || !origin.isWellFormed()) {
    throw new VaultMeshError('bad-encoding', 'An origin is one line of text.')
  }
  for (const count of [height, treeSize]) {
    if (!Number.isSafeInteger(count) || count < 0) {
      throw new VaultMeshError('bad-encoding', `${count} is neither a height nor a tree size.`)
    }
  }
  hashFromHex(root)
  // -0 is written 0, like the 0 it equals.
  return utf8(`${origin}\n${height}\n${treeSize}\n${root}\n`)
}
