/**
 * dlq: messages that a queue gave up on. Nothing is lost with them: replaying only hastens a retry.
 */

import { arity, Exit, UsageError, type Command } from './command.ts'
import { operate, OPERATOR_HELP, operatorOptions } from './operator.ts'

interface DeadLetter {
  readonly id: number
  readonly queue: string
  readonly body: string
}

export const dlq: Command = {
  name: 'dlq',
  summary: 'List or replay dead letters',
  usage: 'list|replay',
  help: OPERATOR_HELP,
  options: operatorOptions,
  async run(args, values) {
    arity(args, 1, 1)
    switch (args[0]) {
      case 'list': {
        const path = '/admin/dead-letters'
        const answer = await operate<{ readonly deadLetters: readonly DeadLetter[] }>(
          values,
          'GET',
          path,
        )
        const lines = answer.deadLetters.map(({ id, queue, body }) => `${id} ${queue} ${body}`)
        return {
          exit: Exit.ok,
          value: answer,
          lines: lines.length === 0 ? ['no dead letters'] : lines,
        }
      }
      case 'replay': {
        const path = '/admin/dead-letters/replay'
        const answer = await operate<{ readonly replayed: number }>(values, 'POST', path)
        return { exit: Exit.ok, value: answer, lines: [`${answer.replayed} replayed`] }
      }
      default:
        throw new UsageError(`dlq ${args[0]}: say list or replay.`)
    }
  },
}
