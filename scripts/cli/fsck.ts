/**
 * fsck: have a node derive everything again from its bytes and compare, batch by batch; on request have it make its
 * index again first, and hold its receipts and wallets against the chains afterwards.
 */

import { arity, Exit, integer, type Command, type Terminal, type Values } from './command.ts'
import { operate, OPERATOR_HELP, operatorOptions } from './operator.ts'

interface Findings {
  readonly findings: readonly string[]
  readonly facts: Readonly<Record<string, string | number | boolean>>
}

/** Findings shown to people; all of them are in --json. */
const SHOWN = 50

const REMEDY =
  'What is wrong with D1 alone, fsck --rebuild makes again. For the rest stop the node, keep a copy of its home as it is, and restore it from a backup (docs/backup.md).'

export const fsck: Command = {
  name: 'fsck',
  summary: 'Re-derive a node’s state from its bytes and compare',
  usage: '[--home DIR] [--from HEIGHT] [--log N] [--rebuild] [--chains]',
  help: `  --rebuild       first make the index in D1 again from R2 and the Sequencer, where rows are missing or wrong,
                  also of a D1 that is new; the node may run on, and a rebuild that was cut off may be run again
  --chains        also hold each receipt, and what the wallets signed, against the chains, by this node’s providers
  --from HEIGHT   begin with this batch (default 1)
  --log N         check this log of a node whose log has forked (default the newest)
${OPERATOR_HELP}
  exit 0 only if nothing was found`,
  options: {
    ...operatorOptions,
    from: { type: 'string' },
    log: { type: 'string' },
    rebuild: { type: 'boolean', default: false },
    chains: { type: 'boolean', default: false },
  },
  async run(args, values, terminal) {
    arity(args, 0, 0)
    const log = integer(values, 'log')
    const query = log === undefined ? '' : `log=${log}`
    const from = Math.max(1, integer(values, 'from') ?? 1)
    const findings: string[] = []
    const rebuilt =
      values['rebuild'] === true ? await rebuild({ values, terminal, query, from }) : null
    findings.push(...(rebuilt?.findings ?? []))
    const state = await operate<Findings>(values, 'GET', `/admin/fsck?${query}`)
    findings.push(...state.findings)
    const sealed = Number(state.facts['height'] ?? 0)
    // A batch that is not indexed yet lacks what a check would look for.
    const height = Math.min(sealed, Number(state.facts['indexedHeight'] ?? sealed))
    for (let at = from; at <= height; at++) {
      const batch = await operate<Findings>(values, 'GET', `/admin/fsck?height=${at}&${query}`)
      findings.push(...batch.findings)
      terminal.progress(`checked batch ${at} of ${height}, ${findings.length} findings`)
    }
    const chains =
      values['chains'] === true ? await holdAgainstChains({ values, terminal, query }) : null
    findings.push(...(chains?.findings ?? []))
    const batches = Math.max(0, height - from + 1)
    const lines = findings
      .slice(0, SHOWN)
      .map((finding) => `${terminal.paint('red', '✗')} ${finding}`)
    if (findings.length > SHOWN) lines.push(`✗ and ${findings.length - SHOWN} more (--json)`)
    if (height < sealed)
      lines.push(`batch ${sealed} is being indexed and was not checked: run again`)
    if (rebuilt !== null) lines.push(...rebuilt.lines)
    lines.push(...(chains?.lines ?? ['– the chains were not asked (--chains)']))
    const size = `${batches} batches, ${String(state.facts['size'])} events`
    lines.push(
      findings.length === 0
        ? `${terminal.paint('green', '✓')} clean: ${size}, ${String(state.facts['waiting'])} waiting`
        : `${findings.length} findings in ${size}`,
    )
    if (findings.length > 0) lines.push(REMEDY)
    const value = {
      clean: findings.length === 0,
      batches,
      facts: state.facts,
      ...(rebuilt === null ? {} : { rebuilt: rebuilt.facts }),
      chains: chains?.facts ?? null,
      findings,
    }
    return { exit: findings.length === 0 ? Exit.ok : Exit.refuted, value, lines }
  },
}

interface Work {
  readonly values: Values
  readonly terminal: Terminal
  readonly query: string
}

interface Done extends Findings {
  readonly lines: readonly string[]
}

async function rebuild({
  values,
  terminal,
  query,
  from,
}: Work & { readonly from: number }): Promise<Done> {
  const post = <T>(what: string) => operate<T>(values, 'POST', `/admin/rebuild?${what}&${query}`)
  const { head } = await post<{ head: { indexedHeight: number } }>('step=begin')
  const findings: string[] = []
  let written = 0
  let refused = 0
  for (let at = from; at <= head.indexedHeight; at++) {
    const batch = await post<Findings>(`height=${at}`)
    written += Number(batch.facts['written'] ?? 0)
    if (batch.findings.length > 0) refused++
    findings.push(...batch.findings)
    terminal.progress(`rebuilt batch ${at} of ${head.indexedHeight}, ${written} rows written`)
  }
  const { removed, jobs } = await post<{ removed: number; jobs: number }>('step=end')
  const lines = [
    `rebuilt: ${written} rows written, ${removed} removed, ${jobs} anchor jobs taken back from the wallets`,
    '– not restored, as nothing else holds them: webhooks, sessions, tokens, the dashboard’s audit, past alerts',
  ]
  if (refused > 0)
    lines.push(
      `✗ of ${refused} batches something does not verify and was not rebuilt: each is named. For timestamps TSA_ROOTS must be set as it was`,
    )
  return { findings: [...new Set(findings)], facts: { written, removed, jobs, refused }, lines }
}

async function holdAgainstChains({ values, terminal, query }: Work): Promise<Done> {
  const ask = (what: string) =>
    operate<Findings>(values, 'GET', `/admin/fsck/chains?${what}&${query}`)
  const findings: string[] = []
  const sum = { confirmed: 0, timestamps: 0, notAsked: 0 }
  for (let after = 0; ;) {
    const page = await ask(`after=${after}`)
    findings.push(...page.findings)
    for (const name of ['confirmed', 'timestamps', 'notAsked'] as const)
      sum[name] += Number(page.facts[name] ?? 0)
    terminal.progress(`held ${sum.confirmed + sum.timestamps} receipts against their chains`)
    after = Number(page.facts['next'] ?? 0)
    if (after === 0) break
  }
  const wallets = await ask('wallets=1')
  findings.push(...wallets.findings)
  const { spends = 0, asked = 0, notAsked = 0 } = wallets.facts
  const lines = [
    `chains: ${sum.confirmed} receipts confirmed by every provider; ${String(spends)} payments signed, ${Number(notAsked) > 0 ? 'of those asked for ' : ''}no root twice` +
      (Number(asked) > 0 ? `, ${String(asked)} given up were asked for` : ''),
  ]
  if (findings.length > 0) lines.length = 0
  if (sum.timestamps > 0)
    lines.push(
      `– ${sum.timestamps} timestamps have no chain to ask; their certificates were checked`,
    )
  if (sum.notAsked > 0)
    lines.push(
      `– ${sum.notAsked} receipts were not asked for: no provider of their chain is configured`,
    )
  if (Number(notAsked) > 0)
    lines.push(`– ${String(notAsked)} payments given up were not asked for: no provider tells`)
  const facts = { ...sum, spends, asked, spendsNotAsked: notAsked }
  return { findings, facts, lines }
}
