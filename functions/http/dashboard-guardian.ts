/**
 * What pages ask of the Guardian object. A page stands without it: what it does not say is null or empty.
 */

import type {
  GuardianView,
  NodeBelief,
  PsiView,
  Range,
  SeriesPoint,
} from '../dashboard/guardian.tsx'
import { RANGES } from '../dashboard/guardian.tsx'
import type { Point } from '../dashboard/chart.tsx'

/** The object's questions, as far as pages have them. */
interface GuardianObject {
  view(): Promise<GuardianView>
  series(query: {
    readonly node: null
    readonly from: number
    readonly to: number
    readonly stepMs: number
  }): Promise<{ readonly points: readonly SeriesPoint[] } | object>
  learn(): Promise<readonly NodeBelief[]>
}

function guardianOf(env: Env): GuardianObject | null {
  const { GUARDIAN } = env as { readonly GUARDIAN?: { getByName(name: string): GuardianObject } }
  return GUARDIAN?.getByName('node') ?? null
}

/** Asks, and says in the log what did not answer. */
async function asked<T>(what: string, asking: Promise<T> | undefined): Promise<T | null> {
  try {
    return (await asking) ?? null
  } catch (error) {
    console.error(JSON.stringify({ level: 'warn', msg: `${what} not read`, error: String(error) }))
    return null
  }
}

/** How this node and its peers do; null while that is not known. */
export function guardianView(env: Env): Promise<GuardianView | null> {
  return asked('guardian', guardianOf(env)?.view())
}

/** What the predictor believes. */
export async function guardianBeliefs(env: Env): Promise<readonly NodeBelief[]> {
  return (await asked('beliefs', guardianOf(env)?.learn())) ?? []
}

/** Ψ over a span until now, means of each step. */
export async function psiSeries(env: Env, range: Range, nowAt: number): Promise<readonly Point[]> {
  const { ms, stepMs } = RANGES[range]
  const query = { node: null, from: nowAt - ms, to: nowAt, stepMs }
  const answer = await asked('series', guardianOf(env)?.series(query))
  if (answer === null || !('points' in answer)) return []
  return withGaps(answer.points.map(({ at, psi }) => ({ at: Date.parse(at), value: psi.mean })))
}

/** A silence of more than three of the usual steps is drawn as one. */
function withGaps(points: readonly Point[]): Point[] {
  const steps = points.slice(1).map(({ at }, i) => at - points[i]!.at)
  const usual = steps.toSorted((a, b) => a - b)[Math.floor(steps.length / 2)] ?? 0
  return points.flatMap((point, i) => {
    const before = points[i - 1]
    const isAfterGap = before !== undefined && point.at - before.at > 3 * usual
    return isAfterGap ? [{ at: before.at + usual, value: null }, point] : [point]
  })
}

/** Ψ of now with the last six hours, for the overview. */
export async function psiView(env: Env, nowAt: number): Promise<PsiView | null> {
  const [view, series] = await Promise.all([guardianView(env), psiSeries(env, '6h', nowAt)])
  const health = view?.nodes.find(({ own }) => own)
  if (view === null || health === undefined) return null
  const marks = view.interventions.map(({ at, kind }) => ({ at: Date.parse(at), what: kind }))
  return { health, series, marks }
}
