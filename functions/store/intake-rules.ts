/**
 * The rules of intake as this isolate knows them. They lie in the Sequencer, which is trusted with the log anyway: who
 * loses it loses no rule alone, and never falls back to letting anybody in.
 *
 * The hot path reads a variable. Every two seconds one request asks the Sequencer whether they are still the same; a
 * change is in force everywhere within FRESH_MS + ASKING_MS = 3 s. While it does not answer, rules that it confirmed
 * less than a minute ago stand; after that nobody posts.
 */

import { VaultMeshError } from '#core/errors.ts'
import { NO_RULES, parseIntakeRules, type IntakeRules } from '#core/intake-config.ts'

/** How long rules are believed without a look. */
const FRESH_MS = 2000
/** So long others go on with what they know while one of them asks. */
const ASKING_MS = 1000
/** How long they are believed while the Sequencer does not answer. */
export const TRUSTED_MS = 60_000

/** What the Sequencer keeps; `text` is left out where the asker has it. */
export interface StoredRules {
  /** 64 hex digits; null where none were applied. */
  readonly sha256: string | null
  readonly text: string | null
}

interface Known {
  readonly rules: IntakeRules
  readonly readAt: number
  askedAt: number
}

const known = new WeakMap<object, Known>()

/** The rules in force. Throws `storage-failed` if they cannot be known. */
export async function intakeRules(env: Env, nowAt = Date.now()): Promise<IntakeRules> {
  const last = known.get(env)
  if (last !== undefined) {
    const age = nowAt - last.readAt
    if (age >= 0 && age < FRESH_MS) return last.rules
    if (age >= 0 && age < FRESH_MS + ASKING_MS && nowAt - last.askedAt < ASKING_MS)
      return last.rules
    last.askedAt = nowAt
  }
  try {
    const seen = last?.rules.sha256 ?? null
    const stored = await env.SEQUENCER.getByName('log').intake(seen)
    const rules = readStored(stored, last?.rules)
    if (rules.sha256 === null && env.INTAKE_FILE === '1') throw new Error('not applied yet')
    known.set(env, { rules, readAt: nowAt, askedAt: nowAt })
    return rules
  } catch (cause) {
    const age = nowAt - (last?.readAt ?? -Infinity)
    if (age >= 0 && age < TRUSTED_MS) return last!.rules
    throw new VaultMeshError('storage-failed', 'The rules of intake cannot be read.', { cause })
  }
}

function readStored({ sha256, text }: StoredRules, last: IntakeRules | undefined): IntakeRules {
  if (sha256 === null) return NO_RULES
  if (text !== null) return parseIntakeRules(text)
  if (last?.sha256 === sha256) return last
  throw new Error('the Sequencer left out rules that are not known here')
}

/** Has them read anew: they were changed here. */
export function forgetRules(env: Env): void {
  known.delete(env)
}
