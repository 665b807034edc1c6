/**
 * The ledger over real SQL: whatever arrives in whatever order, and whatever fails under way, a log's tip is what
 * `judgeFork` says of all that is known of it, and its canonical rows lead there.
 */

import { DatabaseSync } from 'node:sqlite'
import * as fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import type { AnchorReceipt, Chain } from '#core/anchor-receipt.ts'
import { toHex } from '#core/bytes.ts'
import { DEFAULT_ORDER, lawDocument, TIE_BREAKERS, type Proof } from '#core/conflict.ts'
import { VaultMeshError } from '#core/errors.ts'
import { judgeFork, type BatchNode, type ForkVerdict } from '#core/fork-choice.ts'
import { emptyRoot } from '#core/merkle.ts'
import { appendPeaks, noPeaks } from '#core/peaks.ts'
import {
  Ledger,
  LEDGER_SCHEMA,
  SHOWN_RIVALS,
  type LogState,
  type ProofState,
  type StoredBatch,
} from '../../durable-objects/ledger.ts'
import type { SignedBatch } from '../../functions/remembrancer.ts'
import { SqlStorageSim } from '../sim/sqlite.ts'

/** What the Ledger needs of the platform, whose own types and those of Node exclude each other. */
declare global {
  type SqlStorageValue = ArrayBuffer | string | number | null
  interface SqlStorage {
    exec<T>(query: string, ...binds: unknown[]): { toArray(): T[] }
  }
  interface DurableObjectStorage {
    readonly sql: SqlStorage
    transactionSync<T>(body: () => T): T
  }
}

const ORIGIN = 'a.example/log'
const OTHER = 'b.example/log'
const PEER = 'did:key:zPeer'
const NOW = 1_764_000_000_000
const EMPTY = toHex(emptyRoot)
const law = lawDocument({
  order: DEFAULT_ORDER,
  tieBreakers: TIE_BREAKERS,
  btcDepth: 7,
  tsaRootSha256: [],
})

/** 64 hex digits that begin with `head`. */
const hash = (head: string): string => head.padEnd(64, '0')

/** A disk, and the ledger that lives on it just now. */
class House {
  readonly db = new DatabaseSync(':memory:')
  /** Counts down; the statement or transaction at 0 breaks. */
  breaks: { at: number; how: 'fail' | 'lost' } | null = null
  /** Statements inside transactions, counted down: the one at 0 throws and the transaction rolls back. */
  breaksInside: number | null = null
  ledger = this.#open()

  constructor() {
    for (const origin of [ORIGIN, OTHER]) {
      this.ledger.follow({ origin, did: PEER, vkey: `${origin}+key`, isOwn: origin === OTHER })
    }
  }

  #open(): Ledger {
    const sim = new SqlStorageSim(
      this.db,
      (_step, effect) => {
        const { breaks } = this
        if (breaks === null || breaks.at-- > 0) return effect()
        this.breaks = null
        if (breaks.how === 'lost') effect()
        // The platform resets an object whose storage failed.
        this.ledger = this.#open()
        throw new Broken(breaks.how)
      },
      { get: () => null, set: () => undefined },
    )
    let depth = 0
    const storage = {
      sql: {
        exec: (query: string, ...binds: unknown[]) => {
          if (depth > 0 && this.breaksInside !== null && this.breaksInside-- === 0) {
            this.breaksInside = null
            throw new Broken('inside')
          }
          return sim.sql.exec(query, ...binds)
        },
      },
      transactionSync: <T>(body: () => T): T => {
        depth++
        try {
          return sim.transactionSync(body)
        } finally {
          depth--
        }
      },
    } as unknown as DurableObjectStorage
    this.db.exec(LEDGER_SCHEMA)
    return new Ledger(storage)
  }

  get log(): LogState {
    return this.ledger.log(ORIGIN)!
  }

  stored({ height, root }: BatchNode): StoredBatch {
    return this.ledger.batch(ORIGIN, height, root)!
  }

  /** Learns batches, has them verified in this order, and judges. */
  add(...nodes: readonly BatchNode[]): LogState {
    for (const node of nodes) {
      this.ledger.learnBatch(batchOf(node), PEER, NOW)
      this.ledger.verified(this.stored(node))
    }
    return this.judge()
  }

  judge(nowAt = NOW): LogState {
    return this.ledger.judge(ORIGIN, law, nowAt).after
  }

  /** Learns a proof that the providers say this of; `unasked` is nothing. */
  prove(proof: Proof, said: ProofState = 'confirmed'): void {
    this.ledger.learnProof(ORIGIN, receiptOf(proof), NOW)
    if (said !== 'unasked') this.say(proof, said)
  }

  say(proof: Proof, said: ProofState): void {
    const stored = this.ledger
      .proofsOf(ORIGIN, proof.chain, 0, 1000)
      .find((p) => nameOf(p) === nameOf(proof))
    if (stored !== undefined) this.ledger.saidOf(stored, said, NOW)
  }

  rows(query: string): Record<string, unknown>[] {
    return this.db.prepare(query).all()
  }

  canonical(origin = ORIGIN): string[] {
    return this.ledger.canonicalFrom(origin, 1, 1000).map(({ root }) => root)
  }

  /** Heads of the roots and tx hashes in the feed, in its order. */
  fed(): string[] {
    const { items, more } = this.ledger.feedPage(0)
    expect(more).toBe(false)
    return items.map((item) =>
      item.type === 'batch' ? item.manifest : `proof of ${item.receipt.root.slice(2)}`,
    )
  }
}

class Broken extends Error {}

/** The least that a signed batch is; its JWS and note are stored and passed on as they are. */
function batchOf(node: BatchNode, changed: Partial<SignedBatch['manifest']> = {}): SignedBatch {
  const { height, root, previousRoot, treeSize } = node
  return {
    manifest: {
      origin: ORIGIN,
      height,
      firstIndex: treeSize - 10,
      count: 10,
      treeSize,
      root,
      previousRoot,
      batchRoot: hash('bb'),
      sealedAt: NOW,
      sealer: PEER,
      ...changed,
    },
    manifestJws: `${height} ${root} on ${previousRoot}`,
    checkpoint: `note of ${root}`,
  }
}

function receiptOf(proof: Proof): AnchorReceipt {
  const { chain, network, txHash, root, treeSize, anchoredAt } = proof
  return {
    root: `0x${root}`,
    chain,
    network,
    txHash,
    blockNumber: 1,
    anchorTs: new Date(anchoredAt!).toISOString(),
    verifier: 'v1',
    status: 'verified',
    treeSize,
    observedAt: new Date(NOW).toISOString(),
    finality: { observedDepth: 7, requiredDepth: 7, state: 'final' },
    proof: { type: 'any', bytes: 'f'.repeat(100) },
    group: [txHash],
  }
}

const NETWORKS: Readonly<Record<Chain, string>> = {
  BTC: 'mainnet',
  EVM: 'base',
  TSA: 'freetsa.org',
}

function proofOf(head: string, chain: Chain, changed: Partial<Proof> = {}): Proof {
  return {
    chain,
    network: NETWORKS[chain],
    anchoredAt: NOW,
    txHash: hash('77'),
    root: hash(head),
    treeSize: 10,
    ...changed,
  }
}

const nameOf = ({ root, chain, network, txHash }: Proof): string =>
  `${root} ${chain} ${network} ${txHash}`

/** Batches that hang on one another. */
function batches(heads: readonly string[], on: BatchNode | null = null): BatchNode[] {
  const nodes: BatchNode[] = []
  let last = on
  for (const head of heads) {
    const node = {
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

const line = batches(['a1', 'a2', 'a3', 'a4']) as [BatchNode, BatchNode, BatchNode, BatchNode]
const [a1, a2, a3, a4] = line
const [b2, b3] = batches(['b2', 'b3'], a1) as [BatchNode, BatchNode]
const [c4] = batches(['c4'], a3) as [BatchNode]

/** What the tables must say of themselves at any moment, judged or not. */
function expectConsistent(house: House): void {
  const { tipHeight, tipRoot, tipSize, commonHeight } = house.log
  const rows = house.rows(
    `SELECT c.height, c.root, b.previous_root AS previous, b.tree_size AS size, b.state FROM canonical c
     LEFT JOIN batches b ON b.origin = c.origin AND b.height = c.height AND b.root = c.root
     WHERE c.origin = '${ORIGIN}' ORDER BY c.height`,
  )
  expect(rows.map(({ height }) => height)).toEqual(
    Array.from({ length: tipHeight }, (_, i) => i + 1),
  )
  let root = EMPTY
  for (const row of rows) {
    expect(row).toMatchObject({ state: 'verified', previous: root })
    root = row['root'] as string
  }
  expect([tipRoot, tipSize]).toEqual([root, rows.at(-1)?.['size'] ?? 0])
  expect(commonHeight).toBeLessThanOrEqual(tipHeight)
  // Fed is what is verified, once.
  const fed = house.rows("SELECT ref FROM feed WHERE type = 'batch' ORDER BY ref")
  const verified = house.rows("SELECT id AS ref FROM batches WHERE state = 'verified' ORDER BY id")
  expect(fed).toEqual(verified)
}

/** The law over everything that the tables hold, from the beginning. */
function lawOver(house: House): ForkVerdict {
  const nodes = house
    .rows(`SELECT * FROM batches WHERE origin = '${ORIGIN}' AND state = 'verified'`)
    .map((row) => ({
      height: row['height'] as number,
      root: row['root'] as string,
      previousRoot: row['previous_root'] as string,
      treeSize: row['tree_size'] as number,
    }))
  const proofs = (['BTC', 'EVM', 'TSA'] as const).flatMap((tier) =>
    house.ledger.proofsOf(ORIGIN, tier, 0, 1000),
  )
  return judgeFork({
    law,
    base: null,
    emptyRoot: EMPTY,
    nodes,
    proofs: proofs.filter(({ state }) => state === 'confirmed'),
    pending: proofs
      .filter(({ state }) => state !== 'confirmed')
      .map((proof) => ({
        ...proof,
        why: proof.state === 'no_provider' ? 'no_provider' : 'unconfirmed',
      })),
  })
}

/** The log stands where the law over everything says. */
function expectJudged(house: House): void {
  const { tip, path, conflicts } = lawOver(house)
  const { log } = house
  expect([log.tipHeight, log.tipRoot, log.tipSize]).toEqual([
    tip?.height ?? 0,
    tip?.root ?? EMPTY,
    tip?.treeSize ?? 0,
  ])
  expect(house.canonical()).toEqual(path.map(({ root }) => root))
  expect(log.commonHeight).toBe(conflicts.length === 0 ? path.length : conflicts[0]!.height - 1)
  expect(log.conflicts.map(({ lines }) => lines)).toEqual(conflicts.map(({ lines }) => lines))
  expectConsistent(house)
}

describe('a log', () => {
  test('begins with no batch, and keeps the key that it was first known with', () => {
    const { ledger, log } = new House()
    expect(log).toEqual({
      origin: ORIGIN,
      did: PEER,
      vkey: `${ORIGIN}+key`,
      isOwn: false,
      commonHeight: 0,
      tipHeight: 0,
      tipRoot: EMPTY,
      tipSize: 0,
      tipAt: null,
      conflicts: [],
    })
    expect(ledger.follow({ ...log, did: 'did:key:zOther' })).toEqual(log)
    expect(() => ledger.follow({ ...log, vkey: 'another' })).toThrow(VaultMeshError)
    expect(ledger.logs().map(({ origin }) => origin)).toEqual([ORIGIN, OTHER])
    expect(ledger.log('c.example/log')).toBeNull()
  })

  test('is judged only if it is known', () => {
    const { ledger } = new House()
    expect(() => ledger.judge('c.example/log', law, NOW)).toThrow(/c\.example/)
  })

  test('is not touched by what is known of another', () => {
    const house = new House()
    house.add(a1, a2)
    house.ledger.learnOwn(batchOf(a1, { origin: OTHER, root: hash('f1') }), NOW)
    house.ledger.judge(OTHER, law, NOW)
    expect(house.canonical()).toEqual([a1.root, a2.root])
    expect(house.canonical(OTHER)).toEqual([hash('f1')])
  })
})

describe('the tip', () => {
  test('follows verified batches, whichever came first', () => {
    const house = new House()
    for (const node of [a3, a1, a2]) house.ledger.learnBatch(batchOf(node), PEER, NOW)
    expect(house.judge().tipHeight).toBe(0)
    for (const node of [a1, a2]) house.ledger.verified(house.stored(node))
    expect(house.judge(NOW + 5)).toMatchObject({ tipHeight: 2, tipRoot: a2.root, tipAt: NOW + 5 })
    expect(house.log.commonHeight).toBe(2)
    house.ledger.verified(house.stored(a3))
    // Not before it is judged.
    expect(house.log.tipHeight).toBe(2)
    expect(house.judge(NOW + 9)).toMatchObject({ tipHeight: 3, tipSize: 30, tipAt: NOW + 9 })
    expect(house.judge(NOW + 11).tipAt).toBe(NOW + 9)
    expectJudged(house)
  })

  test('says where it stood and where it stands', () => {
    const house = new House()
    house.add(a1)
    house.ledger.learnBatch(batchOf(a2), PEER, NOW)
    house.ledger.verified(house.stored(a2))
    const { before, after } = house.ledger.judge(ORIGIN, law, NOW)
    expect([before.tipHeight, after.tipHeight]).toEqual([1, 2])
    expect(after).toEqual(house.log)
  })

  test.each([
    ['at the common height', [b2], [a1, a2], 1],
    ['below it', [b2], line, 1],
    ['at the first height', batches(['c1']), line, 0],
    ['right above it: then nothing is lowered', [c4], [a1, a2, a3], 3],
  ])('a rival %s takes it back to where all agree', (_where, rivals, known, common) => {
    const house = new House()
    house.add(...known)
    const { commonHeight } = house.log
    house.add(...rivals)
    if (rivals[0]!.height <= commonHeight) {
      expect(house.log.commonHeight).toBe(common)
      expect(house.log.tipHeight).toBe(common)
    }
    expectJudged(house)
  })

  test('a rival is felt when it is judged; until then the rows are those of the old tip', () => {
    const house = new House()
    house.add(...line)
    house.ledger.learnBatch(batchOf(b2), PEER, NOW)
    house.ledger.verified(house.stored(b2))
    expect(house.log).toMatchObject({ commonHeight: 1, tipHeight: 4, tipRoot: a4.root })
    expectConsistent(house)
    expect(house.judge()).toMatchObject({ commonHeight: 1, tipHeight: 1, tipRoot: a1.root })
    expectJudged(house)
  })

  test('moves to another branch and back as proofs are confirmed, and the rows with it', () => {
    const house = new House()
    house.add(...line, b2, b3)
    house.prove(proofOf('b3', 'TSA'))
    expect(house.judge()).toMatchObject({ tipHeight: 3, tipRoot: b3.root, commonHeight: 1 })
    expect(house.canonical()).toEqual([a1, b2, b3].map(({ root }) => root))
    expect(house.judge(NOW + 5).tipAt).toBe(NOW)
    house.prove(proofOf('a4', 'EVM'))
    expect(house.judge()).toMatchObject({ tipHeight: 4, tipRoot: a4.root, commonHeight: 1 })
    expect(house.canonical()).toEqual(line.map(({ root }) => root))
    expectJudged(house)
  })

  test('a conflict within a conflict is judged from the first on', () => {
    const house = new House()
    house.add(...line, b2, c4)
    house.prove(proofOf('a3', 'EVM'))
    expect(house.judge()).toMatchObject({ tipRoot: a3.root, commonHeight: 1 })
    expect(house.log.conflicts.map(({ height, winner }) => [height, winner])).toEqual([
      [2, a2.root],
      [4, null],
    ])
    house.prove(proofOf('c4', 'TSA'))
    expect(house.judge().tipRoot).toBe(c4.root)
    expectJudged(house)
  })

  test('a proof that a provider would have to confirm holds it, one that is refuted does not', () => {
    const house = new House()
    house.add(...line, b2)
    house.prove(proofOf('b2', 'TSA'))
    const doubt = proofOf('a2', 'BTC')
    for (const [said, root, undecided] of [
      ['unasked', a1.root, 'unconfirmed'],
      ['no_provider', a1.root, 'no_provider'],
      ['unconfirmed', a1.root, 'unconfirmed'],
      ['refuted', b2.root, null],
    ] as const) {
      house.prove(doubt, said)
      expect(house.judge().tipRoot).toBe(root)
      expect(house.log.conflicts.at(-1)!.undecided).toBe(undecided)
      expectJudged(house)
    }
  })
})

describe('what does not count', () => {
  test('a pending batch moves nothing, however well it is proven', () => {
    const house = new House()
    house.add(a1, a2)
    house.ledger.learnBatch(batchOf(b2), PEER, NOW)
    house.prove(proofOf('b2', 'BTC'))
    expect(house.judge()).toMatchObject({ tipRoot: a2.root, conflicts: [] })
    expect(house.ledger.pending(ORIGIN, NOW, 10).map(({ root }) => root)).toEqual([b2.root])
    expect(house.ledger.countPending(ORIGIN)).toBe(1)
  })

  test('a quarantined one neither, until it is released and recomputed', () => {
    const house = new House()
    house.add(a1, a2)
    house.ledger.learnBatch(batchOf(b2), PEER, NOW)
    house.ledger.quarantine(house.stored(b2), 'leads elsewhere', NOW + 900)
    expect(house.judge()).toMatchObject({ tipRoot: a2.root, conflicts: [] })
    expect(house.ledger.pending(ORIGIN, NOW, 10)).toEqual([])
    expect(house.ledger.quarantined()).toMatchObject([
      { root: b2.root, reason: 'leads elsewhere', until: NOW + 900, state: 'quarantined' },
    ])
    expect(house.ledger.quarantineOver(NOW + 899)).toEqual([])
    expect(house.ledger.quarantineOver(NOW + 900).map(({ root }) => root)).toEqual([b2.root])
    // Only it is released, and only once.
    expect(house.ledger.release(ORIGIN, 2, a2.root)).toBe(false)
    expect(house.ledger.release(ORIGIN, 2, b2.root)).toBe(true)
    expect(house.ledger.release(ORIGIN, 2, b2.root)).toBe(false)
    expect(house.stored(b2)).toMatchObject({ state: 'pending', parts: 0, seen: 0, until: null })
    house.ledger.verified(house.stored(b2))
    expect(house.judge()).toMatchObject({ tipRoot: a1.root, commonHeight: 1 })
    expectJudged(house)
  })

  test('a verified batch cannot be quarantined or postponed', () => {
    const house = new House()
    house.add(a1, a2)
    house.ledger.quarantine(house.stored(a2), 'late', NOW)
    house.ledger.postpone(house.stored(a2), 'late', NOW + 9)
    expect(house.stored(a2)).toMatchObject({ state: 'verified', reason: null, tries: 0 })
  })

  test('a batch whose source had not its events is asked for again later, from the beginning', () => {
    const house = new House()
    house.ledger.learnBatch(batchOf(a1), PEER, NOW)
    const peaks = appendPeaks(noPeaks, new Uint8Array(96))
    house.ledger.saveProgress(house.stored(a1), {
      parts: 1,
      log: peaks,
      own: peaks,
      from: PEER,
      nowAt: NOW,
    })
    expect(house.stored(a1)).toMatchObject({ parts: 1, seen: 3 })
    expect(house.ledger.progress(house.stored(a1))).toEqual({ log: peaks, own: peaks })
    house.ledger.postpone(house.stored(a1), 'not there', NOW + 1000)
    expect(house.stored(a1)).toMatchObject({ parts: 0, seen: 0, tries: 1, reason: 'not there' })
    expect(house.ledger.progress(house.stored(a1))).toBeNull()
    expect(house.ledger.pending(ORIGIN, NOW + 999, 10)).toEqual([])
    expect(house.ledger.pending(ORIGIN, NOW + 1000, 10)).toHaveLength(1)
  })

  test('a batch hangs on what is verified, or on nothing if it is the first', () => {
    const house = new House()
    for (const node of [a1, a2]) house.ledger.learnBatch(batchOf(node), PEER, NOW)
    expect(house.ledger.parentOf(house.stored(a1))).toBe('genesis')
    expect(house.ledger.parentOf(house.stored(a2))).toBeNull()
    house.ledger.verified(house.stored(a1))
    expect(house.ledger.parentOf(house.stored(a2))).toMatchObject({ root: a1.root })
    const [stray] = batches(['d1']) as [BatchNode]
    house.ledger.learnBatch(batchOf({ ...stray, previousRoot: a1.root }), PEER, NOW)
    expect(house.ledger.parentOf(house.stored(stray))).toBeNull()
  })

  test('of a root that is time-stamped again and again the 64 earliest are kept', () => {
    const house = new House()
    house.add(a1)
    const stamp = (i: number): boolean =>
      house.ledger.learnProof(
        ORIGIN,
        receiptOf(
          proofOf('a1', 'TSA', { anchoredAt: NOW + i, txHash: hash(`${i}`.padStart(4, '0')) }),
        ),
        NOW,
      )
    for (let i = 100; i < 164; i++) expect(stamp(i)).toBe(true)
    expect(stamp(200)).toBe(false)
    expect(stamp(50)).toBe(true)
    const kept = house.ledger.proofsOf(ORIGIN, 'TSA', 0, 100).map(({ anchoredAt }) => anchoredAt!)
    expect(kept.toSorted((a, b) => a - b)).toEqual([
      NOW + 50,
      ...Array.from({ length: 63 }, (_, i) => NOW + 100 + i),
    ])
    // The feed has no row of one that gave way, so that no page of it is empty before its end.
    const rows = house.db.prepare("SELECT count(*) AS n FROM feed WHERE type = 'proof'").get()
    expect(rows).toEqual({ n: 64 })
    // Another chain's have room of their own.
    expect(house.ledger.learnProof(ORIGIN, receiptOf(proofOf('a1', 'BTC')), NOW)).toBe(true)
  })

  test('a proof that is known is not learned again', () => {
    const house = new House()
    const receipt = receiptOf(proofOf('a1', 'BTC'))
    expect(house.ledger.learnProof(ORIGIN, receipt, NOW)).toBe(true)
    expect(house.ledger.learnProof(ORIGIN, receipt, NOW)).toBe(false)
    expect(house.ledger.learnProof(ORIGIN, { ...receipt, observedAt: 'later' }, NOW)).toBe(false)
    expect(house.ledger.learnProof(OTHER, receipt, NOW)).toBe(true)
    expect(house.ledger.proofsOf(ORIGIN, 'BTC', 0, 10)).toMatchObject([
      { root: a1.root, anchoredAt: NOW, state: 'unasked', tries: 0 },
    ])
    expect(house.ledger.proofsOf(ORIGIN, 'EVM', 0, 10)).toEqual([])
  })
})

describe('rivals', () => {
  test(`all of one height are judged, and ${SHOWN_RIVALS} of them told of, the canonical one first`, () => {
    const house = new House()
    house.add(a1)
    const rivals = Array.from(
      { length: SHOWN_RIVALS + 4 },
      (_, i) => batches([`b${100 + i}`], a1)[0]!,
    )
    house.add(...rivals)
    expect(house.log.conflicts.at(0)!.candidates).toHaveLength(SHOWN_RIVALS)
    const last = rivals.at(-1)!
    house.prove(proofOf('', 'TSA', { root: last.root }))
    expect(house.judge().tipRoot).toBe(last.root)
    const { candidates, winner, lines } = house.log.conflicts.at(0)!
    expect([candidates[0]!.root, winner]).toEqual([last.root, last.root])
    expect(lines.length).toBeLessThanOrEqual(2 * SHOWN_RIVALS + 2)
    expect(lines.at(-1)).toBe(`canonical: ${last.root}`)
  })

  test('a batch that is known is not learned again, and keeps its source', () => {
    const house = new House()
    expect(house.ledger.learnBatch(batchOf(a1), PEER, NOW)).toBe(true)
    expect(house.ledger.learnBatch(batchOf(a1), 'did:key:zOther', NOW + 1)).toBe(false)
    expect(house.stored(a1)).toMatchObject({ source: PEER, learnedAt: NOW, state: 'pending' })
  })

  test('an own batch that came back from a peer first is verified by being our own', () => {
    const house = new House()
    house.ledger.learnBatch(batchOf(a1), PEER, NOW)
    house.ledger.learnOwn(batchOf(a1), NOW)
    house.ledger.learnOwn(batchOf(a1), NOW)
    expect(house.judge().tipRoot).toBe(a1.root)
    expect(house.fed()).toEqual([batchOf(a1).manifestJws])
    expectJudged(house)
  })

  test('an own batch half of which was mirrored has its peaks in the tiles', () => {
    const house = new House()
    house.ledger.learnBatch(batchOf(a1), PEER, NOW)
    const half = appendPeaks(noPeaks, new Uint8Array(96))
    house.ledger.saveProgress(house.stored(a1), {
      parts: 1,
      log: half,
      own: half,
      from: PEER,
      nowAt: NOW,
    })
    house.ledger.learnOwn(batchOf(a1), NOW)
    // Those of three leaves would be refused for a tree of ten.
    expect(house.ledger.peaksAfter(house.stored(a1))).toBeNull()
  })

  test('what the log signed is known by root and size, counted or not', () => {
    const { ledger } = new House()
    ledger.learnBatch(batchOf(a3), PEER, NOW)
    expect(ledger.hasRoot(ORIGIN, a3.root, 30)).toBe(true)
    expect(ledger.hasRoot(ORIGIN, a3.root, 31)).toBe(false)
    expect(ledger.hasRoot(ORIGIN, a2.root, 20)).toBe(false)
    expect(ledger.hasRoot(OTHER, a3.root, 30)).toBe(false)
    expect([0, 2, 3].map((height) => ledger.knownBeyond(ORIGIN, height))).toEqual([3, 3, 0])
  })
})

describe('the feed', () => {
  test('has batches when they are verified, each once, parents first', () => {
    const house = new House()
    for (const node of [a3, a2, a1]) house.ledger.learnBatch(batchOf(node), PEER, NOW)
    expect(house.ledger.feedEnd()).toBe(0)
    expect(house.fed()).toEqual([])
    for (const node of [a1, a2, a3]) house.ledger.verified(house.stored(node))
    house.ledger.verified(house.stored(a2))
    expect(house.fed()).toEqual([a1, a2, a3].map((node) => batchOf(node).manifestJws))
    expect(house.ledger.feedEnd()).toBe(3)
  })

  test('is read to its end by cursor, in pages, without a gap or a repeat', () => {
    const house = new House()
    const heads = Array.from({ length: 230 }, (_, i) => (1000 + i).toString())
    house.add(...batches(heads))
    const seen: string[] = []
    const pages: number[] = []
    for (let cursor = 0, more = true; more;) {
      const page = house.ledger.feedPage(cursor)
      for (const item of page.items) {
        expect(item.seq).toBeGreaterThan(cursor)
        cursor = item.seq
        if (item.type === 'batch') seen.push(item.manifest.split(' ')[1]!)
      }
      pages.push(page.items.length)
      more = page.more
    }
    expect(seen).toEqual(heads.map(hash))
    expect(pages).toEqual([100, 100, 30])
    expect(house.ledger.feedPage(230)).toEqual({ items: [], more: false })
    expect(house.ledger.feedPage(10_000)).toEqual({ items: [], more: false })
  })

  test('a page has at most a megabyte, and at least one item', () => {
    const house = new House()
    house.add(...batches(Array.from({ length: 5 }, (_, i) => `a${i}`)))
    // Bytes, not characters: one of these has three.
    const texts = ['x'.repeat(400_000), '漢'.repeat(133_333), 'x'.repeat(400_000)]
    for (const [i, text] of [...texts, '漢'.repeat(500_000), 'x'.repeat(10)].entries()) {
      house.db.prepare('UPDATE batches SET checkpoint = ? WHERE height = ?').run(text, i + 1)
    }
    const pages: number[][] = []
    for (let cursor = 0, more = true; more;) {
      const page = house.ledger.feedPage(cursor)
      pages.push(page.items.map(({ seq }) => seq))
      cursor = page.items.at(-1)!.seq
      more = page.more
    }
    expect(pages).toEqual([[1, 2], [3], [4], [5]])
  })

  test('a row that is gone leaves a gap that the cursor passes', () => {
    const house = new House()
    house.add(...line)
    house.db.exec('DELETE FROM batches WHERE height IN (2, 4)')
    const { items, more } = house.ledger.feedPage(0)
    expect([items.map(({ seq }) => seq), more]).toEqual([[1, 3], false])
  })
})

describe('proofs to confirm', () => {
  test('are those of rivals, and nobody is asked without a conflict', () => {
    const house = new House()
    house.add(...line)
    for (const head of ['a1', 'a3', 'a4']) house.prove(proofOf(head, 'BTC'), 'unasked')
    expect(house.ledger.proofsToConfirm(NOW, 10)).toEqual([])
    const [a5] = batches(['a5'], a4) as [BatchNode]
    house.ledger.learnOwn(batchOf(a5), NOW)
    house.prove(proofOf('a5', 'EVM'), 'unasked')
    expect(house.ledger.proofsToConfirm(NOW, 10)).toEqual([])
    house.add(b2)
    house.say(proofOf('a5', 'EVM'), 'refuted')
    const asked = (nowAt = NOW, limit = 10): string[] =>
      house.ledger.proofsToConfirm(nowAt, limit).map(({ root }) => root)
    expect(asked()).toEqual([a3.root, a4.root])
    expect(asked(NOW, 1)).toEqual([a3.root])
    const [first] = house.ledger.proofsToConfirm(NOW, 1)
    house.ledger.saidOf(first!, 'unconfirmed', NOW + 1000)
    expect(asked()).toEqual([a4.root])
    // Who was asked waits behind who was not, else a few without a provider would be all.
    expect(asked(NOW + 1000)).toEqual([a4.root, a3.root])
    expect(asked(NOW + 1000, 1)).toEqual([a4.root])
    // What was confirmed is held against its chain again, in its time.
    house.ledger.saidOf(first!, 'confirmed', NOW + 5000)
    expect(asked(NOW + 4999)).toEqual([a4.root])
    expect(asked(NOW + 5000)).toEqual([a4.root, a3.root])
    expect(house.ledger.proofsOf(ORIGIN, 'BTC', 0, 10).map((p) => [p.state, p.tries])).toEqual([
      ['unasked', 0],
      ['confirmed', 2],
      ['unasked', 0],
    ])
  })

  test('are not asked again once they are refuted, and count no more', () => {
    const house = new House()
    house.add(a1, a2, b2)
    house.prove(proofOf('a2', 'BTC'))
    house.prove(proofOf('b2', 'TSA'))
    expect(house.judge().tipRoot).toBe(a2.root)
    house.ledger.refute(OTHER, proofOf('a2', 'BTC'))
    expect(house.judge().tipRoot).toBe(a2.root)
    house.ledger.refute(ORIGIN, proofOf('a2', 'BTC'))
    expect(house.judge().tipRoot).toBe(b2.root)
    expect(house.ledger.proofsToConfirm(NOW, 10).map(({ root }) => root)).toEqual([b2.root])
    expect(house.ledger.proofsOf(ORIGIN, 'BTC', 0, 10)).toEqual([])
  })

  test('are found behind any number of older ones that nobody needs', () => {
    const house = new House()
    house.add(a1, a2, b2)
    for (let i = 0; i < 1001; i++) {
      house.prove(proofOf('a1', 'TSA', { txHash: hash(`f${i + 10_000}`) }), 'unasked')
    }
    house.prove(proofOf('a2', 'TSA'), 'unasked')
    expect(house.ledger.proofsToConfirm(NOW, 10).map(({ root }) => root)).toEqual([a2.root])
  })

  test('are not kept whole with the conflict: a row has a limit', () => {
    const house = new House()
    house.add(a1, a2, b2)
    house.prove(proofOf('a2', 'TSA'))
    house.prove(proofOf('b2', 'EVM'), 'no_provider')
    house.judge()
    const [row] = house.rows(`SELECT conflicts FROM logs WHERE origin = '${ORIGIN}'`)
    expect(row!['conflicts']).not.toContain('receipt')
  })
})

describe('who has the log’s key, or nobody at all, cannot keep two nodes apart', () => {
  // p1 and q1 are cuts of the same leaves; both go on to r, at one height.
  const [p1] = batches(['0a'])
  const [q1] = batches(['0b']).map((node) => ({ ...node, treeSize: 12 }))
  const onP = { height: 2, root: hash('0c'), previousRoot: p1!.root, treeSize: 20 }
  const onQ = { ...onP, previousRoot: q1!.root }

  test('a proof is fed after its batch: before it, readers know no such root', () => {
    const house = new House()
    house.ledger.learnBatch(batchOf(a1), PEER, NOW)
    house.prove(proofOf('a1', 'BTC'))
    expect(house.fed()).toEqual([])
    house.ledger.verified(house.stored(a1))
    house.prove(proofOf('a1', 'TSA'))
    const proof = `proof of ${a1.root}`
    expect(house.fed()).toEqual([batchOf(a1).manifestJws, proof, proof])
  })

  test('one root that hangs on two batches is two', () => {
    const tips = [
      [onP, onQ],
      [onQ, onP],
    ].map((cuts) => {
      const house = new House()
      house.add(p1!, q1!)
      for (const node of cuts) house.ledger.learnBatch(batchOf(node), PEER, NOW)
      for (const batch of house.ledger.pending(ORIGIN, NOW, 10)) house.ledger.verified(batch)
      house.prove(proofOf('0a', 'BTC'))
      expect(house.judge().tipRoot).toBe(onP.root)
      return house.canonical()
    })
    expect(tips[0]).toEqual(tips[1])
  })

  test.each([
    ['other events', { batchRoot: hash('cc') }],
    ['another beginning', { firstIndex: 9, count: 11 }],
    ['another parent', { previousRoot: hash('dd') }],
    ['another size', { treeSize: 21, count: 11 }],
  ])('a batch that names %s does not stand in for the real one', (_what, changed) => {
    const house = new House()
    house.add(a1)
    house.ledger.learnBatch(batchOf(a2, changed), PEER, NOW)
    expect(house.ledger.learnBatch(batchOf(a2), PEER, NOW)).toBe(true)
  })

  test('rivals whose events never come take no room from one whose events do', () => {
    const house = new House()
    house.add(a1)
    for (let i = 0; i < SHOWN_RIVALS; i++) {
      house.ledger.learnBatch(batchOf(batches([`b${100 + i}`], a1)[0]!), PEER, NOW)
    }
    expect(house.ledger.learnBatch(batchOf(a2), PEER, NOW)).toBe(true)
  })

  test('batches that hang on nothing known take no turn from one that does', () => {
    const house = new House()
    house.add(...line)
    for (const { height } of line) {
      for (let i = 0; i < SHOWN_RIVALS - 1; i++) {
        const node = { ...a1, height, root: hash(`${height}f${100 + i}`), previousRoot: hash('dd') }
        house.ledger.learnBatch(batchOf(node), PEER, NOW)
      }
    }
    const next = batches(['a5', 'a6'], a4)
    for (const node of next) house.ledger.learnBatch(batchOf(node), PEER, NOW)
    const turn = house.ledger.pending(ORIGIN, NOW, 4 * (SHOWN_RIVALS - 1))
    expect(turn.at(0)).toMatchObject({ root: next[0]!.root })
  })
})

// ── any order ──────────────────────────────────────────────────────────────────────────────────

const HEADS = ['a', 'b', 'c', 'd', '1', '2', '3', '4']
/** Trees in which a root is of one height and one parent. */
const anyTree: fc.Arbitrary<readonly BatchNode[]> = fc
  .array(fc.nat(), { minLength: 1, maxLength: 10 })
  .map((picks) => {
    const nodes: BatchNode[] = []
    for (const [i, pick] of picks.entries()) {
      const parent = pick % 3 === 0 ? nodes.at(-1) : nodes[pick % (nodes.length + 1)]
      nodes.push(batches([`${HEADS[pick % HEADS.length]}${i}`], parent ?? null)[0]!)
    }
    return nodes
  })
const anyProof = (nodes: readonly BatchNode[]): fc.Arbitrary<Proof> =>
  fc
    .record({
      node: fc.constantFrom(...nodes),
      tier: fc.constantFrom<Chain>('BTC', 'EVM', 'TSA'),
      isDev: fc.boolean(),
      at: fc.integer({ min: 1, max: 3 }),
      tx: fc.constantFrom('55', '66'),
    })
    .map(({ node, tier, isDev, at, tx }) =>
      proofOf('', tier, {
        root: node.root,
        treeSize: node.treeSize,
        network: isDev ? 'tsa.test' : NETWORKS[tier],
        // A transaction has one time.
        anchoredAt: NOW + at * (tx === '55' ? 2 : 1),
        txHash: hash(`${tx}${at}`),
      }),
    )
const anySaid = fc.constantFrom<ProofState>(
  'confirmed',
  'confirmed',
  'unasked',
  'unconfirmed',
  'no_provider',
  'refuted',
)
type Step = { readonly weight: number; run(house: House): void }

/** Everything that can become known of a tree, in any order, some of it twice, judged now and then. */
const anyStory = anyTree.chain((nodes) =>
  fc.array(fc.tuple(anyProof(nodes), anySaid), { maxLength: 6 }).chain((proofs) => {
    const steps: Step[] = [
      ...nodes.map((node) => ({
        weight: 0,
        run: ({ ledger }: House) => void ledger.learnBatch(batchOf(node), PEER, NOW),
      })),
      ...proofs.map(([proof]) => ({
        weight: 0,
        run: (house: House) => house.prove(proof, 'unasked'),
      })),
      ...proofs.map(([proof, said]) => ({
        weight: 0,
        run: (house: House) => house.say(proof, said),
      })),
      ...nodes.map(() => ({ weight: 1, run: verifySome })),
      ...nodes.map(() => ({ weight: 1, run: (house: House) => void house.judge() })),
    ]
    return fc.tuple(
      fc.constant({ nodes, proofs }),
      fc.shuffledSubarray([...steps, ...steps], { minLength: steps.length }),
    )
  }),
)

/** What the mirror does: a batch is recomputed once its parent is. */
function verifySome({ ledger }: House): void {
  for (const batch of ledger.pending(ORIGIN, NOW, 100).toReversed()) {
    if (ledger.parentOf(batch) !== null) ledger.verified(batch)
  }
}

/** The rest of the story, whatever came before. */
function finish(
  house: House,
  {
    nodes,
    proofs,
  }: { nodes: readonly BatchNode[]; proofs: readonly (readonly [Proof, ProofState])[] },
): LogState {
  for (const node of nodes) house.ledger.learnBatch(batchOf(node), PEER, NOW)
  for (let i = 0; i <= nodes.length; i++) verifySome(house)
  // What is said last stands.
  for (const [proof, said] of proofs) house.prove(proof, said)
  return house.judge()
}

describe('in any order', () => {
  test('the tip is that of the law over everything, after every judgement', () => {
    let forked = 0
    fc.assert(
      fc.property(anyStory, ([whole, steps]) => {
        const house = new House()
        for (const step of steps) {
          step.run(house)
          expectConsistent(house)
        }
        house.judge()
        expectJudged(house)
        finish(house, whole)
        expectJudged(house)
        if (house.log.conflicts.length > 0) forked++
      }),
      { numRuns: 100 },
    )
    expect(forked).toBeGreaterThan(30)
  }, 30_000)

  test('two nodes that know the same stand on the same tip', () => {
    const two = anyStory.chain(([whole, steps]) =>
      fc.tuple(
        fc.constant(whole),
        fc.constant(steps),
        fc.shuffledSubarray([...steps], { minLength: Math.floor(steps.length / 2) }),
      ),
    )
    fc.assert(
      fc.property(two, ([whole, steps, others]) => {
        const houses = [steps, others].map((all) => {
          const house = new House()
          for (const step of all) step.run(house)
          finish(house, whole)
          return house
        })
        const [one, other] = houses as [House, House]
        expect(other.canonical()).toEqual(one.canonical())
        expect({ ...other.log, tipAt: null }).toEqual({ ...one.log, tipAt: null })
      }),
      { numRuns: 100 },
    )
  }, 30_000)
})

// ── failures ───────────────────────────────────────────────────────────────────────────────────

describe('a step that fails', () => {
  /** Steps that hold more than one statement, each from a state in which it has something to do. */
  const broken: readonly (readonly [string, (house: House) => void, (house: House) => void])[] = [
    [
      'verified',
      (house) => {
        house.add(...line)
        house.ledger.learnBatch(batchOf(b2), PEER, NOW)
      },
      (house) => house.ledger.verified(house.stored(b2)),
    ],
    [
      'learnOwn',
      (house) => void house.add(...line),
      (house) => house.ledger.learnOwn(batchOf(b2), NOW),
    ],
    [
      'learnProof',
      (house) => void house.add(...line, b2),
      (house) => void house.ledger.learnProof(ORIGIN, receiptOf(proofOf('b2', 'BTC')), NOW),
    ],
    [
      'judge',
      (house) => {
        house.add(...line)
        house.ledger.learnOwn(batchOf(b2), NOW)
        house.ledger.learnOwn(batchOf(b3), NOW)
        house.prove(proofOf('b3', 'TSA'))
      },
      (house) => void house.judge(),
    ],
  ]
  /** Everything on disk but the counters of AUTOINCREMENT. */
  const dump = (house: House): unknown =>
    ['logs', 'batches', 'canonical', 'proofs', 'feed'].map((table) =>
      house.rows(`SELECT * FROM ${table} ORDER BY 1, 2, 3`),
    )

  test.each(broken)('%s: before it commits, nothing has happened', (_name, begin, step) => {
    let statements = 0
    for (let at = 0; ; at++) {
      const house = new House()
      begin(house)
      const before = dump(house)
      house.breaksInside = at
      try {
        step(house)
      } catch (error) {
        expect(error).toBeInstanceOf(Broken)
        expect(dump(house)).toEqual(before)
        expectConsistent(house)
        // Tried again, it goes through.
        step(house)
        house.judge()
        expectJudged(house)
        statements++
        continue
      }
      break
    }
    expect(statements).toBeGreaterThan(1)
  })

  test.each(broken)('%s: failed as a whole, or done with its reply lost', (_name, begin, step) => {
    const good = new House()
    begin(good)
    step(good)
    for (const how of ['fail', 'lost'] as const) {
      const house = new House()
      begin(house)
      const before = dump(house)
      house.breaks = { at: 0, how }
      expect(() => step(house)).toThrow(Broken)
      expect(dump(house)).toEqual(how === 'fail' ? before : dump(good))
      expectConsistent(house)
      // The twin of "failed": it persisted anyway, and is done again.
      step(house)
      expect(dump(house)).toEqual(dump(good))
      house.judge()
      expectJudged(house)
    }
  })

  test('any story with failures all the way ends as it does without', () => {
    const breaking = fc.tuple(
      anyStory,
      fc.infiniteStream(
        fc.oneof(
          { weight: 3, arbitrary: fc.constant(null) },
          fc.record({ at: fc.nat(2), how: fc.constantFrom('fail', 'lost', 'inside') }),
        ),
      ),
    )
    fc.assert(
      fc.property(breaking, ([[whole, steps], faults]) => {
        const house = new House()
        for (const step of steps) {
          const fault = faults.next().value as { at: number; how: string } | null
          if (fault?.how === 'inside') house.breaksInside = fault.at
          else if (fault !== null) house.breaks = fault as NonNullable<House['breaks']>
          try {
            step.run(house)
          } catch (error) {
            if (!(error instanceof Broken)) throw error
          }
          house.breaks = null
          house.breaksInside = null
          expectConsistent(house)
        }
        finish(house, whole)
        expectJudged(house)
        const calm = new House()
        finish(calm, whole)
        expect(house.canonical()).toEqual(calm.canonical())
      }),
      { numRuns: 100 },
    )
  }, 30_000)
})
