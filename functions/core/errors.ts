/**
 * Every refusal VaultMesh can speak: a stable code, its HTTP status, and what to do next.
 *
 * One table so that the HTTP problem (RFC 9457), the CLI and the SDK say the same words for the
 * same fault. A code never changes its meaning; a new fault gets a new code.
 */

interface Entry {
  /** HTTP status of the problem answer. */
  readonly status: number
  /** RFC 9457 §3.1.3 `title`: the same for every occurrence. */
  readonly title: string
  /** What the caller should do next. */
  readonly advice: string
}

const table = {
  'bad-encoding': {
    status: 400,
    title: 'Bad encoding',
    advice: 'Send canonical base64url without padding and valid UTF-8.',
  },
  'bad-jws': {
    status: 400,
    title: 'Not a compact JWS',
    advice: 'Send header.payload.signature as in RFC 7515 §7.1, as application/jose.',
  },
  'bad-header': {
    status: 400,
    title: 'Protected header refused',
    advice: 'Use exactly alg, kid and typ "vm-event+jws"; alg is EdDSA, ES256, ES256K or EIP191.',
  },
  'bad-did': {
    status: 400,
    title: 'Signer not understood',
    advice: 'Use did:key (Ed25519, P-256, secp256k1) or did:pkh:eip155 as kid.',
  },
  'bad-signature': {
    status: 400,
    title: 'Signature does not verify',
    advice:
      'Sign the ASCII bytes header.payload with the key that kid names; ES256K and EIP191 need a low s.',
  },
  'bad-event': {
    status: 400,
    title: 'Not a valid CloudEvent',
    advice: 'Send one CloudEvents 1.0 JSON object; the detail names the field.',
  },
  'duplicate-key': {
    status: 400,
    title: 'Duplicate JSON key',
    advice: 'Send each key once: parsers disagree on which one wins.',
  },
  'time-in-future': {
    status: 400,
    title: 'Event time is in the future',
    advice: 'Set the clock; time may be at most 300 s ahead of the node.',
  },
  'time-too-old': {
    status: 400,
    title: 'Event time is too old for this node',
    advice: 'Ask the operator for the accepted age (INTAKE_MAX_AGE_S).',
  },
  'event-too-large': {
    status: 413,
    title: 'Event too large',
    advice: 'Keep the JWS at or below 65,535 bytes; put the payload elsewhere and post its hash.',
  },
  'body-too-large': {
    status: 413,
    title: 'Body too large',
    advice:
      'Keep to the limit that the answer names; a bulk is split into requests of at most 10,000 lines and 8,388,608 bytes.',
  },
  'too-many-lines': {
    status: 413,
    title: 'Too many lines',
    advice: 'Split the bulk: at most 10,000 lines and 8,388,608 bytes per request.',
  },
  'bad-body': {
    status: 400,
    title: 'Body not understood',
    advice: 'See /docs for the accepted bodies of this path.',
  },
  'bad-request': {
    status: 400,
    title: 'Request not understood',
    advice: 'See /docs for the parameters of this path.',
  },
  'event-id-reused': {
    status: 409,
    title: 'Event id reused for other content',
    advice: 'Give the new event a new id; the first one stands.',
  },
  erased: {
    status: 410,
    title: 'Event erased',
    advice: 'The receipt still proves the leaf; the bytes are gone for good.',
  },
  'bad-erasure': {
    status: 400,
    title: 'Erasure not understood',
    advice:
      'A vm.erased event has the data {eventHash, reasonCode} and nothing else: the hash names the event, the code says why (docs/erasure.md).',
  },
  'erasure-refused': {
    status: 403,
    title: 'Erasure refused',
    advice:
      'Sign vm.erased with the key that signed the event, or ask the operator (docs/erasure.md).',
  },
  'not-allowed': {
    status: 403,
    title: 'Signer not on the allow-list',
    advice: 'Ask the operator to add your DID to `allow` of the intake rules (or to INTAKE_ALLOW).',
  },
  'schema-mismatch': {
    status: 422,
    title: 'Payload does not match the pinned schema',
    advice:
      'Fix data to match the JSON Schema pinned to this type: GET /schemas/<type> shows it. Nothing was stored.',
  },
  'bad-webhook': {
    status: 400,
    title: 'Webhook refused',
    advice:
      'Use an https URL of a public host on port 443 (a node started with WEBHOOK_ALLOW_PRIVATE=1 takes others too), and a request signed just now; the detail says what is wrong.',
  },
  'too-many-webhooks': {
    status: 409,
    title: 'Too many webhooks',
    advice:
      'A DID and an event have at most 8 webhooks each; end one first. Posted events are kept.',
  },
  'rate-limited': {
    status: 429,
    title: 'Too many events',
    advice:
      'Wait for Retry-After seconds, then send again: nothing was lost, retries are free of duplicates.',
  },
  'not-found': { status: 404, title: 'Not found', advice: 'See /docs for the paths that exist.' },
  'not-sealed': {
    status: 404,
    title: 'Not sealed yet',
    advice: 'Ask the status link; the receipt is there once the event is sealed and indexed.',
  },
  'no-such-size': {
    status: 404,
    title: 'No such tree size',
    advice: 'Use a size between 1 and the size in /log/checkpoint.',
  },
  'method-not-allowed': {
    status: 405,
    title: 'Method not allowed',
    advice: 'Use a method from the Allow header.',
  },
  'unsupported-media-type': {
    status: 415,
    title: 'Media type not supported',
    advice: 'Send one of the media types that /docs lists for this path.',
  },
  'not-acceptable': {
    status: 406,
    title: 'No such representation',
    advice: 'Accept application/json or text/plain.',
  },
  unauthorized: {
    status: 401,
    title: 'Not authorised',
    advice: 'Send the token that the detail names as a Bearer token.',
  },
  forbidden: { status: 403, title: 'Forbidden', advice: 'This action needs a higher role.' },
  'no-sign-in': {
    status: 503,
    title: 'Sign-in is not configured',
    advice:
      'The operator sets OIDC_ISSUER and what belongs to it; until then the dashboard is closed.',
  },
  'sign-in-required': {
    status: 401,
    title: 'Sign-in required',
    advice: 'Sign in at /login, or send an API token (vmt_…) as a Bearer token.',
  },
  'sign-in-refused': {
    status: 403,
    title: 'Sign-in refused',
    advice: 'Begin again at /login in this browser; ask the operator if it repeats.',
  },
  'provider-failed': {
    status: 502,
    title: 'The identity provider does not answer as it should',
    advice: 'Try again in a moment; the operator finds the reason in the log by the request id.',
  },
  'form-refused': {
    status: 403,
    title: 'Form refused',
    advice: 'Open the page again and send its form. Nothing was done.',
  },
  'changed-meanwhile': {
    status: 409,
    title: 'Changed meanwhile',
    advice: 'Look at the page again, then decide anew. Nothing was done.',
  },
  overloaded: {
    status: 503,
    title: 'Node is busy',
    advice:
      'Send the same request again after Retry-After seconds; a repeat is never counted twice.',
  },
  'storage-failed': {
    status: 503,
    title: 'Storage did not answer',
    advice: 'Send the same request again; a repeat is never counted twice.',
  },
  'not-ready': {
    status: 503,
    title: 'Not ready',
    advice: 'Ask again after Retry-After seconds; the detail names what does not do its work.',
  },
  internal: {
    status: 500,
    title: 'Internal error',
    advice: 'Send the same request again; quote the request id if it persists.',
  },
  'bad-config': {
    status: 500,
    title: 'Configuration refused',
    advice: 'Mend the named key and start again.',
  },
  'bad-proof': {
    status: 422,
    title: 'Proof does not verify',
    advice: 'Do not trust this proof; fetch it again from another node.',
  },
  'bad-note': {
    status: 422,
    title: 'Not a valid signed note',
    advice: 'See C2SP signed-note; the detail says which line.',
  },
  'untrusted-key': {
    status: 422,
    title: 'Signed by a key you do not trust',
    advice: 'Name the key you trust with --vkey or a trust file.',
  },
  'bad-receipt': {
    status: 422,
    title: 'Receipt not understood',
    advice: 'Fetch the receipt again from GET /receipts/{eventHash}.',
  },
  'bad-timestamp': {
    status: 422,
    title: 'Timestamp token refused',
    advice: 'See the detail; the anchor is tried again at another authority.',
  },
  'not-anchored': {
    status: 404,
    title: 'Not anchored yet',
    advice: 'Ask again later; /anchors/status shows when the next anchor is due.',
  },
  'anchor-failed': {
    status: 502,
    title: 'Anchor attempt failed',
    advice: 'It is tried again by itself; see /anchors/status.',
  },
  'bad-envelope': {
    status: 400,
    title: 'Gossip envelope refused',
    advice: 'Send a JWS vm-gossip+jws as docs/formats.md has it; the detail names the claim.',
  },
  'envelope-too-large': {
    status: 413,
    title: 'Gossip envelope too large',
    advice: 'Send tips and references only; peers fetch the rest.',
  },
  'unknown-peer': {
    status: 403,
    title: 'Not a peer of this node',
    advice: 'Ask the operator to add your DID to peers_allowlist of config/federation.yaml.',
  },
  'wrong-audience': {
    status: 403,
    title: 'Envelope is for another node',
    advice: 'Set aud to the node_did of the node you send to (/.well-known/vaultmesh.json).',
  },
  'stale-envelope': {
    status: 401,
    title: 'Envelope is not of now',
    advice: 'Set the clock; exp is at most 60 s after iat, and both are in seconds.',
  },
  'replayed-envelope': {
    status: 401,
    title: 'Envelope was seen before',
    advice: 'Give each envelope a new jti.',
  },
  'telemetry-unsigned': {
    status: 401,
    title: 'Telemetry is not signed',
    advice: 'Send a compact JWS vm-telemetry+jws, signed EdDSA by an identity key of the node.',
  },
  'bad-telemetry': {
    status: 400,
    title: 'Telemetry refused',
    advice: 'Send the claims and signals that docs/psi.md lists; the detail names the wrong one.',
  },
  'telemetry-future': {
    status: 400,
    title: 'Telemetry is from the future',
    advice: 'Set the clock; ts is at most 60 s ahead of the node that reads it.',
  },
  'telemetry-stale': {
    status: 400,
    title: 'Telemetry is too old',
    advice: 'Send telemetry within 10 minutes of its ts; an older one is of no use any more.',
  },
  'telemetry-replayed': {
    status: 409,
    title: 'Telemetry was seen before',
    advice: 'Nothing to do after a retry: the first one counts. New telemetry has a higher seq.',
  },
  'telemetry-out-of-order': {
    status: 409,
    title: 'Telemetry is out of order',
    advice: 'Send telemetry in order: seq and ts both grow.',
  },
  'bad-rotation': {
    status: 422,
    title: 'Key statement refused',
    advice: 'A statement is signed by a key that is valid at its nbf and adds the next epoch.',
  },
  'unknown-log': {
    status: 404,
    title: 'Not a log of this federation',
    advice: 'Ask the operator to add the log (origin and vkey) to config/federation.yaml.',
  },
  'untrusted-checkpoint': {
    status: 403,
    title: 'Not signed by the log',
    advice:
      'Send a checkpoint that carries a valid signature of the key this node knows for the origin.',
  },
  'no-federation': {
    status: 404,
    title: 'Not in a federation',
    advice: 'The operator starts the node with config/federation.yaml (make federation).',
  },
  'log-forked': {
    status: 503,
    title: 'This log has forked and takes no more events',
    advice:
      'See /federation/conflicts for the evidence and /.well-known/vaultmesh.json for the log that follows.',
  },
  'bad-state': {
    status: 500,
    title: 'State refused',
    advice: 'Run vaultmesh fsck; the node fails closed rather than guess.',
  },
} as const satisfies Record<string, Entry>

/** The union of all codes; `switch` over it is checked by the compiler. */
export type Code = keyof typeof table

/** Title, status and advice of each code, for the problem pages and the OpenAPI document. */
export const codes: Readonly<Record<Code, Entry>> = table

/** Extra members of a problem answer, e.g. `{ limit: 65535 }`. */
export type Extra = Readonly<Record<string, string | number | boolean | null | readonly string[]>>

/** The one error type that crosses a function boundary here. */
export class VaultMeshError extends Error {
  readonly code: Code
  readonly extra: Extra

  constructor(code: Code, detail: string, options: { cause?: unknown; extra?: Extra } = {}) {
    super(detail, options.cause === undefined ? undefined : { cause: options.cause })
    this.name = 'VaultMeshError'
    this.code = code
    this.extra = options.extra ?? {}
  }

  /** HTTP status of this refusal. */
  get status(): number {
    return table[this.code].status
  }

  /** What the caller should do next. */
  get advice(): string {
    return table[this.code].advice
  }
}
