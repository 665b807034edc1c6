/**
 * Sign-in, sessions, roles, actions and API tokens of a running node, with a real OpenID provider and with one that
 * lies.
 */

import { request as httpRequest } from 'node:http'
import { readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { generateKeyPair, SignJWT } from 'jose'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { ACTIONS, type Action, type Role } from '#core/roles.ts'
import { bundleWorker } from '../../scripts/build.ts'
import { startOidc, type Oidc } from '../../scripts/devnet/oidc.ts'
import { startNode, type RunningNode } from '../../scripts/selfhost.ts'
import {
  Browser,
  hiddenFields,
  lyingProvider,
  textOf,
  unsigned,
  type Lies,
} from './oidc-support.ts'
import { freePort, sandbox, vaultmesh } from './support.ts'

const SESSION = '__Host-vm-session'
const SECRET = 'a-client-secret-that-both-sides-know-0123456789'
const CLIENT = 'dashboard'

let box: Awaited<ReturnType<typeof sandbox>>
let script = ''
let oidc: Oidc
let honest: RunningNode
let provider: Awaited<ReturnType<typeof lyingProvider>>
let lied: RunningNode
/** The lied-to node follows it. */
let federation = ''
beforeAll(async () => {
  box = await sandbox()
  script = await bundleWorker()
  provider = await lyingProvider(CLIENT)
  federation = join(box.dir, 'federation.yaml')
  await writeFile(federation, '# who is heard\npeers_allowlist: []\n')
  honest = await nodeWith('real', async (at) => {
    oidc = await startOidc({ nodeUrl: at, port: 0 })
    return oidc.vars
  })
  const vars = {
    OIDC_ISSUER: provider.issuer,
    OIDC_CLIENT_ID: CLIENT,
    OIDC_CLIENT_SECRET: SECRET,
    OIDC_ROLES_CLAIM: 'groups',
    OIDC_ROLE_MAP: 'ledger-viewer=viewer,ledger-admin=admin',
    OIDC_ALLOW_HTTP: '1',
  }
  lied = await nodeWith('lies', async () => vars, federation)
})
afterAll(async () => {
  await Promise.all([honest?.stop(), lied?.stop()])
  await Promise.all([oidc?.stop(), provider?.stop()])
  await box.remove()
})

async function nodeWith(
  name: string,
  vars: (url: string) => Promise<Readonly<Record<string, string>>>,
  file?: string,
): Promise<RunningNode> {
  const port = await freePort()
  const own = await vars(`http://127.0.0.1:${port}`)
  const home = join(box.dir, name)
  return startNode({
    home,
    port,
    script,
    cron: false,
    vars: { ORIGIN: `${name}.test/log`, ...own },
    ...(file === undefined ? {} : { federation: file }),
  })
}

/** The node's D1. */
async function db({ host }: RunningNode): Promise<D1> {
  return (await host.miniflare.getD1Database('DB')) as unknown as D1
}
interface D1 {
  prepare(sql: string): {
    bind(...values: unknown[]): ReturnType<D1['prepare']>
    run(): Promise<unknown>
    all(): Promise<{ results: Record<string, unknown>[] }>
  }
}

/** `ok`: a page of the dashboard; else where a browser is sent, or the refusal's status. */
async function reach(browser: Browser, url: string, path = '/dashboard'): Promise<string> {
  const answer = await browser.get(url + path)
  await answer.text()
  if (answer.status === 303) return new URL(answer.headers.get('location')!).pathname
  return answer.status === 200 ? 'ok' : String(answer.status)
}

describe('with a real provider', () => {
  let node: RunningNode
  let url = ''
  const people = new Map<string, Browser>()
  const as = (name: string): Browser => people.get(name)!
  beforeAll(async () => {
    node = honest
    url = node.url
    for (const name of ['vera', 'oscar', 'alice']) {
      const browser = new Browser()
      people.set(name, browser)
      const { answer } = await browser.signIn(url, name)
      expect(answer.status).toBe(303)
    }
    people.set('nobody', new Browser())
  })

  /** The form that an action's page has for this person, filled in. */
  async function formOf(
    browser: Browser,
    action: Action,
    fields: Readonly<Record<string, string>>,
  ): Promise<Record<string, string>> {
    const query = new URLSearchParams(fields).toString()
    const page = await browser.get(`${url}/dashboard/actions/${action}?${query}`)
    const html = await page.text()
    expect(page.status, textOf(html)).toBe(200)
    return hiddenFields(html)
  }
  const send = (
    browser: Browser,
    action: Action,
    form: Readonly<Record<string, string>>,
    headers: Record<string, string> = {},
  ): Promise<Response> => browser.post(`${url}/dashboard/actions/${action}`, form, headers)

  /** Rows of the audit of an action, newest first. */
  async function audited(action: string): Promise<Record<string, unknown>[]> {
    const all = (await db(node)).prepare('SELECT * FROM audit WHERE action = ? ORDER BY id DESC')
    return (await all.bind(action).all()).results
  }

  /** The token of a person's forms. */
  async function tokenOf(browser: Browser): Promise<string> {
    const html = await (await browser.get(`${url}/dashboard`)).text()
    return /name="csrf" value="([^"]+)"/.exec(html)![1]!
  }

  describe('sign-in', () => {
    test('gives each person the role of their group, and a session cookie that only this host gets', async () => {
      for (const [name, role] of [
        ['vera', 'viewer'],
        ['oscar', 'operator'],
        ['alice', 'admin'],
      ]) {
        const html = await (await as(name!).get(`${url}/dashboard`)).text()
        expect(textOf(html)).toContain(`${name} ${role}`)
      }
      const { answer } = await new Browser().signIn(url, 'vera')
      const cookie = answer.headers.getSetCookie().find((line) => line.startsWith(SESSION))!
      expect(cookie).toMatch(
        /^__Host-vm-session=[\w-]{43}; Path=\/; Secure; HttpOnly; SameSite=Lax$/,
      )
    })

    test('lets nobody in who has no role, and says so', async () => {
      const mallory = new Browser()
      const { answer } = await mallory.signIn(url, 'mallory')
      expect(answer.status).toBe(403)
      const words = textOf(await answer.text())
      expect(words).toContain('You are known as mallory, but no group of yours has a role here')
      expect(words).toContain('Sign in as somebody else')
      expect(mallory.cookies.has(SESSION)).toBe(false)
      expect(await reach(mallory, url)).toBe('/login')
      expect((await audited('sign-in'))[0]).toMatchObject({ actor: 'mallory', outcome: 'refused' })
    })

    test('asks the provider again where somebody else is to sign in', async () => {
      const browser = new Browser()
      await browser.signIn(url, 'vera')
      const onward = await browser.get(`${url}/login?again=1`)
      expect(onward.headers.get('location')).toContain('prompt=login')
      // Without it, whoever is signed in is sent on.
      expect(
        (await browser.get(`${url}/login?next=/dashboard/events`)).headers.get('location'),
      ).toBe(`${url}/dashboard/events`)
    })

    test('sends nobody to the sign-in, and back to the page they came for', async () => {
      const browser = new Browser()
      const first = await browser.get(`${url}/dashboard/events?q=did%3Akey%3Az6Mk`)
      expect(first.status).toBe(303)
      const login = new URL(first.headers.get('location')!)
      expect(login.pathname).toBe('/login')
      const { answer } = await browser.signIn(url, 'vera', login.search)
      expect(answer.headers.get('location')).toBe(`${url}/dashboard/events?q=did%3Akey%3Az6Mk`)
    })

    test('goes on from a form of ours without a redirect, which the policy of its page would block', async () => {
      const answer = await new Browser().get(`${url}/login?next=/dashboard/events`, {
        'sec-fetch-site': 'same-origin',
      })
      expect(answer.status).toBe(200)
      expect(answer.headers.get('content-security-policy')).toContain("form-action 'self';")
      expect(answer.headers.get('refresh')).toMatch(new RegExp(`^0;url=${oidc.issuer}/auth\\?`))
      expect(await answer.text()).toContain('Go there now')
    })

    test('is refused to a program in words, not sent around', async () => {
      const answer = await fetch(`${url}/dashboard`, { redirect: 'manual' })
      expect(answer.status).toBe(401)
      expect(await answer.json()).toMatchObject({ type: '/problems/sign-in-required' })
    })

    test('leads to the dashboard of this node, whatever `next` says', async () => {
      const browser = new Browser()
      for (const next of [
        '//evil.example',
        '/\\evil.example',
        'https://evil.example/dashboard',
        '/%2f%2fevil.example',
        '%2f%2fevil.example',
        '/dashboard/%2f%2fevil.example',
        '/dashboard\r\nlocation: https://evil.example',
        'javascript:alert(1)',
        '/login',
      ]) {
        browser.cookies.delete(SESSION)
        const query = `?next=${encodeURIComponent(next)}`
        const { answer } = await browser.signIn(url, 'vera', query)
        expect(answer.headers.get('location')).toBe(`${url}/dashboard`)
      }
      // Nor for whom is signed in already.
      const onward = await browser.get(`${url}/login?next=//evil.example`)
      expect(onward.headers.get('location')).toBe(`${url}/dashboard`)
    })

    test('opens a new session whatever the browser had, and ends the one it had', async () => {
      const mallory = new Browser()
      await mallory.signIn(url, 'vera')
      const planted = mallory.cookies.get(SESSION)!
      const victim = new Browser()
      for (const cookie of [planted, 'A'.repeat(43)]) {
        victim.cookies.set(SESSION, cookie)
        await victim.signIn(url, 'oscar', '?again=1')
        expect(victim.cookies.get(SESSION)).not.toBe(cookie)
        expect(await reach(victim, url)).toBe('ok')
        const thief = new Browser()
        thief.cookies.set(SESSION, cookie)
        expect(await reach(thief, url)).toBe('/login')
      }
    })

    test('counts once: the same way back again is refused, and its code is worth nothing', async () => {
      const browser = new Browser()
      const { callback } = await browser.signIn(url, 'vera')
      browser.cookies.delete(SESSION)
      const again = await browser.get(callback)
      expect(again.status).toBe(403)
      expect(textOf(await again.text())).toContain('came back before: it counts once')
      // A code that was used, or is somebody else's, under a state that is good.
      const used = new URL(callback).searchParams.get('code')!
      for (const code of [used, await codeOf('alice')]) {
        const fresh = new URL(await browser.toCallback(url, 'vera'))
        fresh.searchParams.set('code', code)
        const answer = await browser.get(fresh.href)
        expect(answer.status).toBe(403)
        expect(textOf(await answer.text())).toContain('does not take the code (invalid_grant)')
      }
      // What the provider does not vouch for takes no room: states are anybody's to make.
      const spent = async (): Promise<unknown> =>
        (await (await db(node)).prepare('SELECT count(*) AS n FROM used_states').all()).results
      const before = await spent()
      const made = new Browser()
      const away = new URL((await made.get(`${url}/login`)).headers.get('location')!)
      const state = away.searchParams.get('state')!
      const query = new URLSearchParams({ state, code: 'x', iss: oidc.issuer })
      expect((await made.get(`${url}/auth/callback?${query}`)).status).toBe(403)
      expect(await spent()).toEqual(before)
      expect(browser.cookies.has(SESSION)).toBe(false)
    })

    test('counts in the browser that began it: nobody is signed in as somebody else by a link', async () => {
      const attackers = await new Browser().toCallback(url, 'alice')
      const victim = new Browser()
      const bare = await victim.get(attackers)
      expect(bare.status).toBe(403)
      expect(textOf(await bare.text())).toContain('begun in another browser')
      // Also in one that is about to sign in itself.
      await victim.get(`${url}/login`)
      const busy = await victim.get(attackers)
      expect(busy.status).toBe(403)
      expect(victim.cookies.has(SESSION)).toBe(false)
    })

    test('is refused with a state that is missing, changed or there twice', async () => {
      const browser = new Browser()
      const change: ((p: URLSearchParams) => void)[] = [
        (p) => p.delete('state'),
        (p) => p.set('state', 'x'),
        (p) => p.set('state', `${p.get('state')}x`),
        (p) => p.set('state', p.get('state')!.replace(/\.\d+\./, '.99999999999.')),
        (p) => p.append('state', 'x'),
        (p) => p.delete('code'),
        (p) => p.delete('iss'),
        (p) => p.set('iss', 'https://evil.example'),
        (p) => p.set('error', 'access_denied'),
      ]
      for (const alter of change) {
        const back = new URL(await browser.toCallback(url, 'vera'))
        alter(back.searchParams)
        expect((await browser.get(back.href)).status).toBe(403)
      }
      expect(browser.cookies.has(SESSION)).toBe(false)
    })

    async function codeOf(user: string): Promise<string> {
      return new URL(await new Browser().toCallback(url, user)).searchParams.get('code')!
    }
  })

  describe('sessions', () => {
    test('lie in the table by hash alone', async () => {
      const secret = as('vera').cookies.get(SESSION)!
      const { results } = await (await db(node)).prepare('SELECT * FROM sessions').all()
      expect(results.length).toBeGreaterThan(0)
      expect(JSON.stringify(results)).not.toContain(secret)
    })

    test('end by sign-out, which a form of another site cannot send', async () => {
      const browser = new Browser()
      await browser.signIn(url, 'vera')
      const csrf = await tokenOf(browser)
      const kept = browser.cookies.get(SESSION)!
      for (const [form, headers] of [
        [{}, {}],
        [{ csrf: await tokenOf(as('vera')) }, {}],
        [{ csrf }, { origin: 'https://evil.example' }],
        [{ csrf }, { origin: 'null' }],
        [{ csrf }, { 'sec-fetch-site': 'cross-site' }],
        [{ csrf }, { origin: '', 'sec-fetch-site': '' }],
      ] as [Record<string, string>, Record<string, string>][]) {
        expect((await browser.post(`${url}/logout`, form, headers)).status).toBe(403)
      }
      // Nor take its cookie away: it comes without one, as that is SameSite=Lax.
      const headers = { origin: 'https://evil.example', 'sec-fetch-site': 'cross-site' }
      const bare = await new Browser().post(`${url}/logout`, {}, headers)
      expect(bare.headers.getSetCookie()).toEqual([])
      expect(await reach(browser, url)).toBe('ok')
      const out = await browser.post(`${url}/logout`, { csrf })
      expect(out.status).toBe(200)
      expect(await out.text()).toContain(`${oidc.issuer}/session/end?client_id=`)
      expect(browser.cookies.has(SESSION)).toBe(false)
      browser.cookies.set(SESSION, kept)
      expect(await reach(browser, url)).toBe('/login')
    })

    test('end when an admin revokes them: the next request is out', async () => {
      const browser = new Browser()
      await browser.signIn(url, 'vera')
      expect(await reach(browser, url)).toBe('ok')
      const newest = await (
        await db(node)
      )
        .prepare("SELECT id FROM sessions WHERE sub = 'vera' ORDER BY id DESC LIMIT 1")
        .all()
      const { id } = newest.results[0]!
      const form = await formOf(as('alice'), 'session-revoke', { id: String(id) })
      const done = await send(as('alice'), 'session-revoke', form)
      expect(done.status).toBe(303)
      expect(await reach(browser, url)).toBe('/login')
      const back = await as('alice').get(done.headers.get('location')!)
      expect(textOf(await back.text())).toContain(`Session ${String(id)} is revoked.`)
      const again = await send(as('alice'), 'session-revoke', form)
      expect(again.status).toBe(404)
    })

    test('end when nobody used them for the idle time, and at their age, used or not', async () => {
      const shift = async (column: string, ms: number): Promise<void> => {
        const sql = `UPDATE sessions SET ${column} = ${column} - ? WHERE id = (SELECT max(id) FROM sessions)`
        await (await db(node)).prepare(sql).bind(ms).run()
      }
      const idle = new Browser()
      await idle.signIn(url, 'vera')
      await shift('seen_at', 3_590_000)
      // That use is noted, and the idle time begins anew.
      expect(await reach(idle, url)).toBe('ok')
      await shift('seen_at', 3_590_000)
      expect(await reach(idle, url)).toBe('ok')
      await shift('seen_at', 3_601_000)
      expect(await reach(idle, url)).toBe('/login')
      const old = new Browser()
      await old.signIn(url, 'vera')
      await shift('created_at', 43_190_000)
      expect(await reach(old, url)).toBe('ok')
      await shift('created_at', 11_000)
      expect(await reach(old, url)).toBe('/login')
    })
  })

  /** What each action is sent in the matrix; none of these things is there. */
  const samples: Record<Action, Record<string, string>> = {
    'quarantine-release': { origin: 'x.test/log', height: '1', root: 'ab'.repeat(32) },
    'dead-letters-replay': {},
    'anchor-retry': { id: '999' },
    'anchor-release': { id: '999' },
    'session-revoke': { id: '99999' },
    'allowlist-change': {
      op: 'add',
      did: 'did:key:z6MkgoLTnTypo3tDRCvkRXSTPZWHKTf1BaWUPbcBxjWvBRhN',
    },
    'identity-rotate': { days: '7' },
    'token-create': { name: 'x', scopes: 'read:dashboard', days: '1' },
    'token-revoke': { id: '99999' },
  }
  const names = Object.keys(samples) as Action[]

  describe('actions', () => {
    test('are done by exactly those whose role they need', async () => {
      const roles: [string, Role | null][] = [
        ['nobody', null],
        ['vera', 'viewer'],
        ['oscar', 'operator'],
        ['alice', 'admin'],
      ]
      for (const name of names) {
        const before = (await audited(name))[0]?.['id'] ?? 0
        for (const [person, role] of roles) {
          const browser = as(person)
          const csrf = role === null ? '' : await tokenOf(browser)
          const may = role === 'admin' || (role === 'operator' && ACTIONS[name] === 'operator')
          const page = await reach(browser, url, `/dashboard/actions/${name}`)
          expect([person, name, page]).toEqual([
            person,
            name,
            role === null ? '/login' : may ? 'ok' : '403',
          ])
          const fields: Record<string, string> = may ? {} : { confirmed: '1' }
          const sent = await send(browser, name, { ...samples[name], csrf, ...fields })
          const status = role === null ? [401] : may ? [200, 404, 409] : [403]
          expect(status, `${person} ${name}`).toContain(sent.status)
          // Of those who may: asked for confirmation, or told that there is no such thing.
          await sent.text()
        }
        const refused = (await audited(name))
          .filter(({ id, outcome }) => Number(id) > Number(before) && outcome === 'refused')
          .map(({ actor, role }) => [actor, role])
        const lesser = [
          ['vera', 'viewer'],
          ['', ''],
        ]
        if (ACTIONS[name] === 'admin') lesser.unshift(['oscar', 'operator'])
        expect(refused).toEqual(lesser)
      }
      expect((await audited('token-create')).some(({ outcome }) => outcome === 'done')).toBe(false)
    })

    test('are refused to forms that are not of this session and this site, each of them', async () => {
      const alice = as('alice')
      const csrf = await tokenOf(alice)
      const others = await tokenOf(as('oscar'))
      const forged: [Record<string, string>, Record<string, string>][] = [
        [{}, {}],
        [{ csrf: '' }, {}],
        [{ csrf: others }, {}],
        [{ csrf: `${csrf}x` }, {}],
        [{ csrf }, { origin: 'https://evil.example', 'sec-fetch-site': '' }],
        [{ csrf }, { origin: 'null', 'sec-fetch-site': '' }],
        [{ csrf }, { origin: url.replace('127.0.0.1', 'localhost'), 'sec-fetch-site': '' }],
        [{ csrf }, { origin: '', 'sec-fetch-site': 'cross-site' }],
        [{ csrf }, { origin: '', 'sec-fetch-site': 'same-site' }],
        [{ csrf }, { origin: '', 'sec-fetch-site': 'none' }],
        [{ csrf }, { origin: '', 'sec-fetch-site': '' }],
      ]
      for (const name of names) {
        const before = (await audited(name)).length
        for (const [fields, headers] of forged) {
          const form = { ...samples[name], once: 'x', confirmed: '1', ...fields }
          const answer = await send(alice, name, form, headers)
          expect(answer.status, name).toBe(403)
          expect(textOf(await answer.text())).toContain('Form refused')
        }
        const rows = (await audited(name)).slice(0, -before || undefined)
        expect(rows).toHaveLength(forged.length)
        for (const row of rows)
          expect(row).toMatchObject({
            actor: 'alice',
            outcome: 'refused',
            detail: expect.stringContaining('form-refused') as unknown,
          })
      }
      const { results } = await (await db(node)).prepare('SELECT * FROM api_tokens').all()
      expect(results).toEqual([])
    })

    test('take a form as browsers send it, no JSON and no text', async () => {
      const csrf = await tokenOf(as('alice'))
      for (const type of ['application/json', 'text/plain', 'multipart/form-data; boundary=x']) {
        const answer = await fetch(`${url}/dashboard/actions/dead-letters-replay`, {
          method: 'POST',
          headers: {
            'content-type': type,
            cookie: `${SESSION}=${as('alice').cookies.get(SESSION)}`,
            origin: url,
          },
          body: JSON.stringify({ csrf, confirmed: '1' }),
        })
        expect(answer.status).toBe(415)
      }
    })

    test('ask for confirmation first, say what will happen, do it once, and write it down before and after', async () => {
      const html = await (
        await as('oscar').get(`${url}/dashboard/actions/dead-letters-replay`)
      ).text()
      expect(textOf(html)).toContain('There are none: nothing will happen.')
      const form = hiddenFields(html)
      const { confirmed: _, ...unconfirmed } = form
      const asked = await send(as('oscar'), 'dead-letters-replay', unconfirmed)
      expect(asked.status).toBe(200)
      expect(textOf(await asked.text())).toContain('What will happen')
      const requestId = 'request-7'
      const done = await send(as('oscar'), 'dead-letters-replay', form, {
        'x-request-id': requestId,
      })
      expect(done.status).toBe(303)
      expect(done.headers.get('location')).toMatch(
        new RegExp(`^${url}/dashboard/alerts\\?said=\\d+$`),
      )
      const [after, before] = await audited('dead-letters-replay')
      expect(before).toMatchObject({
        outcome: 'begun',
        actor: 'oscar',
        role: 'operator',
        request_id: requestId,
      })
      expect(after).toMatchObject({ outcome: 'done', ref: before!['id'], request_id: requestId })
      // The page says how it went, to whom it was done by alone.
      const told = async (name: string): Promise<string> =>
        textOf(await (await as(name).get(done.headers.get('location')!)).text())
      expect(await told('oscar')).toContain('0 dead letters were sent again.')
      expect(await told('alice')).not.toContain('dead letters were sent again')
    })

    test('release a held anchor and retry one that waits, and say so of one that does neither', async () => {
      const d1 = await db(node)
      const job = async (n: number, state: string): Promise<string> => {
        const sql = `INSERT INTO anchors (root, tree_size, chain, network, method, state, reason, next_at, created_at, updated_at)
          VALUES (?, 1, 'TSA', 'nowhere.test', 'rfc3161', ?, 'no_funds', 4e12, 0, 0) RETURNING id`
        const { results } = await d1.prepare(sql).bind(String(n).padStart(64, '0'), state).all()
        return String(results[0]!['id'])
      }
      const [held, waits] = [await job(1, 'held'), await job(2, 'queued')]
      const releasing = await formOf(as('oscar'), 'anchor-release', { id: held })
      expect((await send(as('oscar'), 'anchor-release', releasing)).status).toBe(303)
      const retrying = await formOf(as('oscar'), 'anchor-retry', { id: waits })
      expect((await send(as('oscar'), 'anchor-retry', retrying)).status).toBe(303)
      const rows = d1.prepare('SELECT released FROM anchors WHERE id IN (?, ?) AND next_at < 4e12')
      const { results } = await rows.bind(Number(held), Number(waits)).all()
      expect(results).toEqual([{ released: 1 }, { released: 0 }])
      const wrong = await as('oscar').get(`${url}/dashboard/actions/anchor-release?id=${waits}`)
      expect(wrong.status).toBe(409)
    })

    test('fill a form in again where what was filled in is wrong', async () => {
      const page = await as('alice').get(`${url}/dashboard/actions/token-create?name=x&days=8`)
      expect(page.status).toBe(400)
      expect(textOf(await page.text())).toContain('The field "scopes"')
      const gone = await as('alice').get(`${url}/dashboard/actions/nonsense`)
      expect(gone.status).toBe(404)
    })

    test('leave rows that nobody can change or remove', async () => {
      const d1 = await db(node)
      for (const sql of [
        "UPDATE audit SET detail = 'x'",
        'DELETE FROM audit',
        "INSERT OR REPLACE INTO audit SELECT id, 0, '', '', '', '', '', '', '', '', NULL FROM audit LIMIT 1",
      ])
        await expect(d1.prepare(sql).run()).rejects.toThrow('append-only')
    })
  })

  describe('API tokens', () => {
    async function made(scopes: string): Promise<string> {
      const form = await formOf(as('alice'), 'token-create', { name: 'test', scopes, days: '1' })
      const answer = await send(as('alice'), 'token-create', form)
      expect(answer.status).toBe(200)
      const token = /vmt_[\w-]{43}/.exec(await answer.text())![0]
      // The same form again makes no second one.
      expect((await send(as('alice'), 'token-create', form)).status).toBe(409)
      return token
    }
    const bearer = (token: string) => ({ authorization: `Bearer ${token}` })
    const act = (
      token: string,
      name: Action,
      more: Record<string, string> = {},
    ): Promise<Response> =>
      fetch(`${url}/dashboard/actions/${name}`, {
        method: 'POST',
        headers: { ...bearer(token), 'content-type': 'application/json', ...more },
        body: JSON.stringify(samples[name]),
      })

    test('are shown once, lie by hash, and open what their scopes say', async () => {
      const reader = await made('read:dashboard')
      const d1 = await db(node)
      for (const table of ['api_tokens', 'audit']) {
        const { results } = await d1.prepare(`SELECT * FROM ${table}`).all()
        expect(JSON.stringify(results)).not.toContain(reader.slice(4))
      }
      const get = (path: string, token: string): Promise<Response> =>
        fetch(url + path, {
          headers: { ...bearer(token), accept: 'text/html' },
          redirect: 'manual',
        })
      expect((await get('/dashboard', reader)).status).toBe(200)
      // A page of admins stays closed, and so do all actions.
      expect((await get('/dashboard/sessions', reader)).status).toBe(403)
      for (const name of names) expect((await act(reader, name)).status).toBe(403)
      const replayer = await made('action:dead-letters-replay')
      expect((await get('/dashboard', replayer)).status).toBe(403)
      for (const name of names) {
        const { status } = await act(replayer, name)
        expect([name, status]).toEqual([name, name === 'dead-letters-replay' ? 200 : 403])
      }
      const answer = await act(replayer, 'dead-letters-replay', { origin: 'https://evil.example' })
      expect(await answer.json()).toMatchObject({ outcome: 'done' })
      expect((await audited('dead-letters-replay'))[0]).toMatchObject({
        actor: expect.stringMatching(/^token:\d+$/) as unknown,
        role: 'token',
        name: 'test',
      })
    })

    test('are refused when they are unknown, revoked or have expired, and never fall back to a cookie', async () => {
      const token = await made('read:dashboard')
      const cookie = `${SESSION}=${as('alice').cookies.get(SESSION)}`
      const status = async (value: string): Promise<number> =>
        (await fetch(`${url}/dashboard`, { headers: { authorization: value, cookie } })).status
      expect(await status(`Bearer ${token}`)).toBe(200)
      for (const wrong of [
        'Bearer vmt_',
        `Bearer ${token.slice(0, -1)}`,
        `Bearer ${token.slice(0, -1)}${token.endsWith('A') ? 'B' : 'A'}`,
        'Bearer',
        `Bearer ${as('alice').cookies.get(SESSION)}`,
      ])
        expect(await status(wrong)).toBe(401)
      // What a browser sends to a proxy by itself neither opens nor closes anything.
      expect(await status('Basic dTpw')).toBe(200)
      const basic = { headers: { authorization: `Basic ${token}` } }
      expect((await fetch(`${url}/dashboard`, basic)).status).toBe(401)
      const d1 = await db(node)
      const newest = await d1.prepare('SELECT max(id) AS id FROM api_tokens').all()
      const { id } = newest.results[0]!
      const used = await d1.prepare('SELECT used_at FROM api_tokens WHERE id = ?').bind(id).all()
      expect(used.results[0]).toEqual({ used_at: expect.any(Number) as unknown })
      const form = await formOf(as('alice'), 'token-revoke', { id: String(id) })
      expect((await send(as('alice'), 'token-revoke', form)).status).toBe(303)
      expect(await status(`Bearer ${token}`)).toBe(401)
      const other = await made('read:dashboard')
      await d1.prepare('UPDATE api_tokens SET expires_at = 1 WHERE ended_at IS NULL').run()
      expect(await status(`Bearer ${other}`)).toBe(401)
    })
  })

  describe('what only an admin changes', () => {
    const DID = 'did:key:z6MkgoLTnTypo3tDRCvkRXSTPZWHKTf1BaWUPbcBxjWvBRhN'
    const peers = async (): Promise<string[]> => {
      const answer = await fetch(`${url}/federation/peers`)
      return ((await answer.json()) as { peers: { did: string }[] }).peers.map(({ did }) => did)
    }

    test('the allow-list of the federation, if it is still the one that was looked at', async () => {
      const alice = as('alice')
      const none = await alice.get(`${url}/dashboard/actions/allowlist-change?op=add&did=${DID}`)
      expect(none.status).toBe(404)
      await admin(
        '/admin/federation',
        'gossip:\n  interval_ms: 60000\n# who is heard\npeers_allowlist: []\n',
      )
      const bad = await alice.get(`${url}/dashboard/actions/allowlist-change?op=add&did=mallory`)
      expect(bad.status).toBe(400)
      const form = await formOf(alice, 'allowlist-change', { op: 'add', did: DID })
      const done = await send(alice, 'allowlist-change', form)
      expect(done.status).toBe(303)
      expect(await peers()).toEqual([DID])
      // Sent again, it looks at a list that has the peer already.
      expect((await send(alice, 'allowlist-change', form)).status).toBe(400)
      const removal = await formOf(alice, 'allowlist-change', { op: 'remove', did: DID })
      await admin('/admin/federation', `peers_allowlist: ['${DID}'] # another text\n`)
      const late = await send(alice, 'allowlist-change', removal)
      expect(late.status).toBe(409)
      expect(await peers()).toEqual([DID])
    })

    test('the identity key: one statement an epoch, which the command line installs', async () => {
      const alice = as('alice')
      const statement = async (days: string): Promise<string> => {
        const form = await formOf(alice, 'identity-rotate', { days })
        const answer = await send(alice, 'identity-rotate', form)
        return /<code>([\w-]+\.[\w-]+\.[\w-]+)<\/code>/.exec(await answer.text())![1]!
      }
      const first = await statement('7')
      expect(await statement('1')).toBe(first)
      const keys = ['keys', 'rotate', '--home', node.home.path, '--statement', first, '--json']
      const ran = await vaultmesh(keys)
      expect(ran.code, ran.stderr).toBe(0)
      expect(JSON.parse(ran.stdout)).toMatchObject({
        nodeDid: node.trust.node_did,
        new: { epoch: 2 },
      })
      const file = JSON.parse(await readFile(node.home.rotation, 'utf8')) as unknown
      expect(file).toEqual({ statements: [first] })
    })
  })

  function admin(path: string, body: string): Promise<void> {
    return new Promise((done, fail) => {
      const asked = httpRequest(
        { socketPath: node.home.socket, path, method: 'POST' },
        (answer) => {
          answer
            .resume()
            .on('end', () => (answer.statusCode === 200 ? done() : fail(new Error(path))))
        },
      )
      asked.on('error', fail).end(body)
    })
  }
})

describe('with a provider that lies', () => {
  let node: RunningNode
  let url = ''
  beforeAll(() => {
    node = lied
    url = node.url
  })

  async function trySignIn(
    lies: Lies,
  ): Promise<{ status: number; words: string; browser: Browser }> {
    provider.lie(lies)
    const browser = new Browser()
    const { answer } = await browser.signIn(url, 'hal')
    return { status: answer.status, words: textOf(await answer.text()), browser }
  }

  test('an honest answer is believed, with groups in the id token or in userinfo alone', async () => {
    expect((await trySignIn({})).status).toBe(303)
    const { status } = await trySignIn({
      idToken: ({ claims, sign }) => sign({ ...claims, groups: undefined }),
      userinfo: { sub: 'hal', groups: 'ledger-viewer' },
    })
    expect(status).toBe(303)
  })

  const hmacKey = new TextEncoder().encode(SECRET)
  const forgeries: [string, string, Lies][] = [
    [
      'signed by a key that is not the provider’s, under its key id',
      'does not verify|signature',
      {
        async idToken({ claims }) {
          const { privateKey } = await generateKeyPair('RS256')
          return new SignJWT(claims)
            .setProtectedHeader({ alg: 'RS256', kid: 'k1' })
            .sign(privateKey)
        },
      },
    ],
    [
      'signed by a key that no key set holds',
      'no applicable keys|does not verify',
      {
        async idToken({ claims }) {
          const { privateKey } = await generateKeyPair('RS256')
          return new SignJWT(claims)
            .setProtectedHeader({ alg: 'RS256', kid: 'k9' })
            .sign(privateKey)
        },
      },
    ],
    [
      'whose key comes with it in the header',
      'does not verify|signature',
      {
        async idToken({ claims }) {
          const { privateKey, publicKey } = await generateKeyPair('RS256')
          const jwk = await crypto.subtle.exportKey('jwk', publicKey)
          return new SignJWT(claims)
            .setProtectedHeader({ alg: 'RS256', kid: 'k1', jwk: jwk as never })
            .sign(privateKey)
        },
      },
    ],
    ['of alg none', 'unexpected JWT "alg"', { idToken: async ({ claims }) => unsigned(claims) }],
    [
      'signed HS256 with the client secret',
      'unexpected JWT "alg"',
      {
        idToken: ({ claims }) =>
          new SignJWT(claims).setProtectedHeader({ alg: 'HS256' }).sign(hmacKey),
      },
    ],
    [
      'whose payload was changed after it was signed',
      'does not verify|signature',
      {
        async idToken({ claims, sign }) {
          const [header, , signature] = (await sign(claims)).split('.')
          const body = Buffer.from(JSON.stringify({ ...claims, sub: 'eve' })).toString('base64url')
          return `${header}.${body}.${signature}`
        },
      },
    ],
    [
      'without its signature',
      'does not verify|signature',
      { idToken: async ({ claims, sign }) => (await sign(claims)).replace(/[^.]+$/, '') },
    ],
    [
      'of another nonce',
      'nonce',
      { idToken: ({ claims, sign }) => sign({ ...claims, nonce: 'x' }) },
    ],
    [
      'without a nonce',
      'nonce',
      { idToken: ({ claims, sign }) => sign({ ...claims, nonce: undefined }) },
    ],
    [
      'for another client',
      'aud',
      { idToken: ({ claims, sign }) => sign({ ...claims, aud: 'other' }) },
    ],
    [
      'for several clients, issued to none in particular',
      'aud',
      { idToken: ({ claims, sign }) => sign({ ...claims, aud: [CLIENT, 'other'] }) },
    ],
    [
      'for several clients, issued to another',
      'azp',
      { idToken: ({ claims, sign }) => sign({ ...claims, aud: [CLIENT, 'other'], azp: 'other' }) },
    ],
    [
      'issued to another, though for us alone',
      'azp',
      { idToken: ({ claims, sign }) => sign({ ...claims, azp: 'other' }) },
    ],
    [
      'of a subject that is nobody',
      'sub',
      { idToken: ({ claims, sign }) => sign({ ...claims, sub: '' }) },
    ],
    [
      'of a subject that never ends',
      'sub',
      { idToken: ({ claims, sign }) => sign({ ...claims, sub: 'x'.repeat(256) }) },
    ],
    [
      'of another issuer',
      'iss',
      { idToken: ({ claims, sign }) => sign({ ...claims, iss: 'https://evil.example' }) },
    ],
    [
      'that has expired',
      'timestamp|exp',
      {
        idToken: ({ claims, sign }) => sign({ ...claims, exp: Math.floor(Date.now() / 1000) - 60 }),
      },
    ],
    [
      'that is not valid yet',
      'timestamp|nbf',
      {
        idToken: ({ claims, sign }) =>
          sign({ ...claims, nbf: Math.floor(Date.now() / 1000) + 600 }),
      },
    ],
    [
      'without a subject',
      'sub',
      { idToken: ({ claims, sign }) => sign({ ...claims, sub: undefined }) },
    ],
    ['that is not there', 'id_token', { idToken: async () => undefined }],
    ['that is no token', 'verify|JWT|JWS', { idToken: async () => 'x.y.z' }],
  ]
  test.for(forgeries)(
    'an id token %s is refused, and nobody is signed in',
    async ([, why, lies]) => {
      const { status, words, browser } = await trySignIn(lies)
      expect(words).toMatch(new RegExp(why))
      expect(status).toBe(403)
      expect(browser.cookies.has(SESSION)).toBe(false)
      expect(await reach(browser, url)).toBe('/login')
    },
  )

  test('an answer of another provider’s is refused: iss is missing, or another', async () => {
    for (const callback of [
      (p: URLSearchParams) => p.delete('iss'),
      (p: URLSearchParams) => p.set('iss', 'https://evil.example'),
    ]) {
      const { status, words } = await trySignIn({ callback })
      expect(status).toBe(403)
      expect(words).toContain('"iss" (issuer)')
    }
  })

  test('userinfo of somebody else is refused', async () => {
    const { status } = await trySignIn({
      idToken: ({ claims, sign }) => sign({ ...claims, groups: undefined }),
      userinfo: { sub: 'eve', groups: ['ledger-viewer'] },
    })
    expect(status).toBe(403)
  })

  test('groups that are not what the map names give no role', async () => {
    for (const groups of [
      'ledger-viewer ledger-admin',
      ['LEDGER-VIEWER'],
      { 'ledger-viewer': true },
      null,
    ]) {
      const { status, words } = await trySignIn({
        idToken: ({ claims, sign }) => sign({ ...claims, groups }),
      })
      expect(status).toBe(403)
      expect(words).toContain('no group of yours has a role here')
    }
  })

  test('a name that is markup is shown as text', async () => {
    const name = '<script>alert(1)</script>‮evil'
    const { browser } = await trySignIn({
      idToken: ({ claims, sign }) => sign({ ...claims, name }),
    })
    const html = await (await browser.get(`${url}/dashboard`)).text()
    expect(html).toContain('&lt;script&gt;alert(1)')
    expect(html).not.toContain('<script>alert')
  })

  test('a code that somebody made up does not have discovery read again', async () => {
    expect((await trySignIn({})).status).toBe(303)
    let reads = 0
    const lies: Lies = {
      discovery: (said) => {
        reads++
        return said
      },
    }
    const forged = (p: URLSearchParams): void => p.set('code', 'x')
    for (const callback of [forged, (p: URLSearchParams) => p.delete('code'), forged])
      expect((await trySignIn({ ...lies, callback })).status).toBe(403)
    expect(reads).toBe(0)
  })

  test('a provider that fails, redirects or floods is named as the one at fault, and nobody is signed in', async () => {
    const fails: [number, Lies['token']][] = [
      [502, (r) => void r.writeHead(500).end()],
      [502, (r) => void r.destroy()],
      [
        502,
        (r) =>
          void r.writeHead(200, { 'content-type': 'application/json' }).end(' '.repeat(300_000)),
      ],
      [403, (r) => void r.writeHead(307, { location: 'http://127.0.0.1:1/' }).end()],
      [403, (r) => void r.writeHead(200, { 'content-type': 'text/html' }).end('<p>hello')],
    ]
    for (const [expected, token] of fails) {
      const { status, browser } = await trySignIn({ token })
      expect(status).toBe(expected)
      expect(browser.cookies.has(SESSION)).toBe(false)
    }
  })

  test('discovery of another issuer, or without TLS where it is asked for, opens no way to it', async () => {
    // The refusals before have it read again.
    provider.lie({ discovery: (said) => ({ ...said, issuer: 'https://evil.example' }) })
    const answer = await new Browser().get(`${url}/login`)
    expect(answer.status).toBe(502)
    expect(textOf(await answer.text())).toContain('discovery document that is refused')
    provider.lie({})
    expect((await new Browser().get(`${url}/login`)).status).toBe(303)
  })

  test('where a file says who is heard, the file wins: its new text is shown, and counts once it is saved', async () => {
    const { browser } = await trySignIn({
      idToken: ({ claims, sign }) => sign({ ...claims, groups: ['ledger-admin'] }),
    })
    const did = 'did:key:z6MkgoLTnTypo3tDRCvkRXSTPZWHKTf1BaWUPbcBxjWvBRhN'
    const page = await browser.get(`${url}/dashboard/actions/allowlist-change?op=add&did=${did}`)
    const html = await page.text()
    expect(textOf(html)).toContain('the file wins')
    const answer = await browser.post(
      `${url}/dashboard/actions/allowlist-change`,
      hiddenFields(html),
    )
    expect(answer.status).toBe(200)
    const text = textOf(
      /<pre[^>]*>(.*?)<\/pre>/s.exec(await answer.text())![1]!.replaceAll('\n', '¶'),
    )
    const peers = async (): Promise<string> => (await fetch(`${url}/federation/peers`)).text()
    expect(await peers()).not.toContain(did)
    await writeFile(federation, text.trim().replaceAll('¶', '\n'))
    await expect.poll(peers).toContain(did)
  })

  test('no secret and no token of a sign-in is in the audit', async () => {
    const { results } = await (await db(node)).prepare('SELECT * FROM audit').all()
    const all = JSON.stringify(results)
    expect(results.length).toBeGreaterThan(10)
    expect(all).not.toContain(SECRET)
    expect(all).not.toContain('eyJ')
  })
})
