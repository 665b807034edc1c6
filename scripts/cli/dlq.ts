/**
 * dlq: messages that a queue gave up on. Nothing is lost with them: replaying only hastens a retry.
 */

import { ageText } from '#core/doctor.ts'
import type { ExplainedLetter } from '#store/operator-api.ts'
import { arity, Exit, UsageError, type Command } from './command.ts'
import { operate, OPERATOR_HELP, operatorOptions, operatorTarget } from './operator.ts'

export const dlq: Command = {
  name: 'dlq',
  summary: 'List or replay dead letters',
  usage: 'list | replay [NAME…]',
  help: `  list            each with its age, what it asked for, whether that is done by now, and why it failed
  replay          send the work of all of them again, or of those named in the list. It would be
                  retried anyway; work that is done already is not done twice
${OPERATOR_HELP}
  exit 0 also if there are none; 1 for a name that no open letter has, and then nothing is sent`,
  options: operatorOptions,
  async run(args, values) {
    const [what, ...names] = args
    switch (what) {
      case 'list': {
        arity(args, 1, 1)
        const path = '/admin/dead-letters'
        const answer = await operate<{ readonly deadLetters: readonly ExplainedLetter[] }>(
          operatorTarget(values),
          'GET',
          path,
        )
        const lines = answer.deadLetters.flatMap(describe)
        return {
          exit: Exit.ok,
          value: answer,
          lines: lines.length === 0 ? ['no dead letters'] : lines,
        }
      }
      case 'replay': {
        for (const name of names)
          if (!/^[0-9a-f]{4,64}$/.test(name))
            throw new UsageError(`dlq list shows no name like "${name}".`)
        const query = names.length === 0 ? '' : `?ids=${names.join(',')}`
        const path = `/admin/dead-letters/replay${query}`
        const answer = await operate<{ readonly replayed: number }>(
          operatorTarget(values),
          'POST',
          path,
        )
        return { exit: Exit.ok, value: answer, lines: [`${answer.replayed} replayed`] }
      }
      default:
        throw new UsageError(`dlq ${what ?? ''}: say list or replay.`)
    }
  },
}

function describe({ name, queue, work, done, why, receivedAt }: ExplainedLetter): string[] {
  const state =
    done === true ? 'done since' : done === false ? 'not done yet' : 'not known whether done'
  return [
    `${name}  ${queue}  ${ageText(Date.now() - receivedAt)} old: ${work}; ${state}`,
    ...(why === null ? [] : [`          ${why}`]),
  ]
}
