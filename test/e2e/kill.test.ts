/**
 * The real process, killed without warning at random moments of a busy day, runtime and all, again and again, while it
 * anchors in real chains and a peer mirrors and cosigns its log. Miniflare's queues die with it, and that must not matter.
 *
 * `make lab-kill` plays the same two hundred times; KILLS and SEED say how often here, and at which moments.
 */

import { expect, test } from 'vitest'
import { anvilBinary, missingAnvil } from '../../scripts/devnet/anvil.ts'
import { onPath } from '../../scripts/devnet/child.ts'
import { judgeLog, judgeSpends } from '../../scripts/lab/kill-judge.ts'
import { killReport, labKill } from '../../scripts/lab-kill.ts'
import { findSops } from '../../scripts/sops-binary.ts'
import { absent, bitcoindAbsence } from './devnet-support.ts'

const KILLS = Number(process.env['KILLS'] ?? 3)
const SEED = Number(process.env['SEED'] ?? Math.floor(Math.random() * 1e9))

const isMissing = [
  absent(bitcoindAbsence),
  absent(anvilBinary() === null ? missingAnvil : null),
  absent(onPath('openssl') === null ? 'openssl is not installed' : null),
  absent((await findSops()) === null ? 'sops is not installed' : null),
].includes(true)

test.skipIf(isMissing)(
  `after ${KILLS} kills every accepted event is in the log once, no root is paid twice, and the peer stands on the same tip`,
  async ({ signal }) => {
    const said: string[] = []
    // A test that is ended leaves no node behind.
    const stopped = new Promise<never>((_, end) => {
      signal.addEventListener('abort', () => end(new Error(said.join('\n'))))
    })
    const say = (line: string): void => void said.push(line)
    const facts = await labKill({ kills: KILLS, seed: SEED, say, stopped })
    expect(facts.wrong, [...said, ...killReport(facts)].join('\n')).toEqual([])
    expect(facts).toMatchObject({ missing: 0, twice: 0, kills: KILLS })
    expect(facts.accepted).toBeGreaterThan(50)
    expect(facts.leaves).toBeGreaterThanOrEqual(facts.accepted)
    for (const { roots, transactions } of facts.paid) {
      expect(roots).toBeGreaterThan(0)
      expect(transactions).toBe(roots)
    }
  },
  120_000 + KILLS * 60_000,
)

test('the judge of the log says what is missing, what is there twice, and what nobody posted', () => {
  const accepted = new Set(['a', 'b', 'c'])
  const signed = new Set([...accepted, 'd'])
  expect(judgeLog(['a', 'b', 'c', 'd'], { accepted, signed })).toEqual({
    missing: 0,
    twice: 0,
    others: [],
  })
  expect(judgeLog(['a', 'a', 'd', 'x'], { accepted, signed })).toEqual({
    missing: 2,
    twice: 1,
    others: ['x'],
  })
})

test.each([
  ['a root that is paid twice', { '0x1': ['t1', 't2'] }, 'BTC: 0x1 was paid twice: t1, t2'],
  ['a payment for no root', { '': ['t1'] }, 'BTC: paid for no root: t1'],
  ['a root without its receipt', { '0x2': ['t1'] }, 'BTC: 0x2 is paid and has no receipt'],
])('the judge of a chain objects to %s', (_, found, sentence) => {
  const spends = new Map(
    Object.entries<readonly string[]>(found).map(([root, hashes]) => [
      root,
      hashes.map((hash) => ({ hash, fee: 153n })),
    ]),
  )
  const { wrong, fees, transactions } = judgeSpends('BTC', spends, new Set(['0x1']))
  expect(wrong).toEqual([sentence])
  expect(fees).toBe(153n * BigInt(transactions))
  const good = new Map([['0x1', [{ hash: 't1', fee: 153n }]]])
  expect(judgeSpends('BTC', good, new Set(['0x1'])).wrong).toEqual([])
})
