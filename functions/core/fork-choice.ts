/**
 * Which of the histories that an origin signed is the canonical one: the tip of a log as a function of what
 * is known of it (design §7). The law itself is conflict.ts.
 *
 * Known are batches, each signed by the log's key and recomputed from its events, and anchor proofs of their
 * roots, each confirmed by this node's own providers. A batch hangs on the root before it, so batches
 * are a tree; a conflict is a node with two children. There the law speaks: every confirmed proof of a root
 * in a child's subtree counts for that child, the first of all of them wins, and the walk goes on below it.
 * Without a confirmed proof, or with one that outranks the winner and could not be confirmed here, the tip
 * stays where all agree.
 *
 * Invariant: the verdict depends on the *sets* of batches and proofs alone, never on the order or number of
 * their arrivals. So nodes that know the same stand on the same tip (a join, like `resolve`).
 */

import { compareProofs, reasoning, resolve, type LawDocument, type Proof } from '#core/conflict.ts'

/** A batch as the tree of histories has it; roots are 64 hex digits. */
export interface BatchNode {
  readonly height: number
  readonly root: string
  readonly previousRoot: string
  readonly treeSize: number
}

/** Why a proof does not count (yet): nobody to ask, or the providers did not confirm it so far. */
export type PendingWhy = 'no_provider' | 'unconfirmed'

/** A proof that verified offline and was not confirmed here. */
export interface PendingProof extends Proof {
  readonly why: PendingWhy
}

/** What is known of a log from `base` on. */
export interface ForkInput {
  readonly law: LawDocument
  /** Where all agree: the newest batch with no rival below or beside it; null before the first. */
  readonly base: BatchNode | null
  /** Root of the tree before any batch: that of the empty tree. */
  readonly emptyRoot: string
  /** Batches above the base, in any order. */
  readonly nodes: readonly BatchNode[]
  readonly proofs: readonly Proof[]
  readonly pending: readonly PendingProof[]
}

/**
 * Proofs that a verdict shows for each rival, best first. The first decides; a history goes on after a fork, so
 * there is no end to the others, and a verdict is stored in one row.
 */
const SHOWN = 4

/** One rival, with what speaks for it. */
export interface Candidate {
  readonly root: string
  readonly treeSize: number
  readonly proofs: readonly Proof[]
  readonly pending: readonly PendingProof[]
}

/** Two or more batches at one height on one history. */
export interface Conflict {
  readonly height: number
  readonly candidates: readonly Candidate[]
  /** Root of the canonical one; null while it is undecided. */
  readonly winner: string | null
  readonly undecided: 'no_final_proof' | PendingWhy | null
  /** The law's reasoning, line by line. */
  readonly lines: readonly string[]
}

/** Where a node stands. */
export interface ForkVerdict {
  /** The canonical tip; null before the first batch. */
  readonly tip: BatchNode | null
  /** The canonical batches above the base, lowest first. */
  readonly path: readonly BatchNode[]
  /** Every conflict on the way, lowest first; the last one may be undecided. */
  readonly conflicts: readonly Conflict[]
}

/** The canonical tip of what is known. */
export function judgeFork(input: ForkInput): ForkVerdict {
  const children = childrenOf(input.nodes)
  const path: BatchNode[] = []
  const conflicts: Conflict[] = []
  let voices: Voices | null = null
  let at = input.base
  for (;;) {
    const rivals = children.get(keyOf((at?.height ?? 0) + 1, at?.root ?? input.emptyRoot)) ?? []
    const [only] = rivals
    if (only === undefined) break
    let next: BatchNode | undefined = only
    if (rivals.length > 1) {
      voices ??= voicesOf(input, children)
      const conflict = judgeConflict(input.law, rivals, voices)
      conflicts.push(conflict)
      next = rivals.find(({ root }) => root === conflict.winner)
      if (next === undefined) break
    }
    path.push(next)
    at = next
  }
  return { tip: at, path, conflicts }
}

type Children = ReadonlyMap<string, readonly BatchNode[]>

/** What speaks for whom, by what hangs on a batch: the best proofs of its root and of all that follow it. */
type Voices = ReadonlyMap<string, Pick<Candidate, 'proofs' | 'pending'>>

function judgeConflict(law: LawDocument, rivals: readonly BatchNode[], voices: Voices): Conflict {
  const candidates = rivals.map(({ height, root, treeSize }): Candidate => ({
    root,
    treeSize,
    ...voices.get(keyOf(height + 1, root))!,
  }))
  const height = rivals[0]!.height
  const all = candidates.flatMap((candidate) => candidate.proofs)
  const best = resolve(law, all)
  const doubts = candidates.flatMap((candidate) => candidate.pending)
  const [doubt] = sortedProofs(law, doubts).filter(
    (proof) => best === null || compareProofs(law, proof, best) < 0,
  )
  const undecided = best === null && doubt === undefined ? 'no_final_proof' : (doubt?.why ?? null)
  const lines = [
    `height ${height}: ${candidates.length} roots signed by the log's key`,
    ...candidates.map(
      (c) =>
        `  ${c.root.slice(0, 16)}… (tree ${c.treeSize}): ${c.proofs.map(nameOf).join(', ') || 'no confirmed proof'}${c.pending.map((p) => `; ${nameOf(p)} ${WHY[p.why]}`).join('')}`,
    ),
    ...reasoning(law, all),
  ]
  if (best === null || undecided !== null) {
    const why = undecided === 'no_final_proof' ? 'no root has a final proof' : doubtText(doubt!)
    lines.push(`undecided: ${why}; the tip stays at height ${height - 1}`)
    return { height, candidates, winner: null, undecided, lines }
  }
  // A proof of a root that both reach (the same leaves, cut into batches otherwise) names the lower one.
  const winner = candidates
    .filter((candidate) => candidate.proofs.some(({ root }) => root === best.root))
    .map(({ root }) => root)
    .toSorted()[0]!
  lines.push(`canonical: ${winner}`)
  return { height, candidates, winner, undecided: null, lines }
}

const WHY: Readonly<Record<PendingWhy, string>> = {
  no_provider: 'that this node has no provider to confirm with',
  unconfirmed: 'that the providers of this node do not confirm yet',
}

function doubtText(proof: PendingProof): string {
  return `${nameOf(proof)} would outrank all others and is one ${WHY[proof.why]}`
}

function nameOf({ chain, network, txHash }: Proof): string {
  return `${chain} ${network} ${txHash.replace(/^0x/, '').slice(0, 12)}…`
}

function sortedProofs<P extends Proof>(law: LawDocument, proofs: readonly P[]): P[] {
  const sorted = proofs.toSorted((a, b) => compareProofs(law, a, b))
  return sorted.filter((p, i) => i === 0 || compareProofs(law, sorted[i - 1]!, p) !== 0)
}

/** Batches by what they hang on; each once, in the order of their roots. */
function childrenOf(nodes: readonly BatchNode[]): Children {
  const children = new Map<string, BatchNode[]>()
  const seen = new Set<string>()
  for (const node of nodes) {
    const key = keyOf(node.height, node.previousRoot)
    const name = `${key} ${node.root}`
    if (seen.has(name)) continue
    seen.add(name)
    const siblings = children.get(key)
    if (siblings === undefined) children.set(key, [node])
    else siblings.push(node)
  }
  for (const siblings of children.values()) siblings.sort((a, b) => (a.root < b.root ? -1 : 1))
  return children
}

function keyOf(height: number, previousRoot: string): string {
  return `${height} ${previousRoot}`
}

/** From the highest batch down, so that each is read once whatever conflicts it is in. */
function voicesOf({ law, nodes, proofs, pending }: ForkInput, children: Children): Voices {
  const own = { proofs: Map.groupBy(proofs, rootOf), pending: Map.groupBy(pending, rootOf) }
  const voices = new Map<string, Pick<Candidate, 'proofs' | 'pending'>>()
  for (const { height, root } of nodes.toSorted((a, b) => b.height - a.height)) {
    const key = keyOf(height + 1, root)
    if (voices.has(key)) continue
    const above = (children.get(key) ?? []).map((c) => voices.get(keyOf(c.height + 1, c.root))!)
    voices.set(key, {
      proofs: bestOf(law, [own.proofs.get(root) ?? [], ...above.map((voice) => voice.proofs)]),
      pending: bestOf(law, [own.pending.get(root) ?? [], ...above.map((voice) => voice.pending)]),
    })
  }
  return voices
}

function bestOf<P extends Proof>(law: LawDocument, lists: readonly (readonly P[])[]): readonly P[] {
  return sortedProofs(law, lists.flat()).slice(0, SHOWN)
}

function rootOf({ root }: Proof): string {
  return root
}
