/**
 * A browser as far as sign-in needs one, and an OpenID provider that lies as it is told.
 *
 * The browser keeps cookies by name (all hosts here are 127.0.0.1, whose ports share them), follows nothing by itself
 * and says of its forms what Chromium says: Origin and Sec-Fetch-Site.
 */

import { createServer, type IncomingMessage, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { exportJWK, generateKeyPair, SignJWT, UnsecuredJWT, type JWK } from 'jose'

/** Where a sign-in stands. */
export interface Returned {
  /** The address at which the provider sent the browser back. */
  readonly callback: string
  /** What the node answered there. */
  readonly answer: Response
}

export class Browser {
  readonly cookies = new Map<string, string>()

  /** GET as a page load; `headers` over those of a browser. */
  async get(url: string, headers: Record<string, string> = {}): Promise<Response> {
    return this.#ask(url, { headers: { accept: 'text/html', ...headers } })
  }

  /** POST of a form that stands on a page of the same site; a header of an empty text is left out. */
  async post(
    url: string,
    form: Readonly<Record<string, string>>,
    headers: Record<string, string> = {},
  ): Promise<Response> {
    const all = {
      accept: 'text/html',
      origin: new URL(url).origin,
      'sec-fetch-site': 'same-origin',
      ...headers,
    }
    const sent = Object.fromEntries(Object.entries(all).filter(([, value]) => value !== ''))
    return this.#ask(url, { method: 'POST', body: new URLSearchParams(form), headers: sent })
  }

  async #ask(url: string, init: RequestInit): Promise<Response> {
    const cookie = [...this.cookies].map(([name, value]) => `${name}=${value}`).join('; ')
    const headers = new Headers(init.headers)
    if (cookie !== '') headers.set('cookie', cookie)
    const answer = await fetch(url, { ...init, headers, redirect: 'manual' })
    for (const line of answer.headers.getSetCookie()) {
      const [, name, value] = /^([^=]+)=([^;]*)/.exec(line)!
      if (value === '' || /max-age=0\b/i.test(line)) this.cookies.delete(name!)
      else this.cookies.set(name!, value!)
    }
    return answer
  }

  /** To the provider and back to the node's door, which is not opened yet. */
  async toCallback(node: string, user: string, query = ''): Promise<string> {
    let answer = await this.get(`${node}/login${query}`)
    for (let hop = 0; hop < 12; hop++) {
      const location = answer.headers.get('location')
      if (location === null) throw new Error(`${answer.status}: ${await answer.text()}`)
      const url = new URL(location, answer.url)
      if (url.href.startsWith(`${node}/`)) return url.href
      answer = await this.get(url.href)
      // The provider's own page: say who you are.
      if (answer.status === 200) answer = await this.post(answer.url, { login: user })
    }
    throw new Error('the provider does not send back')
  }

  /** Signs in as `user`. */
  async signIn(node: string, user: string, query = ''): Promise<Returned> {
    const callback = await this.toCallback(node, user, query)
    return { callback, answer: await this.get(callback) }
  }
}

/** The hidden fields of the form on a page. */
export function hiddenFields(html: string): Record<string, string> {
  const form = /<form[^>]*action="\/dashboard\/actions[^>]*>(.*?)<\/form>/s.exec(html)?.[1] ?? ''
  return Object.fromEntries(
    [...form.matchAll(/<input type="hidden" name="([^"]*)" value="([^"]*)"/g)].map(
      ([, name, value]) => [name!, unescaped(value!)],
    ),
  )
}

/** Text of a page, without markup. */
export function textOf(html: string): string {
  return unescaped(html.replaceAll(/<[^>]*>/g, ' ').replaceAll(/\s+/g, ' '))
}

function unescaped(text: string): string {
  return text
    .replaceAll('&quot;', '"')
    .replaceAll('&#39;', "'")
    .replaceAll('&lt;', '<')
    .replaceAll('&gt;', '>')
    .replaceAll('&amp;', '&')
}

/** What a lying provider is asked for, and what it would say honestly. */
export interface Grant {
  readonly issuer: string
  readonly clientId: string
  readonly nonce: string
  /** Claims of an honest id token. */
  readonly claims: Readonly<Record<string, unknown>>
  /** Signs as the provider's published key does. */
  sign(claims: Readonly<Record<string, unknown>>): Promise<string>
}

/** What it does; what is absent is done honestly. */
export interface Lies {
  /** Members of discovery that it says otherwise. */
  discovery?: (honest: Record<string, unknown>) => unknown
  jwks?: (honest: JWK[]) => unknown
  /** Parameters with which it sends the browser back. */
  callback?: (honest: URLSearchParams) => void
  idToken?: (grant: Grant) => Promise<string | undefined>
  token?: (response: ServerResponse) => void
  userinfo?: Readonly<Record<string, unknown>>
}

/** A provider with one user, `hal`, whom it lets in at once. */
export async function lyingProvider(clientId: string) {
  const { privateKey, publicKey } = await generateKeyPair('RS256')
  const jwk = { ...(await exportJWK(publicKey)), kid: 'k1', alg: 'RS256', use: 'sig' }
  let lies: Lies = {}
  const codes = new Map<string, { readonly nonce: string; readonly challenge: string }>()
  const server = createServer((request, response) => {
    handle(request, response).catch((error: unknown) => response.writeHead(500).end(String(error)))
  })
  await new Promise<void>((ready) => server.listen(0, '127.0.0.1', ready))
  const issuer = `http://127.0.0.1:${(server.address() as AddressInfo).port}`
  const sign = (claims: Readonly<Record<string, unknown>>): Promise<string> =>
    new SignJWT(claims).setProtectedHeader({ alg: 'RS256', kid: 'k1' }).sign(privateKey)

  async function handle(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const url = new URL(request.url!, issuer)
    const json = (value: unknown): void =>
      void response
        .writeHead(200, { 'content-type': 'application/json' })
        .end(JSON.stringify(value))
    if (url.pathname === '/.well-known/openid-configuration') {
      const honest = {
        issuer,
        authorization_endpoint: `${issuer}/authorize`,
        token_endpoint: `${issuer}/token`,
        userinfo_endpoint: `${issuer}/userinfo`,
        jwks_uri: `${issuer}/jwks`,
        id_token_signing_alg_values_supported: ['RS256', 'HS256', 'none'],
        authorization_response_iss_parameter_supported: true,
      }
      return json(lies.discovery === undefined ? honest : lies.discovery(honest))
    }
    if (url.pathname === '/jwks') return json({ keys: lies.jwks?.([jwk]) ?? [jwk] })
    if (url.pathname === '/userinfo') return json(lies.userinfo ?? { sub: 'hal' })
    if (url.pathname === '/authorize') {
      const code = crypto.randomUUID()
      const { nonce, state, redirect_uri, code_challenge } = Object.fromEntries(url.searchParams)
      codes.set(code, { nonce: nonce!, challenge: code_challenge! })
      const back = new URL(redirect_uri!)
      for (const [name, value] of Object.entries({ code, state: state!, iss: issuer }))
        back.searchParams.set(name, value)
      lies.callback?.(back.searchParams)
      return void response.writeHead(302, { location: back.href }).end()
    }
    if (lies.token !== undefined) return lies.token(response)
    const body = new URLSearchParams(await bodyOf(request))
    const known = codes.get(body.get('code') ?? '')
    codes.delete(body.get('code') ?? '')
    const digest = await crypto.subtle.digest(
      'SHA-256',
      new TextEncoder().encode(body.get('code_verifier') ?? ''),
    )
    if (known === undefined || Buffer.from(digest).toString('base64url') !== known.challenge) {
      return void response
        .writeHead(400, { 'content-type': 'application/json' })
        .end('{"error":"invalid_grant"}')
    }
    const now = Math.floor(Date.now() / 1000)
    const { nonce } = known
    const claims = {
      iss: issuer,
      sub: 'hal',
      aud: clientId,
      iat: now,
      exp: now + 300,
      nonce,
      name: 'Hal',
      groups: ['ledger-viewer'],
    }
    const grant: Grant = { issuer, clientId, nonce, claims, sign }
    const idToken = lies.idToken === undefined ? await sign(claims) : await lies.idToken(grant)
    json({ access_token: 'a', token_type: 'Bearer', id_token: idToken })
  }

  return {
    issuer,
    /** From now on. */
    lie(next: Lies) {
      lies = next
    },
    async stop() {
      const closed = new Promise<void>((resolve) => server.close(() => resolve()))
      server.closeAllConnections()
      await closed
    },
  }
}

/** An id token that nobody signed. */
export function unsigned(claims: Readonly<Record<string, unknown>>): string {
  return new UnsecuredJWT(claims).encode()
}

async function bodyOf(request: IncomingMessage): Promise<string> {
  let all = ''
  for await (const chunk of request) all += String(chunk)
  return all
}
