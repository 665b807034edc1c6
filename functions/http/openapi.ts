/**
 * OpenAPI 3.1 from the route table: the schemas that validate a request are the ones published.
 *
 * A schema with `.meta({ id })` becomes a component. Every schema is shown from its input side: what a
 * caller writes, and of an answer what a reader may rely on, so that a field added later breaks nobody.
 * What the schemas cannot say (opaque bodies, request headers, curl) stands in the tables below, and a
 * test demands that each of their keys names a route.
 */

import * as z from 'zod'
import { cloudEventSchema } from '#core/cloud-event.ts'
import { MAX_EVENT_BYTES } from '#core/envelope.ts'
import { webhookRequestSchema } from '#core/webhook-request.ts'
import { webhookSchema } from '#core/webhook.ts'
import { VERSION } from '#store/node.ts'
import { MAX_BULK_BYTES, MAX_BULK_LINES } from './bulk.ts'
import examples from './openapi-examples.json'
import type { Answer, Route } from './route.ts'

type Schema = Readonly<Record<string, unknown>>
type Components = Record<string, unknown>

const EVENT_LIMIT = MAX_EVENT_BYTES.toLocaleString('en')
const BULK_LIMIT = `${MAX_BULK_LINES.toLocaleString('en')} lines and ${MAX_BULK_BYTES.toLocaleString('en')} bytes`

/** Where `make up` listens: what the curl examples speak to. */
const LOCAL = 'http://127.0.0.1:7077'
/** A hash for the examples, taken from the node itself. */
const ANY_HASH = `hash=$(curl -s '${LOCAL}/events?limit=1' | grep -o 'sha256:[0-9a-f]*' | head -n 1)`

/** Tags in reading order. */
const tags = [
  { name: 'intake', description: 'Post signed events. What is answered 2xx is durable.' },
  { name: 'events', description: 'Read events back, ask where they stand, search.' },
  { name: 'receipts', description: 'The proof of an event, complete in one file.' },
  { name: 'batches', description: 'What each seal appended to the log, and its signed manifest.' },
  {
    name: 'log',
    description:
      'The transparency log: C2SP tlog-tiles, signed checkpoints, RFC 9162 proofs. Any C2SP verifier reads it.',
  },
  { name: 'anchors', description: 'How log roots reach outside time.' },
  {
    name: 'webhooks',
    description:
      'Be told instead of asking: Standard Webhooks, signed by the node’s Ed25519 key (`webhook_key`).',
  },
  {
    name: 'federation',
    description:
      'Nodes of different operators that mirror and cosign each other’s logs and settle every conflict by one law.',
  },
  {
    name: 'remembrancer',
    description: 'What a node remembers of its own log and of its peers’: signed roots and proofs.',
  },
  {
    name: 'mirror',
    description:
      'Logs of peers as this node has recomputed them from their events: C2SP tlog-tiles.',
  },
  {
    name: 'guardian',
    description: 'Ψ, the node’s health as one number with everything that moved it: docs/psi.md.',
  },
  { name: 'node', description: 'Who the node is and how it does.' },
  { name: 'docs', description: 'This document, for machines and for people.' },
] as const

/** Components that no zod schema describes, because they are bytes. */
const opaqueComponents: Components = {
  Event: {
    type: 'string',
    pattern: '^[A-Za-z0-9_-]+\\.[A-Za-z0-9_-]+\\.[A-Za-z0-9_-]+$',
    maxLength: MAX_EVENT_BYTES,
    description:
      'A JWS in compact serialization (RFC 7515 §7.1). Protected header: exactly `alg` (EdDSA, ES256, ES256K or EIP191), `kid` (did:key or did:pkh of the signer) and `typ` `vm-event+jws`. Payload: a CloudEvent whose `source` is the DID in `kid`. The bytes are kept as posted; `eventHash` is their SHA-256.',
    'x-jws-payload': { $ref: '#/components/schemas/CloudEvent' },
    examples: [examples.Event],
  },
}

/** Words for fields whose schemas stand where prose would be in the way: in core and in intake. */
export const words: Readonly<Record<string, Readonly<Record<string, string>>>> = {
  Accepted: {
    eventHash: 'sha256:<hex> of the posted bytes; of a repeat, of the first ones',
    eventId: '`id` of the event',
    receivedAt: 'when it became durable',
    links: 'where to read it, to ask for its status, to fetch its receipt',
    promise: 'JWS `vm-promise+jws` by the node: sealed by `sealBy`, or this is evidence against it',
    receipt: 'if it was sealed while you waited (`Prefer: wait`)',
  },
  BulkResult: {
    results: 'in line order; `line` counts from 1, empty lines included. Either kept, or a problem',
    promise: 'over all lines that were kept; absent if none was',
  },
  CloudEvent: {
    type: 'what happened, such as `com.example.parcel.delivered`',
    subject: 'what it happened to',
    dataschema: 'absolute URI of the schema of `data` (RFC 3986 §4.3: no fragment)',
    datacontenttype: 'media type of `data`',
    data: 'any JSON; not together with `data_base64`',
    data_base64: 'bytes as base64 (RFC 4648 §4, padded); not together with `data`',
  },
  EventBody: { event: 'the compact JWS' },
  Problem: {
    type: '/problems/<code>: a page that explains it',
    title: 'the same for every occurrence',
    status: 'the HTTP status; in a bulk, that of the line alone',
    detail: 'what is wrong here',
    advice: 'what to do next',
    requestId: 'for the operator, who finds it in the log',
  },
  Receipt: {
    v: 'version of this format',
    eventHash: 'SHA-256 of the event’s bytes: the log entry',
    eventId: '`id` of the event',
    source: '`source` of the event: the DID that signed it',
    status: 'anchored by one verified anchor, final by one on every rail of the node',
    origin: 'the log',
    height: 'the batch that holds the event',
    leafIndex: 'position in the log, from 0',
    treeSize: 'of the checkpoint',
    root: 'of the checkpoint',
    inclusionProof: 'RFC 9162 audit path from the leaf to `root`, its sibling first',
    checkpoint: 'the signed note, verbatim',
    anchors:
      'verified ones with their proof, and those under way; one of a later tree has a consistency proof',
  },
}

/** What an opaque body of a media type holds. */
const opaque: Readonly<Record<string, Schema>> = {
  'application/jose': { $ref: '#/components/schemas/Event' },
  'application/x-ndjson': {
    type: 'string',
    maxLength: MAX_BULK_BYTES,
    description: `One event a line: a bare compact JWS, or \`{"event": "<compact JWS>"}\`. Empty lines are skipped. At most ${BULK_LIMIT}.`,
    'x-line': { $ref: '#/components/schemas/Event' },
  },
  'application/octet-stream': { type: 'string', contentEncoding: 'binary' },
  'application/json': { type: 'object' },
}

interface Parameter {
  readonly name: string
  readonly in: string
  readonly required?: boolean
  readonly description?: string
  readonly schema: Schema
  readonly example?: string | number | undefined
}

/** A property whose words move to the parameter. */
type Described = Schema & {
  readonly description?: string
  readonly examples?: readonly (string | number)[]
}

/** What is said of an operation beyond its schemas. */
interface Note {
  readonly description: string
  /** Request headers that change the answer. */
  readonly headers?: Readonly<Record<string, string>>
  /** Instead of a plain request for the path with the parameters' examples. */
  readonly curl?: string
}

const ACCEPT_JOSE = 'application/jose gives the bare manifest; q-values count (RFC 9110 §12.5.1).'

const WEBHOOK_TARGET =
  'A URL to be told: https, a public host, port 443, at most 2,048 characters, no user name, no fragment. It is never shown or logged.'

/** How to sign a request with stock tools; a program signs it as it signs events. */
const REGISTER = `openssl genpkey -algorithm ed25519 -out key.pem
b64u() { basenc --base64url -w0 | tr -d =; }
did=did:key:z$(openssl pkey -in key.pem -pubout -outform DER | tail -c 32 | python3 -c '
import sys
n, text = int.from_bytes(b"\\xed\\x01" + sys.stdin.buffer.read(), "big"), ""
while n:
    n, digit = divmod(n, 58)
    text = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"[digit] + text
print(text)')
aud=$(curl -s ${LOCAL}/.well-known/vaultmesh.json | grep -o '"origin":"[^"]*"' | cut -d '"' -f 4)
now=$(date +%s)
header=$(printf '{"alg":"EdDSA","kid":"%s","typ":"vm-webhook+jws"}' "$did" | b64u)
claims=$(printf '{"iss":"%s","aud":"%s","iat":%d,"exp":%d,"jti":"%s","url":"%s","events":["event.sealed","event.final"]}' \\
  "$did" "$aud" "$now" $((now + 60)) "$(openssl rand -hex 16)" https://receiver.example/told | b64u)
printf '%s.%s' "$header" "$claims" > request
signature=$(openssl pkeyutl -sign -rawin -inkey key.pem -in request | b64u)
curl -s --data-binary "$header.$claims.$signature" -H 'content-type: application/jose' \\
  ${LOCAL}/webhooks | tee webhook.json`

/** How this node's own log is named below /mirror and /witness. */
const OWN_LOG = `origin=$(curl -s ${LOCAL}/.well-known/vaultmesh.json | grep -o '"origin":"[^"]*"' | head -n 1 | cut -d '"' -f 4)
log=$(printf '%s' "$origin" | sha256sum | cut -c 1-64)`

/** By `METHOD path` as the route table writes it. */
export const notes: Readonly<Record<string, Note>> = {
  'POST /events': {
    description: `One event as \`application/jose\` or \`{"event": …}\`, at most ${EVENT_LIMIT} bytes; or a bulk as \`application/x-ndjson\`, at most ${BULK_LIMIT}, answered line by line: a bad line costs no other line anything, and the status of a bulk is 200.

The same event again gets the first answer (200), so a retry is always safe. The same (\`source\`, \`id\`) with other content is refused (409). A 2xx means durable; the \`promise\` in it is signed and says by when the event is in the log.

A node with \`HARBINGER_SIG_REQUIRED=0\` also wraps a body of any other media type, up to 30,000 bytes, in an event of its own (type \`vm.received\`).`,
    headers: {
      Prefer:
        '`wait=n` waits up to n (≤ 60) seconds for the seal and then answers 200 with the receipt in it; `respond-async` answers before the signature is checked (status `received`, no promise yet). RFC 7240.',
      'VaultMesh-Webhook': `${WEBHOOK_TARGET} It is told of this event (of a bulk: of each that was kept) when it is sealed, anchored and final, and forgotten after 30 days. An event has at most 8; those named once it is sealed, when anybody can post it, count apart (8 too), so name yours in the first post. Kept before the 2xx; a 503 may mean that only the webhook was not: post again. Status \`received\` and a duplicate signed twice differently: the hook stays with the hash that was posted.`,
    },
    curl: `${ANY_HASH}
curl -s "${LOCAL}/events/$hash" > event.jws
curl -s --data-binary @event.jws -H 'content-type: application/jose' ${LOCAL}/events
curl -s ${LOCAL}/batches/1/events > bulk.ndjson
curl -s --data-binary @bulk.ndjson -H 'content-type: application/x-ndjson' ${LOCAL}/events`,
  },
  'GET /events': {
    description:
      'Sealed events, newest `time` first. All filters must match. Go on with `next` as `cursor` until it is null. A request looks at a bounded number of events: with two filters or more a page may be short, or empty, while `next` is not null.',
  },
  'GET /events/{eventHash}': {
    description:
      'Byte for byte what was posted, so that SHA-256 of the answer is the hash in the path. Served from the moment of the 202.',
    headers: {
      'If-None-Match':
        'ETags of earlier answers, or `*`; 304 if you have the bytes (RFC 9110 §13.1.2).',
    },
    curl: `${ANY_HASH}
curl -s "${LOCAL}/events/$hash" | sha256sum`,
  },
  'GET /events/{eventHash}/status': {
    description:
      '`received` → `accepted` → `sealed` → `anchored` (one verified anchor) → `final` (one on every rail of the node), or `rejected` with the problem.',
  },
  'GET /receipts/{eventHash}': {
    description:
      'The inclusion proof, the signed checkpoint it leads to and the verified anchors, so that `vaultmesh verify` needs nothing else. 404 `not-sealed` with a Retry-After until the event is sealed and indexed.\n\nOf each kind of anchor the first that covers the event is listed. `anchors=all` lists every one, a page at a time: each page is a receipt that verifies by itself, and the one after it stands in `Link: <…>; rel="next"` (RFC 8288).',
    headers: {
      Accept: 'text/plain gives the C2SP tlog-proof text; q-values count (RFC 9110 §12.5.1).',
    },
    curl: `${ANY_HASH}
curl -s "${LOCAL}/receipts/$hash"
curl -s -H 'accept: text/plain' "${LOCAL}/receipts/$hash"`,
  },
  'GET /batches/{height}': {
    description: 'Never changes once it is there.',
    headers: { Accept: ACCEPT_JOSE },
  },
  'GET /batches/{height}/events': {
    description:
      'Hash each line (without its newline) with SHA-256, and the RFC 6962 root over those hashes is `batchRoot` of the manifest.',
  },
  'GET /batches/{height}/receipts': {
    description:
      'A batch is anchored as a whole, by an anchor of its root or of any later one. `missing` says what its receipts still wait for; alerts link to the batch.',
  },
  'GET /log/checkpoint': {
    description:
      'At most a second old. Its key is `vkey` in /.well-known/vaultmesh.json.\n\nA node whose log has forked has more than one: log `n` is under `/log/<n>/` (checkpoint, tile, proof), and so are its `receipts`, `events` and `batches`. Without a number the paths below /log are those of the first log, all others of the newest. What a later log sealed again has `Link: <…>; rel="successor-version"` there.',
  },
  'GET /log/tile/{path*}': {
    description:
      'Immutable. `path` holds slashes and is sent as it stands. Partial tiles exist for every size the log had after a seal.',
    curl: `size=$(curl -s ${LOCAL}/log/checkpoint | sed -n 2p)
test "$size" -ge 256 && path=tile/0/000 || path=tile/0/000.p/$size
curl -s "${LOCAL}/log/$path" | od -An -tx1 | head -n 2`,
  },
  'GET /log/proof/inclusion': {
    description:
      'Give either `hash` or `index`. `size` may be any size up to the newest; the newest comes with its checkpoint.',
    curl: `curl -s '${LOCAL}/log/proof/inclusion?index=0'`,
  },
  'GET /log/proof/consistency': {
    description: 'That the tree of size `from` is a prefix of the tree of size `to`.',
    curl: `curl -s '${LOCAL}/log/proof/consistency?from=1'`,
  },
  'GET /anchors/status': {
    description:
      'Each job with its state, its attempts and when it is tried again; how long the oldest root waits on each rail; and what is known of the providers the rails ask. A dev network is marked: it proves nothing to others.',
  },
  'GET /anchors/{id}': {
    description:
      'The newest 64 attempts of a job. After a failure the next one waits min(1800, 30·2^(n−1)) s, the second half of it at random; waiting for a block is no failure.',
  },
  'GET /anchors/receipts': {
    description:
      'The plan’s eight fields and the whole offline proof of each. A receipt is never changed; where the chain contradicted one later, the record of that stands beside it.',
  },
  'POST /federation/gossip': {
    description:
      'For peers on `peers_allowlist` alone: docs/formats.md has the claims. A stranger is refused before anything is looked up.',
    curl: `printf 'e30.e30.e30' | curl -s --data-binary @- -H 'content-type: application/jose' ${LOCAL}/federation/gossip || echo 'refused: no envelope'`,
  },
  'GET /federation/feed': {
    description:
      'What peers read from each other: signed batches once they are verified, rivals included, and anchor receipts. Each verifies by itself.',
  },
  'GET /federation/evidence': {
    description:
      'A fork, or a root that its own batch contradicts. The file holds all that its check needs but the knowledge whose key it names.',
    curl: `curl -s '${LOCAL}/federation/evidence?origin=vm-node-02.example/log&height=1' || echo 'nothing speaks against that log'`,
  },
  'GET /federation/mesh': {
    description:
      'RFC 6962 root over the lines origin, height, treeSize and root of each log. Without a query: of every log the height that all live peers have reached; `query` is the same question for another node.',
  },
  'POST /guardian/telemetry': {
    description:
      'A node feeds itself once an interval, and hears its peers by gossip; this is the same door. docs/formats.md has the claims. Bring it once and in order: seq and ts grow.',
    curl: `printf 'e30.e30.e30' | curl -s --data-binary @- -H 'content-type: application/jose' ${LOCAL}/guardian/telemetry || echo 'refused: no telemetry'`,
  },
  'GET /guardian': {
    description:
      'Ψ of each node with its terms, its signals and what each costs; contributions add up to what Ψ lacks. Before the first telemetry `nodes` is empty.',
  },
  'GET /guardian/telemetry': {
    description:
      'Mean, least and greatest of Ψ and of every signal, by step. Kept for TELEMETRY_RETENTION_DAYS.',
    curl: `curl -s ${LOCAL}/guardian/telemetry`,
  },
  'GET /guardian/learn': {
    description:
      'The predictor behind PE is linear and looks one step ahead: `weights` is all it knows. What it expected stands beside what came.',
  },
  'GET /schemas': {
    description:
      'What to check before you post: `data` of a pinned type must match its schema, or the event is refused with 422 `schema-mismatch`, whose members `instancePath`, `keyword` and `schema` say where. Patterns and formats are tried on strings of at most 4,096 characters, uniqueItems on arrays of at most 256.',
  },
  'GET /schemas/{type*}': {
    description:
      'An event that gives `dataschema` must give the `$id` of the schema, where that has one. Types with slashes are sent percent-encoded or as they stand.',
    curl: `curl -s ${LOCAL}/schemas/com.example.paid || echo 'nothing is pinned to that type'`,
  },
  'GET /remembrancer/proofs/{chain}': {
    description:
      'Each receipt with its whole proof; `next` is the value of `after` for the next page.',
    curl: `curl -s ${LOCAL}/remembrancer/proofs/TSA`,
  },
  'GET /mirror/{log}/checkpoint': {
    description: 'Of this node’s own log as well: it is served on both paths.',
    curl: `${OWN_LOG}
curl -s "${LOCAL}/mirror/$log/checkpoint"`,
  },
  'GET /mirror/{log}/tile/{path*}': {
    description:
      'The tiles follow the canonical history of the log: a partial one may change while a fork is settled.',
    curl: `${OWN_LOG}
size=$(curl -s "${LOCAL}/mirror/$log/checkpoint" | sed -n 2p)
test "$size" -ge 256 && path=tile/0/000 || path=tile/0/000.p/$size
curl -s "${LOCAL}/mirror/$log/$path" | od -An -tx1 | head -n 2`,
  },
  'GET /mirror/{log}/proof/consistency': {
    description: 'That the mirrored tree of size `from` is a prefix of the tree of size `to`.',
    curl: `${OWN_LOG}
curl -s "${LOCAL}/mirror/$log/proof/consistency?from=1&to=1"`,
  },
  'GET /mirror/{log}/batches/{height}/{batchRoot}/events/{part}': {
    description:
      'SHA-256 of each line is a log entry; the RFC 6962 root over the entries of all parts is `batchRoot`. Where events are closed, peers read with `Authorization: Gossip <envelope>`.',
    curl: `${OWN_LOG}
root=$(curl -s ${LOCAL}/remembrancer/roots/1 | grep -o 'sha256:[0-9a-f]*' | head -n 1 | cut -c 8-)
curl -s "${LOCAL}/mirror/$log/batches/1/$root/events/0"`,
  },
  'POST /witness/add-checkpoint': {
    description:
      'C2SP tlog-witness v1.0.0: `old <size>`, the consistency proof, an empty line, the checkpoint. For logs of the federation and those the operator lists.',
    curl: `printf 'old 0\n\n' > request
curl -s ${LOCAL}/log/checkpoint >> request
curl -s --data-binary @request -H 'content-type: text/plain' ${LOCAL}/witness/add-checkpoint || echo 'refused: a node does not witness its own log'`,
  },
  'GET /witness/{log}/checkpoint': {
    description: 'The newest checkpoint of a log that this node cosigned, with its cosignature.',
    curl: `${OWN_LOG}
curl -s "${LOCAL}/witness/$log/checkpoint" || echo 'never cosigned here'`,
  },
  'POST /webhooks': {
    description: `The body is a compact JWS signed by the DID’s key, with \`typ\` \`vm-webhook+jws\` and the claims of \`WebhookRequest\`: to register a \`url\` for \`events\` of the DID that are sealed from now on (the same \`url\` again changes its \`events\`), or to \`delete\` by id. ${WEBHOOK_TARGET} A DID has at most 8.

Each notice is a \`Webhook\` in the body of a POST with \`webhook-id\`, \`webhook-timestamp\` and \`webhook-signature\`. Check that: Ed25519 by \`webhook_key\` of /.well-known/vaultmesh.json over \`<webhook-id>.<webhook-timestamp>.<body>\`; a timestamp of the last minutes; \`data.hook\`, since the node signs for all its receivers with one key. A notice may come twice, with one \`webhook-id\`, and they may come in any order.

Answer 2xx within 10 s to take it, 410 to end the webhook. Anything else, a redirect included, is tried again after 30, 60, 120 … 1,800 s (each less up to a half at random, and not before a \`Retry-After\` in seconds) until it is three days old.`,
    curl: REGISTER,
  },
  'GET /webhooks/{id}': {
    description:
      'Attempts, and when the next one is due. `id` is what POST /webhooks answered, and `data.hook` of a notice.',
    curl: `id=$(grep -o 'wh_[A-Za-z0-9_-]*' webhook.json | head -n 1)
curl -s "${LOCAL}/webhooks/$id"`,
  },
  'GET /healthz': { description: '200 as long as the process answers.' },
  'GET /readyz': {
    description:
      'For whoever sends traffic here: 503 while a store does not answer or what was promised waits past its time. Looked at once a second at most.',
  },
  'GET /metrics': {
    description:
      'Counters are durable; gauges are read as you ask, and `vaultmesh_scrape_errors` names what could not be read, which is then left out. docs/metrics.md lists every metric. With `METRICS_TOKEN` set on the node, send it as a Bearer token.',
  },
  'GET /.well-known/vaultmesh.json': {
    description: 'What a verifier pins: the log’s origin and key, the timestamp roots.',
  },
}

/** The document; `routes` marked internal are left out. */
export function openApiDocument(routes: readonly Route[]): Schema {
  const components: Components = { ...opaqueComponents }
  jsonSchema(cloudEventSchema, components)
  jsonSchema(webhookRequestSchema, components)
  const paths: Record<string, Record<string, unknown>> = {}
  for (const route of routes) {
    if (route.internal === true) continue
    const path = (paths[route.path.replaceAll('*}', '}')] ??= {})
    path[route.method.toLowerCase()] = operation(route, components)
  }
  return {
    openapi: '3.1.1',
    info: {
      title: 'VaultMesh',
      version: VERSION,
      summary: 'Signed events in, receipts out that verify offline',
      description:
        'A transparency log of signed events. Reading needs no account; posting needs a key of your own, because an event is authenticated by its signature. Every GET also answers HEAD. A page of any origin may read and post (CORS). Every refusal is a problem (RFC 9457) that says what to do next.',
      license: { name: 'Apache-2.0', identifier: 'Apache-2.0' },
    },
    servers: [{ url: '/', description: 'the node that serves this document' }],
    security: [],
    tags,
    paths,
    webhooks: {
      notice: {
        post: {
          operationId: 'notice',
          tags: ['webhooks'],
          summary: 'What a registered URL is sent',
          requestBody: {
            required: true,
            content: { 'application/json': { schema: jsonSchema(webhookSchema, components) } },
          },
          responses: {
            '2XX': { description: 'taken' },
            '410': { description: 'the webhook ends' },
          },
        },
      },
    },
    components: {
      schemas: Object.fromEntries(Object.entries(components).sort(([a], [b]) => (a < b ? -1 : 1))),
      responses: {
        Problem: {
          description: 'refused; the problem says why and what to do next',
          headers: {
            'Retry-After': {
              description: 'seconds, where waiting helps',
              schema: { type: 'integer' },
            },
          },
          content: problemContent,
        },
      },
      headers: {
        'X-Request-Id': {
          description: 'the request’s own X-Request-Id if it sent one, else a new one',
          schema: { type: 'string' },
        },
      },
    },
  }
}

const problemContent = {
  'application/problem+json': { schema: { $ref: '#/components/schemas/Problem' } },
}

function operation(route: Route, components: Components): Schema {
  const key = `${route.method} ${route.path}`
  const note = notes[key]
  const parameters: Parameter[] = [
    ...parametersOf(route.params, 'path', components),
    ...parametersOf(route.query, 'query', components),
    ...Object.entries(note?.headers ?? {}).map(([name, description]) => ({
      name,
      in: 'header',
      description,
      schema: { type: 'string' },
    })),
  ]
  return {
    operationId: operationId(route),
    tags: [route.tag],
    summary: route.summary,
    ...(note === undefined ? {} : { description: note.description }),
    ...(parameters.length === 0 ? {} : { parameters }),
    ...(route.body === undefined
      ? {}
      : { requestBody: { required: true, content: content(route.body, components) } }),
    responses: {
      ...Object.fromEntries(
        Object.entries(route.answers).map(([status, answer]) => [
          status,
          response(Number(status), answer, components),
        ]),
      ),
      default: { $ref: '#/components/responses/Problem' },
    },
    'x-codeSamples': [{ lang: 'Shell', source: note?.curl ?? curl(route, parameters) }],
  }
}

function response(status: number, answer: Answer, components: Components): Schema {
  const shown =
    answer.content === undefined
      ? status >= 400
        ? { content: problemContent }
        : {}
      : { content: content(answer.content, components) }
  return {
    description: answer.description,
    headers: { 'X-Request-Id': { $ref: '#/components/headers/X-Request-Id' } },
    ...shown,
  }
}

function content(
  byType: Readonly<Record<string, z.ZodType | null>>,
  components: Components,
): Schema {
  return Object.fromEntries(
    Object.entries(byType).map(([type, schema]) => [
      type,
      {
        schema:
          schema === null ? (opaque[type] ?? { type: 'string' }) : jsonSchema(schema, components),
      },
    ]),
  )
}

function parametersOf(
  schema: z.ZodType | undefined,
  where: 'path' | 'query',
  components: Components,
): Parameter[] {
  if (schema === undefined) return []
  const { properties, required } = jsonSchema(schema, components) as {
    readonly properties: Readonly<Record<string, Schema>>
    readonly required?: readonly string[]
  }
  return Object.entries(properties).map(([name, property]) => {
    const { description, examples: given, ...rest } = property as Described
    return {
      name,
      in: where,
      ...(where === 'path' || required?.includes(name) === true ? { required: true } : {}),
      ...(description === undefined ? {} : { description }),
      schema: rest,
      ...(given === undefined ? {} : { example: given[0] }),
    }
  })
}

/** JSON Schema of `schema` as it is referred to; components it uses are added to `components`. */
function jsonSchema(schema: z.ZodType, components: Components): Schema {
  // As a property the schema's own id is honoured, too: it comes back as a reference.
  const wrapped = z.toJSONSchema(z.object({ it: schema }), {
    io: 'input',
    unrepresentable: 'any',
    override: ({ jsonSchema: out }) => {
      // The bounds of a safe integer say nothing of the field.
      if (out.minimum === Number.MIN_SAFE_INTEGER) delete out.minimum
      if (out.maximum === Number.MAX_SAFE_INTEGER) delete out.maximum
      // zod's own pattern for a time has 300 characters and adds nothing to the format.
      if (out.format === 'date-time') delete out.pattern
    },
  })
  const local = JSON.parse(
    JSON.stringify(wrapped).replaceAll('"#/$defs/', '"#/components/schemas/'),
  ) as { readonly properties: { readonly it: Schema }; readonly $defs?: Components }
  for (const [id, component] of Object.entries(local.$defs ?? {})) {
    const { id: _, ...rest } = component as Schema & { properties: Record<string, Schema> }
    for (const [field, description] of Object.entries(words[id] ?? {}))
      rest.properties[field] = { ...rest.properties[field], description }
    const example = (examples as Record<string, unknown>)[id]
    components[id] = example === undefined ? rest : { ...rest, examples: [example] }
  }
  return local.properties.it
}

/** `getEventsStatus` for `GET /events/{eventHash}/status`, `getEventsByEventHash` for its parent. */
function operationId({ method, path }: Route): string {
  const parts = path
    .replaceAll(/\{(\w+)\*?\}/g, 'by/$1')
    .split(/[^A-Za-z0-9]+/)
    .filter((word) => word !== '')
  return method.toLowerCase() + parts.map((word) => word[0]!.toUpperCase() + word.slice(1)).join('')
}

/** A request that works on a fresh node: the examples of the required parameters, nothing else. */
function curl(route: Route, parameters: readonly Parameter[]): string {
  let path = route.path
  for (const { name, required, example } of parameters)
    if (required === true)
      path = path.replace(`{${name}}`, name === 'eventHash' ? '$hash' : String(example))
  return path.includes('$hash')
    ? `${ANY_HASH}\ncurl -s "${LOCAL}${path}"`
    : `curl -s ${LOCAL}${path}`
}
