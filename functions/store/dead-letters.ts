/**
 * Dead letters in words: what each one asked for, whether that was done since by other means, and why it was not.
 */

import { toHex, utf8 } from '#core/bytes.ts'
import { VaultMeshError } from '#core/errors.ts'
import { queueName } from '#core/queue-name.ts'
import { sha256 } from '#core/sha256.ts'
import { listDeadLetters, type DeadLetter } from '#store/alerts.ts'
import { anchorRow, attemptsOf } from '#store/anchors.ts'
import type { ExplainedLetter } from '#store/operator-api.ts'

/** By what a letter is called: the first digits of its id's SHA-256. */
function nameOf(letter: DeadLetter): string {
  return toHex(sha256(utf8(letter.id)))
}

/** Every open dead letter, oldest first. */
export async function explainDeadLetters(env: Env): Promise<ExplainedLetter[]> {
  const letters = await listDeadLetters(env.DB)
  if (letters.length === 0) return []
  const head = await env.SEQUENCER.getByName('log')
    .watch({ overdueBefore: 0, since: Date.now() })
    .catch(() => null)
  const explained: ExplainedLetter[] = []
  for (const letter of letters) {
    const name = nameOf(letter).slice(0, 8)
    const body = bodyOf(letter)
    if (queueName(letter.queue) === 'sealer-dlq') {
      const { height } = body
      const isWhole = typeof height === 'number'
      explained.push({
        ...letter,
        name,
        work: isWhole ? `seal batch ${height}` : 'seal what waited then',
        done: head === null ? null : isWhole ? head.height >= height : head.waiting === 0,
        why:
          head === null ? null : head.failed > 0 ? `${head.failed} attempts failed of late` : null,
      })
      continue
    }
    const row = typeof body.id === 'number' ? await anchorRow(env.DB, body.id) : null
    if (row === null) {
      explained.push({
        ...letter,
        name,
        work: 'an anchor that is not in the outbox',
        done: null,
        why: null,
      })
      continue
    }
    const last = (await attemptsOf(env.DB, row.id)).at(-1)
    explained.push({
      ...letter,
      name,
      work: `anchor ${row.id}: root ${row.root.slice(0, 16)}… on ${row.chain} ${row.network} (${row.method})`,
      done: row.state === 'final',
      why: row.state === 'final' ? null : (row.reason ?? last?.reason ?? null),
    })
  }
  return explained
}

/** The letters with these names (four hex digits or more of each); all without names. Throws `not-found`. */
export function chosenLetters(
  letters: readonly DeadLetter[],
  names: readonly string[] | undefined,
): readonly DeadLetter[] {
  if (names === undefined) return letters
  const chosen = new Set<DeadLetter>()
  for (const name of names) {
    const found = letters.filter((letter) => nameOf(letter).startsWith(name))
    if (found.length !== 1)
      throw new VaultMeshError(
        'not-found',
        `${found.length === 0 ? 'No open dead letter is' : 'Several dead letters are'} called ${name}.`,
      )
    chosen.add(found[0]!)
  }
  return [...chosen]
}

function bodyOf({ body }: DeadLetter): Readonly<Record<string, unknown>> {
  try {
    const value: unknown = JSON.parse(body)
    return typeof value === 'object' && value !== null ? (value as Record<string, unknown>) : {}
  } catch {
    return {}
  }
}
