import * as fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { evmNetwork } from '#core/anchor-ethereum.ts'
import { isDevNetwork, type Chain } from '#core/anchor-receipt.ts'
import {
  compareProofs,
  DEFAULT_ORDER,
  isOrder,
  lawDocument,
  lawHash,
  reasoning,
  resolve,
  TIE_BREAKERS,
  type LawDocument,
  type Proof,
} from '#core/conflict.ts'
import { VaultMeshError } from '#core/errors.ts'

const RUNS = { numRuns: 2500 }

/** 64 hex digits that begin with `head`. */
const hash = (head: string): string => head.padEnd(64, '0')
const settings = {
  order: DEFAULT_ORDER as readonly string[],
  tieBreakers: TIE_BREAKERS as readonly string[],
  btcDepth: 7,
  tsaRootSha256: [hash('aa'), hash('bb')],
}
const law = lawDocument(settings)
const base: Proof = {
  chain: 'BTC',
  network: 'mainnet',
  anchoredAt: 1_764_000_000_000,
  txHash: hash('55'),
  root: hash('99'),
  treeSize: 100,
}
const proofOf = (changed: Partial<Proof>): Proof => ({ ...base, ...changed })

const orders = (['BTC', 'EVM', 'TSA'] as const).flatMap((a) =>
  (['BTC', 'EVM', 'TSA'] as const).flatMap((b) =>
    (['BTC', 'EVM', 'TSA'] as const)
      .map((c): Chain[] => [a, b, c])
      .filter((order) => new Set(order).size === 3),
  ),
)
const anyLaw: fc.Arbitrary<LawDocument> = fc
  .constantFrom(...orders)
  .map((order) => lawDocument({ ...settings, order }))

const networks: Record<Chain, readonly string[]> = {
  BTC: ['mainnet', 'signet', 'regtest', 'constructor'],
  EVM: ['mainnet', 'base', 'optimism', 'anvil', 'sepolia', '__proto__', ''],
  TSA: ['timestamp.digicert.com', 'freetsa.org', '127.0.0.1', 'tsa.test', ''],
}
/** Few values each, so that ties on any number of steps are common; hostile ones among them. */
const tied: fc.Arbitrary<Proof> = fc.constantFrom<Chain>('BTC', 'EVM', 'TSA').chain((chain) =>
  fc.record({
    chain: fc.constant(chain),
    network: fc.constantFrom(...networks[chain]),
    anchoredAt: fc.constantFrom(null, NaN, -Infinity, Infinity, -62135596800000, 0, 1, 1.5, 9e15),
    txHash: fc.constantFrom(
      hash('aa'),
      hash('AA'),
      `0x${hash('aa')}`,
      `0X${hash('AA')}`,
      hash('ab'),
      '',
      '0x',
      '0',
      '\u{1f600}',
    ),
    root: fc.constantFrom(hash('11'), hash('12'), `0x${hash('11')}`, ''),
    treeSize: fc.constantFrom(0, 1, 2, NaN, -1, 2 ** 60),
  }),
)
const hex = fc
  .uint8Array({ minLength: 32, maxLength: 32 })
  .map((bytes) => Buffer.from(bytes).toString('hex'))
const wide: fc.Arbitrary<Proof> = fc.record({
  chain: fc.constantFrom<Chain>('BTC', 'EVM', 'TSA'),
  network: fc.constantFrom('mainnet', 'regtest', 'anvil', 'timestamp.digicert.com', 'base'),
  anchoredAt: fc.option(fc.integer({ min: 1, max: 2 ** 41 })),
  txHash: hex,
  root: hex,
  treeSize: fc.nat(),
})
const proof = fc.oneof(tied, wide)
const proofs = fc.array(proof, { maxLength: 8 })
/** Neither outranks the other: what they write differently means the same. */
const alike = (a: Proof | null, b: Proof | null): boolean =>
  a === null || b === null ? a === b : compareProofs(law, a, b) === 0

describe('the law', () => {
  test('a dev network never outranks a production one, whatever its tier', () => {
    fc.assert(
      fc.property(anyLaw, proof, proof, (any, a, b) => {
        const dev = isDevNetwork(a.chain, a.network)
        fc.pre(dev && !isDevNetwork(b.chain, b.network))
        expect(compareProofs(any, a, b)).toBeGreaterThan(0)
        expect(resolve(any, [a, b])).toBe(b)
      }),
      RUNS,
    )
    const regtest = proofOf({ network: 'regtest', anchoredAt: 1, txHash: hash('0') })
    const tsa = proofOf({ chain: 'TSA', network: 'freetsa.org' })
    expect(resolve(law, [regtest, tsa])).toBe(tsa)
  })

  test('a higher tier outranks a lower one among production networks, whatever time and hash say', () => {
    const late = { anchoredAt: null, txHash: hash('ff') }
    const btc = proofOf({ chain: 'BTC', ...late })
    const evm = proofOf({ chain: 'EVM', network: 'base', ...late })
    const tsa = proofOf({ chain: 'TSA', network: 'freetsa.org', anchoredAt: 1, txHash: hash('0') })
    expect(resolve(law, [tsa, evm, btc])).toBe(btc)
    expect(resolve(law, [tsa, proofOf({ ...evm, anchoredAt: 1 })])).toMatchObject({ chain: 'EVM' })
    fc.assert(
      fc.property(anyLaw, proof, proof, (any, a, b) => {
        fc.pre(isDevNetwork(a.chain, a.network) === isDevNetwork(b.chain, b.network))
        fc.pre(a.chain !== b.chain)
        const higher = any.order.indexOf(a.chain) < any.order.indexOf(b.chain)
        expect(compareProofs(any, a, b) < 0).toBe(higher)
      }),
      RUNS,
    )
  })

  test('tiers hold on dev networks as they do on production ones', () => {
    const btc = proofOf({ network: 'regtest' })
    const evm = proofOf({ chain: 'EVM', network: 'anvil', anchoredAt: 1 })
    expect(resolve(law, [evm, btc])).toBe(btc)
  })

  test('another order of tiers is another law', () => {
    const other = lawDocument({ ...settings, order: ['TSA', 'EVM', 'BTC'] })
    const btc = base
    const tsa = proofOf({ chain: 'TSA', network: 'freetsa.org' })
    expect(resolve(law, [btc, tsa])).toBe(btc)
    expect(resolve(other, [btc, tsa])).toBe(tsa)
    expect(lawHash(other)).not.toBe(lawHash(law))
  })

  test('the earlier anchor wins within a tier, whatever the hashes say', () => {
    const early = proofOf({
      anchoredAt: base.anchoredAt! - 1,
      txHash: hash('ff'),
      root: hash('ff'),
    })
    expect(resolve(law, [base, early])).toBe(early)
  })

  test('networks of one tier do not outrank each other by name', () => {
    const early = proofOf({ chain: 'EVM', network: 'polygon', anchoredAt: 1 })
    const late = proofOf({ chain: 'EVM', network: 'arbitrum', anchoredAt: 2 })
    expect(resolve(law, [late, early])).toBe(early)
  })

  test.each([
    ['null', null],
    ['NaN, as of an unreadable date', Date.parse('yesterday')],
    ['year 1, as upstream read it', Date.parse('0001-01-01T00:00:00Z')],
    ['zero, as of an empty one', Number('')],
    ['before 1970', -1],
    ['-Infinity', -Infinity],
    ['Infinity', Infinity],
    ['past the last date there is', 8.64e15 + 2],
    ['undefined', undefined as unknown as null],
    ['text', '1' as unknown as null],
  ])('a time that is missing comes last: %s', (_name, anchoredAt) => {
    const missing = proofOf({ anchoredAt, txHash: hash('0'), root: hash('0') })
    const latest = proofOf({ anchoredAt: 8.64e15 })
    expect(resolve(law, [missing, latest])).toBe(latest)
    expect(compareProofs(law, missing, proofOf({ ...missing, anchoredAt: null }))).toBe(0)
  })

  test('a lower tx hash wins only when tier and time tie', () => {
    const low = proofOf({ txHash: hash('1'), root: hash('ff') })
    expect(resolve(law, [base, low])).toBe(low)
    const later = proofOf({ ...low, anchoredAt: base.anchoredAt! + 1 })
    expect(resolve(law, [base, later])).toBe(base)
    const lower = proofOf({ ...low, chain: 'EVM' })
    expect(resolve(law, [base, lower])).toBe(base)
    const dev = proofOf({ ...low, network: 'signet' })
    expect(resolve(law, [base, dev])).toBe(base)
    const untimed = [low, base].map((p) => ({ ...p, anchoredAt: null }))
    expect(resolve(law, untimed)).toBe(untimed[0])
  })

  test('hashes compare as lowercase hex without 0x', () => {
    const a = proofOf({ txHash: `0x${hash('AB')}` })
    const b = proofOf({ txHash: hash('ac') })
    expect(resolve(law, [b, a])).toBe(a)
    expect(compareProofs(law, a, proofOf({ txHash: hash('ab') }))).toBe(0)
    expect(compareProofs(law, a, proofOf({ txHash: `0X${hash('aB')}` }))).toBe(0)
    // As text, 'A' and '0x' would come before 'a' and '0'.
    const upper = proofOf({ txHash: hash('F') })
    expect(resolve(law, [upper, b])).toBe(b)
    expect(resolve(law, [proofOf({ txHash: `0x${hash('F')}` }), b])).toBe(b)
  })

  test.each(['', '0x', '0', hash('0').slice(1), `${hash('0')}0`, `0x0x${hash('0').slice(2)}`, ' '])(
    'what is no tx hash or root comes last: "%s"',
    (text) => {
      const good = proofOf({ txHash: hash('f').replaceAll('0', 'f') })
      expect(resolve(law, [proofOf({ txHash: text }), good])).toBe(good)
      const root = proofOf({ root: hash('f').replaceAll('0', 'f') })
      expect(resolve(law, [proofOf({ root: text }), root])).toBe(root)
    },
  )

  test('a lower root wins when one transaction commits both', () => {
    const low = proofOf({ root: hash('98'), treeSize: 200 })
    expect(resolve(law, [base, low])).toBe(low)
    expect(compareProofs(law, base, proofOf({ root: `0x${base.root}` }))).toBe(0)
  })

  test('proofs that tie on production, tier, time and hash name one root', () => {
    fc.assert(
      fc.property(anyLaw, fc.array(tied, { minLength: 2, maxLength: 8 }), (any, list) => {
        const winner = resolve(any, list)!
        const root = (p: Proof): string => p.root.toLowerCase().replace(/^0x/, '')
        for (const other of list) {
          if (compareProofs(any, winner, other) === 0) expect(root(other)).toBe(root(winner))
        }
      }),
      RUNS,
    )
  })

  test('a chain that nobody knows loses to all that are known', () => {
    const unknown = proofOf({ chain: 'DOGE' as Chain, anchoredAt: 1 })
    const last = proofOf({ chain: 'TSA', network: 'tsa.test', anchoredAt: null })
    expect(resolve(law, [unknown, last])).toBe(last)
    const inherited = proofOf({ chain: 'toString' as Chain, anchoredAt: 1 })
    expect(resolve(law, [inherited, last])).toBe(last)
  })

  test('decides as a table of all its steps says', () => {
    // Each row outranks every later one.
    const table: Partial<Proof>[] = [
      {},
      { root: hash('9a') },
      { txHash: hash('56'), root: hash('0') },
      { anchoredAt: base.anchoredAt! + 1, txHash: hash('0') },
      { anchoredAt: null, txHash: hash('0') },
      { chain: 'EVM', network: 'mainnet', anchoredAt: 1 },
      { chain: 'EVM', network: 'gnosis', anchoredAt: 2 },
      { chain: 'TSA', network: 'freetsa.org', anchoredAt: 1 },
      { chain: 'BTC', network: 'regtest', anchoredAt: 1 },
      { chain: 'EVM', network: 'anvil', anchoredAt: 1 },
      { chain: 'TSA', network: '127.0.0.1', anchoredAt: 1 },
      { chain: 'TSA', network: '127.0.0.1', anchoredAt: null },
    ]
    const rows = table.map(proofOf)
    for (const [i, a] of rows.entries()) {
      for (const [j, b] of rows.entries()) {
        expect(Math.sign(compareProofs(law, a, b))).toBe(Math.sign(i - j))
      }
    }
  })
})

describe('the order is total', () => {
  test('one of two outranks the other, or they are alike', () => {
    fc.assert(
      fc.property(anyLaw, proof, proof, (any, a, b) => {
        // `+ 0` turns -0 into 0.
        expect(compareProofs(any, a, b)).toBe(-compareProofs(any, b, a) + 0)
        expect(compareProofs(any, a, a)).toBe(0)
      }),
      RUNS,
    )
  })

  test('it is transitive', () => {
    fc.assert(
      fc.property(anyLaw, proof, proof, proof, (any, a, b, c) => {
        const [x, y, z] = [a, b, c].sort((p, q) => compareProofs(any, p, q))
        expect(compareProofs(any, x!, y!)).toBeLessThanOrEqual(0)
        expect(compareProofs(any, y!, z!)).toBeLessThanOrEqual(0)
        expect(compareProofs(any, x!, z!)).toBeLessThanOrEqual(0)
        if (compareProofs(any, a, b) <= 0 && compareProofs(any, b, c) <= 0) {
          expect(compareProofs(any, a, c)).toBeLessThanOrEqual(0)
        }
      }),
      RUNS,
    )
  })

  test('well-formed proofs are equal only if alike in every field', () => {
    fc.assert(
      fc.property(wide, wide, fc.subarray(Object.keys(base)), (a, b, fields) => {
        const mixed: Proof = { ...a }
        for (const field of fields) Object.assign(mixed, { [field]: b[field as keyof Proof] })
        const same = JSON.stringify(mixed) === JSON.stringify(a)
        expect(compareProofs(law, a, mixed) === 0).toBe(same)
      }),
      RUNS,
    )
  })
})

describe('resolve is a join', () => {
  test('of nothing it is nothing, of one it is that one', () => {
    expect(resolve(law, [])).toBeNull()
    expect(resolve(law, [base])).toBe(base)
  })

  test('the winner is one of the proofs, and none outranks it', () => {
    fc.assert(
      fc.property(anyLaw, proofs, (any, list) => {
        const winner = resolve(any, list)
        expect(winner === null).toBe(list.length === 0)
        if (winner === null) return
        expect(list).toContain(winner)
        for (const other of list) expect(compareProofs(any, winner, other)).toBeLessThanOrEqual(0)
      }),
      RUNS,
    )
  })

  test('the order of arrival cannot matter', () => {
    const shuffled = proofs.chain((list) =>
      fc.tuple(fc.constant(list), fc.shuffledSubarray(list, { minLength: list.length })),
    )
    fc.assert(
      fc.property(shuffled, ([list, again]) => {
        expect(alike(resolve(law, list), resolve(law, again))).toBe(true)
      }),
      RUNS,
    )
  })

  test('duplicates cannot matter', () => {
    const repeated = proofs.chain((list) => fc.tuple(fc.constant(list), fc.subarray(list)))
    fc.assert(
      fc.property(repeated, ([list, more]) => {
        expect(alike(resolve(law, [...more, ...list, ...more]), resolve(law, list))).toBe(true)
      }),
      RUNS,
    )
  })

  test('grouping cannot matter: the winner of winners wins', () => {
    fc.assert(
      fc.property(fc.array(proofs, { maxLength: 5 }), (groups) => {
        const winners = groups.map((group) => resolve(law, group)).filter((p) => p !== null)
        expect(alike(resolve(law, winners), resolve(law, groups.flat()))).toBe(true)
      }),
      RUNS,
    )
  })

  test('a proof that loses can be left out', () => {
    fc.assert(
      fc.property(proofs, proof, (list, more) => {
        const winner = resolve(law, list)
        fc.pre(winner !== null && compareProofs(law, winner, more) < 0)
        expect(resolve(law, [...list, more])).toBe(winner)
      }),
      RUNS,
    )
  })

  test('nodes that gossip in any order stand on one root once they know the same proofs', () => {
    const mesh = fc.record({
      known: fc.array(fc.array(proof, { maxLength: 4 }), { minLength: 2, maxLength: 4 }),
      calls: fc.array(fc.tuple(fc.nat(), fc.nat()), { maxLength: 12 }),
    })
    fc.assert(
      fc.property(mesh, ({ known, calls }) => {
        // Each node keeps its winner alone and hears those of others, some calls twice, some lost.
        const tips = known.map((list) => resolve(law, list))
        const n = tips.length
        const all = tips.flatMap((_, i) => tips.map((__, j) => [i, j] as const))
        for (const [from, to] of [...calls, ...all]) {
          const both = [tips[to % n]!, tips[from % n]!].filter((tip) => tip !== null)
          tips[to % n] = resolve(law, both)
        }
        for (const tip of tips) expect(alike(tip, resolve(law, known.flat()))).toBe(true)
      }),
      RUNS,
    )
  })

  test('proofs are not changed, and the list may be frozen', () => {
    const list = Object.freeze([
      Object.freeze(proofOf({ txHash: hash('77') })),
      Object.freeze(base),
    ])
    expect(resolve(law, list)).toBe(base)
    expect(reasoning(law, list)).toHaveLength(1)
  })
})

describe('the reasoning', () => {
  const regtest = proofOf({ network: 'regtest', txHash: hash('1b2c') })
  const anvil = proofOf({ chain: 'EVM', network: 'anvil', txHash: `0x${hash('ab')}` })

  test('names the tier that decides', () => {
    expect(reasoning(law, [anvil, regtest])).toEqual([
      'BTC regtest 1b2c0000… before EVM anvil 0xab000000…: tier BTC > EVM',
    ])
    const other = lawDocument({ ...settings, order: ['EVM', 'BTC', 'TSA'] })
    expect(reasoning(other, [anvil, regtest])).toEqual([
      'EVM anvil 0xab000000… before BTC regtest 1b2c0000…: tier EVM > BTC',
    ])
  })

  test.each([
    [
      { network: 'regtest', anchoredAt: 1 },
      'BTC mainnet 55000000… before BTC regtest 55000000…: production network before dev network',
    ],
    [
      { anchoredAt: base.anchoredAt! + 1 },
      'BTC mainnet 55000000… before BTC mainnet 55000000…: ' +
        'same tier: earlier, 2025-11-24T16:00:00.000Z before 2025-11-24T16:00:00.001Z',
    ],
    [
      { anchoredAt: NaN },
      'BTC mainnet 55000000… before BTC mainnet 55000000…: same tier: the other has no time',
    ],
    [
      { txHash: hash('56') },
      'BTC mainnet 55000000… before BTC mainnet 56000000…: same tier and time: lower tx hash',
    ],
    [
      { txHash: hash('550000000001') },
      'BTC mainnet 550000000000… before BTC mainnet 550000000001…: same tier and time: lower tx hash',
    ],
    [
      { txHash: '' },
      'BTC mainnet 55000000… before BTC mainnet ~: same tier and time: lower tx hash',
    ],
    [
      { root: hash('99000000000001') },
      'BTC mainnet 55000000… before BTC mainnet 55000000…: ' +
        'same tier, time and tx hash: lower root, 99000000000000… < 99000000000001…',
    ],
    [
      { treeSize: 101 },
      'BTC mainnet 55000000… before BTC mainnet 55000000…: same root: smaller tree',
    ],
  ])('says which step decides: %o', (changed, line) => {
    expect(reasoning(law, [proofOf(changed), base])).toEqual([line])
    expect(reasoning(law, [base, proofOf(changed)])).toEqual([line])
  })

  test('of two networks that name one root says so', () => {
    const evm = ['mainnet', 'base'].map((network) => proofOf({ chain: 'EVM', network }))
    expect(reasoning(law, evm)).toEqual([
      'EVM base 55000000… before EVM mainnet 55000000…: same root: network names in order',
    ])
  })

  test('has a line for each proof but the winner, none for a repeat, and none of nothing', () => {
    expect(reasoning(law, [])).toEqual([])
    expect(reasoning(law, [base, base, proofOf({ txHash: `0x${base.txHash}` })])).toEqual([])
    fc.assert(
      fc.property(proofs, (list) => {
        const different = list.filter((a, i) => list.findIndex((b) => alike(a, b)) === i)
        const lines = reasoning(law, list)
        expect(lines).toHaveLength(Math.max(0, different.length - 1))
        expect(reasoning(law, list.toReversed().concat(list)).length).toBe(lines.length)
      }),
      RUNS,
    )
  })

  test('is one printable line each, whatever the names hold', () => {
    const evil = fc.record({
      chain: fc.constantFrom<Chain>('BTC', 'EVM', 'TSA'),
      anchoredAt: fc.double(),
      network: fc.string({ unit: 'binary' }),
      txHash: fc.oneof(fc.string({ unit: 'binary' }), hex),
      root: fc.oneof(fc.string({ unit: 'binary' }), hex),
      treeSize: fc.double(),
    })
    fc.assert(
      fc.property(fc.array(evil, { maxLength: 4 }), (list) => {
        for (const line of reasoning(law, list)) expect(line).toMatch(/^[\x20-\x7e…]+$/)
      }),
      RUNS,
    )
  })
})

describe('the law document', () => {
  test('is canonical: what it is built from may come in any order, case and number', () => {
    const again = lawDocument({
      ...settings,
      tsaRootSha256: [hash('BB'), hash('aa'), hash('bb'), hash('Aa')],
    })
    expect(again).toEqual(law)
    expect(lawHash(again)).toBe(lawHash(law))
    expect(law.tsaRootSha256).toEqual([hash('aa'), hash('bb')])
  })

  test('has a hash that anybody can compute with a JCS library', async () => {
    const text =
      '{"networks":{"BTC":["mainnet"],' +
      '"EVM":["arbitrum","base","gnosis","mainnet","optimism","polygon"],"TSA":"public"},' +
      '"order":["BTC","EVM","TSA"],"requiredDepth":{"BTC":7,"EVM":"finalized"},' +
      '"tie_breakers":["earliest_anchor_ts","lowest_tx_hash"],' +
      `"tsaRootSha256":["${hash('aa')}","${hash('bb')}"]}`
    const digest = await crypto.subtle.digest('SHA-256', Buffer.from(text))
    expect(lawHash(law)).toBe(`sha256:${Buffer.from(digest).toString('hex')}`)
    // What a peer serves is hashed as it is.
    expect(lawHash(JSON.parse(text) as LawDocument)).toBe(lawHash(law))
  })

  test('that differs in anything has another hash', () => {
    const hashes = new Set([
      ...orders.map((order) => lawHash(lawDocument({ ...settings, order }))),
      lawHash(lawDocument({ ...settings, btcDepth: 8 })),
      lawHash(lawDocument({ ...settings, tsaRootSha256: [] })),
      lawHash(lawDocument({ ...settings, tsaRootSha256: [hash('aa')] })),
      lawHash({ ...law, networks: { ...law.networks, BTC: ['mainnet', 'regtest'] } }),
    ])
    expect(hashes.size).toBe(10)
  })

  test('calls production what isDevNetwork does not call dev', () => {
    const names = new Set<string>(Object.values(networks).flat())
    for (const network of [...law.networks.BTC, ...law.networks.EVM]) names.add(network)
    // Every chain id of the table, known by its name.
    for (let id = 0; id < 600_000; id++) {
      const name = evmNetwork(id)
      if (!name.startsWith('eip155-')) names.add(name)
    }
    names.add(evmNetwork(11_155_111))
    for (const chain of ['BTC', 'EVM', 'TSA'] as const) {
      for (const network of names) {
        // A production proof, whatever its tier, outranks the last production one; a dev one does not.
        const last = { chain: 'TSA', network: 'freetsa.org', anchoredAt: null } as const
        const wins = compareProofs(law, proofOf({ chain, network }), proofOf(last)) < 0
        expect([chain, network, wins]).toEqual([chain, network, !isDevNetwork(chain, network)])
      }
    }
  })

  test.each([
    ['an order that lacks a tier', { order: ['BTC', 'EVM'] }, 'conflict_policy.order'],
    ['an order that repeats one', { order: ['BTC', 'EVM', 'EVM'] }, 'conflict_policy.order'],
    ['an order with more', { order: ['BTC', 'EVM', 'TSA', 'TSA'] }, 'conflict_policy.order'],
    ['an order in lowercase', { order: ['btc', 'evm', 'tsa'] }, 'conflict_policy.order'],
    ['no tie-breakers', { tieBreakers: [] }, 'conflict_policy.tie_breakers'],
    [
      'tie-breakers the other way round',
      { tieBreakers: ['lowest_tx_hash', 'earliest_anchor_ts'] },
      'conflict_policy.tie_breakers',
    ],
    ['one tie-breaker', { tieBreakers: ['earliest_anchor_ts'] }, 'conflict_policy.tie_breakers'],
    ['no depth', { btcDepth: 0 }, 'BTC_DEPTH'],
    ['a depth that is no number', { btcDepth: NaN }, 'BTC_DEPTH'],
    ['half a depth', { btcDepth: 6.5 }, 'BTC_DEPTH'],
    ['a root that is no hash', { tsaRootSha256: [hash('aa').slice(1)] }, 'TSA_ROOTS'],
    ['a root with colons', { tsaRootSha256: ['AA:BB'] }, 'TSA_ROOTS'],
  ])('is refused with %s, and the key is named', (_name, changed, key) => {
    expect.assertions(3)
    try {
      lawDocument({ ...settings, ...changed })
    } catch (error) {
      expect(error).toBeInstanceOf(VaultMeshError)
      expect(error).toMatchObject({ code: 'bad-config', extra: { key } })
      expect((error as Error).message).toMatch(new RegExp(`^${key}: `))
    }
  })

  test('takes all six orders and no other value for one', () => {
    expect(orders).toHaveLength(6)
    for (const order of orders) expect(isOrder(order)).toBe(true)
    for (const other of [null, undefined, 'BTC', {}, { length: 3 }, [1, 2, 3]]) {
      expect(isOrder(other)).toBe(false)
    }
  })
})
