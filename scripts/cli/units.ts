/**
 * units: put the systemd units of this checkout where a manager finds them.
 */

import { resolve } from 'node:path'
import { homeAt } from '../home.ts'
import { homeOfUnits, installUnits, systemctl, unitsDir } from '../units.ts'
import { arity, Exit, text, UsageError, type Command } from './command.ts'

export const units: Command = {
  name: 'units',
  summary: 'Install systemd units for the node here',
  usage: 'install [--user|--system] [--home DIR] [--dest DIR] [--dry-run]',
  help: `Writes harbinger, sealer, anchor-manager (service and timer) and vaultmesh-tls with the paths of this checkout.
Repeat it after an upgrade; changes of yours belong into drop-ins (systemctl edit) and the environment file.
docs/self-host.md has the rest.

  --user        for your own manager, systemctl --user (default)
  --system      for the machine: hardened, a user of their own, home /var/lib/vaultmesh
  --home DIR    the node’s home folder (default that of the units that are there, else $VAULTMESH_HOME or
                .vaultmesh; not with --system)
  --dest DIR    where to write (default ~/.config/systemd/user or /etc/systemd/system)
  --dry-run     only say what would change`,
  options: {
    user: { type: 'boolean', default: false },
    system: { type: 'boolean', default: false },
    home: { type: 'string' },
    dest: { type: 'string' },
    'dry-run': { type: 'boolean', default: false },
  },
  async run([action, ...args], values) {
    if (action !== 'install') throw new UsageError(`install, not "${action ?? ''}".`)
    arity(args, 0, 0)
    if (values['user'] === true && values['system'] === true) {
      throw new UsageError('--user or --system, not both.')
    }
    const scope = values['system'] === true ? 'system' : 'user'
    const named = text(values, 'home')
    if (scope === 'system' && named !== undefined) {
      throw new UsageError('The home of system units is /var/lib/vaultmesh.')
    }
    const dest = resolve(text(values, 'dest') ?? unitsDir(scope))
    const dryRun = values['dry-run'] === true
    const home = scope === 'system' ? '/var/lib/vaultmesh' : homeAt(named ?? homeOfUnits(dest)).path
    const written = installUnits({ scope, home, dest, dryRun })
    const isLoaded =
      !dryRun && values['dest'] === undefined && systemctl(scope, 'daemon-reload') !== null
    const control = scope === 'user' ? 'systemctl --user' : 'systemctl'
    return {
      exit: Exit.ok,
      value: { scope, home, dryRun, units: written, isLoaded },
      lines: [
        ...written.map(({ path, state }) => `${state.padEnd(10)}${path}`),
        `for the home ${home}`,
        ...(dryRun
          ? ['nothing was written (--dry-run)']
          : [
              ...(isLoaded ? [] : [`next: ${control} daemon-reload`]),
              `then: ${control} enable --now harbinger sealer anchor-manager.service anchor-manager.timer`,
            ]),
      ],
    }
  },
}
