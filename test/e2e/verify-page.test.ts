/**
 * Verification in a real browser, on pages of a running node: the verdict is that of the SDK, each step shows in its
 * order, and once the page is loaded the node has no part in it.
 */

import { createHash, randomBytes } from 'node:crypto'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { Browser, Page } from 'playwright-core'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { receiptAsProofFile } from '#core/receipt-file.ts'
import type { Receipt } from '#core/receipt.ts'
import { createSigner, post, sign, trustOf, verify, type Trust } from '../../functions/sdk.ts'
import { startHost, type Host } from '../../scripts/host.ts'
import * as vectors from '../support/anchor-vectors.ts'
import { browserAbsence, openPage, startBrowser, type Watched } from './browser.ts'
import { absent } from './devnet-support.ts'
import { freePort } from './support.ts'

const none = absent(browserAbsence)
let folder: string
let host: Host
let browser: Browser
let jws: string
let receipt: Receipt
let trust: Trust

beforeAll(async () => {
  if (none) return
  folder = await mkdtemp(join(tmpdir(), 'vm-verify-'))
  const [node, started] = await Promise.all([
    startHost({
      port: await freePort(),
      stateDir: join(folder, 'state'),
      cron: false,
      vars: { NODE_SECRET: randomBytes(32).toString('base64url'), ORIGIN: 'verify.test/log' },
    }),
    startBrowser(),
  ])
  host = node
  browser = started
  const signer = await createSigner({ alg: 'ES256', secret: randomBytes(32) })
  jws = await sign(signer, { type: 'test', data: { amount: 3 } })
  const posted = await post(host.url, jws, { wait: 20 })
  receipt = posted.receipt!
  trust = await trustOf(host.url)
})

afterAll(async () => {
  await browser?.close()
  await host?.stop()
  if (folder !== undefined) await rm(folder, { recursive: true, force: true })
})

/** /verify, loaded to the last byte; then the network is gone. */
async function verifyPage(options: Parameters<typeof openPage>[1] = {}): Promise<Watched> {
  const watched = await openPage(browser, options)
  await watched.page.goto(`${host.url}/verify`, { waitUntil: 'networkidle' })
  await watched.page.locator('#verify-files').waitFor()
  await watched.page.context().setOffline(true)
  watched.requests.length = 0
  return watched
}

/** Drops files on the page as a hand does; of one given by its size what is in it does not matter. */
async function drop(page: Page, files: Readonly<Record<string, string | number>>): Promise<void> {
  await page.evaluate((given) => {
    const dataTransfer = new DataTransfer()
    for (const [name, value] of Object.entries(given)) {
      const content = typeof value === 'number' ? new Uint8Array(value) : value
      dataTransfer.items.add(new File([content], name))
    }
    const event = new DragEvent('drop', { dataTransfer, bubbles: true, cancelable: true })
    document.querySelector('main')!.dispatchEvent(event)
  }, files)
}

/** What stands on the page once all is revealed. */
async function shown(page: Page) {
  await page.locator('.proof:not(.running) .proof-verdict:not(.waiting)').waitFor()
  return page.evaluate(() => {
    const text = (root: Element, selector: string): string =>
      root.querySelector(selector)?.textContent ?? ''
    const lines = (root: Element) =>
      [...root.querySelectorAll('.proof-line')].map((line) => ({
        state: text(line, '.proof-state'),
        words: text(line, '.proof-text > p'),
        problem: text(line, '.proof-problem'),
        hashes: [...line.querySelectorAll('code')].map((code) => code.textContent),
      }))
    const sentence = document.querySelector('.proof-sentence')!.cloneNode(true) as Element
    // The whole of what stands there abridged.
    for (const code of sentence.querySelectorAll('code')) code.textContent = code.title
    return {
      word: text(document.body, '.proof-word'),
      sentence: sentence.textContent,
      trust: text(document.body, '.proof-trust'),
      spoken: text(document.body, '[role=status]'),
      sections: [...document.querySelectorAll('.proof-section')].map((section) => ({
        title: text(section, 'h3'),
        state: text(section, 'summary > .proof-state'),
        lines: lines(section),
      })),
    }
  })
}

describe.skipIf(none)('/verify', () => {
  test('proves a dropped receipt step by step with no request, and tells whose word was taken', async () => {
    const { page, requests, troubles } = await verifyPage()
    // Which lines were revealed, in the order in which they were.
    await page.evaluate(() => {
      const order: number[] = []
      Object.assign(globalThis, { order })
      new MutationObserver((changes) => {
        const lines = [...document.querySelectorAll('.proof-line')]
        for (const { target, oldValue } of changes) {
          const line = target as Element
          if (oldValue?.includes('waiting') === true && line.matches('.proof-line.proven'))
            order.push(lines.indexOf(line))
        }
      }).observe(document.body, {
        subtree: true,
        attributes: true,
        attributeOldValue: true,
        attributeFilter: ['class'],
      })
    })
    const text = JSON.stringify(vectors.receipt)
    const files = {
      'r.json': text,
      'e.jws': `${vectors.event}\n`,
      't.json': JSON.stringify(vectors.trust),
    }
    await drop(page, files)
    await page.locator('.proof.running .proof-line.waiting').first().waitFor()
    const { word, sentence, trust: taken, spoken, sections } = await shown(page)
    const own = await verify(vectors.receipt, vectors.trust, vectors.event)
    expect([word, sentence, own.verdict]).toEqual(['Verified', own.sentence, 'verified'])
    expect(spoken).toMatch(/^Verified\. The event is leaf 1 of the log anchored\.test\/log/)
    expect(taken).toContain('1 log key, 1 timestamp root, 1 node')
    expect(sections.map(({ title, state }) => `${title}: ${state}`)).toEqual([
      'The event: proven',
      'The log’s signature: proven',
      'The path to the root: proven',
      'Bitcoin regtest (dev network): proven',
      'Bitcoin regtest, by a calendar (dev network): proven',
      'Ethereum-type chain anvil (dev network): proven',
      'Time-stamp, said to be by 127.0.0.1 (dev network): proven',
      'What no check covers: not checked',
    ])
    const lines = sections.flatMap((section) => section.lines)
    expect(lines.every(({ state }) => state === 'proven')).toBe(true)
    const level = sections[2]!.lines.find(({ words }) => words.startsWith('Level 1'))!
    expect(level.hashes).toEqual([
      vectors.receipt.inclusionProof[0],
      sections[2]!.lines[0]!.hashes[1],
      vectors.receipt.root.slice(7),
    ])
    const order = await page.evaluate(() => (globalThis as unknown as { order: number[] }).order)
    expect(order).toEqual(lines.map((_, i) => i))
    expect([requests, troubles]).toEqual([[], []])
    await page.context().close()
  })

  test('says which step a changed receipt fails at, and shows nothing after it as proven', async () => {
    const { page, requests, troubles } = await verifyPage({ reducedMotion: 'reduce' })
    const other = (s: string, at = 0) =>
      s.slice(0, at) + (s[at] === '1' ? '2' : '1') + s.slice(at + 1)
    const good = vectors.receipt
    const end = good.checkpoint.length - 9
    const bitcoin = vectors.anchorOfKind('bitcoin-tx')
    const header = other(bitcoin.proof['header'] as string, 80)
    const resigned = other(vectors.event, vectors.event.lastIndexOf('.') + 10)
    const renamed = `sha256:${createHash('sha256').update(resigned).digest('hex')}`
    const cases: readonly (readonly [Receipt, string, string, string])[] = [
      [good, other(vectors.event, 40), 'The event', 'SHA-256 of the event’s'],
      [{ ...good, eventHash: renamed }, resigned, 'The event', 'The EdDSA signature'],
      [
        { ...good, inclusionProof: [other(good.inclusionProof[0]!)] },
        vectors.event,
        'The path to the root',
        'The path ends at the root',
      ],
      [
        { ...good, leafIndex: 0 },
        vectors.event,
        'The path to the root',
        'The path ends at the root',
      ],
      [
        { ...good, checkpoint: other(good.checkpoint, end) },
        vectors.event,
        'The log’s signature',
        'The log’s key signed this checkpoint',
      ],
      [
        vectors.receiptWith({ ...bitcoin, proof: { ...bitcoin.proof, header } }),
        vectors.event,
        'Bitcoin regtest (dev network)',
        'Its Merkle branch leads to the block’s header',
      ],
    ]
    await drop(page, { 't.json': JSON.stringify(vectors.trust) })
    for (const [changed, event, title, words] of cases) {
      await page.evaluate(() => document.querySelector('#verify-result .proof')!.replaceChildren())
      await drop(page, { 'e.jws': event, 'r.json': JSON.stringify(changed) })
      const { word, sections } = await shown(page)
      const own = await verify(changed, vectors.trust, event)
      expect([word, own.verdict]).toEqual(['Refuted', 'refuted'])
      const at = sections.findIndex(({ state }) => state === 'failed')
      expect(sections[at]!.title).toBe(title)
      const line = sections[at]!.lines.at(-1)!
      expect([
        line.state,
        line.words.startsWith(words),
        own.sentence.endsWith(line.problem),
      ]).toEqual(['failed', true, true])
      expect(new Set(sections.slice(at + 1).map(({ state }) => state))).toEqual(
        new Set(['not reached']),
      )
    }
    expect([requests, troubles]).toEqual([[], []])
    await page.context().close()
  })

  test('takes files chosen by hand and a pasted key, in any order, and lets them go again', async () => {
    const { page, requests, troubles } = await verifyPage({ reducedMotion: 'reduce' })
    const proof = join(folder, 'mine.tlog-proof')
    await writeFile(proof, receiptAsProofFile(receipt))
    await page.locator('[data-kind=receipt] input').focus()
    await page.locator('[data-kind=receipt] input').setInputFiles(proof)
    const unknown = await shown(page)
    expect([unknown.word, unknown.sections[1]!.state]).toEqual(['Not trusted', 'not pinned'])
    const [name, id] = trust.vkeys[0]!.split('+')
    expect(unknown.sections[1]!.lines.at(-1)!.hashes).toEqual([`${name}+${id}`])
    expect(unknown.trust).toContain('You have pinned no key')

    await page.locator('textarea').fill(trust.vkeys[0]!)
    await page.locator('textarea').blur()
    await page.locator('.proof:not(.running) .proof-verdict.proven').waitFor()
    const bare = await verify(receipt, { vkeys: trust.vkeys, tsaRoots: [] })
    expect((await shown(page)).sentence).toBe(bare.sentence)

    const event = join(folder, 'mine.jws')
    await writeFile(event, jws)
    await page.locator('[data-kind=event] input').setInputFiles(event)
    await page.locator('.proof-section').first().getByText('ES256').waitFor()
    const whole = await verify(receipt, { vkeys: trust.vkeys, tsaRoots: [] }, jws)
    expect((await shown(page)).sentence).toBe(whole.sentence)

    await page.getByRole('button', { name: 'Remove the receipt' }).press('Enter')
    await page.getByText('Drop the receipt, too').first().waitFor()
    expect(await page.evaluate(() => document.activeElement?.matches('[type=file]'))).toBe(true)
    expect([requests, troubles]).toEqual([[], []])
    await page.context().close()
  })

  test('shows no verdict of files that are not there any more, nor any that a stranger’s pins give', async () => {
    const { page, requests, troubles } = await verifyPage({ reducedMotion: 'reduce' })
    const [good, pins] = [JSON.stringify(receipt), JSON.stringify(trust)]
    await drop(page, { 'r.json': good, 't.json': pins })
    expect((await shown(page)).word).toBe('Verified')
    // Gone at once, though a receipt is under way.
    const words = await page.evaluate(async (text) => {
      const dataTransfer = new DataTransfer()
      dataTransfer.items.add(new File([text], 'r.json'))
      const event = new DragEvent('drop', { dataTransfer, bubbles: true, cancelable: true })
      const said: string[] = []
      const place = document.querySelector('#verify-result .proof')!
      new MutationObserver(() =>
        said.push(place.querySelector('.proof-word, .proof-sentence')!.textContent),
      ).observe(place, { childList: true })
      document.querySelector('main')!.dispatchEvent(event)
      while (said.length === 0) await new Promise((done) => setTimeout(done))
      document.querySelector<HTMLButtonElement>('[data-kind=receipt] button')!.click()
      await new Promise((done) => setTimeout(done, 1000))
      return said
    }, good)
    expect(words[0]).toBe('Checking.')
    expect(words.at(-1)).toBe('Drop the receipt, too, or choose the file.')
    expect(words).not.toContain('Verified')
    const theirs = JSON.stringify(vectors.trust)
    await drop(page, { 'r.json': good, 'trust.json': theirs })
    await page.getByText('Another trust file is there already: remove it first.').first().waitFor()
    await drop(page, { 'trust.json': theirs })
    expect((await shown(page)).word).toBe('Not trusted')
    expect([requests, troubles]).toEqual([[], []])
    await page.context().close()
  })

  test('says in words what it cannot read, and goes on', async () => {
    const { page, requests, troubles } = await verifyPage({ reducedMotion: 'reduce' })
    for (const [text, words] of [
      ['Dear all', 'It is neither a receipt, nor an event (a compact JWS), nor a trust file.'],
      ['{"v":2}', 'Receipt field "v"'],
      ['['.repeat(1000), 'It is neither'],
      [`{"v":${'['.repeat(1000)}`, 'The receipt nests deeper than 64.'],
      [5_000_000, 'of a receipt no more than 4.2 MB are read here'],
      [JSON.stringify(receipt), 'You have named no key for the log'],
      ['{"vkeys":["x"]}', 'A vkey is <name>+<8 hex digits>+<base64>.'],
    ] as const) {
      await drop(page, { 'a.txt': text })
      await page.locator('.proof-sentence', { hasText: words }).waitFor()
    }
    await drop(page, { 't.json': JSON.stringify(trust) })
    await page.locator('.proof-verdict.proven').waitFor()
    expect([requests, troubles]).toEqual([[], []])
    await page.context().close()
  })

  test('without scripts says how to verify all the same', async () => {
    const { page } = await openPage(browser, { javaScriptEnabled: false })
    await page.goto(`${host.url}/verify`)
    expect(await page.locator('main').innerText()).toContain('vaultmesh verify receipt.json')
    expect(await page.locator('#verify-files').isVisible()).toBe(false)
    await page.context().close()
  })

  test('may by its own policy send nothing, and neither may the script that verifies', async () => {
    const answer = await fetch(`${host.url}/verify`)
    expect(answer.headers.get('content-security-policy')).toContain("connect-src 'none'")
    const [path] = /\/assets\/verify-([0-9a-f]{16})\.js/.exec(await answer.text())!
    const script = await fetch(host.url + path)
    expect(script.headers.get('content-security-policy')).toBe("default-src 'none'")
    expect(script.headers.get('cache-control')).toContain('immutable')
    const hash = createHash('sha256').update(await script.text())
    expect(path).toContain(hash.digest('hex').slice(0, 16))
    for (const [accepted, encoding] of [
      ['gzip', 'gzip'],
      ['br, gzip;q=0.5', 'gzip'],
      ['br, gzip;q=0', null],
      ['gzip;q=0.0, br', null],
    ] as const) {
      const asked = await fetch(host.url + path, { headers: { 'accept-encoding': accepted } })
      expect(asked.headers.get('content-encoding')).toBe(encoding)
    }
    expect((await fetch(`${host.url}/assets/verify-0000000000000000.js`)).status).toBe(404)
  })
})

describe.skipIf(none)('an event’s page', () => {
  test('verifies what this node serves of the event, and says whose keys those are', async () => {
    const { page, troubles } = await openPage(browser, { reducedMotion: 'reduce' })
    const [script] = /\/assets\/verify-[0-9a-f]+\.js/.exec(
      await (await fetch(`${host.url}/verify`)).text(),
    )!
    const path = receipt.eventHash
    const policy = "default-src 'none'; script-src 'self'; connect-src 'self'; img-src data:"
    await page.route('**/page', (route) =>
      route.fulfill({
        contentType: 'text/html',
        headers: { 'content-security-policy': policy },
        body: `<!doctype html><link rel="icon" href="data:,"><div id="verify" data-receipt="/receipts/${path}?format=json" data-event="/events/${path}"></div><script type="module" src="${script}"></script>`,
      }),
    )
    await page.goto(`${host.url}/page`)
    const { word, sentence, trust: taken, sections } = await shown(page)
    const own = await verify(receipt, trust, jws)
    expect([word, sentence]).toEqual(['Verified', own.sentence])
    expect(taken).toMatch(/^The keys come from this very server, 127\.0\.0\.1:/)
    expect(sections[0]!.state).toBe('proven')
    expect(troubles).toEqual([])
    await page.evaluate(() => document.querySelector('.proof')!.replaceChildren())
    await page.getByRole('button', { name: 'Check again' }).press('Enter')
    expect((await shown(page)).word).toBe('Verified')
    // A receipt that is good, of another event.
    const body = JSON.stringify({ ...receipt, eventHash: `sha256:${'0'.repeat(64)}` })
    await page.route('**/receipts/*', (route) =>
      route.fulfill({ json: JSON.parse(body) as object }),
    )
    await page.evaluate(() => document.querySelector('.proof')!.replaceChildren())
    await page.getByRole('button', { name: 'Check again' }).press('Enter')
    const { word: other, sentence: why } = await shown(page)
    expect([other, why]).toEqual([
      'The receipt cannot be read',
      'It is of another event than this page.',
    ])
    await page.context().close()
  })
})
