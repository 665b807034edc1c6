/**
 * The identity provider, by oauth4webapi: OpenID Connect Core 1.0 §3.1 (authorization code) with PKCE (RFC 7636, S256).
 *
 * Held to: issuer of discovery, `iss` of the response (RFC 9207), state, nonce, audience, `azp`, times, and the id token's
 * signature by a key of the provider's JWKS, asymmetric algorithms alone; a token that came over TLS is verified
 * all the same. Answers of the provider are bounded in time and size. Discovery is believed for ten minutes, one
 * provider at a time. What is logged or shown of a failure is its kind, never a token or a claim.
 */

import * as o from 'oauth4webapi'
import { join } from '#core/bytes.ts'
import type { SignInConfig } from '#core/config.ts'
import { VaultMeshError } from '#core/errors.ts'
import { claimAt } from '#core/roles.ts'

/** Callback path; registered at the provider behind the node's origin. */
export const CALLBACK_PATH = '/auth/callback'
const DISCOVERY_MS = 600_000
const TIMEOUT_MS = 8000
/** A discovery document has about 5 kB, a JWKS of ten RSA keys 8 kB. */
const MAX_ANSWER_BYTES = 262_144
/** What an id token may be signed with: nothing that our own secret could make. */
const ALGORITHMS = [
  'RS256',
  'RS384',
  'RS512',
  'PS256',
  'PS384',
  'PS512',
  'ES256',
  'ES384',
  'ES512',
  'EdDSA',
  'Ed25519',
]

/** The secrets of one sign-in (core/login-state.ts). */
export interface LoginSecrets {
  readonly state: string
  readonly verifier: string
  readonly nonce: string
}

/** Who came back. */
export interface Identity {
  readonly sub: string
  /** The best name there is; the person's own choice at many providers. */
  readonly name: string
  /** Claims of the id token, or of userinfo where it alone has the roles. */
  readonly claims: Readonly<Record<string, unknown>>
}

/** The provider could not be asked: nobody's fault who signs in. */
class Unreachable extends Error {}

/** Discovery of the provider that was asked last: one, however many settings an isolate sees. */
let known: {
  readonly issuer: string
  readonly readAt: number
  readonly as: o.AuthorizationServer
} | null = null

/** Where a browser is sent to sign in. `again`: the provider asks who it is, whoever is signed in there. */
export async function authorizationUrl(
  signIn: SignInConfig,
  { state, verifier, nonce }: LoginSecrets,
  again: boolean,
): Promise<string> {
  const as = await discovered(signIn)
  const url = forBrowsers(signIn, as.authorization_endpoint)
  if (url === null) throw failed('names no authorization_endpoint that is https')
  const parameters = {
    client_id: signIn.clientId,
    redirect_uri: signIn.publicOrigin + CALLBACK_PATH,
    response_type: 'code',
    scope: signIn.scopes,
    code_challenge: await o.calculatePKCECodeChallenge(verifier),
    code_challenge_method: 'S256',
    state,
    nonce,
    ...(again ? { prompt: 'login' } : {}),
  }
  for (const [name, value] of Object.entries(parameters)) url.searchParams.set(name, value)
  return url.href
}

/**
 * Who came back with `parameters` from the provider. Throws `sign-in-refused` for anything that does not verify, and
 * `provider-failed` if the provider does not answer.
 */
export async function identityOf(
  signIn: SignInConfig,
  parameters: URLSearchParams,
  { state, verifier, nonce }: LoginSecrets,
): Promise<Identity> {
  const as = await discovered(signIn)
  const client: o.Client = { client_id: signIn.clientId }
  const options = { ...insecure(signIn), [o.customFetch]: boundedFetch }
  const valid = validResponse(as, client, { parameters, state })
  try {
    const answer = await o.authorizationCodeGrantRequest(
      as,
      client,
      clientAuth(signIn, as),
      valid,
      signIn.publicOrigin + CALLBACK_PATH,
      verifier,
      options,
    )
    const tokens = await o.processAuthorizationCodeResponse(as, client, answer, {
      expectedNonce: nonce,
      requireIdToken: true,
    })
    await o.validateApplicationLevelSignature(as, answer, options)
    const claims = o.getValidatedIdTokenClaims(tokens)!
    checkParties(claims, signIn)
    const isWhole = claimAt(claims, signIn.rolesClaim) !== undefined
    if (isWhole || as.userinfo_endpoint === undefined) return identity(claims.sub, claims)
    const info = await o.userInfoRequest(as, client, tokens.access_token, options)
    const more = await o.processUserInfoResponse(as, client, claims.sub, info)
    return identity(claims.sub, { ...claims, ...more })
  } catch (error) {
    // A provider that changed its settings or keys is asked for them anew by the next sign-in. Not so where it does
    // not take a code: codes are anybody's to make up.
    if (!(error instanceof o.ResponseBodyError)) known = null
    throw asRefusal(error)
  }
}

/** Where the provider ends its own session, if it says so. Never throws. */
export async function endSessionUrl(signIn: SignInConfig): Promise<string | null> {
  const as = await discovered(signIn).catch(() => null)
  const url = forBrowsers(signIn, as?.end_session_endpoint)
  if (url === null) return null
  url.searchParams.set('client_id', signIn.clientId)
  return url.href
}

/** An address of the provider that browsers may be sent to, or null. */
function forBrowsers({ allowHttp }: SignInConfig, address: string | undefined): URL | null {
  const url = URL.parse(address ?? '')
  const isAllowed = url?.protocol === 'https:' || (allowHttp && url?.protocol === 'http:')
  return isAllowed ? url : null
}

/** The provider's response to the request of `state`; throws `sign-in-refused` for any other. */
function validResponse(
  as: o.AuthorizationServer,
  client: o.Client,
  { parameters, state }: { readonly parameters: URLSearchParams; readonly state: string },
): URLSearchParams {
  try {
    const valid = o.validateAuthResponse(as, client, parameters, state)
    if (!valid.get('code')) throw new o.OperationProcessingError('no authorization code came back')
    return valid
  } catch (error) {
    throw asRefusal(error)
  }
}

/**
 * What the library leaves to us: a token issued to another client is none of ours, though we are its audience (OpenID
 * Connect Core §3.1.3.7), and a subject has 1 to 255 ASCII characters (§2), so that nobody is taken for nobody.
 */
function checkParties({ sub, azp }: o.IDToken, { clientId }: SignInConfig): void {
  if (azp !== undefined && azp !== clientId)
    throw new o.OperationProcessingError('unexpected ID Token "azp" (authorized party) claim value')
  if (!/^[\x20-\x7e]{1,255}$/.test(sub))
    throw new o.OperationProcessingError('the "sub" (subject) is not 1 to 255 ASCII characters')
}

async function discovered(signIn: SignInConfig): Promise<o.AuthorizationServer> {
  const { issuer } = signIn
  if (known !== null && known.issuer === issuer && Date.now() - known.readAt < DISCOVERY_MS)
    return known.as
  try {
    const url = new URL(issuer)
    const options = { ...insecure(signIn), [o.customFetch]: boundedFetch }
    const as = await o.processDiscoveryResponse(url, await o.discoveryRequest(url, options))
    // Of what the provider can sign with, what we take; without its word, RS256 (OpenID Connect Core §2).
    const algorithms = as.id_token_signing_alg_values_supported ?? ['RS256']
    const limited = {
      ...as,
      id_token_signing_alg_values_supported: algorithms.filter((alg) => ALGORITHMS.includes(alg)),
    }
    known = { issuer, readAt: Date.now(), as: limited }
    return limited
  } catch (error) {
    if (error instanceof Unreachable) throw failed(error.message, error)
    // Its own metadata is wrong: the fault is not that of whoever signs in.
    throw failed(`gave a discovery document that is refused: ${wordsOf(error)}`, error)
  }
}

function insecure({ allowHttp }: SignInConfig) {
  return { [o.allowInsecureRequests]: allowHttp }
}

function clientAuth({ clientSecret }: SignInConfig, as: o.AuthorizationServer): o.ClientAuth {
  if (clientSecret === '') return o.None()
  // RFC 8414 §2: without the list, client_secret_basic.
  const methods = as.token_endpoint_auth_methods_supported ?? ['client_secret_basic']
  return methods.includes('client_secret_basic')
    ? o.ClientSecretBasic(clientSecret)
    : o.ClientSecretPost(clientSecret)
}

function identity(sub: string, claims: Readonly<Record<string, unknown>>): Identity {
  const names = ['name', 'preferred_username', 'email'].map((claim) => claims[claim])
  const name = names.find((value) => typeof value === 'string' && value.trim() !== '')
  return { sub, name: typeof name === 'string' ? name.slice(0, 200) : sub, claims }
}

/** A fetch that ends in time, holds little, and follows nobody elsewhere. */
async function boundedFetch(
  url: string,
  init: { method: string; headers: Record<string, string>; body?: BodyInit | null | undefined },
): Promise<Response> {
  const host = new URL(url).host
  try {
    const { method, headers, body } = init
    const answer = await fetch(url, {
      method,
      headers,
      ...(body == null ? {} : { body }),
      redirect: 'manual',
      signal: AbortSignal.timeout(TIMEOUT_MS),
    })
    const parts: Uint8Array[] = []
    let size = 0
    for await (const part of answer.body ?? []) {
      size += part.length
      if (size > MAX_ANSWER_BYTES) throw new Unreachable(`sent more than ${MAX_ANSWER_BYTES} bytes`)
      parts.push(part)
    }
    if (answer.status >= 500)
      throw new Unreachable(`answered with status ${answer.status} (${host})`)
    const isBare = [101, 204, 205, 304].includes(answer.status)
    return new Response(isBare ? null : join(parts), answer)
  } catch (error) {
    if (error instanceof Unreachable) throw error
    throw new Unreachable(`does not answer (${host})`, { cause: error })
  }
}

function asRefusal(error: unknown): VaultMeshError {
  if (error instanceof Unreachable) return failed(error.message, error)
  if (error instanceof o.AuthorizationResponseError) {
    const why = /^[\w-]{1,60}$/.test(error.error) ? error.error : 'an error'
    return refused(`the provider says ${why}`, error)
  }
  if (error instanceof o.ResponseBodyError) {
    const why = /^[\w-]{1,60}$/.test(error.error) ? error.error : 'an error'
    return refused(`the provider does not take the code (${why})`, error)
  }
  return refused(wordsOf(error), error)
}

/** The library's own words, which hold no values; of anything else, none. */
function wordsOf(error: unknown): string {
  const isOurs =
    error instanceof o.OperationProcessingError ||
    error instanceof o.UnsupportedOperationError ||
    error instanceof o.WWWAuthenticateChallengeError
  return isOurs ? error.message : 'the answer does not verify'
}

function refused(why: string, cause: unknown): VaultMeshError {
  return new VaultMeshError('sign-in-refused', `This sign-in does not count: ${why}.`, { cause })
}

function failed(why: string, cause?: unknown): VaultMeshError {
  return new VaultMeshError('provider-failed', `The identity provider ${why}.`, { cause })
}
