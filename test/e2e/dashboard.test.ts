/**
 * The dashboard as people meet it: real Chromium, a node with real chains as `make up` starts one, a real OpenID
 * provider. What each may see and do, that an alert leads to the receipt, that the page proves it, that it is usable
 * by everybody (axe-core), on a phone, and without scripts. Leaves pictures of every page in test-results/screenshots.
 */

import { mkdirSync, readFileSync } from 'node:fs'
import { writeFile } from 'node:fs/promises'
import { createRequire } from 'node:module'
import { join, resolve } from 'node:path'
import type { Browser, Page } from 'playwright-core'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import type { Receipt } from '#core/receipt.ts'
import { ACTIONS, atLeast, type Action, type Role } from '#core/roles.ts'
import { createSigner, post, sign } from '../../functions/sdk.ts'
import { ROOT } from '../../scripts/build.ts'
import { startOidc, type Oidc } from '../../scripts/devnet/oidc.ts'
import { startAnchoredNode, type AnchoredNode } from '../support/anchored-node.ts'
import { browserAbsence, openPage, startBrowser, type Watched } from './browser.ts'
import { freePort, sandbox } from './support.ts'

const PICTURES = resolve(ROOT, 'test-results/screenshots')
const AXE = readFileSync(createRequire(import.meta.url).resolve('axe-core/axe.min.js'), 'utf8')
const DESKTOP = { width: 1280, height: 900 }
const PHONE = { width: 360, height: 740 }
const PEOPLE = { viewer: 'vera', operator: 'oscar', admin: 'alice' } as const satisfies Record<
  Role,
  string
>

let box: Awaited<ReturnType<typeof sandbox>>
let oidc: Oidc
let it: AnchoredNode
let browser: Browser
let eventHash: string
let receipt: Receipt
/** A page of each, signed in. */
const people = new Map<Role, Watched>()

/** Every page, by the name of its picture, and who may see it. */
let PAGES: readonly (readonly [name: string, path: string, role: Role])[]

test('there is a browser to test the pages with', () => {
  expect(browserAbsence).toBeNull()
})

beforeAll(async () => {
  if (browserAbsence !== null) return
  mkdirSync(PICTURES, { recursive: true })
  box = await sandbox()
  const port = await freePort()
  oidc = await startOidc({ nodeUrl: `http://127.0.0.1:${port}`, port: 0 })
  const federation = join(box.dir, 'federation.yaml')
  // A peer that nobody has met, so that there is one to show.
  await writeFile(
    federation,
    "peers_allowlist: ['did:key:z6Mkr5KHPZU6NwjyEMvj9ZwoaojAkRgmWiSAVuebXuqhMyhP']\n",
  )
  const [node, started] = await Promise.all([
    startAnchoredNode({
      // Short, so that there is a Ψ to show; and no limit: an intervention is an event, whose seal closes dead letters.
      vars: { ...oidc.vars, GUARDIAN_INTERVAL_MS: '1000', GUARDIAN_PSI_LOW: '0.0001' },
      port,
      federation,
    }),
    startBrowser(),
  ])
  it = node
  browser = started
  const signer = await createSigner({
    alg: 'EdDSA',
    secret: crypto.getRandomValues(new Uint8Array(32)),
  })
  const event = { type: 'com.example.<i>paid</i>', subject: 'invoice \u202e7', data: { amount: 3 } }
  ;({ eventHash } = await post(it.url, await sign(signer, event), { wait: 20 }))
  receipt = await it.until(eventHash)
  const { height } = receipt
  const db = await it.node.host.miniflare.getD1Database('DB')
  const at = Date.now()
  await db.batch([
    db
      .prepare(
        'INSERT INTO alerts (kind, key, severity, detail, link, opened_at, cleared_at) VALUES (?1, ?2, ?3, ?4, ?5, ?6, NULL), (?1, ?7, ?8, ?4, ?5, ?6, ?6)',
      )
      .bind(
        'anchor_stalled',
        'e2e',
        'critical',
        'It was not anchored.',
        `/batches/${height}`,
        at,
        'old',
        'warning',
      ),
    db
      .prepare('INSERT INTO dead_letters (id, queue, body, received_at) VALUES (?, ?, ?, ?)')
      .bind('e2e', 'sealer-dlq', '{}', at),
  ])
  const job = (await db.prepare('SELECT max(id) AS id FROM anchors').first<{ id: number }>())!.id
  PAGES = [
    ['overview', '/dashboard', 'viewer'],
    ['events', '/dashboard/events', 'viewer'],
    ['search', `/dashboard/events?q=${receipt.root}`, 'viewer'],
    ['search-nothing', '/dashboard/events?q=no+such+thing', 'viewer'],
    ['event', `/dashboard/events/${eventHash}`, 'viewer'],
    ['batches', '/dashboard/batches', 'viewer'],
    ['batch', `/dashboard/batches/${height}`, 'viewer'],
    ['anchors', '/dashboard/anchors', 'viewer'],
    ['anchor', `/dashboard/anchors/${job}`, 'viewer'],
    ['federation', '/dashboard/federation', 'viewer'],
    ['guardian', '/dashboard/guardian', 'viewer'],
    ['alerts', '/dashboard/alerts', 'viewer'],
    ['audit', '/dashboard/audit', 'operator'],
    ['sessions', '/dashboard/sessions', 'admin'],
    ['action', '/dashboard/actions/dead-letters-replay', 'operator'],
    ['action-form', '/dashboard/actions/token-create', 'admin'],
    ['verify', '/verify', 'viewer'],
    ['not-found', '/dashboard/nothing', 'viewer'],
  ]
  for (const role of Object.keys(PEOPLE) as Role[]) {
    const watched = await openPage(browser, { viewport: DESKTOP, reducedMotion: 'reduce' })
    await signIn(watched.page, role, '/dashboard')
    people.set(role, watched)
  }
}, 180_000)

afterAll(async () => {
  await browser?.close()
  await Promise.all([it?.stop(), oidc?.stop()])
  await box?.remove()
})

/** From a page, by way of the provider, back to it. */
async function signIn(page: Page, role: Role, path: string): Promise<void> {
  await page.goto(it.url + path)
  await page.getByRole('button', { name: PEOPLE[role] }).click()
  await page.waitForURL(it.url + path)
}

function of(role: Role): Watched {
  return people.get(role)!
}

describe.skipIf(browserAbsence !== null)('whoever is not signed in', () => {
  test('is led from every page to the provider, and sees nothing of it', async () => {
    const { page } = await openPage(browser)
    for (const [name, path] of PAGES) {
      if (name === 'verify') continue
      const answer = await page.goto(it.url + path)
      expect([name, new URL(page.url()).origin]).toEqual([name, oidc.issuer])
      expect(await answer!.text()).not.toContain('VaultMesh')
    }
    for (const action of Object.keys(ACTIONS)) {
      const answer = await page.request.post(`${it.url}/dashboard/actions/${action}`, {
        form: { confirmed: '1' },
        headers: { origin: it.url },
      })
      expect([action, answer.status()]).toEqual([action, 401])
    }
    await page.context().close()
  })

  test('and has no role stays outside, and is told so', async () => {
    const { page } = await openPage(browser)
    await page.goto(`${it.url}/dashboard`)
    await page.getByRole('button', { name: 'mallory' }).click()
    await page.getByRole('link', { name: 'Sign in as somebody else' }).waitFor()
    const answer = await page.goto(`${it.url}/dashboard`)
    expect([new URL(page.url()).pathname, answer!.status()]).toEqual(['/auth/callback', 403])
    await page.context().close()
  })
})

describe.skipIf(browserAbsence !== null)('somebody who is signed in', () => {
  test.each(Object.keys(PEOPLE) as Role[])(
    'as %s sees exactly the pages and the actions of that role',
    async (role) => {
      const { page } = of(role)
      await page.goto(`${it.url}/dashboard`)
      const places = await page
        .getByRole('navigation', { name: 'Dashboard' })
        .getByRole('link')
        .allInnerTexts()
      const ours = ['Overview', 'Events', 'Batches', 'Anchors', 'Federation', 'Guardian', 'Alerts']
      if (role !== 'viewer') ours.push('Audit')
      if (role === 'admin') ours.push('Sessions')
      expect(places.map((text) => text.trim())).toEqual(ours)
      for (const [name, path, needed] of PAGES) {
        const answer = await page.request.get(it.url + path, { headers: { accept: 'text/html' } })
        const expected = name === 'not-found' ? 404 : atLeast(role, needed) ? 200 : 403
        expect([role, name, answer.status()]).toEqual([role, name, expected])
      }
      await page.goto(`${it.url}/dashboard/alerts`)
      expect(await page.getByRole('link', { name: 'Replay them' }).count()).toBe(
        role === 'viewer' ? 0 : 1,
      )
      await page.goto(`${it.url}/dashboard/federation`)
      expect(await page.getByRole('link', { name: 'Change the allow-list' }).count()).toBe(
        role === 'admin' ? 1 : 0,
      )
      // Whatever the page shows, the door is the same: a form of one's own session, without the right.
      const csrf = await page.locator('form.who input[name=csrf]').inputValue()
      for (const [action, needed] of Object.entries(ACTIONS) as [Action, Role][]) {
        if (atLeast(role, needed)) continue
        const answer = await page.request.post(`${it.url}/dashboard/actions/${action}`, {
          form: { csrf, confirmed: '1', id: '1' },
          headers: { origin: it.url },
        })
        expect([role, action, answer.status()]).toEqual([role, action, 403])
      }
    },
  )

  test('an operator replays dead letters: asked once more, done, said, and in the audit', async () => {
    const { page } = of('operator')
    await page.goto(`${it.url}/dashboard/alerts`)
    await page.getByRole('link', { name: 'Replay them' }).click()
    await page.getByRole('heading', { name: 'What will happen' }).waitFor()
    await page.getByRole('button', { name: 'Replay them' }).click()
    await page.getByRole('status').filter({ hasText: 'One dead letter was sent again.' }).waitFor()
    await page.goto(`${it.url}/dashboard/audit`)
    const row = page.getByRole('row').filter({ hasText: 'One dead letter was sent again.' })
    expect(await row.innerText()).toContain('dead-letters-replay')
    expect(of('operator').troubles).toEqual([])
  })

  test('an alert leads to its batch, and from there to the receipt', async () => {
    const { page } = of('viewer')
    await page.goto(`${it.url}/dashboard`)
    await page.locator('#alerts').getByRole('link', { name: 'anchor stalled' }).click()
    await page.waitForURL(`${it.url}/dashboard/batches/${receipt.height}`)
    await page.getByRole('heading', { name: `Batch ${receipt.height}`, level: 1 }).waitFor()
    await page.locator('#events').getByRole('link').first().click()
    await page.waitForURL(`${it.url}/dashboard/events/${eventHash}`)
    const link = page.locator('#place').getByRole('link', { name: 'JSON' })
    const file = await page.request.get(it.url + (await link.getAttribute('href'))!)
    expect((await file.json()) as Receipt).toMatchObject({ eventHash, status: 'final' })
    expect(of('viewer').troubles).toEqual([])
  })

  test('finds by one box whatever is typed, and every hit leads to a proof', async () => {
    const { page } = of('viewer')
    const anchor = receipt.anchors.find(({ chain }) => chain === 'BTC') ?? receipt.anchors[0]!
    for (const [typed, where] of [
      [eventHash, '/dashboard/events/'],
      [eventHash.slice(7, 17), '/dashboard/events/'],
      [receipt.source, '/dashboard/events/'],
      ['com.example.<i>paid</i>', '/dashboard/events/'],
      ['invoice \u202e7', '/dashboard/events/'],
      [String(receipt.leafIndex), '/dashboard/events/'],
      [`#${receipt.height}`, '/dashboard/batches/'],
      [receipt.root, '/dashboard/batches/'],
      [anchor.txHash as string, '/dashboard/batches/'],
    ] as const) {
      await page.goto(`${it.url}/dashboard`)
      await page.locator('body').press('/')
      expect(await page.evaluate(() => document.activeElement?.id)).toBe('q')
      await page.keyboard.insertText(typed)
      await page.keyboard.press('Enter')
      await page.waitForURL(/\/dashboard\/events\?q=/)
      const links = await page
        .locator('main a')
        .evaluateAll((all) => all.map((a) => a.getAttribute('href')))
      expect([typed, links.some((href) => href?.startsWith(where))]).toEqual([typed, true])
    }
    await page.goto(`${it.url}/dashboard/events?q=${'0'.repeat(64)}`)
    expect(await page.locator('main').innerText()).toContain('Nothing here is or has')
    expect(of('viewer').troubles).toEqual([])
  })

  test('sees the page prove the event by itself, and name the first check that fails on six forged receipts', async () => {
    const { page, troubles } = of('viewer')
    const url = `${it.url}/dashboard/events/${eventHash}`
    const forged = (change: (r: Receipt) => unknown): string =>
      JSON.stringify(change(structuredClone(receipt)))
    const other = (text: string, at: number): string =>
      text.slice(0, at) + (text[at] === '1' ? '2' : '1') + text.slice(at + 1)
    const withAnchor =
      (chain: string, change: (a: Record<string, unknown>) => object) => (r: Receipt) => ({
        ...r,
        anchors: r.anchors.map((a) => (a.chain === chain ? { ...a, ...change(a as never) } : a)),
      })
    const note = receipt.checkpoint
    const cases: readonly (readonly [name: string, body: string, section: string])[] = [
      ['another signer', forged((r) => ({ ...r, source: `${r.source}x` })), 'The event'],
      ['another id', forged((r) => ({ ...r, eventId: 'x' })), 'The event'],
      [
        'a checkpoint signed by nobody',
        forged((r) => ({ ...r, checkpoint: other(note, note.length - 9) })),
        'The log’s signature',
      ],
      [
        'another place',
        forged((r) => ({ ...r, inclusionProof: ['1'.repeat(64), ...r.inclusionProof] })),
        'The path to the root',
      ],
      [
        'another root',
        forged((r) => ({ ...r, root: `sha256:${other(r.root.slice(7), 5)}` })),
        'The log’s signature',
      ],
      [
        'another time-stamp',
        forged(withAnchor('TSA', (a) => ({ txHash: other(String(a['txHash']), 0) }))),
        'Time-stamp',
      ],
    ]
    const read = async () => {
      const verdict = page.locator('.proof:not(.running) .proof-verdict:not(.waiting)')
      await verdict.waitFor()
      return page.locator('.proof-section').evaluateAll((all) =>
        all.map((section) => ({
          title: section.querySelector('h3')?.textContent ?? '',
          failed: section.querySelector('.proof-state')?.textContent === 'failed',
        })),
      )
    }
    await page.goto(url)
    expect((await read()).some(({ failed }) => failed)).toBe(false)
    expect(await page.locator('.proof-verdict').innerText()).toContain('Verified')
    expect(troubles).toEqual([])
    for (const [name, body, section] of cases) {
      await page.route('**/receipts/**', (route) =>
        route.fulfill({ contentType: 'application/json', body }),
      )
      await page.goto(url)
      const first = (await read()).find(({ failed }) => failed)
      expect([name, first?.title.startsWith(section)]).toEqual([name, true])
      expect(await page.locator('.proof-verdict').innerText()).toContain('Refuted')
      await page.unroute('**/receipts/**')
    }
    // A receipt of another event, however good, is none of this page.
    const elsewhere = forged((r) => ({
      ...r,
      eventHash: `sha256:${other(r.eventHash.slice(7), 3)}`,
    }))
    await page.route('**/receipts/**', (route) =>
      route.fulfill({ contentType: 'application/json', body: elsewhere }),
    )
    await page.goto(url)
    await read()
    expect(await page.locator('.proof-verdict').innerText()).toContain('another event')
    await page.unroute('**/receipts/**')
  }, 60_000)

  test('sees a new batch come by itself, while nothing jumps, and can stop that', async () => {
    const { page } = of('viewer')
    await page.goto(`${it.url}/dashboard`)
    await page.evaluate(() => {
      const seen = { shift: 0 }
      Object.assign(globalThis, { seen })
      new PerformanceObserver((list) => {
        for (const entry of list.getEntries())
          seen.shift += (entry as unknown as { value: number }).value
      }).observe({ type: 'layout-shift' })
    })
    const { height } = await it.receipt((await it.post()).eventHash)
    const block = page.locator('#strip').getByRole('link', { name: `#${height}` })
    await block.waitFor({ timeout: 20_000 })
    const shift = await page.evaluate(
      () => (globalThis as unknown as { seen: { shift: number } }).seen.shift,
    )
    // Web Vitals: good below 0.1.
    expect(shift).toBeLessThan(0.1)
    await page.getByRole('button', { name: 'Live' }).click()
    await page.getByRole('button', { name: 'Paused' }).waitFor()
    expect(await page.getByRole('button', { name: 'Paused' }).getAttribute('aria-pressed')).toBe(
      'false',
    )
    expect(of('viewer').troubles).toEqual([])
  })

  test('needs no script: the pages are whole, search and actions work', async () => {
    const { page } = await openPage(browser, { javaScriptEnabled: false })
    await signIn(page, 'operator', '/dashboard')
    expect(await page.locator('#strip').getByRole('link').count()).toBeGreaterThan(0)
    await page.getByRole('searchbox').fill(`#${receipt.height}`)
    await page.getByRole('button', { name: 'Search' }).click()
    await page
      .locator('#batches')
      .getByRole('link', { name: `#${receipt.height}` })
      .click()
    await page.locator('#events').getByRole('link').first().click()
    expect(await page.locator('#verify').innerText()).toContain('vaultmesh verify')
    await page.locator('#path summary').click()
    expect(await page.locator('#path').innerText()).toContain('As a table')
    await page.getByRole('button', { name: 'Sign out' }).click()
    const answer = await page.request.get(`${it.url}/dashboard`, { maxRedirects: 0 })
    expect(answer.status()).not.toBe(200)
    await page.context().close()
  })

  test('reaches the content first by keyboard, and always sees where the focus is', async () => {
    const { page } = of('viewer')
    await page.goto(`${it.url}/dashboard`)
    await page.keyboard.press('Tab')
    const skip = page.getByRole('link', { name: 'Skip to the content' })
    expect(
      await skip.evaluate(
        (a) => a === document.activeElement && a.getBoundingClientRect().left >= 0,
      ),
    ).toBe(true)
    await page.keyboard.press('Enter')
    expect(await page.evaluate(() => document.activeElement?.id)).toBe('main')
    for (let i = 0; i < 25; i++) {
      await page.keyboard.press('Tab')
      const seen = await page.evaluate(() => {
        const at = document.activeElement!
        const style = getComputedStyle(at)
        return (
          at === document.body ||
          (style.outlineStyle !== 'none' && parseFloat(style.outlineWidth) >= 2)
        )
      })
      expect(seen).toBe(true)
    }
  })

  test('is out at once when an admin revokes the session, and an open page notices by itself', async () => {
    const { page } = await openPage(browser)
    await signIn(page, 'viewer', '/dashboard')
    const session = async (): Promise<string | undefined> =>
      (await page.context().cookies()).find(({ name }) => name === '__Host-vm-session')?.value
    const old = await session()
    const admin = of('admin').page
    await admin.goto(`${it.url}/dashboard/sessions`)
    // The newest session of vera.
    const row = admin.getByRole('row').filter({ hasText: 'vera' }).first()
    await row.getByRole('link', { name: 'Revoke' }).click()
    await admin.getByRole('button', { name: 'Revoke it' }).click()
    await admin.getByRole('status').filter({ hasText: 'revoked' }).waitFor()
    const headers = { cookie: `__Host-vm-session=${old}`, accept: 'text/html' }
    const answer = await fetch(`${it.url}/dashboard`, { headers, redirect: 'manual' })
    expect(answer.status).toBe(303)
    expect(answer.headers.get('location')).toContain('/login?next=')
    // It goes to sign in anew; the provider still knows vera, so that is another session.
    await expect.poll(session, { timeout: 20_000 }).not.toBe(old)
    await page.context().close()
  })
})

describe.skipIf(browserAbsence !== null)('every page', () => {
  test('has no serious fault that axe-core knows, in both themes, and fits a phone', async () => {
    const { page, troubles } = of('admin')
    const faults: string[] = []
    for (const [name, path] of PAGES) {
      await page.setViewportSize(DESKTOP)
      await page.emulateMedia({ colorScheme: 'light', reducedMotion: 'reduce' })
      await page.goto(it.url + path)
      if (name === 'event') await page.locator('.proof-verdict.proven').waitFor()
      for (const colorScheme of ['light', 'dark'] as const) {
        await page.emulateMedia({ colorScheme, reducedMotion: 'reduce' })
        // Colours of the other theme may fade in.
        await page.waitForFunction(() => document.getAnimations().length === 0)
        for (const fault of await axe(page)) faults.push(`${name}, ${colorScheme}: ${fault}`)
        await page.screenshot({
          path: join(PICTURES, `${name}-desktop-${colorScheme}.png`),
          fullPage: true,
        })
      }
      await page.setViewportSize(PHONE)
      await page.screenshot({ path: join(PICTURES, `${name}-phone.png`), fullPage: true })
      const tooWide = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth)
      if (tooWide > 0) faults.push(`${name}: ${tooWide} px wider than a phone`)
    }
    expect(faults).toEqual([])
    // The page that is not there says so with its status.
    expect(troubles.filter((text) => !/status of 404/.test(text))).toEqual([])
  }, 120_000)
})

/** What axe-core finds of serious and critical, one line each. */
async function axe(page: Page): Promise<string[]> {
  // By the debugger, which no policy of a page concerns.
  await page.evaluate(AXE)
  return page.evaluate(async () => {
    interface Found {
      readonly id: string
      readonly impact: string
      readonly nodes: readonly { readonly html: string; readonly failureSummary: string }[]
    }
    const { axe: tool } = globalThis as unknown as {
      axe: { run(options: object): Promise<{ violations: readonly Found[] }> }
    }
    const { violations } = await tool.run({
      resultTypes: ['violations'],
      runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa', 'best-practice'],
    })
    return violations
      .filter(({ impact }) => impact === 'serious' || impact === 'critical')
      .map(
        ({ id, nodes }) =>
          `${id}: ${nodes.length} × ${nodes[0]!.html.slice(0, 200)} ${nodes[0]!.failureSummary.slice(0, 300)}`,
      )
  })
}
