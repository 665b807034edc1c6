/**
 * config/federation.yaml: with whom a node gossips, whose logs it watches and which law it follows
 * (plan A1 to A3, design §7).
 *
 * The plan's schema exactly, and beside it `gossip.seeds`, `gossip.url` and `witness`. A peer is
 * trusted by its DID; `origin` and `vkey` pin what it would otherwise say itself. The first fault of
 * the file stops the start and names its key path and line. YAML is read as plain data: no anchors,
 * aliases, tags, repeated keys or second document, so a file says what it shows. An address is never
 * quoted in a message: it may hold a password.
 */

import { LineCounter, isAlias, isCollection, isMap, isScalar, isSeq, parseDocument } from 'yaml'
import * as z from 'zod'
import type { Chain } from '#core/anchor-receipt.ts'
import { toHex, utf8 } from '#core/bytes.ts'
import { MAX_ORIGIN_BYTES } from '#core/checkpoint.ts'
import { DEFAULT_ORDER, TIE_BREAKERS, isOrder, isTieBreakers } from '#core/conflict.ts'
import { parseDid } from '#core/did.ts'
import { VaultMeshError } from '#core/errors.ts'
import { TYPE_COSIGNATURE, TYPE_ED25519, parseVkey, type VerifierKey } from '#core/signed-note.ts'

/** Bytes in the file: 4,000 peers of 60 characters fit. */
export const MAX_CONFIG_BYTES = 262_144
/** Collections within each other; the schema needs 4. */
const MAX_DEPTH = 8
const MAX_URL_CHARS = 2048
const FILE = 'config/federation.yaml'

export interface FederationConfig {
  readonly nodeId: string | null
  readonly nodeDid: string | null
  readonly intervalMs: number
  readonly maxPeers: number
  /** This node's own address, as its peers reach it. */
  readonly url: string | null
  readonly seeds: readonly string[]
  readonly peers: readonly PeerEntry[]
  /** Tiers of the conflict law, highest first. */
  readonly order: readonly Chain[]
  readonly quarantineMinutes: number
  readonly remembrancerUrl: string | null
  readonly timeoutMs: number
  /** Foreign logs, which gossip with nobody, to cosign. */
  readonly logs: readonly { readonly origin: string; readonly vkey: string }[]
  /** Foreign witnesses to ask for cosignatures. */
  readonly witnesses: readonly { readonly url: string; readonly vkey: string }[]
}

export interface PeerEntry {
  /** As written. */
  readonly did: string
  /** As DIDs are compared. */
  readonly canonical: string
  readonly url: string | null
  /** As written, else the name of the vkey. */
  readonly origin: string | null
  readonly vkey: string | null
}

const text = z.string({
  error: ({ input }) =>
    input === undefined ? 'is missing' : 'must be text; quote what YAML takes for something else',
})

const url = text.transform((value, context) => {
  const found = baseUrl(value)
  if ('url' in found) return found.url
  context.addIssue({ code: 'custom', message: found.why })
  return z.NEVER
})

const did = text.superRefine((value, context) => {
  const why = didFault(value)
  if (why !== null) context.addIssue({ code: 'custom', message: why })
})

const originText = text
  .regex(/^[^+\p{White_Space}\p{Cc}]+$/u, 'must be an origin: no spaces, control characters or +')
  .refine((v) => utf8(v).length <= MAX_ORIGIN_BYTES, `has more than ${MAX_ORIGIN_BYTES} bytes`)

const peer = z.preprocess(
  (value) => (typeof value === 'string' ? { did: value } : value),
  mapping(
    {
      did,
      url: url.optional(),
      origin: originText.refine((v) => !v.includes('://'), 'must be schema-less').optional(),
      vkey: text.optional(),
    },
    'must be a DID, or a mapping with did',
  ),
)

const schema = mapping({
  node_id: text.regex(/^[a-z0-9][a-z0-9.-]{0,62}$/, 'must be a host-name-like label').optional(),
  node_did: did.optional(),
  gossip: mapping({
    interval_ms: integer(200, 3_600_000).default(1500),
    max_peers: integer(1, 64).default(16),
    url: url.optional(),
    seeds: list(url),
  }).prefault({}),
  peers_allowlist: list(peer),
  conflict_policy: mapping({
    order: z
      .custom<readonly Chain[]>(isOrder, 'must hold BTC, EVM and TSA once each')
      .default(DEFAULT_ORDER),
    tie_breakers: z
      .custom(isTieBreakers, `must be [${TIE_BREAKERS.join(', ')}], in this order`)
      .default(TIE_BREAKERS),
    quarantine_minutes: integer(0, 10_080).default(15),
  }).prefault({}),
  remembrancer: mapping({
    url: url.optional(),
    timeout_ms: integer(100, 60_000).default(3000),
  }).prefault({}),
  witness: mapping({
    logs: list(mapping({ origin: originText, vkey: text })),
    witnesses: list(mapping({ url, vkey: text })),
  }).prefault({}),
})

/** A mapping with these keys and no others. */
function mapping<T extends z.core.$ZodLooseShape>(shape: T, what = 'must be a mapping') {
  // An unknown key has words of its own: see `issueAt`.
  return z.strictObject(shape, { error: what })
}

function list<T extends z.ZodType>(item: T) {
  return z.array(item, 'must be a list').prefault([])
}

function integer(min: number, max: number) {
  const what = `must be a whole number from ${min} to ${max}`
  return z.int(what).min(min, what).max(max, what)
}

/** The settings in `yamlText`; throws `bad-config` naming the first bad key and its line. */
export function parseFederationConfig(yamlText: string): FederationConfig {
  const { value, placeOf } = readYaml(yamlText)
  const parsed = schema.safeParse(value)
  if (!parsed.success) throw firstFault(parsed.error.issues, placeOf)
  const v = parsed.data
  const { logs, witnesses } = v.witness

  // What one entry alone cannot tell.
  const refuse: Refuse = (path, why) => {
    if (why !== null) throw bad(placeOf(path), why)
  }
  const peers = v.peers_allowlist.map((entry, i): PeerEntry => {
    refuse(['peers_allowlist', i, 'vkey'], vkeyFault(entry.vkey, TYPE_ED25519, entry.origin))
    return {
      did: entry.did,
      canonical: parseDid(entry.did).canonical,
      url: entry.url ?? null,
      origin: entry.origin ?? (entry.vkey === undefined ? null : parseVkey(entry.vkey).name),
      vkey: entry.vkey ?? null,
    }
  })
  for (const [i, { vkey, origin }] of logs.entries()) {
    refuse(['witness', 'logs', i, 'vkey'], vkeyFault(vkey, TYPE_ED25519, origin))
  }
  for (const [i, { vkey }] of witnesses.entries()) {
    refuse(['witness', 'witnesses', i, 'vkey'], vkeyFault(vkey, TYPE_COSIGNATURE))
  }
  const dids = peers.map(({ canonical }) => canonical)
  refuseRepeats(dids, ['peers_allowlist'], 'did', refuse)
  const peerOrigins = peers.map(({ origin }) => origin)
  refuseRepeats(peerOrigins, ['peers_allowlist'], 'origin', refuse)
  const logOrigins = logs.map(({ origin }) => origin)
  refuseRepeats(logOrigins, ['witness', 'logs'], 'origin', refuse)
  // Counting witnesses is counting keys, so one key under two names is a repeat as well.
  const witnessKeys = witnesses.map(({ vkey }) => toHex(parseVkey(vkey).publicKey))
  refuseRepeats(witnessKeys, ['witness', 'witnesses'], 'vkey', refuse)
  for (const [i, log] of logs.entries()) {
    const at = peerOrigins.indexOf(log.origin)
    const known = peers[at]?.vkey ?? log.vkey
    const why =
      known === log.vkey ? null : `is not the vkey of this origin in peers_allowlist[${at}]`
    refuse(['witness', 'logs', i, 'vkey'], why)
  }
  return {
    nodeId: v.node_id ?? null,
    nodeDid: v.node_did ?? null,
    intervalMs: v.gossip.interval_ms,
    maxPeers: v.gossip.max_peers,
    url: v.gossip.url ?? null,
    seeds: [...new Set(v.gossip.seeds)],
    peers,
    order: v.conflict_policy.order,
    quarantineMinutes: v.conflict_policy.quarantine_minutes,
    remembrancerUrl: v.remembrancer.url ?? null,
    timeoutMs: v.remembrancer.timeout_ms,
    logs,
    witnesses,
  }
}

type Path = readonly PropertyKey[]
/** Throws what is wrong with the value at `path`, if anything is. */
type Refuse = (path: Path, why: string | null) => void

function refuseRepeats(
  values: readonly (string | null)[],
  path: Path,
  key: string,
  refuse: Refuse,
): void {
  const seen = new Map<string, number>()
  for (const [i, value] of values.entries()) {
    if (value === null) continue
    const first = seen.get(value) ?? i
    refuse([...path, i, key], first === i ? null : `repeats that of ${keyText([...path, first])}`)
    seen.set(value, i)
  }
}

/** What is wrong with a DID, or null. */
function didFault(value: string): string | null {
  const shown = value.startsWith('did:') ? `"${printable(value)}"` : 'this'
  try {
    const { did: bare, kind } = parseDid(value)
    if (bare !== value) return `${shown} has a fragment; write the DID alone`
    // Envelopes are EdDSA: no other key of a did:key could ever speak, and only addresses delegate.
    if (kind === 'ed25519' || kind === 'eip155') return null
    return `${shown} holds no Ed25519 key, with which nodes sign`
  } catch (error) {
    const hint = 'a node tells its own in /.well-known/vaultmesh.json'
    return `${shown} is not a DID that can sign (${hint}): ${reasonOf(error)}`
  }
}

/** What is wrong with a vkey, or null. A log's is named like its origin. */
function vkeyFault(vkey: string | undefined, type: number, origin?: string): string | null {
  if (vkey === undefined) return null
  let key: VerifierKey
  try {
    key = parseVkey(vkey)
  } catch (error) {
    return `is no vkey: ${reasonOf(error)}`
  }
  if (key.type !== type) return `is a key of type ${hexType(key.type)}, not ${hexType(type)}`
  if (origin !== undefined && origin !== key.name) return 'is not named like its origin'
  return utf8(key.name).length > MAX_ORIGIN_BYTES ? 'has a name too long for an origin' : null
}

function hexType(type: number): string {
  return `0x${type.toString(16).padStart(2, '0')}`
}

function reasonOf(error: unknown): string {
  if (!(error instanceof VaultMeshError)) throw error
  return error.message.replace(/\.$/, '')
}

/** `value` as an address that paths are appended to: normalised, without trailing slash. */
function baseUrl(value: string): { readonly url: string } | { readonly why: string } {
  // URL.parse would eat white space and take a backslash for a slash.
  const parsed = /^https?:\/\/[^\s\\\p{Cc}]+$/iu.test(value) ? URL.parse(value) : null
  if (parsed === null) return { why: 'must be an http:// or https:// address' }
  if (parsed.username !== '' || parsed.password !== '') return { why: 'must hold no credentials' }
  if (/[?#]/.test(value)) return { why: 'must end with its path: no ? and no #' }
  const href = parsed.href.replace(/\/+$/, '')
  if (href.length > MAX_URL_CHARS) return { why: `has more than ${MAX_URL_CHARS} characters` }
  return { url: href }
}

/** The fault nearest to the top of the file; zod has them in the order of the schema. */
function firstFault(issues: readonly z.core.$ZodIssue[], placeOf: PlaceOf): VaultMeshError {
  const placed = issues.map((issue) => {
    const [path, why] = issueAt(issue)
    return { place: placeOf(path), why }
  })
  const first = placed.reduce((a, b) => (b.place.line < a.place.line ? b : a))
  return bad(first.place, first.why)
}

/** Path and words of an issue; an unknown key is a fault of the key itself. */
function issueAt(issue: z.core.$ZodIssue): [path: Path, why: string] {
  if (issue.code !== 'unrecognized_keys') return [issue.path, issue.message]
  return [[...issue.path, issue.keys[0]!], 'is not a key of this file']
}

interface Place {
  /** Empty for the file as a whole. */
  readonly path: Path
  readonly line: number
}
type PlaceOf = (path: Path) => Place

/** The file as plain data, and where in the file a path of it is. */
function readYaml(yamlText: string): { readonly value: unknown; readonly placeOf: PlaceOf } {
  if (yamlText.length > MAX_CONFIG_BYTES || utf8(yamlText).length > MAX_CONFIG_BYTES) {
    throw bad({ path: [], line: 1 }, `has more than ${MAX_CONFIG_BYTES} bytes`)
  }
  const lines = new LineCounter()
  const document = parseDocument(yamlText, {
    prettyErrors: false,
    stringKeys: true,
    // The parser compares them pair by pair: 20,000 keys take 5 s (measured). `plain` has a map.
    uniqueKeys: false,
    resolveKnownTags: false,
    lineCounter: lines,
  })
  const [problem] = [...document.errors, ...document.warnings]
  if (problem !== undefined) {
    // Behind a colon the parser quotes the file.
    const words = printable(problem.message.replace(/: ".*$/s, ''))
    throw bad({ path: [], line: lines.linePos(problem.pos[0]).line }, `is not YAML: ${words}`)
  }
  const root: unknown = document.contents
  const placeOf: PlaceOf = (path) => {
    const { known, offset } = locate(root, path)
    return { path: known, line: lines.linePos(offset).line }
  }
  if (document.directives?.yaml.version !== '1.2') throw bad(placeOf([]), 'must be YAML 1.2')
  if (!isMap(root)) throw bad(placeOf([]), root === null ? 'is empty' : 'must be a mapping')
  return { value: plain(root, [], placeOf), placeOf }
}

/** The value of a node; throws for all that makes a file say something else than it shows. */
function plain(node: unknown, path: Path, placeOf: PlaceOf): unknown {
  if (isAlias(node)) throw bad(placeOf(path), 'is an alias; write the value out')
  if (path.length > MAX_DEPTH) throw bad(placeOf(path), `nests deeper than ${MAX_DEPTH}`)
  if (isScalar(node) || isCollection(node)) {
    if (node.anchor !== undefined) throw bad(placeOf(path), 'has an anchor; write values out')
    if (node.tag !== undefined) throw bad(placeOf(path), 'has a tag; values need none')
  }
  if (isSeq(node)) return node.items.map((item, i) => plain(item, [...path, i], placeOf))
  if (isMap(node)) {
    const members = new Map<string, unknown>()
    for (const { key, value } of node.items) {
      const name = String(plain(key, path, placeOf))
      const at = [...path, name]
      if (members.has(name)) throw bad(placeOf(at), 'is there twice')
      members.set(name, plain(value, at, placeOf))
    }
    return Object.fromEntries(members)
  }
  const value: unknown = isScalar(node) ? node.value : null
  if (typeof value !== 'string' || value.isWellFormed()) return value
  throw bad(placeOf(path), 'holds a lone surrogate')
}

/** How much of `path` there is, and its offset; of what is missing, that of where it should be. */
function locate(root: unknown, path: Path): { readonly known: Path; readonly offset: number } {
  let node = root
  let offset = offsetOf(root)
  for (const [i, step] of path.entries()) {
    if (isMap(node)) {
      // The last one: of a key that is there twice, the second is the fault.
      const pair = node.items.findLast(({ key }) => isScalar(key) && String(key.value) === step)
      if (pair === undefined) break
      offset = offsetOf(pair.key)
      node = pair.value
    } else if (isSeq(node)) {
      node = node.items[Number(step)]
      offset = offsetOf(node)
    } else {
      // Below a scalar: a DID alone stands for a mapping with did.
      return { known: path.slice(0, i), offset }
    }
  }
  return { known: path, offset }
}

function offsetOf(node: unknown): number {
  return isScalar(node) || isCollection(node) || isAlias(node) ? (node.range?.[0] ?? 0) : 0
}

function keyText(path: Path): string {
  const steps = path.map((step) => (typeof step === 'number' ? `[${step}]` : `.${String(step)}`))
  return printable(steps.join('').replace(/^\./, ''))
}

/** `value` as a message may hold it: short, and on one line. */
function printable(value: string): string {
  const head = value.length > 120 ? `${value.slice(0, 120)}…` : value
  return head.replace(/[^\x20-\x7e…]/g, '?')
}

function bad({ path, line }: Place, why: string): VaultMeshError {
  const key = keyText(path)
  const where = key === '' ? `line ${line}` : `${key} (line ${line})`
  const extra = { key: key === '' ? FILE : key }
  return new VaultMeshError('bad-config', `${FILE}: ${where}: ${why}.`, { extra })
}
