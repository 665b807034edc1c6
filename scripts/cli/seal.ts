/**
 * seal: seal what waits now.
 */

import { arity, Exit, type Command } from './command.ts'
import { operate, OPERATOR_HELP, operatorOptions } from './operator.ts'

export const seal: Command = {
  name: 'seal',
  summary: 'Seal what waits now',
  usage: '',
  help: OPERATOR_HELP,
  options: operatorOptions,
  async run(args, values) {
    arity(args, 0, 0)
    const report = await operate<Readonly<Record<string, unknown>>>(values, 'POST', '/admin/seal')
    const facts = Object.entries(report).map(([name, value]) => `${name} ${JSON.stringify(value)}`)
    return { exit: Exit.ok, value: report, lines: [`sealed: ${facts.join(', ')}`] }
  },
}
