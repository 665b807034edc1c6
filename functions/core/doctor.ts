/**
 * What `vaultmesh doctor` makes of what it found: one check a line, each ok, warn or fail, with what to do next.
 *
 * Pure: measured facts go in, words come out. A check that could not be made is `skip`: silence never passes for health.
 * What is said is public or the operator's own, and never a secret: providers go by host and port.
 */

/** How a check came out. */
export type CheckState = 'ok' | 'warn' | 'fail' | 'skip'

/** One line of the table. */
export interface Check {
  /** What it is about: `clock`, `wallet`, … */
  readonly area: string
  readonly state: CheckState
  readonly says: string
  /** What to do about it; absent where nothing is to be done. */
  readonly next?: string
}

const DAY_MS = 86_400_000
/** A certificate takes its issuer days and an operator's change process weeks. */
const EXPIRY_WARN_MS = 90 * DAY_MS
const EXPIRY_FAIL_MS = 14 * DAY_MS
/** Let's Encrypt renews 30 days before the end of 90. */
const TLS_WARN_MS = 20 * DAY_MS
const TLS_FAIL_MS = 3 * DAY_MS
/** Events may be 300 s ahead of the node, envelopes 60 s old: beyond the first, honest events are refused. */
const SKEW_FAIL_MS = 300_000
const SKEW_WARN_MS = 30_000
/** Anchors left: at one an hour, a day and half a week. */
const ANCHORS_FAIL = 10
const ANCHORS_WARN = 100
/** Free space: a day at 100 events a second is 100 × 86,400 × 600 bytes ≈ 5 GB. */
const DISK_WARN_BYTES = 5_000_000_000
const DISK_FAIL_BYTES = 500_000_000
const INODES_WARN = 100_000
const INODES_FAIL = 10_000
/** A provider this many blocks behind another of its rail stops anchors from being final. */
const LAG_WARN = { BTC: 2, EVM: 64 } as const

/** One check. */
export function check(area: string, state: CheckState, says: string, next?: string): Check {
  return state === 'ok' || next === undefined ? { area, state, says } : { area, state, says, next }
}

/** The worst state of them; `skip` counts for nothing. */
export function worst(checks: readonly Check[]): 'ok' | 'warn' | 'fail' {
  const has = (state: CheckState) => checks.some((c) => c.state === state)
  return has('fail') ? 'fail' : has('warn') ? 'warn' : 'ok'
}

/** A clock held against another: how far ours is ahead of it, ms. */
export interface ClockSample {
  readonly who: string
  readonly skewMs: number
}

/** Our clock against others': by the median, so that one of them that is wrong changes nothing. */
export function clockCheck(samples: readonly ClockSample[]): Check {
  if (samples.length === 0)
    return check('clock', 'skip', 'there is no other clock to hold ours against')
  const sorted = samples.map(({ skewMs }) => skewMs).toSorted((a, b) => a - b)
  const half = Math.floor(sorted.length / 2)
  const median = sorted.length % 2 === 1 ? sorted[half]! : (sorted[half - 1]! + sorted[half]!) / 2
  const size = Math.abs(median)
  const way = median >= 0 ? 'ahead of' : 'behind'
  const says = `${(size / 1000).toFixed(1)} s ${way} the median of ${samples.length} (${samples.map(({ who }) => who).join(', ')})`
  const next =
    'Let NTP set the clock of this machine (timedatectl set-ntp true). Events more than 300 s ahead of it are refused, and peers refuse its envelopes after 60 s.'
  return check(
    'clock',
    size > SKEW_FAIL_MS ? 'fail' : size > SKEW_WARN_MS ? 'warn' : 'ok',
    says,
    next,
  )
}

/** A certificate that timestamps depend on. */
export function tsaExpiryCheck(what: string, expiresAt: number, nowAt: number): Check {
  const says = `${what} ends ${whenText(expiresAt, nowAt)}`
  const next =
    'Ask the authority for its next chain and add the new root to TSA_ROOTS beside the old one; receipts made before stay valid.'
  return check('tsa chain', stateBy(expiresAt - nowAt, EXPIRY_WARN_MS, EXPIRY_FAIL_MS), says, next)
}

/** The certificate that browsers and peers see. */
export function tlsExpiryCheck(host: string, expiresAt: number, nowAt: number): Check {
  const says = `the certificate of ${host} ends ${whenText(expiresAt, nowAt)}`
  return check(
    'tls',
    stateBy(expiresAt - nowAt, TLS_WARN_MS, TLS_FAIL_MS),
    says,
    'See why the proxy in front of the node does not renew it (journalctl -u caddy).',
  )
}

/** A wallet by how many anchors it pays for at the fee cap. */
export function walletCheck(wallet: {
  readonly rail: string
  readonly address: string
  readonly balance: string | null
  readonly anchorsLeft: number | null
}): Check {
  const { rail, address, balance, anchorsLeft } = wallet
  const holds = balance === null ? '' : ` holds ${balance}`
  if (anchorsLeft === null)
    return check('wallet', 'skip', `${rail} ${address}${holds}: not read yet; it is within an hour`)
  const says = `${rail} ${address}${holds}: pays for ${anchorsLeft} anchors at the fee cap`
  const next = `Send coins to ${address}; without them anchors wait and nothing is lost.`
  return check('wallet', stateBy(anchorsLeft, ANCHORS_WARN, ANCHORS_FAIL), says, next)
}

/** A provider of a chain, as it answered. */
export interface ProviderAnswer {
  readonly rail: 'BTC' | 'EVM' | 'TSA'
  /** Host and port. */
  readonly name: string
  readonly latencyMs: number
  /** What was wrong, in words of ours; null if nothing. */
  readonly fault: string | null
  /** Its tip; null where it has none or did not say. */
  readonly height: number | null
}

/** The providers of one rail: who answers, on which chain, how far behind the best of them. */
export function providerChecks(answers: readonly ProviderAnswer[]): Check[] {
  return answers.map(({ rail, name, latencyMs, fault, height }) => {
    const took = `${Math.round(latencyMs)} ms`
    if (fault !== null)
      return check(
        'provider',
        'fail',
        `${rail} ${name}: ${fault} (${took})`,
        `Ask its operator, or name another in ${VARIABLE[rail]}. Anchors of ${rail} wait while one of several is silent.`,
      )
    if (rail === 'TSA' || height === null)
      return check('provider', 'ok', `${rail} ${name}: answers in ${took}`)
    const best = Math.max(...answers.filter((a) => a.rail === rail).map((a) => a.height ?? 0))
    const behind = best - height
    return check(
      'provider',
      behind > LAG_WARN[rail] ? 'warn' : 'ok',
      `${rail} ${name}: right network, block ${height}${behind > 0 ? ` (${behind} behind)` : ''}, ${took}`,
      'It lags behind another provider: anchors are final only once it has caught up.',
    )
  })
}

const VARIABLE = { BTC: 'BTC_URLS', EVM: 'EVM_URLS', TSA: 'TSA_URLS' } as const

/** Room where the node keeps its state. */
export function diskChecks(room: {
  readonly freeBytes: number
  /** Null where the file system has no fixed number of them. */
  readonly freeInodes: number | null
}): Check[] {
  const { freeBytes, freeInodes } = room
  const next =
    'Make room, or move the home to a larger disk while the node is stopped. A full disk stops intake with 503 and loses nothing that was accepted.'
  return [
    check(
      'disk',
      stateBy(freeBytes, DISK_WARN_BYTES, DISK_FAIL_BYTES),
      `${(freeBytes / 1e9).toFixed(1)} GB free for the home`,
      next,
    ),
    ...(freeInodes === null
      ? []
      : [
          check(
            'disk',
            stateBy(freeInodes, INODES_WARN, INODES_FAIL),
            `${freeInodes} inodes free for the home`,
            next,
          ),
        ]),
  ]
}

/** `warn` below one limit, `fail` below the other. */
function stateBy(value: number, warnBelow: number, failBelow: number): CheckState {
  return value < failBelow ? 'fail' : value < warnBelow ? 'warn' : 'ok'
}

function whenText(at: number, nowAt: number): string {
  const days = Math.floor(Math.abs(at - nowAt) / DAY_MS)
  return at < nowAt ? `(ended ${days} days ago)` : `in ${days} days`
}

/** How long `ms` is, for people. */
export function ageText(ms: number): string {
  const s = Math.max(0, Math.round(ms / 1000))
  if (s < 120) return `${s} s`
  if (s < 7200) return `${Math.round(s / 60)} min`
  return s < 172_800 ? `${Math.round(s / 3600)} h` : `${Math.round(s / 86_400)} d`
}

/**
 * Names of `given` that look like one of `known` and are none: a letter wrong, missing, too many or out of place (two
 * of them in long names), or only their case. With what was probably meant.
 */
export function misspelt(
  given: readonly string[],
  known: readonly string[],
): { readonly name: string; readonly meant: string }[] {
  const right = new Set(known)
  return given.flatMap((name) => {
    if (right.has(name)) return []
    const meant = known.find((k) => {
      const far = k.length < 8 ? 1 : 2
      return (
        k.toLowerCase() === name.toLowerCase() ||
        (Math.abs(k.length - name.length) <= far && distance(name, k) <= far)
      )
    })
    return meant === undefined ? [] : [{ name, meant }]
  })
}

/** Edits from `a` to `b`: insert, delete, replace, swap neighbours. */
function distance(a: string, b: string): number {
  let before: number[] = []
  let last = Array.from({ length: b.length + 1 }, (_, j) => j)
  for (let i = 1; i <= a.length; i++) {
    const row = [i]
    for (let j = 1; j <= b.length; j++) {
      const same = a[i - 1] === b[j - 1] ? 0 : 1
      row[j] = Math.min(last[j]! + 1, row[j - 1]! + 1, last[j - 1]! + same)
      if (i > 1 && j > 1 && a[i - 1] === b[j - 2] && a[i - 2] === b[j - 1])
        row[j] = Math.min(row[j]!, before[j - 2]! + 1)
    }
    before = last
    last = row
  }
  return last[b.length]!
}

/** What settings say that is allowed, but hardly meant. */
export interface Settings {
  readonly network: 'dev' | 'production'
  readonly origin: string
  readonly publicUrl: string
  readonly rails: readonly string[]
  /** How many each rail asks. */
  readonly providers: Readonly<Record<string, number>>
  readonly webhookAllowPrivate: boolean
  readonly rateLimitDid: number
  readonly rateLimitIp: number
  readonly sigRequired: boolean
}

/** Settings that parse, held against what they are for. */
export function settingsChecks(settings: Settings): Check[] {
  const { network, origin, publicUrl, rails, providers } = settings
  if (network === 'dev')
    return [
      check(
        'config',
        'ok',
        `every variable parses; NETWORK=dev: ${origin} proves nothing to others`,
      ),
    ]
  const found: Check[] = []
  const warn = (says: string, next: string) => found.push(check('config', 'warn', says, next))
  if (/\.(?:example|invalid|test|local|localhost)(?:\/|$)/.test(origin))
    found.push(
      check(
        'config',
        'fail',
        `NETWORK=production, and the log is named ${origin}, which nobody owns`,
        'The name is for ever: start a new home with ORIGIN=log.you.org/log before anybody relies on this one.',
      ),
    )
  if (publicUrl === '')
    warn(
      'PUBLIC_URL is empty: links in alerts lead nowhere, and nobody can sign in',
      'Set it to the address at which browsers and peers reach this node.',
    )
  else if (!publicUrl.startsWith('https:'))
    warn(
      'PUBLIC_URL is not https',
      'Put a TLS proxy in front (docs/self-host.md) and name its address.',
    )
  if (rails.length === 0)
    warn(
      'RAILS is empty: nothing is anchored, so nobody outside vouches for when an event was there',
      'Set up at least a timestamp authority (TSA_URLS, TSA_ROOTS).',
    )
  for (const rail of rails)
    if (providers[rail] === 1)
      warn(
        `${rail} asks one provider alone, which is believed whatever it says`,
        'Name a second one of another operator.',
      )
  if (settings.webhookAllowPrivate)
    warn(
      'WEBHOOK_ALLOW_PRIVATE=1 lets whoever posts make this node call addresses of your own network',
      'Set it to 0.',
    )
  if (settings.rateLimitDid === 0 && settings.rateLimitIp === 0)
    warn('both rate limits are off', 'Set RATE_LIMIT_DID or RATE_LIMIT_IP.')
  if (!settings.sigRequired)
    warn(
      'HARBINGER_SIG_REQUIRED=0: the node signs for what nobody signed',
      'Set it to 1 unless that is meant.',
    )
  return found.length > 0
    ? found
    : [
        check(
          'config',
          'ok',
          `every variable parses; NETWORK=production, ${origin}, rails ${rails.join(', ')}`,
        ),
      ]
}
