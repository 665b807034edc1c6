/**
 * fsck: have a node derive everything again from its bytes and compare, batch by batch.
 */

import { arity, Exit, integer, type Command } from './command.ts'
import { operate, OPERATOR_HELP, operatorOptions } from './operator.ts'

interface Findings {
  readonly findings: readonly string[]
  readonly facts: Readonly<Record<string, string | number | boolean>>
}

/** Findings shown to people; all of them are in --json. */
const SHOWN = 50

const REMEDY =
  'Stop the node, keep a copy of its home as it is, and restore the home from a backup (README.md, Operate).'

export const fsck: Command = {
  name: 'fsck',
  summary: 'Re-derive a node’s state from its bytes and compare',
  usage: '[--home DIR] [--from HEIGHT] [--log N]',
  help: `  --from HEIGHT   begin with this batch (default 1)
  --log N         check this log of a node whose log has forked (default the newest)
${OPERATOR_HELP}
  exit 0 only if nothing was found`,
  options: { ...operatorOptions, from: { type: 'string' }, log: { type: 'string' } },
  async run(args, values, terminal) {
    arity(args, 0, 0)
    const log = integer(values, 'log')
    const query = log === undefined ? '' : `log=${log}`
    const state = await operate<Findings>(values, 'GET', `/admin/fsck?${query}`)
    const findings = [...state.findings]
    const sealed = Number(state.facts['height'] ?? 0)
    // A batch that is not indexed yet lacks what a check would look for.
    const height = Math.min(sealed, Number(state.facts['indexedHeight'] ?? sealed))
    const from = Math.max(1, integer(values, 'from') ?? 1)
    for (let at = from; at <= height; at++) {
      const batch = await operate<Findings>(values, 'GET', `/admin/fsck?height=${at}&${query}`)
      findings.push(...batch.findings)
      terminal.progress(`checked batch ${at} of ${height}, ${findings.length} findings`)
    }
    const batches = Math.max(0, height - from + 1)
    const lines = findings
      .slice(0, SHOWN)
      .map((finding) => `${terminal.paint('red', '✗')} ${finding}`)
    if (findings.length > SHOWN) lines.push(`✗ and ${findings.length - SHOWN} more (--json)`)
    if (height < sealed)
      lines.push(`batch ${sealed} is being indexed and was not checked: run again`)
    const size = `${batches} batches, ${String(state.facts['size'])} events`
    lines.push(
      findings.length === 0
        ? `${terminal.paint('green', '✓')} clean: ${size}, ${String(state.facts['waiting'])} waiting`
        : `${findings.length} findings in ${size}`,
    )
    if (findings.length > 0) lines.push(REMEDY)
    const value = { clean: findings.length === 0, batches, facts: state.facts, findings }
    return { exit: findings.length === 0 ? Exit.ok : Exit.refuted, value, lines }
  },
}
