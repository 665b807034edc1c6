/**
 * The doctor inside of a node: it looks at every part that storage and providers tell of, and judges by core/doctor.ts.
 * It changes nothing. A part that cannot be looked at is a failed check, not a failed answer.
 */

import { anchorReceiptSchema } from '#core/anchor-receipt.ts'
import {
  ageText,
  check,
  clockCheck,
  misspelt,
  providerChecks,
  settingsChecks,
  tsaExpiryCheck,
  walletCheck,
  type Check,
  type ClockSample,
} from '#core/doctor.ts'
import { VARIABLES } from '#core/config.ts'
import { VaultMeshError } from '#core/errors.ts'
import { certificateExpiry, certificateSha256 } from '#core/timestamp-proof.ts'
import { countDeadLetters } from '#store/alerts.ts'
import { oldestWaiting } from '#store/anchors.ts'
import { intakeRules } from '#store/intake-rules.ts'
import type { NodeContext } from '#store/node.ts'
import { missingIndex } from '#store/rebuild.ts'
import { sealingStands } from '#store/wake.ts'
import { tsaExpiries, walletReadings } from '#store/watch.ts'

/** An anchor on its way for longer than this is looked after: a Bitcoin block takes hours at times. */
const ANCHOR_LATE_MS = 6 * 3_600_000
/** What a rail's newest tokens say of the clock is of now. */
const RECENT_MS = 86_400_000

interface Look {
  readonly env: Env
  readonly node: NodeContext
  readonly nowAt: number
}
type Part = (look: Look) => Promise<readonly Check[]>

const parts: Readonly<Record<string, Part>> = {
  config: async ({ env, node: { config } }) => {
    const given = Object.entries(env).flatMap(([name, value]) =>
      typeof value === 'string' ? [name] : [],
    )
    const providers = {
      BTC: config.bitcoin?.urls.length ?? 0,
      EVM: config.evm?.urls.length ?? 0,
      TSA: config.rails.includes('TSA') ? config.tsaUrls.length : 0,
    }
    return [
      ...settingsChecks({ ...config, providers }),
      ...misspelt(given, VARIABLES).map(({ name, meant }) =>
        check(
          'config',
          'warn',
          `${name} is no variable of ours`,
          `Is ${meant} meant? What is set under another name counts for nothing.`,
        ),
      ),
    ]
  },

  intake: async ({ env, node: { config } }) => {
    const rules = await intakeRules(env)
    const allow = rules.allow === undefined ? config.intakeAllow : rules.allow
    const who = allow === null ? 'anybody' : `${allow.size} DIDs`
    const says = `${who} may post; ${rules.pins.size} types are pinned, others: ${rules.unpinned}`
    if (allow?.size === 0)
      return [
        check(
          'intake',
          'warn',
          `nobody may post`,
          'See allow in the rules of intake, or INTAKE_ALLOW (docs/intake.md).',
        ),
      ]
    if (rules.allow !== undefined && config.intakeAllow !== null)
      return [
        check(
          'intake',
          'warn',
          `${says}; INTAKE_ALLOW is set, and the rules stand above it`,
          'Say it in one place: leave INTAKE_ALLOW at *.',
        ),
      ]
    return [check('intake', 'ok', says)]
  },

  checkpoint: async ({ env, nowAt }) => {
    const [{ fault }, head] = await Promise.all([
      sealingStands(env, nowAt),
      env.SEQUENCER.getByName('log').head(),
    ])
    const { height, sealedAt, size, indexedHeight } = head
    const missing = await missingIndex(env.DB, head)
    const age =
      height === 0
        ? 'nothing sealed yet'
        : `batch ${height}, ${size} events, sealed ${ageText(nowAt - sealedAt)} ago`
    if (fault !== null)
      return [
        check(
          'checkpoint',
          'fail',
          `${age}. ${fault}`,
          'See the log of the node and docs/alerts.md#checkpoint_stale.',
        ),
      ]
    return [
      check('checkpoint', 'ok', `${age}; nothing waits past its time`),
      ...(missing === null
        ? []
        : [
            check(
              'checkpoint',
              'fail',
              missing,
              'Until then receipts of older events are 404 (docs/backup.md, Lost index).',
            ),
          ]),
      ...(indexedHeight < height - 1
        ? [
            check(
              'checkpoint',
              'warn',
              `the index is at batch ${indexedHeight}`,
              'It follows by itself within a minute; if it does not, run vaultmesh fsck.',
            ),
          ]
        : []),
    ]
  },

  queues: async ({ env, nowAt }) => {
    const dead = await countDeadLetters(env.DB)
    const waiting = await oldestWaiting(env.DB, nowAt)
    return [
      ...[...dead].map(([queue, n]) =>
        check(
          'queues',
          'warn',
          `${n} dead letters of ${queue}`,
          'vaultmesh dlq list says why; they are tried again by themselves, and dlq replay hastens it.',
        ),
      ),
      ...(dead.size === 0 ? [check('queues', 'ok', 'no dead letters')] : []),
      ...waiting.map(({ chain, network, method, ageMs }) =>
        check(
          'queues',
          ageMs > ANCHOR_LATE_MS ? 'warn' : 'ok',
          `${chain} ${network} (${method}): the oldest anchor on its way is ${ageText(ageMs)} old`,
          'See /anchors/status for whom it asks and why it waits.',
        ),
      ),
    ]
  },

  anchors: async ({ env }) => {
    const { results } = await env.DB.prepare(
      `SELECT chain, network, reason, count(*) AS n, min(id) AS id FROM anchors INDEXED BY anchors_due
       WHERE state NOT IN ('final', 'failed') AND state = 'held' GROUP BY chain, network, reason`,
    ).all<{ chain: string; network: string; reason: string | null; n: number; id: number }>()
    return results.map(({ chain, network, reason, n, id }) =>
      check(
        'anchors',
        'fail',
        `${n} anchors on ${chain} ${network} are held: ${reason ?? 'no reason kept'}`,
        `no_funds and fee_cap mend themselves; for the others look first, then vaultmesh anchor release ${id} (README, Operate).`,
      ),
    )
  },

  guardian: async ({ env }) => {
    const view = await env.GUARDIAN.getByName('node').view()
    const own = view.nodes.find((n) => n.own)
    const next = 'scripts/vaultmesh status says what costs most of it; docs/psi.md explains it.'
    if (own === undefined)
      return [
        check(
          'guardian',
          'skip',
          'Ψ is not known yet: the first telemetry comes within an interval',
        ),
      ]
    const psi = `Ψ ${own.sample.psi.toFixed(3)}`
    if (own.stale)
      return [check('guardian', 'warn', `${psi}, of ${own.lastAt} and nothing since`, next)]
    if (own.alarm !== null)
      return [
        check(
          'guardian',
          'fail',
          `${psi}, alarm since ${own.alarm.since}: ${own.alarm.explained}`,
          next,
        ),
      ]
    return [check('guardian', 'ok', `${psi}, no alarm`)]
  },

  alerts: async ({ env }) => {
    const { results } = await env.DB.prepare(
      `SELECT kind, severity, count(*) AS n, min(detail) AS detail FROM alerts INDEXED BY alerts_open
       WHERE cleared_at IS NULL GROUP BY kind, severity ORDER BY kind LIMIT 50`,
    ).all<{ kind: string; severity: string; n: number; detail: string }>()
    if (results.length === 0) return [check('alerts', 'ok', 'none is open')]
    return results.map(({ kind, severity, n, detail }) =>
      check(
        'alerts',
        severity === 'critical' ? 'fail' : 'warn',
        `${kind}${n > 1 ? ` (${n})` : ''}: ${detail}`,
        `docs/alerts.md#${kind}`,
      ),
    )
  },

  webhooks: async ({ env }) => {
    const row = await env.DB.prepare(
      'SELECT count(*) AS n, max(failures) AS worst FROM webhook_lanes WHERE failures > 0 AND due_at IS NOT NULL',
    ).first<{ n: number; worst: number | null }>()
    const n = row?.n ?? 0
    return n === 0
      ? [check('webhooks', 'ok', 'no receiver fails')]
      : [
          check(
            'webhooks',
            'warn',
            `${n} receivers fail, one of them ${row!.worst} times in a row`,
            'They are tried again for days; nobody else waits for them. GET /webhooks/<id> says why.',
          ),
        ]
  },

  federation: async ({ env }) => {
    const federation = env.FEDERATION.getByName('node')
    const [view, figures] = await Promise.all([federation.peersView(), federation.figures()])
    if (view === null || figures === null)
      return [check('federation', 'skip', 'this node is in none')]
    const checks = view.peers.map(
      ({ did, node_id: name, state, lag, lastSeen, lawHash, error }) => {
        const who = name ?? did
        const behind = lag === null || lag === 0 ? '' : `, ${lag} batches to verify`
        const seen = lastSeen === null ? 'never heard' : `heard at ${lastSeen}`
        if (state === 'law-mismatch')
          return check(
            'federation',
            'fail',
            `${who} follows another law (${lawHash?.slice(0, 12)}…)`,
            'Settle one conflict_policy, TSA roots and depths with its operator (docs/federation.md).',
          )
        if (state === 'key-conflict')
          return check(
            'federation',
            'fail',
            `${who} signed two keys for one epoch and is frozen`,
            'Settle with its operator which is right, then thaw it (docs/federation.md).',
          )
        if (state === 'ok')
          return check(
            'federation',
            lag !== null && lag > 10 ? 'warn' : 'ok',
            `${who}: same law, ${seen}${behind}`,
            'See /federation/peers; it catches up by itself unless its events cannot be fetched.',
          )
        return check(
          'federation',
          'warn',
          `${who}: ${state}, ${seen}${error === null ? '' : `; ${error}`}`,
          'See that it runs, that its address is right, and that it lists this node.',
        )
      },
    )
    if (figures.conflicts > 0)
      checks.push(
        check(
          'federation',
          'fail',
          `${figures.conflicts} logs have two histories`,
          '/federation/conflicts has the evidence; docs/operate-fork.md says what to do.',
        ),
      )
    if (figures.quarantined > 0)
      checks.push(
        check(
          'federation',
          'warn',
          `${figures.quarantined} roots are quarantined`,
          '/federation/conflicts shows them (docs/federation.md).',
        ),
      )
    return checks.length > 0
      ? checks
      : [check('federation', 'warn', 'nobody is on peers_allowlist', 'vaultmesh peer allow <did>')]
  },

  'tsa chain': async ({ env, node: { config }, nowAt }) => {
    if (!config.rails.includes('TSA')) return []
    const signing = (await tsaExpiries(env.DB)).map(({ authority, expiresAt }) =>
      tsaExpiryCheck(`the chain that signs for ${authority}`, expiresAt, nowAt),
    )
    const roots = config.tsaRoots.map((pem) =>
      tsaExpiryCheck(
        `the pinned root ${certificateSha256(pem).slice(0, 12)}…`,
        certificateExpiry(pem),
        nowAt,
      ),
    )
    return [
      ...(signing.length === 0
        ? [check('tsa chain', 'skip', 'no token was read yet: the watchers look each minute')]
        : signing),
      ...roots,
    ]
  },

  providers: async ({ env, node: { config }, nowAt }) => {
    const { providers, clocks, wallets } = await env.GUARDIAN.getByName('node').examine()
    const readings = await walletReadings(env.DB)
    return [
      clockCheck([...clocks, ...(await tokenClocks(env.DB, nowAt))]),
      ...(config.rails.length === 0
        ? [check('provider', 'skip', 'no rail is on, so nobody is asked')]
        : []),
      ...providerChecks(providers),
      ...wallets.map(({ chain, network, address, balance }) => {
        const known = readings.find((r) => r.chain === chain && r.network === network)
        return walletCheck({
          rail: `${chain} ${network}`,
          address,
          balance,
          anchorsLeft: known?.anchorsLeft ?? null,
        })
      }),
    ]
  },
}

/** What the newest tokens of authorities say of our clock: when they were made there, and when they were here. */
async function tokenClocks(db: D1Database, nowAt: number): Promise<ClockSample[]> {
  const { results } = await db
    .prepare(
      "SELECT network, json FROM receipts WHERE id IN (SELECT max(id) FROM receipts WHERE chain = 'TSA' GROUP BY network LIMIT 8) AND anchor_at > ?",
    )
    .bind(nowAt - RECENT_MS)
    .all<{ network: string; json: string }>()
  return results.flatMap(({ network, json }) => {
    const receipt = anchorReceiptSchema.safeParse(JSON.parse(json))
    if (!receipt.success || receipt.data.anchorTs === null) return []
    const { anchorTs, observedAt } = receipt.data
    return [{ who: `token of ${network}`, skewMs: Date.parse(observedAt) - Date.parse(anchorTs) }]
  })
}

/** Looks at everything, or without `providers` at what needs no network. */
export async function examineNode(look: Look, withProviders: boolean): Promise<Check[]> {
  const wanted = Object.entries(parts).filter(([name]) => withProviders || name !== 'providers')
  const found = await Promise.all(
    wanted.map(async ([area, part]): Promise<readonly Check[]> => {
      try {
        return await part(look)
      } catch (error) {
        console.error(JSON.stringify({ level: 'error', msg: 'doctor', area, error: String(error) }))
        // Only our own errors are made to be shown.
        const why = error instanceof VaultMeshError ? error.message : 'it does not answer'
        return [check(area, 'fail', `could not be looked at: ${why}`, 'See the log of the node.')]
      }
    }),
  )
  return found.flat()
}
