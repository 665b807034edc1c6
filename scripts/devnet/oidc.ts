/**
 * A real OpenID provider (oidc-provider) for devnet and tests: whoever asks is let in as whom they choose.
 *
 * Trust: none, DEV ONLY. Four users without passwords, one for each role and one without: vera, oscar, alice,
 * mallory. Keys, client secret and sessions are made anew at each start and live in memory alone.
 *
 *   node scripts/devnet/oidc.ts --port 7081 --node http://127.0.0.1:7077
 */

import { generateKeyPairSync, randomBytes } from 'node:crypto'
import { createServer, type IncomingMessage, type RequestListener } from 'node:http'
import type { AddressInfo } from 'node:net'
import { parseArgs } from 'node:util'
import type { Context, Provider } from 'oidc-provider'
import { VaultMeshError } from '#core/errors.ts'

/** Who can sign in, and the group that OIDC_ROLE_MAP below gives a role. */
export const USERS: Readonly<Record<string, readonly string[]>> = {
  vera: ['ledger-viewer'],
  oscar: ['ledger-operator'],
  alice: ['ledger-admin'],
  mallory: ['someone-else'],
}
const CLIENT_ID = 'vaultmesh-devnet'
const ROLE_MAP = 'ledger-viewer=viewer,ledger-operator=operator,ledger-admin=admin'
const SCOPES = 'openid profile groups'
/** The longest form is a name and a button. */
const MAX_FORM_BYTES = 1024

export const missingOidc =
  'oidc-provider is not installed: nobody can sign in, the dashboard stays closed (npm install)'

export interface Oidc {
  readonly issuer: string
  readonly port: number
  /** Variables of a node whose people sign in here. */
  readonly vars: Readonly<Record<string, string>>
  stop(): Promise<void>
}

/** Whether the package is here. */
export async function hasOidc(): Promise<boolean> {
  return import('oidc-provider').then(
    () => true,
    () => false,
  )
}

/**
 * Starts the provider for the node at `nodeUrl`; port 0 picks a free one. Throws `bad-config` where the package is
 * missing or the port in use.
 */
export async function startOidc({
  nodeUrl,
  port,
}: {
  readonly nodeUrl: string
  readonly port: number
}): Promise<Oidc> {
  if (!(await hasOidc())) throw new VaultMeshError('bad-config', `${missingOidc}.`)
  const { Provider: Made } = await import('oidc-provider')
  const { createMemoryAdapter } = await import('oidc-provider/lib/adapters/memory_adapter.js')
  // The issuer has the port in it, so the port comes first.
  let listener: RequestListener = (_, response) => void response.writeHead(503).end()
  const server = createServer((request, response) => listener(request, response))
  await new Promise<void>((resolve, reject) => {
    server.once('error', (error: NodeJS.ErrnoException) =>
      reject(
        new VaultMeshError(
          'bad-config',
          `Port ${port} on 127.0.0.1 ${error.code === 'EADDRINUSE' ? 'is in use' : `fails with ${error.code}`}.`,
        ),
      ),
    )
    server.listen(port, '127.0.0.1', resolve)
  })
  const bound = (server.address() as AddressInfo).port
  const issuer = `http://127.0.0.1:${bound}`
  const secret = randomBytes(32).toString('base64url')
  const provider = new Made(issuer, {
    ...configuration(secret, nodeUrl),
    // What it takes without a word too, but with a warning.
    adapter: createMemoryAdapter(0),
  })
  provider.use((context, next) => interact(provider, context, next))
  listener = provider.callback()
  return {
    issuer,
    port: bound,
    vars: {
      OIDC_ISSUER: issuer,
      OIDC_CLIENT_ID: CLIENT_ID,
      OIDC_CLIENT_SECRET: secret,
      OIDC_SCOPES: SCOPES,
      OIDC_ROLES_CLAIM: 'groups',
      OIDC_ROLE_MAP: ROLE_MAP,
      OIDC_ALLOW_HTTP: '1',
    },
    async stop() {
      const closed = new Promise<void>((resolve) => server.close(() => resolve()))
      server.closeAllConnections()
      await closed
    },
  }
}

function configuration(secret: string, nodeUrl: string): object {
  const { privateKey } = generateKeyPairSync('rsa', { modulusLength: 2048 })
  const key = { ...privateKey.export({ format: 'jwk' }), use: 'sig', alg: 'RS256', kid: 'devnet' }
  return {
    clients: [
      {
        client_id: CLIENT_ID,
        client_secret: secret,
        redirect_uris: [`${nodeUrl}/auth/callback`],
        response_types: ['code'],
        grant_types: ['authorization_code'],
        token_endpoint_auth_method: 'client_secret_basic',
      },
    ],
    jwks: { keys: [key] },
    cookies: { keys: [randomBytes(32).toString('base64url')] },
    pkce: { required: () => true },
    scopes: SCOPES.split(' '),
    claims: { openid: ['sub'], profile: ['name'], groups: ['groups'] },
    // Groups in the id token as well, as most providers have them.
    conformIdTokenClaims: false,
    features: {
      devInteractions: { enabled: false },
      rpInitiatedLogout: {
        enabled: true,
        logoutSource: (context: Context, form: string) => {
          const button =
            '<button form="op.logoutForm" name="logout" value="yes">Sign out here</button>'
          context.body = document('Devnet sign-out', `${form}<p>DEV ONLY</p>${button}`)
        },
        postLogoutSuccessSource: (context: Context) => {
          context.body = document('Signed out', '<p>DEV ONLY: nobody is signed in here now.</p>')
        },
      },
    },
    findAccount: (_: unknown, sub: string) => {
      const groups = Object.hasOwn(USERS, sub) ? USERS[sub] : undefined
      if (groups === undefined) return undefined
      return { accountId: sub, claims: () => ({ sub, name: sub, groups }) }
    },
    interactions: { url: (_: unknown, { uid }: { uid: string }) => `/interaction/${uid}` },
    ttl: {
      AccessToken: 600,
      AuthorizationCode: 60,
      IdToken: 600,
      Session: 3600,
      Interaction: 600,
      Grant: 3600,
    },
  }
}

/** The provider's own pages: choose who you are; consent is given. */
async function interact(
  provider: Provider,
  context: Context,
  next: () => Promise<void>,
): Promise<void> {
  if (!/^\/interaction\/[\w-]+$/.test(context.path)) return next()
  const { prompt, params, session } = await provider.interactionDetails(context.req, context.res)
  if (context.method === 'GET' && prompt.name === 'login') {
    context.type = 'html'
    context.body = page()
    return
  }
  let result: object
  if (prompt.name === 'login') {
    const user = new URLSearchParams(await body(context.req)).get('login') ?? ''
    result = Object.hasOwn(USERS, user)
      ? { login: { accountId: user } }
      : { error: 'access_denied', error_description: 'unknown user' }
  } else {
    const grant = new provider.Grant({
      accountId: session!.accountId,
      clientId: params.client_id,
    })
    grant.addOIDCScope(params.scope)
    result = { consent: { grantId: await grant.save() } }
  }
  context.respond = false
  const options = { mergeWithLastSubmission: true }
  await provider.interactionFinished(context.req, context.res, result, options)
}

function page(): string {
  const buttons = Object.entries(USERS).map(
    ([name, groups]) =>
      `<p><button name="login" value="${name}">${name}</button> ${groups.join(', ')}</p>`,
  )
  return document(
    'Devnet sign-in',
    `<p>DEV ONLY: no passwords, worth nothing. Who are you?</p>
<form method="post">${buttons.join('\n')}</form>`,
  )
}

function document(title: string, content: string): string {
  return `<!doctype html><html lang="en"><meta charset="utf-8"><title>${title}</title>
<link rel="icon" href="data:,"><h1>${title}</h1>${content}</html>`
}

async function body(request: IncomingMessage): Promise<string> {
  let text = ''
  for await (const chunk of request) {
    text += String(chunk)
    if (text.length > MAX_FORM_BYTES) return ''
  }
  return text
}

if (import.meta.main) {
  const { values } = parseArgs({
    options: {
      port: { type: 'string', default: '7081' },
      node: { type: 'string', default: 'http://127.0.0.1:7077' },
    },
  })
  const oidc = await startOidc({ nodeUrl: values.node, port: Number(values.port) })
  for (const [name, value] of Object.entries(oidc.vars)) console.log(`${name}=${value}`)
  for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, () => void oidc.stop())
}
