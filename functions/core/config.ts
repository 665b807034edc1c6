/**
 * Every variable a node reads, in one schema; a bad one stops the start and is named.
 *
 * Names are interface: the plan's own words stay as they are (`HARbINGER_SIG_REQUIRED` with its
 * small b is accepted beside the spelling below). Values arrive as strings, as bindings or env do.
 */

import * as z from 'zod'
import { evmNetwork } from '#core/anchor-ethereum.ts'
import { isDevNetwork, type Chain } from '#core/anchor-receipt.ts'
import { toHex, utf8 } from '#core/bytes.ts'
import { MAX_ORIGIN_BYTES } from '#core/checkpoint.ts'
import { parseDid } from '#core/did.ts'
import { VaultMeshError } from '#core/errors.ts'
import { hasDataFee } from '#core/evm-data-fee.ts'
import type { GuardianMode } from '#core/guardian.ts'
import { PSI_LOW } from '#core/psi.ts'
import { parseRoleMap, type RoleMap } from '#core/roles.ts'
import { sha256 } from '#core/sha256.ts'
import { MAX_LOGS, originOf, previousLogsSchema, type PreviousLog } from '#core/succession.ts'

const integer = (min: number, max: number) =>
  z
    .string()
    .regex(/^\d{1,15}$/, 'must be a whole number')
    .transform(Number)
    .refine((n) => n >= min && n <= max, `must be between ${min} and ${max}`)
const flag = z.enum(['0', '1']).transform((v) => v === '1')
const list = z.string().transform((v) =>
  v
    .split(',')
    .map((s) => s.trim())
    .filter((s) => s !== ''),
)

/** Addresses that may be secrets: what is wrong with them is said without quoting them. */
const alertmanager = z
  .string()
  .refine(
    (v) => v === '' || isBaseUrl(v),
    'must be http(s)://[user:password@]host[/prefix], without query or fragment',
  )
const alertWebhook = z
  .string()
  .refine(
    (v) =>
      v === '' || (isHttp(v) && URL.parse(v)?.username === '' && URL.parse(v)?.password === ''),
    'must be an http(s) address without user name and password; put a secret in its path or query',
  )

const schema = z.object({
  NODE_ID: z
    .string()
    .regex(/^[a-z0-9][a-z0-9.-]{0,62}$/, 'must be a host-name-like label')
    .default('vm-node-01'),
  ORIGIN: z
    .string()
    .regex(
      /^[^\s+\p{White_Space}\p{Cc}]{1,255}$/u,
      'must be a schema-less URL without spaces, control characters or +',
    )
    .refine((v) => !v.includes('://'), 'must be schema-less: no https://')
    .refine((v) => utf8(v).length <= MAX_ORIGIN_BYTES, `has more than ${MAX_ORIGIN_BYTES} bytes`),
  LOG_NUMBER: integer(1, MAX_LOGS).default(1),
  PREVIOUS_LOGS: z.string().default(''),
  NODE_DID: z.string().default(''),
  ROTATION: z
    .string()
    .transform((v) => v.split(/[\s,]+/).filter((s) => s !== ''))
    .default([]),
  PUBLIC_URL: z
    .string()
    .refine((v) => v === '' || isHttp(v), 'must be an http(s) address')
    .transform((v) => v.replace(/\/+$/, ''))
    .default(''),
  NETWORK: z.enum(['dev', 'production']).default('dev'),
  HARBINGER_SIG_REQUIRED: flag.default(true),
  INTAKE_SHARDS: integer(1, 256).default(16),
  INTAKE_ALLOW: list.default(['*']),
  INTAKE_MAX_AGE_S: integer(0, 1e9).default(0),
  INTAKE_BACKLOG_MAX: integer(1000, 1e8).default(500_000),
  RATE_LIMIT_DID: integer(0, 1e9).default(60_000),
  RATE_LIMIT_IP: integer(0, 1e9).default(120_000),
  CLIENT_IP_HEADER: z
    .string()
    .regex(/^[a-z0-9-]*$/, 'must be a lowercase header name or empty')
    .default('cf-connecting-ip'),
  SEAL_BATCH_MAX_ITEMS: integer(1, 1_000_000).default(5000),
  SEAL_BATCH_MAX_INTERVAL_MS: integer(10, 86_400_000).default(120_000),
  SEAL_PROMISE_SLACK_MS: integer(0, 604_800_000).default(600_000),
  SEAL_EAGER_MS: integer(0, 60_000).default(250),
  ANCHOR_TSA_INTERVAL_MS: integer(100, 86_400_000).default(60_000),
  ANCHOR_BTC_INTERVAL_MS: integer(100, 604_800_000).default(3_600_000),
  ANCHOR_EVM_INTERVAL_MS: integer(100, 604_800_000).default(3_600_000),
  ANCHOR_BTC_METHOD: z.enum(['tx', 'calendar', 'both']).default('tx'),
  BTC_NETWORK: z.enum(['mainnet', 'signet', 'regtest']).default('mainnet'),
  BTC_URLS: list.default([]),
  BTC_PRIVATE_KEY: z.string().default(''),
  BTC_ADDRESS_TYPE: z.enum(['p2wpkh', 'p2tr']).default('p2wpkh'),
  BTC_FEE_CAP_SAT: integer(200, 10_000_000).default(5000),
  BTC_DEPTH: integer(7, 100).default(7),
  OTS_CALENDARS: list.default([]),
  EVM_CHAIN_ID: integer(1, 2 ** 40).default(1),
  EVM_URLS: list.default([]),
  EVM_PRIVATE_KEY: z.string().default(''),
  EVM_FEE_CAP_GWEI: integer(1, 1e12).default(2_000_000),
  RAILS: list.default([]),
  TSA_URLS: list.default([]),
  TSA_ROOTS: z.string().default(''),
  TSA_POLICIES: list.default([]),
  GUARDIAN_MODE: z.enum(['advanced', 'basic']).default('advanced'),
  GUARDIAN_INTERVAL_MS: integer(200, 3_600_000).default(60_000),
  GUARDIAN_PSI_LOW: z
    .string()
    .regex(/^0\.\d{1,6}$/, 'must be a decimal number between 0 and 1, like 0.5')
    .transform(Number)
    .default(PSI_LOW),
  TELEMETRY_RETENTION_DAYS: integer(1, 3650).default(30),
  ALERTMANAGER_URL: alertmanager.default(''),
  ALERT_WEBHOOK_URL: alertWebhook.default(''),
  PUBLIC_EVENTS: flag.default(true),
  AUDIT_LINES: flag.default(false),
  WEBHOOK_ALLOW_PRIVATE: flag.default(false),
  OIDC_ISSUER: z.string().default(''),
  OIDC_CLIENT_ID: z.string().default(''),
  OIDC_CLIENT_SECRET: z.string().default(''),
  OIDC_SCOPES: z
    .string()
    .regex(/^[\x21\x23-\x5b\x5d-\x7e ]*$/, 'must be scopes separated by spaces')
    .default('openid profile groups'),
  OIDC_ROLES_CLAIM: z.string().min(1).default('groups'),
  OIDC_ROLE_MAP: z.string().default(''),
  OIDC_ALLOW_HTTP: flag.default(false),
  SESSION_IDLE_S: integer(1, 604_800).default(3600),
  SESSION_MAX_S: integer(1, 2_592_000).default(43_200),
})

/** Names that a node reads: those above, and what is no setting but a key, a token or what a self-hosted node has. */
export const VARIABLES: readonly string[] = [
  ...Object.keys(schema.shape),
  'HARbINGER_SIG_REQUIRED',
  'NODE_SECRET',
  'ADMIN_TOKEN',
  'METRICS_TOKEN',
  'FEDERATION_FILE',
  'INTAKE_FILE',
  'AUDIT_FILES',
]

/** How people sign in to the dashboard. The client secret is in no log and no answer. */
export interface SignInConfig {
  readonly issuer: string
  readonly clientId: string
  /** Empty for a public client: PKCE alone then. */
  readonly clientSecret: string
  readonly scopes: string
  /** Name of the claim that roles are read from; dots lead into objects. */
  readonly rolesClaim: string
  readonly roleMap: RoleMap
  /** The provider may be asked without TLS: development only. */
  readonly allowHttp: boolean
  /** Origin of PUBLIC_URL: where browsers are, and where the provider sends them back to. */
  readonly publicOrigin: string
  /** A session ends when nobody used it for so long, in ms. */
  readonly idleMs: number
  /** And so long after it began, in ms. */
  readonly maxMs: number
  /** Hash of issuer, client, claim and map: a session begun under others is over. */
  readonly terms: string
}

/** How a node anchors in Bitcoin. URLs and key are secrets: they are in no log and no answer. */
export interface BitcoinConfig {
  readonly network: 'mainnet' | 'signet' | 'regtest'
  readonly methods: readonly ('tx' | 'calendar')[]
  /** `core+http(s)://user:pass@host:port` (Bitcoin Core JSON-RPC) or `esplora+http(s)://host/api`. */
  readonly urls: readonly string[]
  /** 64 hex digits or WIF; empty without method tx. */
  readonly privateKey: string
  readonly addressType: 'p2wpkh' | 'p2tr'
  /** Most that one transaction may pay, in satoshi. */
  readonly feeCapSat: number
  /** Confirmations that make an anchor final: the block and those on top of it. */
  readonly depth: number
  readonly calendars: readonly string[]
  readonly intervalMs: number
}

/** How a node anchors in an EVM chain. URLs and key are secrets. */
export interface EvmConfig {
  readonly chainId: number
  readonly urls: readonly string[]
  /** 0x and 64 hex digits. */
  readonly privateKey: string
  /** Most that one transaction may pay, in wei. */
  readonly feeCapWei: bigint
  readonly intervalMs: number
}

/** A node's settings, parsed. */
export interface Config {
  readonly nodeId: string
  /** The log's name: ORIGIN, or `<ORIGIN>/<n>` of a successor. */
  readonly origin: string
  /** Which of the node's logs this is, from 1. */
  readonly logNumber: number
  /** The logs before it, oldest first; each has forked. */
  readonly previousLogs: readonly PreviousLog[]
  /** The DID the operator expects, or empty. */
  readonly nodeDid: string
  /** Statements `vm-rotation+jws` that chain the node's identity keys. */
  readonly rotation: readonly string[]
  /** Where peers reach this node; empty if it does not say. */
  readonly publicUrl: string
  readonly network: 'dev' | 'production'
  readonly sigRequired: boolean
  readonly intakeShards: number
  /** Canonical DIDs that may post, or null for anybody. */
  readonly intakeAllow: ReadonlySet<string> | null
  readonly intakeMaxAgeMs: number
  readonly intakeBacklogMax: number
  /** Events a minute per DID and per IP; 0 is off. */
  readonly rateLimitDid: number
  readonly rateLimitIp: number
  readonly clientIpHeader: string
  readonly sealBatchMaxItems: number
  readonly sealBatchMaxIntervalMs: number
  readonly sealPromiseSlackMs: number
  readonly sealEagerMs: number
  readonly anchorTsaIntervalMs: number
  /** Rails an event must be anchored on to be final, e.g. ['BTC', 'EVM', 'TSA']. */
  readonly rails: readonly Chain[]
  /** Null unless RAILS names BTC. */
  readonly bitcoin: BitcoinConfig | null
  /** Null unless RAILS names EVM. */
  readonly evm: EvmConfig | null
  readonly tsaUrls: readonly string[]
  /** PEM certificates that timestamp chains must end in. */
  readonly tsaRoots: readonly string[]
  /** Policy OIDs that timestamps must be issued under; empty accepts any. */
  readonly tsaPolicies: readonly string[]
  readonly guardianMode: GuardianMode
  /** How often the node says how it does. */
  readonly guardianIntervalMs: number
  /** Ψ below which it suffers. */
  readonly guardianPsiLow: number
  readonly telemetryRetentionDays: number
  /** Where the node itself tells of alerts; empty if nowhere. Secrets: they may hold passwords or be one. */
  readonly alertmanagerUrl: string
  readonly alertWebhookUrl: string
  readonly publicEvents: boolean
  /** Webhooks may go to http, private addresses and any port. */
  readonly webhookAllowPrivate: boolean
  /** Null without OIDC_ISSUER: then the dashboard is closed. */
  readonly signIn: SignInConfig | null
}

/** The settings in `env`; throws `bad-config` naming the first bad key. */
export function parseConfig(env: Readonly<Record<string, unknown>>): Config {
  const raw: Record<string, unknown> = {}
  for (const key of Object.keys(schema.shape)) if (env[key] !== undefined) raw[key] = env[key]
  // The plan's spelling wins where it is used: wrangler.toml always sets the other one.
  raw['HARBINGER_SIG_REQUIRED'] = env['HARbINGER_SIG_REQUIRED'] ?? raw['HARBINGER_SIG_REQUIRED']
  const parsed = schema.safeParse(raw)
  if (!parsed.success) {
    const issue = parsed.error.issues[0]!
    throw bad(issue.path.join('.'), issue.message)
  }
  const v = parsed.data
  const rails = v.RAILS.map((rail) => rail.toUpperCase())
  for (const rail of rails) {
    if (!isChain(rail)) throw bad('RAILS', 'knows BTC, EVM and TSA, and nothing else')
  }
  for (const url of v.TSA_URLS)
    if (!/^https?:$/.test(URL.parse(url)?.protocol ?? ''))
      throw bad('TSA_URLS', 'holds an address that is not http or https')
  const hosts = v.TSA_URLS.map((url) => new URL(url).hostname)
  if (new Set(hosts).size !== hosts.length) {
    throw bad('TSA_URLS', 'names one host twice; authorities of different operators are meant')
  }
  for (const oid of v.TSA_POLICIES) {
    if (!/^[0-2](?:\.\d+)+$/.test(oid)) throw bad('TSA_POLICIES', `"${oid}" is not an OID`)
  }
  if (rails.includes('TSA') && v.TSA_URLS.length === 0)
    throw bad('TSA_URLS', 'is empty but RAILS names TSA')
  const tsaRoots =
    v.TSA_ROOTS.match(/-----BEGIN CERTIFICATE-----[^-]+-----END CERTIFICATE-----/g) ?? []
  if (rails.includes('TSA') && tsaRoots.length === 0)
    throw bad('TSA_ROOTS', 'holds no PEM certificate')
  return {
    nodeId: v.NODE_ID,
    ...logsOf(v),
    nodeDid: v.NODE_DID,
    rotation: v.ROTATION,
    publicUrl: v.PUBLIC_URL,
    network: v.NETWORK,
    sigRequired: v.HARBINGER_SIG_REQUIRED,
    intakeShards: v.INTAKE_SHARDS,
    intakeAllow: allowList(v.INTAKE_ALLOW),
    intakeMaxAgeMs: v.INTAKE_MAX_AGE_S * 1000,
    intakeBacklogMax: v.INTAKE_BACKLOG_MAX,
    rateLimitDid: v.RATE_LIMIT_DID,
    rateLimitIp: v.RATE_LIMIT_IP,
    clientIpHeader: v.CLIENT_IP_HEADER,
    sealBatchMaxItems: v.SEAL_BATCH_MAX_ITEMS,
    sealBatchMaxIntervalMs: v.SEAL_BATCH_MAX_INTERVAL_MS,
    sealPromiseSlackMs: v.SEAL_PROMISE_SLACK_MS,
    sealEagerMs: v.SEAL_EAGER_MS,
    anchorTsaIntervalMs: v.ANCHOR_TSA_INTERVAL_MS,
    rails: [...new Set(rails)] as Chain[],
    bitcoin: rails.includes('BTC') ? bitcoinConfig(v) : null,
    evm: rails.includes('EVM') ? evmConfig(v) : null,
    tsaUrls: v.TSA_URLS,
    tsaRoots,
    tsaPolicies: v.TSA_POLICIES,
    guardianMode: v.GUARDIAN_MODE,
    guardianIntervalMs: v.GUARDIAN_INTERVAL_MS,
    guardianPsiLow: v.GUARDIAN_PSI_LOW,
    telemetryRetentionDays: v.TELEMETRY_RETENTION_DAYS,
    alertmanagerUrl: v.ALERTMANAGER_URL,
    alertWebhookUrl: v.ALERT_WEBHOOK_URL,
    publicEvents: v.PUBLIC_EVENTS,
    webhookAllowPrivate: v.WEBHOOK_ALLOW_PRIVATE,
    signIn: v.OIDC_ISSUER === '' ? null : signInConfig(v),
  }
}

type Values = z.infer<typeof schema>

/** Which log of the node this is, and what came before it: as many logs as its number says. */
function logsOf(v: Values): Pick<Config, 'origin' | 'logNumber' | 'previousLogs'> {
  const logNumber = v.LOG_NUMBER
  const origin = originOf(v.ORIGIN, logNumber)
  if (utf8(origin).length > MAX_ORIGIN_BYTES)
    throw bad('ORIGIN', `has no room for the number ${logNumber} in ${MAX_ORIGIN_BYTES} bytes`)
  let value: unknown
  try {
    value = v.PREVIOUS_LOGS === '' ? [] : JSON.parse(v.PREVIOUS_LOGS)
  } catch {
    throw bad('PREVIOUS_LOGS', 'is no JSON')
  }
  const parsed = previousLogsSchema.safeParse(value)
  if (!parsed.success) {
    const { path, message } = parsed.error.issues[0]!
    throw bad('PREVIOUS_LOGS', `${path.join('.')}: ${message}`)
  }
  const previousLogs = parsed.data
  if (previousLogs.length !== logNumber - 1)
    throw bad('PREVIOUS_LOGS', `lists ${previousLogs.length} logs, and LOG_NUMBER is ${logNumber}`)
  const odd = previousLogs.find((log, i) => log.origin !== originOf(v.ORIGIN, i + 1))
  if (odd !== undefined)
    throw bad('PREVIOUS_LOGS', `names ${odd.origin}, which is not the log in that place`)
  return { origin, logNumber, previousLogs }
}

function bitcoinConfig(v: Values): BitcoinConfig {
  const methods =
    v.ANCHOR_BTC_METHOD === 'both' ? (['tx', 'calendar'] as const) : [v.ANCHOR_BTC_METHOD]
  if (v.NETWORK === 'production' && v.BTC_NETWORK !== 'mainnet')
    throw bad('BTC_NETWORK', `${v.BTC_NETWORK} is a dev network, and NETWORK is production`)
  if (v.BTC_URLS.length === 0)
    throw bad('BTC_URLS', 'is empty but RAILS names BTC: blocks must be asked of somebody')
  // Values are not quoted: they may hold a password.
  for (const url of v.BTC_URLS) {
    if (!/^(?:core|esplora)\+https?:$/.test(URL.parse(url)?.protocol ?? ''))
      throw bad(
        'BTC_URLS',
        'holds an address that is neither core+http(s):// nor esplora+http(s)://',
      )
  }
  if (
    methods.some((m) => m === 'tx') &&
    !/^(?:[0-9a-fA-F]{64}|[1-9A-HJ-NP-Za-km-z]{51,52})$/.test(v.BTC_PRIVATE_KEY)
  )
    throw bad('BTC_PRIVATE_KEY', 'must be 64 hex digits or WIF; keys come from secrets/btc.env')
  if (methods.some((m) => m === 'calendar') && v.OTS_CALENDARS.length === 0)
    throw bad('OTS_CALENDARS', 'is empty but ANCHOR_BTC_METHOD needs calendars')
  for (const url of v.OTS_CALENDARS)
    if (!isHttp(url)) throw bad('OTS_CALENDARS', 'holds an address that is not http or https')
  return {
    network: v.BTC_NETWORK,
    methods,
    urls: v.BTC_URLS,
    privateKey: v.BTC_PRIVATE_KEY,
    addressType: v.BTC_ADDRESS_TYPE,
    feeCapSat: v.BTC_FEE_CAP_SAT,
    depth: v.BTC_DEPTH,
    calendars: v.OTS_CALENDARS,
    intervalMs: v.ANCHOR_BTC_INTERVAL_MS,
  }
}

function evmConfig(v: Values): EvmConfig {
  if (v.NETWORK === 'production' && isDevNetwork('EVM', evmNetwork(v.EVM_CHAIN_ID)))
    throw bad('EVM_CHAIN_ID', `${v.EVM_CHAIN_ID} is a dev network, and NETWORK is production`)
  if (hasDataFee(v.EVM_CHAIN_ID)) {
    const why = 'charges for data beside gas, which EVM_FEE_CAP_GWEI could not cap'
    throw bad('EVM_CHAIN_ID', `chain ${v.EVM_CHAIN_ID} ${why}; anchors there are not supported yet`)
  }
  if (v.EVM_URLS.length === 0) throw bad('EVM_URLS', 'is empty but RAILS names EVM')
  for (const url of v.EVM_URLS)
    if (!isHttp(url)) throw bad('EVM_URLS', 'holds an address that is not http or https')
  if (!/^0x[0-9a-fA-F]{64}$/.test(v.EVM_PRIVATE_KEY))
    throw bad('EVM_PRIVATE_KEY', 'must be 0x and 64 hex digits; keys come from secrets/evm.env')
  return {
    chainId: v.EVM_CHAIN_ID,
    urls: v.EVM_URLS,
    privateKey: v.EVM_PRIVATE_KEY,
    feeCapWei: BigInt(v.EVM_FEE_CAP_GWEI) * 1_000_000_000n,
    intervalMs: v.ANCHOR_EVM_INTERVAL_MS,
  }
}

function signInConfig(v: Values): SignInConfig {
  const allowHttp = v.OIDC_ALLOW_HTTP
  if (allowHttp && v.NETWORK === 'production')
    throw bad('OIDC_ALLOW_HTTP', 'is for development, and NETWORK is production')
  const issuer = URL.parse(v.OIDC_ISSUER)
  if (issuer === null || !isHttp(v.OIDC_ISSUER) || issuer.search !== '' || issuer.hash !== '')
    throw bad('OIDC_ISSUER', 'must be an address without query, as the provider names itself')
  if (issuer.protocol !== 'https:' && !allowHttp)
    throw bad('OIDC_ISSUER', 'must be https (OIDC_ALLOW_HTTP=1 is for development)')
  if (v.OIDC_CLIENT_ID === '') throw bad('OIDC_CLIENT_ID', 'is empty but OIDC_ISSUER is set')
  if (!v.OIDC_SCOPES.split(' ').includes('openid')) throw bad('OIDC_SCOPES', 'must name openid')
  const roleMap = parseRoleMap(v.OIDC_ROLE_MAP)
  if (roleMap.size === 0)
    throw bad('OIDC_ROLE_MAP', 'is empty: nobody who signs in would have a role')
  const own = URL.parse(v.PUBLIC_URL)
  if (own === null)
    throw bad('PUBLIC_URL', 'is empty, and sign-in needs the address at which browsers are')
  if (own.protocol !== 'https:' && !allowHttp)
    throw bad('PUBLIC_URL', 'must be https where people sign in: session cookies go to no other')
  const roles = [...roleMap].map((entry) => entry.join('=')).toSorted()
  const terms = [v.OIDC_ISSUER, v.OIDC_CLIENT_ID, v.OIDC_ROLES_CLAIM, ...roles]
  return {
    issuer: v.OIDC_ISSUER,
    clientId: v.OIDC_CLIENT_ID,
    clientSecret: v.OIDC_CLIENT_SECRET,
    scopes: v.OIDC_SCOPES.trim(),
    rolesClaim: v.OIDC_ROLES_CLAIM,
    roleMap,
    allowHttp,
    publicOrigin: own.origin,
    idleMs: v.SESSION_IDLE_S * 1000,
    maxMs: v.SESSION_MAX_S * 1000,
    terms: toHex(sha256(utf8(JSON.stringify(terms)))),
  }
}

function isChain(text: string): text is Chain {
  return text === 'BTC' || text === 'EVM' || text === 'TSA'
}

function isHttp(url: string): boolean {
  return /^https?:$/.test(URL.parse(url)?.protocol ?? '')
}

/** An address to append paths to, whose credentials can be read. */
function isBaseUrl(text: string): boolean {
  const url = URL.parse(text)
  if (url === null || !isHttp(text) || url.search !== '' || url.hash !== '') return false
  return !/%(?![0-9a-fA-F]{2})/.test(url.username + url.password)
}

function allowList(entries: readonly string[]): ReadonlySet<string> | null {
  if (entries.includes('*')) return null
  const allowed = new Set<string>()
  for (const did of entries) {
    try {
      // A DID URL allows its DID: a signer is compared without fragment.
      allowed.add(parseDid(did).canonical)
    } catch (cause) {
      throw new VaultMeshError(
        'bad-config',
        `INTAKE_ALLOW: "${did.slice(0, 80)}" is neither * nor a DID.`,
        { cause },
      )
    }
  }
  return allowed
}

function bad(key: string, why: string): VaultMeshError {
  return new VaultMeshError('bad-config', `${key}: ${why}.`, { extra: { key } })
}
