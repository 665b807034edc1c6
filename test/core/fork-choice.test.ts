/**
 * Where a node stands among the histories that an origin signed: the law in sentences, and what must hold of it
 * for any tree of batches and any proofs.
 */

import * as fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import type { Chain } from '#core/anchor-receipt.ts'
import {
  compareProofs,
  DEFAULT_ORDER,
  lawDocument,
  resolve,
  TIE_BREAKERS,
  type LawDocument,
  type Proof,
} from '#core/conflict.ts'
import {
  judgeFork,
  type BatchNode,
  type ForkInput,
  type ForkVerdict,
  type PendingProof,
} from '#core/fork-choice.ts'

const RUNS = { numRuns: 1500 }

/** 64 hex digits that begin with `head`. */
const hash = (head: string): string => head.padEnd(64, '0')
const EMPTY = hash('e')
const lawOf = (order: readonly Chain[]): LawDocument =>
  lawDocument({ order, tieBreakers: TIE_BREAKERS, btcDepth: 7, tsaRootSha256: [] })
const law = lawOf(DEFAULT_ORDER)

/** Batches that hang on one another, from the empty tree or from `on` on. */
function chain(roots: readonly string[], on: BatchNode | null = null): BatchNode[] {
  const nodes: BatchNode[] = []
  let last = on
  for (const head of roots) {
    const node: BatchNode = {
      height: (last?.height ?? 0) + 1,
      root: hash(head),
      previousRoot: last?.root ?? EMPTY,
      treeSize: (last?.treeSize ?? 0) + 10,
    }
    nodes.push(node)
    last = node
  }
  return nodes
}

const NETWORKS: Readonly<Record<Chain, string>> = {
  BTC: 'mainnet',
  EVM: 'base',
  TSA: 'freetsa.org',
}

/** A proof of the root that begins with `head`. */
function proofOf(head: string, tier: Chain, changed: Partial<Proof> = {}): Proof {
  return {
    chain: tier,
    network: NETWORKS[tier],
    anchoredAt: 1_764_000_000_000,
    txHash: hash('77'),
    root: hash(head),
    treeSize: 10,
    ...changed,
  }
}

const pendingOf = (proof: Proof, why: PendingProof['why'] = 'unconfirmed'): PendingProof => ({
  ...proof,
  why,
})

function judge(known: Partial<ForkInput>): ForkVerdict {
  return judgeFork({
    law,
    base: null,
    emptyRoot: EMPTY,
    nodes: [],
    proofs: [],
    pending: [],
    ...known,
  })
}

/** The first digits of the tip, `-` before the first batch. */
const tipOf = ({ tip }: ForkVerdict): string => (tip === null ? '-' : tip.root.replace(/0+$/, ''))
const undecided = ({ conflicts }: ForkVerdict): string | null => conflicts.at(-1)?.undecided ?? null

const [a1, a2, a3] = chain(['a1', 'a2', 'a3']) as [BatchNode, BatchNode, BatchNode]
const [b2, b3] = chain(['b2', 'b3'], a1) as [BatchNode, BatchNode]
const [c2] = chain(['c2'], a1) as [BatchNode]
const fork = [a1, a2, a3, b2, b3]

describe('the tip', () => {
  test('there is none before the first batch', () => {
    expect(judge({})).toEqual({ tip: null, path: [], conflicts: [] })
    expect(judge({ proofs: [proofOf('a1', 'BTC')] }).tip).toBeNull()
  })

  test('without a conflict the tip advances with no anchor', () => {
    expect(judge({ nodes: [a3, a1, a2] })).toEqual({ tip: a3, path: [a1, a2, a3], conflicts: [] })
  })

  test('a gap stops it until what is missing is here', () => {
    expect(tipOf(judge({ nodes: [a1, a3] }))).toBe('a1')
    expect(tipOf(judge({ nodes: [a2, a3] }))).toBe('-')
    expect(tipOf(judge({ nodes: [a1, a2, a3] }))).toBe('a3')
  })

  test('begins at the base, and what does not hang on it never counts', () => {
    expect(judge({ base: a2, nodes: [a3] })).toEqual({ tip: a3, path: [a3], conflicts: [] })
    expect(judge({ base: a2, nodes: fork })).toMatchObject({ tip: a3, conflicts: [] })
    expect(judge({ base: a2, nodes: [b3] })).toEqual({ tip: a2, path: [], conflicts: [] })
  })

  test('a batch whose height does not follow its parent is no child of it', () => {
    for (const height of [0, 1, 3, 4]) {
      expect(tipOf(judge({ nodes: [a1, { ...a2, height }] }))).toBe('a1')
    }
  })

  test('in conflict with no final proof the tip holds at the last common height', () => {
    const verdict = judge({ nodes: fork })
    expect(verdict.tip).toEqual(a1)
    expect(verdict.path).toEqual([a1])
    expect(verdict.conflicts).toMatchObject([
      {
        height: 2,
        winner: null,
        undecided: 'no_final_proof',
        candidates: [
          { root: hash('a2'), treeSize: 20, proofs: [], pending: [] },
          { root: hash('b2'), treeSize: 20, proofs: [], pending: [] },
        ],
      },
    ])
  })

  test('two rival first batches leave a log without a tip, or at its base', () => {
    const rivals = [...chain(['a1', 'a2']), ...chain(['b1'])]
    expect(judge({ nodes: rivals })).toMatchObject({ tip: null, path: [] })
    const above = [...chain(['a4'], a3), ...chain(['b4', 'b5'], a3)]
    expect(judge({ base: a3, nodes: above })).toMatchObject({ tip: a3, path: [] })
  })
})

describe('a conflict', () => {
  test('is decided by a final proof of one of them, however long the other is', () => {
    expect(tipOf(judge({ nodes: fork, proofs: [proofOf('b2', 'TSA')] }))).toBe('b3')
    const long = [...fork, ...chain(['b4', 'b5', 'b6'], b3)]
    expect(tipOf(judge({ nodes: long, proofs: [proofOf('a2', 'TSA')] }))).toBe('a3')
  })

  test('is decided by tier, then time, then transaction hash', () => {
    const btc = proofOf('a2', 'BTC')
    const evm = proofOf('b2', 'EVM', { anchoredAt: 1 })
    expect(tipOf(judge({ nodes: fork, proofs: [btc, evm] }))).toBe('a3')
    const sooner = proofOf('b3', 'BTC', { anchoredAt: 1_763_999_999_999 })
    expect(tipOf(judge({ nodes: fork, proofs: [btc, evm, sooner] }))).toBe('b3')
    const lower = proofOf('a3', 'BTC', { anchoredAt: 1_763_999_999_999, txHash: hash('76') })
    expect(tipOf(judge({ nodes: fork, proofs: [btc, evm, sooner, lower] }))).toBe('a3')
  })

  test('one transaction for both rivals names the lower root', () => {
    const proofs = [proofOf('b2', 'BTC'), proofOf('a2', 'BTC')]
    expect(tipOf(judge({ nodes: fork, proofs }))).toBe('a3')
    expect(
      tipOf(judge({ nodes: fork, proofs: [proofOf('a3', 'BTC'), proofOf('a2', 'BTC')] })),
    ).toBe('a3')
  })

  test('is decided by the law that the node follows', () => {
    const proofs = [proofOf('a2', 'BTC'), proofOf('b2', 'TSA')]
    expect(tipOf(judge({ nodes: fork, proofs }))).toBe('a3')
    expect(tipOf(judge({ law: lawOf(['TSA', 'EVM', 'BTC']), nodes: fork, proofs }))).toBe('b3')
  })

  test('a dev network decides only where nothing else is', () => {
    const dev = proofOf('a2', 'BTC', { network: 'regtest', anchoredAt: 1 })
    expect(tipOf(judge({ nodes: fork, proofs: [dev] }))).toBe('a3')
    expect(tipOf(judge({ nodes: fork, proofs: [dev, proofOf('b2', 'TSA')] }))).toBe('b3')
  })

  test('an anchor of a later root counts for every height of its branch', () => {
    const long = [...fork, ...chain(['b4', 'b5', 'b6'], b3)]
    const verdict = judge({
      nodes: long,
      proofs: [proofOf('a2', 'EVM'), proofOf('b6', 'BTC')],
    })
    expect(tipOf(verdict)).toBe('b6')
    expect(verdict.conflicts).toMatchObject([{ height: 2, winner: hash('b2') }])
  })

  test('an anchor of an earlier root, of one that nobody signed or of the base speaks for nobody', () => {
    const proofs = [proofOf('a1', 'BTC'), proofOf('99', 'BTC')]
    const verdict = judge({ nodes: fork, proofs, pending: proofs.map((p) => pendingOf(p)) })
    expect(undecided(verdict)).toBe('no_final_proof')
    expect(tipOf(judge({ base: a1, nodes: fork, proofs }))).toBe('a1')
  })

  test('orphans never count: neither as rivals nor by their proofs', () => {
    const [, lost] = chain(['d2', 'd3'], a1) as [BatchNode, BatchNode]
    expect(judge({ nodes: [a1, a2, a3, lost] })).toEqual(judge({ nodes: [a1, a2, a3] }))
    const proofs = [proofOf('d3', 'BTC'), proofOf('b2', 'TSA')]
    const verdict = judge({ nodes: [...fork, lost], proofs, pending: [pendingOf(proofs[0]!)] })
    expect(tipOf(verdict)).toBe('b3')
    // Once its parent is here, it is a third history.
    const whole = judge({ nodes: [...fork, ...chain(['d2', 'd3'], a1)], proofs })
    expect(tipOf(whole)).toBe('d3')
    expect(whole.conflicts.at(0)!.candidates).toHaveLength(3)
  })

  test('a batch that is given twice is one', () => {
    expect(judge({ nodes: [a1, a1, a2, { ...a2 }, a2] })).toEqual(judge({ nodes: [a1, a2] }))
    const proof = proofOf('b2', 'EVM')
    expect(judge({ nodes: [...fork, ...fork], proofs: [proof, { ...proof }] })).toEqual(
      judge({ nodes: fork, proofs: [proof] }),
    )
  })

  test('of three is decided among the three', () => {
    const nodes = [...fork, c2]
    const proofs = [proofOf('a3', 'TSA'), proofOf('b3', 'EVM'), proofOf('c2', 'BTC')]
    expect(tipOf(judge({ nodes, proofs }))).toBe('c2')
    expect(tipOf(judge({ nodes, proofs: proofs.slice(0, 2) }))).toBe('b3')
    expect(tipOf(judge({ nodes, proofs: proofs.slice(0, 1) }))).toBe('a3')
    expect(tipOf(judge({ nodes }))).toBe('a1')
  })
})

describe('the law speaks at the first divergent height', () => {
  /** a2 has two children, a3 and d3; a3 has two, a4 and f4. */
  const [d3] = chain(['d3'], a2) as [BatchNode]
  const [a4] = chain(['a4'], a3) as [BatchNode]
  const [f4] = chain(['f4'], a3) as [BatchNode]
  const nested = [...fork, d3, a4, f4]

  test('all proofs of a subtree count for its first batch; below it only its own', () => {
    const proofs = [
      proofOf('a4', 'TSA'),
      proofOf('f4', 'EVM', { anchoredAt: 2 }),
      proofOf('d3', 'EVM', { anchoredAt: 3 }),
      proofOf('b2', 'EVM', { anchoredAt: 4 }),
    ]
    const verdict = judge({ nodes: nested, proofs })
    expect(tipOf(verdict)).toBe('f4')
    expect(verdict.path.map(({ root }) => root)).toEqual(['a1', 'a2', 'a3', 'f4'].map(hash))
    expect(
      verdict.conflicts.map((c) => [c.height, c.winner, c.candidates.map((x) => x.proofs.length)]),
    ).toEqual([
      [2, hash('a2'), [3, 1]],
      [3, hash('a3'), [2, 1]],
      [4, hash('f4'), [1, 1]],
    ])
  })

  test('who loses there stays lost, whatever is anchored deeper in it', () => {
    // b2 is worse than d3 and better than all of a3's: a3 is never asked.
    const proofs = [
      proofOf('d3', 'BTC'),
      proofOf('b2', 'EVM'),
      ...['a3', 'a4', 'f4'].map((head) => proofOf(head, 'TSA')),
    ]
    expect(tipOf(judge({ nodes: nested, proofs }))).toBe('d3')
    expect(tipOf(judge({ nodes: nested, proofs: proofs.slice(1) }))).toBe('b3')
  })

  test('a conflict without a proof inside the winner holds the tip there', () => {
    const verdict = judge({ nodes: nested, proofs: [proofOf('a2', 'BTC'), proofOf('b2', 'EVM')] })
    expect(tipOf(verdict)).toBe('a2')
    expect(verdict.conflicts.map(({ height, undecided: why }) => [height, why])).toEqual([
      [2, null],
      [3, 'no_final_proof'],
    ])
  })

  test('a conflict inside the loser is none', () => {
    const verdict = judge({ nodes: nested, proofs: [proofOf('b2', 'BTC')] })
    expect(tipOf(verdict)).toBe('b3')
    expect(verdict.conflicts).toHaveLength(1)
  })

  test('a doubt deeper down holds the tip only at the heights that it could change', () => {
    const proofs = [proofOf('a4', 'EVM', { anchoredAt: 2 }), proofOf('b3', 'TSA')]
    // f4 and d3 could outrank a4, and both speak for a2.
    const doubt = pendingOf(proofOf('f4', 'EVM', { anchoredAt: 3 }))
    expect(tipOf(judge({ nodes: nested, proofs, pending: [doubt] }))).toBe('a4')
  })
})

describe('a proof that is not confirmed here', () => {
  const evm = proofOf('b2', 'EVM')
  const better = pendingOf(proofOf('a3', 'BTC'), 'no_provider')

  test.each(['no_provider', 'unconfirmed'] as const)(
    'holds the tip if it outranks all that are: %s',
    (why) => {
      const verdict = judge({ nodes: fork, proofs: [evm], pending: [{ ...better, why }] })
      expect(tipOf(verdict)).toBe('a1')
      expect(verdict.conflicts).toMatchObject([{ height: 2, winner: null, undecided: why }])
    },
  )

  test('holds it although it is the only one', () => {
    expect(undecided(judge({ nodes: fork, pending: [better] }))).toBe('no_provider')
  })

  test('does not if it would lose anyway', () => {
    const worse = [
      pendingOf(proofOf('a3', 'TSA')),
      pendingOf(proofOf('a3', 'EVM', { anchoredAt: 1_764_000_000_001 }), 'no_provider'),
      pendingOf(proofOf('a3', 'BTC', { network: 'regtest' })),
    ]
    const verdict = judge({ nodes: fork, proofs: [evm], pending: worse })
    expect(tipOf(verdict)).toBe('b3')
    expect(verdict.conflicts.at(0)!.candidates.at(0)!.pending).toHaveLength(3)
  })

  test('holds nothing where there is no conflict', () => {
    expect(tipOf(judge({ nodes: [a1, a2, a3], pending: [better] }))).toBe('a3')
  })

  test('confirmed, it decides; refuted, the others do', () => {
    const confirmed = proofOf('a3', 'BTC')
    expect(tipOf(judge({ nodes: fork, proofs: [evm, confirmed] }))).toBe('a3')
    expect(tipOf(judge({ nodes: fork, proofs: [evm] }))).toBe('b3')
  })

  test('that is confirmed by another way holds nothing', () => {
    const verdict = judge({ nodes: fork, proofs: [evm], pending: [pendingOf(evm)] })
    expect(tipOf(verdict)).toBe('b3')
  })

  test('is the highest of several in what is said', () => {
    const pending = [
      pendingOf(proofOf('a2', 'TSA'), 'unconfirmed'),
      { ...better, root: hash('b2') },
    ]
    for (const order of [pending, pending.toReversed()]) {
      const [conflict] = judge({ nodes: fork, pending: order }).conflicts
      expect(conflict!.undecided).toBe('no_provider')
      expect(conflict!.lines.at(-1)).toContain('BTC mainnet')
    }
  })
})

describe('one tree, cut into batches in two ways', () => {
  // p1 and q1 are the same leaves up to 10 and 12; both go on to r with 20, and s hangs on r.
  const node = (height: number, root: string, previous: string, treeSize: number): BatchNode => ({
    height,
    root: hash(root),
    previousRoot: previous === '' ? EMPTY : hash(previous),
    treeSize,
  })
  const p1 = node(1, 'a', '', 10)
  const q1 = node(1, 'b', '', 12)
  const cuts = [p1, q1, node(2, 'd', 'a', 20), node(2, 'd', 'b', 20)]

  test('is a conflict, and a proof of the common root names the lower', () => {
    const verdict = judge({ nodes: cuts, proofs: [proofOf('d', 'BTC')] })
    expect(verdict.conflicts).toMatchObject([{ height: 1, winner: hash('a') }])
    expect(verdict.path).toEqual([p1, cuts[2]])
    // The proof speaks for both, and both have it.
    expect(verdict.conflicts.at(0)!.candidates.map((c) => c.proofs.length)).toEqual([1, 1])
  })

  test('a proof of one of the cuts names it', () => {
    const proofs = [proofOf('d', 'BTC'), proofOf('b', 'BTC', { anchoredAt: 1 })]
    expect(judge({ nodes: cuts, proofs }).path).toEqual([q1, cuts[3]])
  })

  test('is as well decided if one of them needs more batches', () => {
    const longer = [p1, q1, node(2, 'd', 'a', 20), node(2, 'c', 'b', 15), node(3, 'd', 'c', 20)]
    expect(judge({ nodes: longer, proofs: [proofOf('d', 'TSA')] }).path).toEqual([p1, longer[2]])
    expect(judge({ nodes: longer, proofs: [proofOf('c', 'TSA')] }).path).toEqual([
      q1,
      longer[3],
      longer[4],
    ])
  })
})

describe('the reasoning', () => {
  test('names the rivals, what speaks for each and why one is first', () => {
    const [conflict] = judge({
      nodes: fork,
      proofs: [proofOf('b3', 'EVM', { txHash: `0x${hash('44')}` }), proofOf('a2', 'TSA')],
      pending: [pendingOf(proofOf('a3', 'BTC', { network: 'regtest' }), 'no_provider')],
    }).conflicts
    expect(conflict!.lines).toEqual([
      "height 2: 2 roots signed by the log's key",
      '  a200000000000000… (tree 20): TSA freetsa.org 770000000000…; BTC regtest 770000000000… that this node has no provider to confirm with',
      '  b200000000000000… (tree 20): EVM base 440000000000…',
      'EVM base 0x44000000… before TSA freetsa.org 77000000…: tier EVM > TSA',
      `canonical: ${hash('b2')}`,
    ])
  })

  test('says what it waits for', () => {
    const last = (known: Partial<ForkInput>): string | undefined =>
      judge({ nodes: fork, ...known })
        .conflicts.at(0)!
        .lines.at(-1)
    expect(last({})).toBe('undecided: no root has a final proof; the tip stays at height 1')
    expect(last({ pending: [pendingOf(proofOf('a2', 'BTC'))] })).toBe(
      'undecided: BTC mainnet 770000000000… would outrank all others and is one that the providers of this node do not confirm yet; the tip stays at height 1',
    )
  })
})

// ── for any tree and any proofs ────────────────────────────────────────────────────────────────

/** Few roots, so that rivals, orphans and common roots are all frequent. */
const ROOTS = ['a', 'b', 'c', 'd', '1', '2', '3'].map(hash)
const anyRoot = fc.constantFrom(...ROOTS)
const sizeOf = (root: string, height: number): number => ROOTS.indexOf(root) + 10 * height
const anyNode: fc.Arbitrary<BatchNode> = fc
  .record({
    height: fc.integer({ min: 1, max: 4 }),
    root: anyRoot,
    previousRoot: fc.oneof({ weight: 2, arbitrary: anyRoot }, fc.constant(EMPTY)),
  })
  .map((node) => ({ ...node, treeSize: sizeOf(node.root, node.height) }))
/** Trees: each batch hangs on one of those before it. */
const grown: fc.Arbitrary<readonly BatchNode[]> = fc
  .array(fc.tuple(fc.nat(), anyRoot), { maxLength: 14 })
  .map((steps) => {
    const nodes: BatchNode[] = []
    for (const [pick, root] of steps) {
      const parent = pick % 3 === 0 ? nodes.at(-1) : nodes[pick % (nodes.length + 1)]
      const height = (parent?.height ?? 0) + 1
      nodes.push({
        height,
        root,
        previousRoot: parent?.root ?? EMPTY,
        treeSize: sizeOf(root, height),
      })
    }
    return nodes
  })
const anyNodes = fc.oneof(
  { weight: 3, arbitrary: grown },
  fc.tuple(grown, fc.array(anyNode, { maxLength: 8 })).map(([tree, more]) => [...tree, ...more]),
)
const anyProof: fc.Arbitrary<Proof> = fc.constantFrom<Chain>('BTC', 'EVM', 'TSA').chain((tier) =>
  fc.record({
    chain: fc.constant(tier),
    network: fc.constantFrom(NETWORKS[tier], NETWORKS[tier], tier === 'TSA' ? 'tsa.test' : 'dev'),
    anchoredAt: fc.constantFrom(null, 1, 2, 3),
    txHash: fc.constantFrom(hash('55'), hash('66')),
    root: anyRoot,
    treeSize: fc.constant(1),
  }),
)
const anyProofs = fc.array(anyProof, { maxLength: 6 })
/** A proof is pending for one reason. */
const anyPending: fc.Arbitrary<readonly PendingProof[]> = anyProofs.map((proofs) =>
  proofs.map((proof) => pendingOf(proof, proof.anchoredAt === 2 ? 'no_provider' : 'unconfirmed')),
)
const anyLaw = fc.constantFrom(law, lawOf(['TSA', 'BTC', 'EVM']))
const anyInput: fc.Arbitrary<ForkInput> = fc.record({
  law: anyLaw,
  base: fc.constant(null),
  emptyRoot: fc.constant(EMPTY),
  nodes: anyNodes,
  proofs: anyProofs,
  pending: fc.oneof({ weight: 2, arbitrary: fc.constant([]) }, anyPending),
})

const idOf = ({ height, root, previousRoot }: BatchNode): string =>
  `${height} ${root} ${previousRoot}`

/** The same law said in another way: histories are listed whole, and thinned out height by height. */
function standOf({ law: of, nodes, proofs, pending, emptyRoot }: ForkInput): readonly string[] {
  const unique = [...new Map(nodes.map((node) => [idOf(node), node])).values()]
  const histories: BatchNode[][] = [[]]
  for (let i = 0; i < histories.length; i++) {
    const history = histories[i]!
    const root = history.at(-1)?.root ?? emptyRoot
    for (const node of unique) {
      if (node.height === history.length + 1 && node.previousRoot === root) {
        histories.push([...history, node])
      }
    }
  }
  let left = histories
  for (let at = 0; ; at++) {
    left = left.filter((history) => history.length > at)
    const rivals = [...new Set(left.map((history) => history[at]!.root))].sort()
    if (rivals.length === 0) return pathOf(histories, at)
    let [winner] = rivals
    if (rivals.length > 1) {
      const of2 = (root: string): Set<string> =>
        new Set(
          left
            .filter((history) => history[at]!.root === root)
            .flatMap((history) => history.slice(at).map((node) => node.root)),
        )
      const all = new Set(rivals.flatMap((root) => [...of2(root)]))
      const best = resolve(
        of,
        proofs.filter(({ root }) => all.has(root)),
      )
      const isDoubtful = pending.some(
        (p) => all.has(p.root) && (best === null || compareProofs(of, p, best) < 0),
      )
      if (best === null || isDoubtful) return pathOf(left, at)
      winner = rivals.find((root) => of2(root).has(best.root))
    }
    left = left.filter((history) => history[at]!.root === winner)
    if (!left.some((history) => history.length > at + 1)) return pathOf(left, at + 1)
  }
}

const pathOf = (histories: readonly BatchNode[][], length: number): readonly string[] =>
  (histories.find((history) => history.length >= length) ?? []).slice(0, length).map(idOf)

const shuffledTwice = <T>(items: readonly T[]): fc.Arbitrary<T[]> =>
  fc
    .tuple(
      fc.shuffledSubarray([...items], { minLength: items.length }),
      fc.shuffledSubarray([...items]),
    )
    .map(([all, some]) => [...some, ...all])

describe('for any tree and any proofs', () => {
  test('the verdict is that of the law said in another way', () => {
    let decided = 0
    let held = 0
    fc.assert(
      fc.property(anyInput, (input) => {
        const verdict = judgeFork(input)
        expect(verdict.path.map(idOf)).toEqual(standOf(input))
        if (verdict.conflicts.some(({ winner }) => winner !== null)) decided++
        if (undecided(verdict) !== null) held++
      }),
      { numRuns: 4000 },
    )
    // Else the trees would say nothing.
    expect(decided).toBeGreaterThan(500)
    expect(held).toBeGreaterThan(500)
  })

  test('it depends on the sets alone: order and repeats of batches and proofs do not matter', () => {
    const pair = anyInput.chain((input) =>
      fc.tuple(
        fc.constant(input),
        fc.record({
          law: fc.constant(input.law),
          base: fc.constant(input.base),
          emptyRoot: fc.constant(input.emptyRoot),
          nodes: shuffledTwice(input.nodes),
          proofs: shuffledTwice(input.proofs),
          pending: shuffledTwice(input.pending),
        }),
      ),
    )
    fc.assert(
      fc.property(pair, ([one, other]) => {
        const before = structuredClone(other)
        expect(judgeFork(other)).toEqual(judgeFork(one))
        expect(other).toEqual(before)
      }),
      RUNS,
    )
  })

  test('the path leads from the base to the tip, one height at a time', () => {
    fc.assert(
      fc.property(anyInput, (input) => {
        const { tip, path, conflicts } = judgeFork(input)
        let root = EMPTY
        for (const [i, node] of path.entries()) {
          expect(node).toMatchObject({ height: i + 1, previousRoot: root })
          root = node.root
        }
        expect(tip).toBe(path.at(-1) ?? null)
        for (const [i, conflict] of conflicts.entries()) {
          const isLast = i === conflicts.length - 1
          expect(conflict.candidates.length).toBeGreaterThan(1)
          expect((conflict.winner === null) === (conflict.undecided !== null)).toBe(true)
          if (conflict.winner === null) {
            expect([isLast, conflict.height]).toEqual([true, (tip?.height ?? 0) + 1])
          } else expect(path[conflict.height - 1]!.root).toBe(conflict.winner)
          if (!isLast) expect(conflict.height).toBeLessThan(conflicts[i + 1]!.height)
        }
      }),
      RUNS,
    )
  })

  test('judged on from any canonical batch, the tip is the same', () => {
    fc.assert(
      fc.property(anyInput, (input) => {
        const whole = judgeFork(input)
        for (const [i, base] of whole.path.entries()) {
          const rest = judgeFork({ ...input, base })
          expect(rest).toEqual({
            tip: whole.tip,
            path: whole.path.slice(i + 1),
            conflicts: whole.conflicts.filter(({ height }) => height > base.height),
          })
          // What a node keeps once all agree: only what is above.
          const above = input.nodes.filter(({ height }) => height > base.height)
          const roots = new Set(above.map(({ root }) => root))
          const short = judgeFork({
            ...input,
            base,
            nodes: above,
            proofs: input.proofs.filter(({ root }) => roots.has(root)),
            pending: input.pending.filter(({ root }) => roots.has(root)),
          })
          expect(short).toEqual(rest)
        }
      }),
      RUNS,
    )
  })

  test('a batch that hangs on nothing known changes nothing, nor do proofs of it', () => {
    fc.assert(
      fc.property(anyInput, anyNode, anyProof, (input, node, proof) => {
        const orphan = { ...node, root: hash('f1'), previousRoot: hash('f0') }
        const of = { ...proof, root: orphan.root }
        expect(
          judgeFork({
            ...input,
            nodes: [...input.nodes, orphan],
            proofs: [...input.proofs, of],
            pending: [...input.pending, pendingOf(of)],
          }),
        ).toEqual(judgeFork(input))
      }),
      RUNS,
    )
  })

  test('a new batch takes the tip back only as far as it hangs on the path', () => {
    fc.assert(
      fc.property(anyInput, anyNode, (input, node) => {
        // Without proofs nothing moves sideways.
        const bare = { ...input, proofs: [], pending: [] }
        const before = judgeFork(bare).path.map(idOf)
        const after = judgeFork({ ...bare, nodes: [...bare.nodes, node] }).path.map(idOf)
        const shorter = Math.min(before.length, after.length)
        expect(after.slice(0, shorter)).toEqual(before.slice(0, shorter))
        expect(after.length).toBeGreaterThanOrEqual(Math.min(before.length, node.height - 1))
      }),
      RUNS,
    )
  })

  test('one more confirmed proof never leaves undecided what was decided first', () => {
    fc.assert(
      fc.property(anyInput, anyProof, (input, proof) => {
        const [before] = judgeFork(input).conflicts
        const [after] = judgeFork({ ...input, proofs: [...input.proofs, proof] }).conflicts
        expect(after?.height).toBe(before?.height)
        if (before !== undefined && before.winner !== null) expect(after!.winner).not.toBeNull()
      }),
      RUNS,
    )
  })

  test('a confirmed proof that ranks behind all others moves the tip forward at most', () => {
    fc.assert(
      fc.property(anyInput, anyRoot, (input, root) => {
        const last = {
          ...proofOf('', input.law.order[2]!),
          network: 'tsa.test',
          anchoredAt: null,
          txHash: hash('ff'),
          root,
        }
        const before = judgeFork(input).path.map(idOf)
        const after = judgeFork({ ...input, proofs: [...input.proofs, last] }).path.map(idOf)
        expect(after.slice(0, before.length)).toEqual(before)
      }),
      RUNS,
    )
  })

  test('what the providers refute only ever frees a tip', () => {
    fc.assert(
      fc.property(anyInput, anyPending, (input, more) => {
        const [held] = judgeFork({ ...input, pending: [...input.pending, ...more] }).conflicts
        const [free] = judgeFork(input).conflicts
        expect(free?.height).toBe(held?.height)
        if (held !== undefined && held.winner !== null) expect(free!.winner).toBe(held.winner)
      }),
      RUNS,
    )
  })

  test('who confirms everything waits for nothing but a proof', () => {
    fc.assert(
      fc.property(anyInput, (input) => {
        const { conflicts } = judgeFork({
          ...input,
          proofs: [...input.proofs, ...input.pending],
          pending: [],
        })
        for (const conflict of conflicts) {
          expect([null, 'no_final_proof']).toContain(conflict.undecided)
          const known = conflict.candidates.some(({ proofs }) => proofs.length > 0)
          expect(conflict.winner !== null).toBe(known)
        }
      }),
      RUNS,
    )
  })

  test('a winner is named by the proof that the law names', () => {
    fc.assert(
      fc.property(anyInput, (input) => {
        for (const { candidates, winner } of judgeFork(input).conflicts) {
          const best = resolve(
            input.law,
            candidates.flatMap(({ proofs }) => proofs),
          )
          if (winner === null) continue
          const mine = candidates.find(({ root }) => root === winner)!
          expect(compareProofs(input.law, mine.proofs[0]!, best!)).toBe(0)
        }
      }),
      RUNS,
    )
  })

  test('nothing that has the types throws, and junk never moves a tip by its order', () => {
    const text = fc.oneof(anyRoot, fc.constantFrom('', ' ', '\n', '__proto__', EMPTY, '~'))
    const node: fc.Arbitrary<BatchNode> = fc.record({
      height: fc.oneof(
        fc.integer({ min: -1, max: 4 }),
        fc.constantFrom(0.5, -0, Number.MIN_SAFE_INTEGER, Number.MAX_SAFE_INTEGER),
      ),
      root: text,
      previousRoot: text,
      treeSize: fc.constant(0),
    })
    const proof: fc.Arbitrary<Proof> = fc.record({
      chain: fc.constantFrom<Chain>('BTC', 'EVM', 'TSA'),
      network: fc.constantFrom('mainnet', '', '__proto__', '\n'),
      anchoredAt: fc.constantFrom(null, Number.NaN, Number.POSITIVE_INFINITY, -1, 1),
      txHash: fc.constantFrom('', '0x', `0x${hash('AA')}`, hash('aa'), '\u{1f600}'),
      root: text,
      treeSize: fc.constantFrom(0, Number.NaN, -1),
    })
    const input = fc.record({
      law: anyLaw,
      base: fc.oneof(fc.constant(null), node),
      emptyRoot: text,
      nodes: fc.array(node, { maxLength: 12 }),
      proofs: fc.array(proof, { maxLength: 6 }),
      pending: fc.array(
        proof.map((p) => pendingOf(p)),
        { maxLength: 4 },
      ),
    })
    fc.assert(
      fc.property(input, (any) => {
        const verdict = judgeFork(any)
        const other = judgeFork({
          ...any,
          nodes: any.nodes.toReversed(),
          proofs: any.proofs.toReversed(),
          pending: any.pending.toReversed(),
        })
        expect(other.path.map(idOf)).toEqual(verdict.path.map(idOf))
        expect(other.conflicts.map(({ winner }) => winner)).toEqual(
          verdict.conflicts.map(({ winner }) => winner),
        )
      }),
      RUNS,
    )
  })

  test('a thousand batches above the base, each with a rival, are walked', () => {
    const verdict = judge(forkedAt(1000))
    expect(verdict.tip).toMatchObject({ height: 1000, root: hash('a03e8') })
    expect(verdict.conflicts).toHaveLength(999)
  })

  test('what is said of a conflict has an end, however many proofs speak in it', () => {
    const heads = Array.from({ length: 200 }, (_, i) => `a${1000 + i}`)
    const proofs = heads.map((head, i) => proofOf(head, 'TSA', { anchoredAt: 1 + i }))
    const { conflicts, tip } = judge({ nodes: [...chain(heads), ...chain(['b1'])], proofs })
    expect(tip!.height).toBe(200)
    expect(JSON.stringify(conflicts).length).toBeLessThan(5000)
  })
})

/** A log whose every batch but the first has a rival and a proof. */
function forkedAt(heights: number): { nodes: BatchNode[]; proofs: Proof[] } {
  const nodes = chain(['a1'])
  const proofs: Proof[] = []
  let on = nodes[0]!
  for (let height = 2; height <= heights; height++) {
    const digits = height.toString(16).padStart(4, '0')
    const [next] = chain([`a${digits}`], on) as [BatchNode]
    nodes.push(next, ...chain([`b${digits}`], on))
    proofs.push(proofOf(`a${digits}`, 'EVM', { anchoredAt: height }))
    on = next
  }
  return { nodes, proofs }
}
