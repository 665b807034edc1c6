/**
 * Who gets in, for how long, and what is written down: sessions, API tokens, forms and the audit on a real D1.
 */

import { env as testEnv } from 'cloudflare:test'
import { describe, expect, test } from 'vitest'
import { VaultMeshError } from '#core/errors.ts'
import { ACTIONS, SCOPES, type Action, type Scope } from '#core/roles.ts'
import { anchorRow, retryAnchor } from '#store/anchors.ts'
import { createToken, endToken, listTokens, tokenOf } from '#store/api-tokens.ts'
import { audit, auditPage, auditRow } from '#store/audit.ts'
import { nodeOf } from '#store/node.ts'
import { prepareNextKey, preparedKey } from '#store/prepared-keys.ts'
import {
  endSession,
  forgetSessions,
  isSpent,
  isUnseen,
  listSessions,
  newSecret,
  noteSeen,
  openSession,
  sessionOf,
  spendState,
} from '#store/sessions.ts'
import { checkForm } from '../../functions/http/csrf.ts'
import {
  actionGuard,
  Answered,
  auditRefusal,
  guarded,
} from '../../functions/http/dashboard-guard.ts'
import { federationOf } from '../../functions/http/federation.ts'
import { readersOnly } from '../../functions/http/readers.ts'
import type { Call } from '../../functions/http/route.ts'
import { SESSION_COOKIE, whoAsks } from '../../functions/http/session.ts'

const ORIGIN = 'https://node.example'
const plain = testEnv as unknown as Env
const env = {
  ...plain,
  PUBLIC_URL: ORIGIN,
  OIDC_ISSUER: 'https://login.example',
  OIDC_CLIENT_ID: 'dashboard',
  OIDC_ROLE_MAP: 'v=viewer,o=operator,a=admin',
} as unknown as Env
const signIn = (await nodeOf(env)).config.signIn!
const { idleMs, maxMs } = signIn
const nowAt = Date.now()

/** A request on its way through the guard. */
async function call(
  init: RequestInit & { readonly method?: 'GET' | 'POST' } = {},
  { path = '/dashboard', under = env } = {},
): Promise<Call> {
  const url = new URL(path, ORIGIN)
  return {
    request: new Request(url, init),
    env: under,
    ctx: { waitUntil: () => undefined },
    node: await nodeOf(under),
    url,
    requestId: 'test',
    params: {},
    query: {},
  }
}
const cookie = (secret: string): Record<string, string> => ({
  cookie: `a=b; ${SESSION_COOKIE}=${secret}`,
})
const code = (error: unknown): unknown => (error as { code?: unknown }).code
const refusal = (asking: Promise<unknown>): Promise<unknown> =>
  asking.then(
    () => 'nothing',
    (error: unknown) => (error instanceof Answered ? error.response.status : code(error)),
  )

let subjects = 0
async function signedIn(role: 'viewer' | 'operator' | 'admin', at = nowAt) {
  const person = { sub: `s${subjects++}`, name: 'Somebody', role }
  return { ...person, ...(await openSession(env.DB, person, signIn.terms, at)) }
}

describe('a session', () => {
  test('is found by its secret alone, which lies nowhere', async () => {
    const { id, secret, sub } = await signedIn('operator')
    expect(await sessionOf(env.DB, secret, signIn, nowAt)).toMatchObject({
      id,
      sub,
      role: 'operator',
    })
    const { results } = await env.DB.prepare('SELECT * FROM sessions').all()
    expect(JSON.stringify(results)).not.toContain(secret)
    const hash = String(
      (await env.DB.prepare('SELECT hash FROM sessions WHERE id = ?').bind(id).all()).results[0]![
        'hash'
      ],
    )
    for (const wrong of ['', 'x', hash, newSecret(), `${secret} `, secret.slice(1)])
      expect(await sessionOf(env.DB, wrong, signIn, nowAt)).toBeNull()
  })

  test('ends at its idle time, unless a use was noted, and at its age in any case', async () => {
    const { id, secret } = await signedIn('viewer')
    const at = (ms: number) => sessionOf(env.DB, secret, signIn, nowAt + ms)
    expect(await at(idleMs - 1)).not.toBeNull()
    expect(await at(idleMs)).toBeNull()
    for (let ms = 0; ms < maxMs; ms += idleMs - 1) await noteSeen(env.DB, id, nowAt + ms)
    await noteSeen(env.DB, id, nowAt + maxMs - 1)
    expect(await at(maxMs - 1)).not.toBeNull()
    expect(await at(maxMs)).toBeNull()
  })

  test('notes a use once a minute, or once in a quarter of a short idle time', async () => {
    const { secret } = await signedIn('viewer')
    const session = (await sessionOf(env.DB, secret, signIn, nowAt))!
    expect(isUnseen(session, signIn, nowAt + 59_999)).toBe(false)
    expect(isUnseen(session, signIn, nowAt + 60_000)).toBe(true)
    expect(isUnseen(session, { ...signIn, idleMs: 4000 }, nowAt + 1000)).toBe(true)
  })

  test('that was ended is over at once, once, and no late note of a use brings it back', async () => {
    const { id, secret } = await signedIn('admin')
    expect(await endSession(env.DB, id, 'alice', nowAt)).toBe(true)
    expect(await endSession(env.DB, id, 'alice', nowAt)).toBe(false)
    await noteSeen(env.DB, id, nowAt + 1)
    expect(await sessionOf(env.DB, secret, signIn, nowAt)).toBeNull()
    expect(
      (await listSessions(env.DB, signIn, { nowAt, limit: 100 })).some((s) => s.id === id),
    ).toBe(false)
  })

  test('is over under other settings of sign-in: another map may give another role', async () => {
    const { secret } = await signedIn('admin')
    for (const changed of [
      { OIDC_ROLE_MAP: 'v=viewer,o=operator,a=viewer' },
      { OIDC_ISSUER: 'https://other.example' },
      { OIDC_CLIENT_ID: 'other' },
      { OIDC_ROLES_CLAIM: 'roles' },
    ]) {
      const { config } = await nodeOf({ ...env, ...changed } as unknown as Env)
      expect(await sessionOf(env.DB, secret, config.signIn!, nowAt)).toBeNull()
    }
    const reordered = { ...env, OIDC_ROLE_MAP: 'a=admin,o=operator,v=viewer' } as unknown as Env
    const { config } = await nodeOf(reordered)
    expect(await sessionOf(env.DB, secret, config.signIn!, nowAt)).not.toBeNull()
  })

  test('is listed newest first, page by page, while it lives', async () => {
    const made = [await signedIn('viewer'), await signedIn('viewer'), await signedIn('viewer')]
    const ids = made.map(({ id }) => id).toReversed()
    const first = await listSessions(env.DB, signIn, { nowAt, limit: 2 })
    expect(first.map(({ id }) => id)).toEqual(ids.slice(0, 2))
    const rest = await listSessions(env.DB, signIn, { nowAt, limit: 1, below: ids[1]! })
    expect(rest.map(({ id }) => id)).toEqual(ids.slice(2))
    expect(await listSessions(env.DB, signIn, { nowAt: nowAt + maxMs, limit: 9 })).toEqual([])
  })

  test('is forgotten a month after it began, and a used state when it expires', async () => {
    const { id, secret } = await signedIn('viewer', nowAt - 32 * 86_400_000)
    const fresh = await signedIn('viewer')
    expect(await spendState(env.DB, 'old', nowAt - 1)).toBe(true)
    expect(await spendState(env.DB, 'new', nowAt + 1)).toBe(true)
    await forgetSessions(env.DB, nowAt)
    const rows = await env.DB.prepare('SELECT id FROM sessions WHERE id IN (?, ?)')
      .bind(id, fresh.id)
      .all()
    expect(rows.results).toEqual([{ id: fresh.id }])
    expect(
      await sessionOf(env.DB, secret, { ...signIn, maxMs: 1e12, idleMs: 1e12 }, nowAt),
    ).toBeNull()
    expect(await spendState(env.DB, 'new', nowAt + 1)).toBe(false)
    expect(await spendState(env.DB, 'old', nowAt - 1)).toBe(true)
  })

  test('of two ways back with one state, one counts', async () => {
    const spent = await Promise.all(
      Array.from({ length: 8 }, () => spendState(env.DB, 'twice', nowAt + 1)),
    )
    expect(spent.filter(Boolean)).toHaveLength(1)
    expect([await isSpent(env.DB, 'twice'), await isSpent(env.DB, 'never')]).toEqual([true, false])
  })
})

describe('the guard', () => {
  test('lets in whose role suffices, refuses a lesser one, and sends nobody to the sign-in', async () => {
    const roles = ['viewer', 'operator', 'admin'] as const
    for (const [i, role] of roles.entries()) {
      const { secret, sub } = await signedIn(role, Date.now())
      for (const [j, needed] of roles.entries()) {
        const asked = guarded(await call({ headers: cookie(secret) }), needed)
        if (i >= j) expect(await asked).toMatchObject({ sub, role, scopes: null, flash: null })
        else expect(await refusal(asked)).toBe('forbidden')
      }
    }
    const html = { accept: 'text/html,*/*;q=0.8' }
    const sent = guarded(
      await call({ headers: html }, { path: '/dashboard/events?q=a%26b' }),
      'viewer',
    )
    const location = await sent.catch((error: Answered) => error.response.headers.get('location'))
    expect(location).toBe(`${ORIGIN}/login?next=${encodeURIComponent('/dashboard/events?q=a%26b')}`)
    expect(await refusal(guarded(await call(), 'viewer'))).toBe('sign-in-required')
    expect(await refusal(guarded(await call({ method: 'POST', headers: html }), 'viewer'))).toBe(
      'sign-in-required',
    )
  })

  test('without a provider lets nobody in, also with a session or a token from before', async () => {
    const { secret } = await signedIn('admin', Date.now())
    const { token } = await tokenFor([...SCOPES])
    for (const headers of [{}, cookie(secret), { authorization: `Bearer ${token}` }]) {
      for (const role of ['viewer', 'admin'] as const)
        expect(await refusal(guarded(await call({ headers }, { under: plain }), role))).toBe(
          'no-sign-in',
        )
    }
  })

  test('lets nobody in while the sessions cannot be read', async () => {
    const { secret } = await signedIn('admin', Date.now())
    const DB = {
      prepare: () => {
        throw new Error('D1 is down')
      },
    } as unknown as D1Database
    const broken = { ...env, DB } as Env
    expect(
      await refusal(guarded(await call({ headers: cookie(secret) }, { under: broken }), 'viewer')),
    ).toBe('storage-failed')
  })

  test('takes the first cookie of a name, and none that only ends like it', async () => {
    const { secret } = await signedIn('viewer', Date.now())
    for (const header of [
      `x${SESSION_COOKIE}=${secret}`,
      `${SESSION_COOKIE}x=${secret}`,
      `${SESSION_COOKIE}=; ${SESSION_COOKIE}=${secret}`,
      `${SESSION_COOKIE.toLowerCase()}=${secret}`,
      `a=${SESSION_COOKIE}=${secret}`,
      // What a neighbouring host can set: for browsers it has no prefix.
      ...['\u00a0', '\u00a0 ', '\ufeff', '\t', ' '].map(
        (s) => `a=b; ${s}${SESSION_COOKIE}=${secret}`,
      ),
      ...['\u00a0', ' '].map((s) => `a=b; ${SESSION_COOKIE}${s}=${secret}`),
    ])
      expect(await whoAsks(await call({ headers: { cookie: header } }))).toBeNull()
  })
})

describe('a form', () => {
  test('needs the token of its session and a site that is ours', async () => {
    const { secret } = await signedIn('admin', Date.now())
    const other = await signedIn('admin', Date.now())
    const viewer = (await whoAsks(await call({ headers: cookie(secret) })))!
    const others = (await whoAsks(await call({ headers: cookie(other.secret) })))!
    expect(viewer.csrf).not.toBe(others.csrf)
    const sent = async (
      headers: Record<string, string>,
      csrf: string | undefined,
    ): Promise<unknown> => {
      const asked = await call({ method: 'POST', headers: { ...cookie(secret), ...headers } })
      return refusal((async () => checkForm(asked, viewer, csrf))())
    }
    const site = { origin: ORIGIN, 'sec-fetch-site': 'same-origin' }
    expect(await sent(site, viewer.csrf)).toBe('nothing')
    expect(await sent({ origin: ORIGIN }, viewer.csrf)).toBe('nothing')
    expect(await sent({ 'sec-fetch-site': 'same-origin' }, viewer.csrf)).toBe('nothing')
    for (const token of [
      undefined,
      '',
      'x',
      others.csrf,
      viewer.csrf.toLowerCase(),
      `${viewer.csrf}=`,
    ])
      expect(await sent(site, token)).toBe('form-refused')
    for (const headers of [
      {},
      { ...site, origin: 'null' },
      { ...site, origin: 'https://evil.example' },
      { ...site, origin: `${ORIGIN}.evil.example` },
      { ...site, origin: ORIGIN.replace('https', 'http') },
      { ...site, origin: `${ORIGIN}:8443` },
      { ...site, 'sec-fetch-site': 'same-site' },
      { ...site, 'sec-fetch-site': 'cross-site' },
      { ...site, 'sec-fetch-site': 'none' },
    ])
      expect(await sent(headers as Record<string, string>, viewer.csrf)).toBe('form-refused')
  })

  test('that is refused is written down: of all without a role thirty in a minute, of a person three hundred', async () => {
    const asked = await call({ method: 'POST' })
    const count = async (where: string): Promise<unknown> =>
      (await env.DB.prepare(`SELECT count(*) AS n FROM audit WHERE ${where}`).all()).results[0]
    const refused = new VaultMeshError('sign-in-refused', 'x')
    for (let i = 0; i < 20; i++) {
      expect(await refusal(actionGuard(asked, 'anchor-retry', {}))).toBe('sign-in-required')
      // Whoever can make accounts at the provider is a stranger, too.
      const mallory = { actor: `mallory${i}`, name: 'Mallory', role: '' }
      await auditRefusal(asked, mallory, 'sign-in', refused)
    }
    expect(await count("role = ''")).toEqual({ n: 30 })
    const vera = { actor: 'vera', name: 'Vera', role: 'viewer' }
    for (let i = 0; i < 310; i++) await auditRefusal(asked, vera, 'anchor-retry', refused)
    expect(await count("actor = 'vera'")).toEqual({ n: 300 })
  })
})

async function tokenFor(scopes: readonly Scope[], expiresAt = Date.now() + 60_000) {
  return createToken(
    env.DB,
    { name: 'test', scopes, expiresAt, by: 'alice', once: newSecret() },
    Date.now(),
  )
}

describe('an API token', () => {
  test('opens the actions of its scopes, needs no form, and none of an admin’s', async () => {
    for (const scope of SCOPES) {
      const { token } = await tokenFor([scope])
      const asked = await call({
        method: 'POST',
        headers: { authorization: `Bearer ${token}`, origin: 'https://evil.example' },
      })
      for (const action of Object.keys(ACTIONS) as Action[]) {
        const outcome = await refusal(actionGuard(asked, action, {}))
        expect([scope, action, outcome]).toEqual([
          scope,
          action,
          scope === `action:${action}` ? 'nothing' : 'forbidden',
        ])
      }
      const page = await refusal(guarded(asked, 'viewer'))
      expect(page).toBe(scope === 'read:dashboard' ? 'nothing' : 'forbidden')
      expect(await refusal(guarded(asked, 'operator'))).toBe('forbidden')
      expect(await refusal(guarded(asked, 'viewer', 'read:metrics'))).toBe(
        scope === 'read:metrics' ? 'nothing' : 'forbidden',
      )
      const closed = { ...env, METRICS_TOKEN: 'scrape' }
      const headers = { authorization: `Bearer ${token}` }
      const reads = await call({ headers }, { path: '/metrics', under: closed })
      expect(await refusal(readersOnly(reads))).toBe(
        scope === 'read:metrics' ? 'nothing' : 'forbidden',
      )
    }
  })

  test('ends at its time, or when it is revoked, and a scope of another version gives nothing', async () => {
    const expiresAt = nowAt + 1000
    const { id, token } = await tokenFor(['read:dashboard'], expiresAt)
    expect(await tokenOf(env.DB, token, expiresAt - 1)).toMatchObject({
      id,
      scopes: ['read:dashboard'],
    })
    expect(await tokenOf(env.DB, token, expiresAt)).toBeNull()
    await env.DB.prepare(
      "UPDATE api_tokens SET scopes = 'read:everything read:metrics' WHERE id = ?",
    )
      .bind(id)
      .run()
    expect((await tokenOf(env.DB, token, nowAt))!.scopes).toEqual(['read:metrics'])
    expect(await endToken(env.DB, id, 'alice', nowAt)).toBe(true)
    expect(await endToken(env.DB, id, 'alice', nowAt)).toBe(false)
    expect(await tokenOf(env.DB, token, nowAt)).toBeNull()
    expect((await listTokens(env.DB, { limit: 1 }))[0]).toMatchObject({ id, endedAt: nowAt })
  })

  test('is made once of a form, however often it is sent', async () => {
    const wanted = {
      name: 'x',
      scopes: ['read:metrics'] as const,
      expiresAt: nowAt + 1,
      by: 'alice',
      once: newSecret(),
    }
    const made = await Promise.all(
      Array.from({ length: 4 }, () => createToken(env.DB, wanted, nowAt).then(() => 'made', code)),
    )
    expect(made.map(String).toSorted()).toEqual([
      'changed-meanwhile',
      'changed-meanwhile',
      'changed-meanwhile',
      'made',
    ])
  })
})

describe('the audit', () => {
  const entry = {
    at: nowAt,
    requestId: 'r',
    actor: 'alice',
    name: 'Alice',
    role: 'admin',
    action: 'x',
    target: 't',
    outcome: 'done',
    detail: 'd',
  } as const

  test('keeps what is written, newest first and page by page, cut to its length', async () => {
    const a = await audit(env, entry)
    const b = await audit(env, { ...entry, outcome: 'failed', ref: a, detail: '😀'.repeat(2000) })
    const rows = await auditPage(env.DB, { limit: 2 })
    expect(rows.map(({ id }) => id)).toEqual([b, a])
    expect(rows[0]).toMatchObject({ ref: a, outcome: 'failed' })
    expect(rows[0]!.detail).toHaveLength(1000)
    expect(rows[0]!.detail.isWellFormed()).toBe(true)
    expect(rows[1]).toEqual({ ...entry, id: a, ref: null })
    expect((await auditPage(env.DB, { limit: 1, below: b })).map(({ id }) => id)).toEqual([a])
  })

  test('lets nobody change, replace or remove a row', async () => {
    const id = await audit(env, entry)
    const columns = 'id, at, request_id, actor, name, role, action, target, outcome, detail, ref'
    for (const sql of [
      `UPDATE audit SET detail = 'x' WHERE id = ${id}`,
      `UPDATE audit SET id = ${id + 1000} WHERE id = ${id}`,
      `DELETE FROM audit WHERE id = ${id}`,
      'DELETE FROM audit',
      `INSERT OR REPLACE INTO audit (${columns}) SELECT id, 1, '', '', '', '', '', '', '', '', NULL FROM audit WHERE id = ${id}`,
      `INSERT INTO audit (${columns}) SELECT ${columns} FROM audit WHERE id = ${id} ON CONFLICT (id) DO UPDATE SET detail = 'x'`,
    ])
      await expect(env.DB.prepare(sql).run()).rejects.toThrow('audit is append-only')
    expect(await auditRow(env.DB, id)).toEqual({ ...entry, id, ref: null })
  })
})

describe('the next identity key', () => {
  test('has one statement, whoever asks and however many at once', async () => {
    const asked = [1, 7, 30].map((days) =>
      prepareNextKey(env, { overlapS: days * 86_400, by: `a${days}`, nowAt: nowAt + days }),
    )
    const [first, ...others] = await Promise.all(asked)
    for (const other of others) expect(other).toEqual(first)
    expect(first!.epoch).toBe(2)
    expect(await preparedKey(env.DB, 2)).toEqual(first)
    expect(await preparedKey(env.DB, 3)).toBeNull()
    // It is one that this node takes at its next start.
    const rotated = { ...env, ROTATION: first!.statement } as unknown as Env
    const { history, identity } = await nodeOf(rotated)
    expect(history.keys.map(({ epoch }) => epoch)).toEqual([1, 2])
    expect(identity.did).toBe(history.keys[1]!.did)
  })
})

describe('the configuration of the federation', () => {
  test('is changed only by who has seen the one in force', async () => {
    const federation = federationOf(env)
    const [first, second] = ['peers_allowlist: []\n', 'peers_allowlist: [] # another\n']
    await federation.apply(first)
    expect(await federation.apply(second, first)).toEqual({ peers: 0 })
    expect(await federation.apply(first, first)).toMatchObject({
      refusal: { code: 'changed-meanwhile' },
    })
    expect(await federation.configuration()).toBe(second)
    await federation.apply(null)
  })
})

describe('retrying an anchor', () => {
  test('has one that waits tried now, and leaves alone what is held, over or under way', async () => {
    const job = async (n: number, state: string, leaseUntil = 0): Promise<number> => {
      const row = await env.DB.prepare(
        `INSERT INTO anchors (root, tree_size, chain, network, method, state, failures, next_at, lease_until, created_at, updated_at)
         VALUES (?, 1, 'TSA', 'retry.test', 'rfc3161', ?, 6, ?, ?, 0, 0) RETURNING id`,
      )
        .bind(String(n).padStart(64, '0'), state, nowAt + 1_800_000, leaseUntil)
        .first<{ id: number }>()
      return row!.id
    }
    const waits = await job(1, 'queued')
    expect(await retryAnchor(env, waits, nowAt)).toBe(true)
    expect(await anchorRow(env.DB, waits)).toMatchObject({
      nextAt: nowAt,
      failures: 6,
      state: 'queued',
    })
    for (const [n, state, lease] of [
      [2, 'held', 0],
      [3, 'final', 0],
      [4, 'failed', 0],
      [5, 'broadcast', nowAt + 1000],
    ] as const)
      expect(await retryAnchor(env, await job(n, state, lease), nowAt)).toBe(false)
    expect(await retryAnchor(env, 999_999, nowAt)).toBe(false)
  })
})
