/**
 * stop: end the node of a home cleanly, whoever started it.
 */

import { homeAt, isHeld, runningIn } from '../home.ts'
import { stopUnits } from '../units.ts'
import { arity, Exit, HOME_HELP, text, type Command, type Outcome } from './command.ts'

/** What runs may end: a seal under way, an answer (TimeoutStopSec of the unit is the same). */
const WAIT_MS = 30_000
const LOOK_MS = 50

export const stop: Command = {
  name: 'stop',
  summary: 'Stop the node here',
  usage: '[--home DIR]',
  help: `${HOME_HELP}
Ends it by SIGTERM and waits. If systemd keeps it, its units are stopped instead, so that it stays down until
systemctl start. Where no node runs there is nothing to do, and that is a success.`,
  options: { home: { type: 'string' } },
  async run(args, values, terminal) {
    arity(args, 0, 0)
    const home = homeAt(text(values, 'home'))
    const pid = runningIn(home)
    if (pid === null && isHeld(home)) {
      return said(
        home.path,
        'running',
        `Who runs on ${home.path} is not seen from here: stop it where it was started (another container?).`,
        Exit.refuted,
      )
    }
    if (pid === null) return said(home.path, 'not-running', `No node runs on ${home.path}.`)
    terminal.progress(`stopping process ${pid} …`)
    const units = stopUnits(pid)
    if (units !== null && !units.done) {
      const control = units.scope === 'user' ? 'systemctl --user' : 'systemctl'
      return said(
        home.path,
        'running',
        `systemd keeps this node and refuses to stop it: ${control} status harbinger`,
        Exit.refuted,
      )
    }
    if (units === null) process.kill(pid, 'SIGTERM')
    for (let waited = 0; runningIn(home) === pid; waited += LOOK_MS) {
      if (waited > WAIT_MS) {
        return said(
          home.path,
          'running',
          `Process ${pid} does not stop. What it accepted is safe: kill -9 ${pid} loses nothing.`,
          Exit.refuted,
        )
      }
      await new Promise((later) => setTimeout(later, LOOK_MS))
    }
    const how = units === null ? `process ${pid}` : `process ${pid} and its ${units.scope} units`
    return said(home.path, 'stopped', `stopped ${how}`)
  },
}

function said(home: string, state: string, line: string, exit: Outcome['exit'] = Exit.ok): Outcome {
  return { exit, value: { home, state, detail: line }, lines: [line] }
}
