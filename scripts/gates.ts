/**
 * `make gates`: the plan's five acceptance gates, end to end against real parts, in one table.
 *
 *   node scripts/gates.ts [--only 1,3] [--json] [--quiet]
 *
 * A gate that cannot run is a failure, and says what to install. Exits 0 only if every gate that was asked for
 * passed; the whole of them is asked for unless --only says otherwise.
 */

import { parseArgs } from 'node:util'
import { VaultMeshError } from '#core/errors.ts'
import { fail } from './fail.ts'
import { anchorsGate } from './gates/anchors.ts'
import { federationGate } from './gates/federation.ts'
import { exitOf, tableOf, type GateResult } from './gates/gate.ts'
import { opsGate } from './gates/ops.ts'
import { psiGate } from './gates/psi.ts'
import { sealerGate } from './gates/sealer.ts'
import { untilStopped } from './listen.ts'
import { GATES_USAGE } from './usage.ts'

/** A gate: its number in the plan, its name, and how it is run. */
export interface Gate {
  readonly number: number
  readonly name: string
  run(log: (line: string) => void): Promise<GateResult>
}

const gates: readonly Gate[] = [
  { number: 1, name: 'Federation', run: federationGate },
  { number: 2, name: 'Anchors', run: anchorsGate },
  { number: 3, name: 'Sealer', run: sealerGate },
  { number: 4, name: 'Analytics/Ψ', run: psiGate },
  { number: 5, name: 'Ops', run: opsGate },
]

/** Runs gates one after the other; whatever one throws is its failure, in words. `isOver` ends it between two. */
export async function runGates(
  chosen: readonly Gate[],
  log: (line: string) => void,
  isOver: () => boolean = () => false,
): Promise<readonly GateResult[]> {
  const results: GateResult[] = []
  for (const { number, name, run } of chosen) {
    const gate = `${number} ${name}`
    const begun = performance.now()
    const say = (line: string): void =>
      log(`${((performance.now() - begun) / 1000).toFixed(0).padStart(4)} s  ${line}`)
    log(`\n── gate ${gate} ──`)
    let result: GateResult
    try {
      result = isOver()
        ? { gate, shown: '', figure: 'not run: stopped', ok: false }
        : await run((text) => text.split('\n').forEach(say))
    } catch (error) {
      const why = error instanceof Error ? error.message : String(error)
      result = { gate, shown: '', figure: `not run to its end: ${why}`, ok: false }
    }
    log(`${result.ok ? '✓' : '✗'} gate ${gate}: ${result.figure}`)
    results.push(result)
  }
  return results
}

/** The gates that `--only` names; all without it. Throws `bad-config` for what is none. */
export function chosenOf(
  only: string | undefined,
  known: readonly Gate[] = gates,
): readonly Gate[] {
  if (only === undefined) return known
  const numbers = only.split(',').map((text) => text.trim())
  for (const number of numbers) {
    if (!known.some((gate) => String(gate.number) === number)) {
      const names = known.map((gate) => gate.number).join(', ')
      throw new VaultMeshError('bad-config', `--only ${number}: the gates are ${names}.`)
    }
  }
  return known.filter((gate) => numbers.includes(String(gate.number)))
}

async function main(args: readonly string[]): Promise<number> {
  if (args.includes('--help') || args.includes('-h')) {
    console.log(`usage: make gates ARGS="…"   ${GATES_USAGE}`)
    return 0
  }
  const { values } = parseArgs({
    args: [...args],
    options: {
      only: { type: 'string' },
      json: { type: 'boolean', default: false },
      quiet: { type: 'boolean', default: false },
    },
  })
  const chosen = chosenOf(values.only)
  const begun = performance.now()
  let isOver = false
  void untilStopped().then(() => (isOver = true))
  const progress = values.quiet
    ? () => undefined
    : values.json
      ? (line: string) => console.error(line)
      : (line: string) => console.log(line)
  const results = await runGates(chosen, progress, () => isOver)
  const exit = exitOf(results)
  const seconds = Math.round((performance.now() - begun) / 1000)
  if (values.json) {
    console.log(JSON.stringify({ ok: exit === 0, seconds, gates: results }, null, 2))
    return exit
  }
  const passed = results.filter(({ ok }) => ok).length
  const part = chosen.length < gates.length ? ' of those asked for' : ''
  console.log(`\n${tableOf(results).join('\n')}`)
  console.log(
    `\n${exit === 0 ? '✓' : '✗'} ${passed} of ${results.length} gates passed${part} (${seconds} s)`,
  )
  return exit
}

if (import.meta.main) main(process.argv.slice(2)).then((code) => process.exit(code), fail)
