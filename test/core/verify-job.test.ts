/**
 * What the verifier in the browser says, from files to sections: the same as the SDK and the command line, in words.
 */

import { gzipSync } from 'node:zlib'
import * as fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { toHex, utf8 } from '#core/bytes.ts'
import { receiptAsProofFile } from '#core/receipt-file.ts'
import { parseReceipt, type Receipt } from '#core/receipt.ts'
import { sha256 } from '#core/sha256.ts'
import { kindOf, LIMITS, readPins, tooLarge } from '../../functions/dashboard/verify/inputs.ts'
import { runJob, type Job, type Outcome } from '../../functions/dashboard/verify/job.ts'
import { verify } from '../../functions/sdk.ts'
import { bundleAsset, ENTRIES } from '../../scripts/build-assets.ts'
import {
  anchorOfKind,
  event,
  kinds,
  receipt,
  receiptWith,
  tamperedAnchors,
  trust,
} from '../support/anchor-vectors.ts'

const pins = JSON.stringify(trust)
type Reported = Outcome & { kind: 'report' }

function jobFor(given: Receipt, more: Partial<Job> & { readonly text?: string } = {}): Job {
  const { text = pins, ...rest } = more
  return {
    receipt: utf8(JSON.stringify(given)),
    event: utf8(event),
    trust: { from: 'visitor', text },
    ...rest,
  }
}

async function reported(job: Job): Promise<Reported> {
  const outcome = await runJob(job)
  if (outcome.kind !== 'report') throw new Error(outcome.reason)
  return outcome
}

const other = (text: string, at = 0): string =>
  text.slice(0, at) + (text[at] === '1' ? '2' : '1') + text.slice(at + 1)

/** The first line that failed, with the title of its section. */
function failure({ sections }: Reported): readonly [title: string, words: string] | null {
  for (const { title, lines } of sections) {
    const line = lines.find(({ state }) => state === 'failed' || state === 'unpinned')
    if (line !== undefined) return [title, line.words]
  }
  return null
}

const [hash] = receipt.inclusionProof as [string]
const resigned = other(event, event.lastIndexOf('.') + 10)
const bitcoin = anchorOfKind('bitcoin-tx')
const tampered: Readonly<Record<string, { receipt: Receipt; event?: string }>> = {
  'another byte in the event': { receipt, event: other(event, 40) },
  'another signature': {
    receipt: { ...receipt, eventHash: `sha256:${toHex(sha256(utf8(resigned)))}` },
    event: resigned,
  },
  'another hash in the path': { receipt: { ...receipt, inclusionProof: [other(hash)] } },
  'another leaf index': { receipt: { ...receipt, leafIndex: 0 } },
  'another root': { receipt: { ...receipt, root: `sha256:${'0'.repeat(64)}` } },
  'another checkpoint': {
    receipt: { ...receipt, checkpoint: other(receipt.checkpoint, receipt.checkpoint.length - 9) },
  },
  'another proof of an anchor': {
    receipt: receiptWith({ ...bitcoin, anchorTs: '2026-01-01T00:00:00.000Z' }),
  },
}

describe('a receipt in the browser', () => {
  test.each(kinds)(
    'with an anchor of kind %s is proven line by line, in plain words',
    async (kind) => {
      const anchors = [anchorOfKind(kind)] as unknown as Receipt['anchors']
      const outcome = await reported(jobFor({ ...receipt, anchors }))
      expect(outcome.verdict).toBe('verified')
      expect(outcome.sections.map(({ state }) => state)).toEqual([
        'proven',
        'proven',
        'proven',
        'proven',
        'unchecked',
      ])
      const lines = outcome.sections.flatMap((section) => section.lines)
      expect(lines.every(({ state, problem }) => state === 'proven' && problem === null)).toBe(true)
      // Every check has words of its own, and every value in them is there.
      expect(lines.filter(({ words }) => /^Check “|[{?]/.test(words))).toEqual([])
      expect(outcome.sections[4]).toMatchObject({ title: 'What no check covers' })
    },
  )

  test.each([
    ['another byte in the event', 'The event', /^SHA-256 of the event’s \d+ bytes/],
    ['another signature', 'The event', /^The EdDSA signature/],
    ['another hash in the path', 'The path to the root', /^The path ends at the root/],
    ['another leaf index', 'The path to the root', /^The path ends at the root/],
    ['another root', 'The log’s signature', /^What it signed is a tree/],
    ['another checkpoint', 'The log’s signature', /^The log’s key signed this checkpoint/],
    ['another proof of an anchor', 'Bitcoin regtest (dev network)', /^Check “anchorTs”/],
  ])('with %s is refuted where it is wrong: %s', async (name, title, words) => {
    const { receipt: changed, event: jws = event } = tampered[name]!
    const outcome = await reported(jobFor(changed, { event: utf8(jws) }))
    expect(outcome.verdict).toBe('refuted')
    expect(failure(outcome)).toEqual([title, expect.stringMatching(words)])
    const at = outcome.sections.findIndex((section) => section.title === title)
    expect(outcome.sections[at]!.lines.at(-1)!.problem).toBe(outcome.sections[at]!.detail)
    expect(outcome.sections.slice(0, at).every(({ state }) => state === 'proven')).toBe(true)
    expect(outcome.sections.slice(at + 1).every(({ state }) => state === 'unreached')).toBe(true)
  })

  test('has the verdict and the sentence of the SDK, whatever was changed in it', async () => {
    const cases = [
      { receipt },
      ...Object.values(tampered),
      ...tamperedAnchors().map(({ anchor }) => ({ receipt: receiptWith(anchor) })),
    ] as readonly { readonly receipt: Receipt; readonly event?: string }[]
    expect(cases).toHaveLength(32)
    for (const { receipt: given, event: jws = event } of cases) {
      for (const bytes of [utf8(jws), null]) {
        for (const pinned of [trust, { vkeys: [], tsaRoots: [] }]) {
          const text = pinned.vkeys.length === 0 ? '' : pins
          const { verdict, sentence } = await reported(jobFor(given, { event: bytes, text }))
          const own = await verify(given, pinned, bytes ?? undefined)
          expect({ verdict, sentence }).toEqual({ verdict: own.verdict, sentence: own.sentence })
        }
      }
    }
  })

  test('as a tlog-proof file is the same receipt', async () => {
    const proof = await reported(jobFor(receipt, { receipt: utf8(receiptAsProofFile(receipt)) }))
    const { verdict, sentence } = await verify(receipt, trust, event)
    expect([proof.verdict, proof.sentence]).toEqual([verdict, sentence])
  })

  test('without a pinned key is not trusted, and the page says who signed', async () => {
    const outcome = await reported(jobFor(receipt, { text: '' }))
    expect([outcome.verdict, failure(outcome)]).toEqual([
      'untrusted',
      ['The log’s signature', 'A pinned key is named like the log'],
    ])
    const line = outcome.sections[1]!.lines.at(-1)!
    expect(line.values[0]!.value).toBe(trust.vkeys[0]!.split('+').slice(0, 2).join('+'))
    expect(outcome.trust).toContain('You have pinned no key')
  })

  test('is believed on the word of a server only where that is said', async () => {
    const wellKnown = JSON.stringify({
      node_id: 'n',
      node_did: trust.nodeDids![0],
      origin: receipt.origin,
      network: 'dev',
      rails: [],
      vkey: trust.vkeys[0],
      tsa_roots: trust.tsaRoots,
    })
    const from = (text: string): Job['trust'] => ({
      from: 'server',
      url: 'https://node.example',
      wellKnown: text,
    })
    const outcome = await reported(jobFor(receipt, { trust: from(wellKnown) }))
    expect(outcome.verdict).toBe('verified')
    expect(outcome.trust).toMatch(/^The keys come from this very server, node\.example:/)
    const broken = await runJob(jobFor(receipt, { trust: from('{}') }))
    expect(broken).toMatchObject({ kind: 'unreadable', file: 'trust' })
  })

  test('of another event than the page’s is none of it, however good', async () => {
    const about = `sha256:${'0'.repeat(64)}`
    const outcome = await runJob(jobFor(receipt, { about }))
    expect(outcome).toMatchObject({ kind: 'unreadable', file: 'receipt' })
    expect((await reported(jobFor(receipt, { about: receipt.eventHash }))).verdict).toBe('verified')
  })

  test('says of an anchor that nobody vouches for no more than that it names the root', async () => {
    const stamp = { ...receipt, anchors: [anchorOfKind('rfc3161')] } as unknown as Receipt
    const { verdict, sections } = await reported(jobFor(stamp, { text: trust.vkeys[0]! }))
    expect(verdict).toBe('verified')
    const { title, state, lines } = sections[3]!
    expect([title, state]).toEqual([
      'Time-stamp, said to be by 127.0.0.1 (dev network)',
      'unchecked',
    ])
    expect(lines.map(({ words }) => words)).toEqual(['The anchor’s receipt names this very root'])
  })

  test('of a log whose name holds what cannot be seen shows it, in every sentence', async () => {
    const evil = `evil\u202e\u200b/log`
    const checkpoint = receipt.checkpoint.replaceAll(receipt.origin, evil)
    const outcome = await reported(jobFor({ ...receipt, origin: evil, checkpoint }, { text: '' }))
    expect(outcome.verdict).toBe('untrusted')
    for (const words of [outcome.sentence, outcome.trust, ...outcome.sections.map((s) => s.detail)])
      expect(words).not.toMatch(/[\u202e\u200b]/)
    expect(outcome.sentence).toContain('evil⟨U+202E⟩⟨U+200B⟩/log')
    expect(outcome.trust).toContain('evil⟨U+202E⟩⟨U+200B⟩/log')
  })

  test('shows a stranger’s text with nothing hidden in it, and no more than a page can bear', async () => {
    const eventId = `\u202eevil${'x'.repeat(9000)}`
    const outcome = await reported(jobFor({ ...receipt, eventId }))
    const { value } = outcome.sections[0]!.lines.at(-1)!.values[0]!
    expect(value.length).toBeLessThan(500)
    expect(value).toMatch(/^⟨U\+202E⟩evilx+…$/)
  })
})

describe('a file', () => {
  const key = trust.vkeys[0]!
  const pem = trust.tsaRoots[0]!

  test.each<[string, string, ReturnType<typeof kindOf>]>([
    ['a receipt', JSON.stringify(receipt, null, 2), 'receipt'],
    ['a tlog-proof', receiptAsProofFile(receipt), 'receipt'],
    ['an event with a newline', `${event}\n`, 'event'],
    ['a trust file', pins, 'trust'],
    ['a log’s key', `${key}\n`, 'trust'],
    ['a certificate', pem, 'trust'],
    ['JSON of another kind', '{"a":1}', 'receipt'],
    ['prose', 'Dear all,\n\nthis is no receipt.', null],
    ['nothing', '', null],
  ])('that is %s is known by its content', (_, text, kind) => {
    expect(kindOf(utf8(text))).toBe(kind)
  })

  test('that is no text is none of ours', () => {
    expect(kindOf(Uint8Array.of(0xff, 0xfe))).toBe(null)
  })

  test('made of keys that never end is told apart in one reading', () => {
    // Backtracking over every plus would take hours.
    expect(kindOf(utf8(`${'+00000000'.repeat(400_000)}!`))).toBe(null)
    // Nor are many of them looked at: beyond what a trust file may have, nothing.
    const almost = '+00000000\n'.repeat(LIMITS.trust / 10 + 1)
    expect(kindOf(utf8(`${almost}${key}`))).toBe(null)
    expect(kindOf(utf8(`${key}\n${almost}`))).toBe('trust')
  })

  test('beyond its limit is not read, and the words say the limit', async () => {
    expect(tooLarge('event', LIMITS.event)).toBe(null)
    expect(tooLarge('event', LIMITS.event + 1)).toBe(
      'The file has 66 kB; an event has 65535 bytes at most.',
    )
    const big = new Uint8Array(LIMITS.receipt + 1)
    expect(await runJob(jobFor(receipt, { receipt: big }))).toMatchObject({
      kind: 'unreadable',
      file: 'receipt',
      reason: expect.stringContaining('4.2 MB') as string,
    })
    const text = ' '.repeat(LIMITS.trust + 1)
    expect(await runJob(jobFor(receipt, { text }))).toMatchObject({ file: 'trust' })
  })

  test('of any bytes ends in words, never in an error', async () => {
    const bytes = fc.oneof(
      fc.uint8Array({ maxLength: 300 }),
      fc.json().map(utf8),
      fc.nat().map((at) => {
        const text = JSON.stringify(receipt)
        return utf8(other(text, at % text.length))
      }),
      fc.nat().map((at) => utf8(receiptAsProofFile(receipt).slice(0, at % 2000))),
    )
    await fc.assert(
      fc.asyncProperty(bytes, fc.option(bytes), fc.string(), async (given, jws, text) => {
        const outcome = await runJob({
          receipt: given,
          event: jws,
          trust: { from: 'visitor', text },
        })
        if (outcome.kind === 'report') parseReceipt(new TextDecoder().decode(given))
        else expect([outcome.kind, outcome.reason.length > 10]).toEqual(['unreadable', true])
      }),
    )
  })
})

describe('whom a visitor trusts', () => {
  const [key] = trust.vkeys
  const [pem] = trust.tsaRoots
  const [did] = trust.nodeDids!

  test('is a trust file, or keys, nodes and certificates line by line', () => {
    expect(readPins(pins)).toMatchObject(trust)
    expect(readPins(`${key}\n\n  ${did}\n${pem}`)).toMatchObject({
      vkeys: [key],
      nodeDids: [did],
      tsaRoots: [pem!.trim()],
    })
    expect(readPins('  \n')).toMatchObject({ vkeys: [], tsaRoots: [], nodeDids: [] })
  })

  test.each([
    ['{"vkeys":', 'It is not JSON.'],
    ['{"vkeys":[1]}', '"vkeys.0"'],
    ['{"vkeys":["x"]}', ''],
    ['hello', '“hello” is no trust file'],
    [`${'x'.repeat(1100)}+00000000+AAAA`, 'is no trust file'],
    ['-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----', ''],
  ])('is refused in words where it cannot be read: %s', async (text, words) => {
    expect(() => readPins(text)).toThrow(words)
    const outcome = await runJob(jobFor(receipt, { text }))
    expect(outcome).toMatchObject({ kind: 'unreadable', file: 'trust' })
  })
})

test('the module that a browser loads is below 110 kB, compressed', async () => {
  const text = await bundleAsset(ENTRIES['verify.js']!)
  expect(gzipSync(text, { level: 9 }).length).toBeLessThan(110_000)
})
