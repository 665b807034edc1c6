/**
 * What an acceptance gate of the plan says: one row of the table that `make gates` prints.
 */

/** A gate's verdict. One that could not run is not ok, and `figure` says why. */
export interface GateResult {
  readonly gate: string
  /** What was done. */
  readonly shown: string
  /** What was measured. */
  readonly figure: string
  readonly ok: boolean
}

/** The row of a gate that could not run: why, and with that what to install. */
export function notRun(
  { gate, shown }: Pick<GateResult, 'gate' | 'shown'>,
  why: string,
): GateResult {
  return { gate, shown, figure: `not run: ${why}`, ok: false }
}

const HEAD = {
  gate: 'gate',
  shown: 'what was shown',
  figure: 'figure',
  verdict: 'verdict',
} as const
/** Widths that make one row fit a terminal; longer texts go on below. */
const WIDTHS = { gate: 13, shown: 40, figure: 56 } as const

/** The table, a line each; long cells are broken between words. */
export function tableOf(results: readonly GateResult[]): readonly string[] {
  const row = (cells: {
    gate: string
    shown: string
    figure: string
    verdict: string
  }): string[] => {
    const [gate, shown, figure] = (['gate', 'shown', 'figure'] as const).map((name) =>
      broken(cells[name], WIDTHS[name]),
    ) as [string[], string[], string[]]
    const height = Math.max(gate.length, shown.length, figure.length)
    return Array.from({ length: height }, (_, i) =>
      [
        (gate[i] ?? '').padEnd(WIDTHS.gate),
        (shown[i] ?? '').padEnd(WIDTHS.shown),
        (figure[i] ?? '').padEnd(WIDTHS.figure),
        i === 0 ? cells.verdict : '',
      ]
        .join('  ')
        .trimEnd(),
    )
  }
  const rule = '─'.repeat(WIDTHS.gate + WIDTHS.shown + WIDTHS.figure + 6 + HEAD.verdict.length)
  return [
    ...row(HEAD),
    rule,
    ...results.flatMap(({ ok, ...cells }) => row({ ...cells, verdict: ok ? '✓ pass' : '✗ FAIL' })),
  ]
}

function broken(text: string, width: number): string[] {
  const lines: string[] = []
  for (const word of text.split(' ')) {
    const last = lines.at(-1)
    if (last !== undefined && last.length + 1 + word.length <= width)
      lines[lines.length - 1] = `${last} ${word}`
    else lines.push(word)
  }
  return lines
}

/** 0 only if all of the five passed; a run of some of them passes if those did, and says that it is not the whole. */
export function exitOf(results: readonly GateResult[]): number {
  return results.length > 0 && results.every(({ ok }) => ok) ? 0 : 1
}
