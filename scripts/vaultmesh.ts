/**
 * The command line of VaultMesh: one command a file in scripts/cli, this one finds and prints.
 *
 * stdout holds the result and nothing else (with --json one JSON value); errors and progress go to stderr,
 * progress only if that is a terminal. Exit codes: 0 done or verified, 1 refuted or refused, 2 usage,
 * 3 pending, 4 unreachable, 5 untrusted key.
 */

import { anchor } from './cli/anchor.ts'
import { audit } from './cli/audit.ts'
import { backup } from './cli/backup.ts'
import { batch } from './cli/batch.ts'
import { certs } from './cli/certs.ts'
import { Exit, outcomeOf, parse, type Command, type Outcome, type Terminal } from './cli/command.ts'
import { dlq } from './cli/dlq.ts'
import { doctor } from './cli/doctor.ts'
import { erase } from './cli/erase.ts'
import { evidence } from './cli/evidence.ts'
import { exportCommand } from './cli/export.ts'
import { fsck } from './cli/fsck.ts'
import { intake } from './cli/intake.ts'
import { keygen } from './cli/keygen.ts'
import { keys } from './cli/keys.ts'
import { peer } from './cli/peer.ts'
import { post } from './cli/post.ts'
import { provision } from './cli/provision.ts'
import { receipt } from './cli/receipt.ts'
import { receipts } from './cli/receipts.ts'
import { restore } from './cli/restore.ts'
import { seal } from './cli/seal.ts'
import { secrets } from './cli/secrets.ts'
import { status } from './cli/status.ts'
import { stop } from './cli/stop.ts'
import { trust } from './cli/trust.ts'
import { units } from './cli/units.ts'
import { verify } from './cli/verify.ts'
import { verifyAnchor } from './cli/verify-anchor.ts'
import { fail } from './fail.ts'
import { UP_USAGE } from './usage.ts'
import manifest from '../package.json' with { type: 'json' }

const commands: readonly Command[] = [
  keygen,
  post,
  status,
  receipt,
  verify,
  trust,
  batch,
  anchor,
  verifyAnchor,
  receipts,
  seal,
  evidence,
  erase,
  fsck,
  backup,
  restore,
  exportCommand,
  audit,
  doctor,
  dlq,
  peer,
  intake,
  secrets,
  keys,
  provision,
  certs,
  units,
  stop,
]

/** Commands that run until they are stopped; their modules pull in the whole runtime, so load them late. */
const runners: Readonly<Record<string, Runner>> = {
  selfhost: {
    summary: 'Run a node here',
    usage: `[--home DIR] [--port 7077] [--host 127.0.0.1] [--tsa URL… --tsa-roots FILE]
                          [--secrets DIR] [--verbose]

Run a node here, until Ctrl-C.

  --home DIR        its keys, log and trust.json (default $VAULTMESH_HOME or .vaultmesh)
  --port N          where it answers (default 7077)
  --host ADDRESS    where it listens (default 127.0.0.1: this machine only)
  --tsa URL         a timestamp authority (RFC 3161); repeatable; turns the rail TSA on
  --tsa-roots FILE  PEM certificates that its chains must end in
  --intake FILE     who may post and which schemas are pinned; followed while the node runs (default
                    config/intake.yaml, where there is one; see vaultmesh intake --help)
  --secrets DIR     keys for anchoring: *.env files encrypted with sops (default secrets, where there is
                    one; see vaultmesh secrets --help)
  --verbose         print what the node logs

Settings are those of wrangler.toml; an environment variable of the same name overrides one. Two differ
here: INTAKE_SHARDS is 1, and CLIENT_IP_HEADER is empty (no limit by address).
ORIGIN and INTAKE_SHARDS are fixed at the first start on a home. For a log of your own:
  ORIGIN=log.you.org/log NODE_ID=log-you NETWORK=production vaultmesh selfhost --home DIR`,
    run: async (args) => (await import('./selfhost.ts')).selfhost(args),
  },
  watch: {
    summary: 'Wake sealing or anchoring of the node here by a clock of its own',
    usage: `sealer|anchors [--home DIR] [--port N] [--host 127.0.0.1] [--every S]

Wakes sealing (sealer) or anchoring (anchors) of the node here, until Ctrl-C: a second clock beside the node's own.
/healthz is 200 while the node answers and nothing of that job waits past its time, else 503.

  --home DIR      the node's home folder (default $VAULTMESH_HOME or .vaultmesh)
  --port N        where its health is served (default 7087 for sealer, 7088 for anchors)
  --host ADDRESS  where that listens (default 127.0.0.1: this machine only)
  --every S       seconds between two wake-ups, 1 to 300 (default 15)`,
    run: async (args) => (await import('./watch.ts')).watch(args),
  },
  up: {
    summary: 'Run a devnet node with its own chains, and show it at work',
    usage: UP_USAGE,
    run: async (args) => (await import('./up.ts')).up(args),
  },
}
interface Runner {
  readonly summary: string
  readonly usage: string
  run(args: readonly string[]): Promise<number>
}

const COLOURS = { green: 32, red: 31, yellow: 33, bold: 1 } as const

/** The process's terminal. */
function terminalOf(json: boolean): Terminal & { clear(): void } {
  const { stdout, stderr, env, stdin } = process
  // no-color.org: set and not empty, whatever its value.
  const noColour = (env['NO_COLOR'] ?? '') !== '' || env['TERM'] === 'dumb'
  const colour = stdout.isTTY && !noColour && !json
  let drawn = false
  return {
    progress(text) {
      if (!stderr.isTTY) return
      stderr.write(`\r\u001b[K${text}`)
      drawn = true
    },
    clear() {
      if (drawn) stderr.write('\r\u001b[K')
      drawn = false
    },
    paint: (name, text) => (colour ? `\u001b[${COLOURS[name]}m${text}\u001b[0m` : text),
    async stdin() {
      const chunks: Buffer[] = []
      for await (const chunk of stdin) chunks.push(chunk as Buffer)
      return Buffer.concat(chunks)
    },
  }
}

/** Runs a command line; resolves to the exit code. */
async function main(argv: readonly string[]): Promise<number> {
  const [name, ...args] = argv
  if (name === undefined || name === '--help' || name === '-h' || name === 'help') {
    process.stdout.write(overview())
    return name === undefined ? Exit.usage : Exit.ok
  }
  if (name === '--version' || name === 'version') {
    process.stdout.write(`vaultmesh ${manifest.version}\n`)
    return Exit.ok
  }
  const runner = Object.hasOwn(runners, name) ? runners[name] : undefined
  if (runner !== undefined) {
    if (args.includes('--help') || args.includes('-h')) {
      process.stdout.write(`usage: vaultmesh ${name} ${runner.usage}\n`)
      return Exit.ok
    }
    return runner.run(args)
  }
  const command = commands.find((c) => c.name === name)
  if (command === undefined) {
    process.stderr.write(
      `vaultmesh: There is no command ${name}.\n  vaultmesh --help lists them.\n`,
    )
    return Exit.usage
  }
  const json = args.includes('--json')
  const terminal = terminalOf(json)
  let outcome: Outcome
  try {
    const { values, positionals } = parse(command, args)
    if (values['help'] === true) {
      process.stdout.write(helpOf(command))
      return Exit.ok
    }
    outcome = await command.run(positionals, values, terminal)
  } catch (error) {
    terminal.clear()
    outcome = outcomeOf(error, command)
    if (!json) {
      process.stderr.write(`${outcome.lines.join('\n')}\n`)
      return outcome.exit
    }
  }
  terminal.clear()
  const text = json ? JSON.stringify(outcome.value) : outcome.lines.join('\n')
  // A command that had its say by itself (secrets run) leaves nothing to print.
  if (text === '') return outcome.exit
  await new Promise<void>((written) => process.stdout.write(`${text}\n`, () => written()))
  return outcome.exit
}

function overview(): string {
  const rows = [
    ...commands.map((c) => [c.name, c.summary] as const),
    ...Object.entries(runners).map(([name, { summary }]) => [name, summary] as const),
  ]
  return `usage: vaultmesh <command> [options]

${rows.map(([name, summary]) => `  ${name.padEnd(15)}${summary}`).join('\n')}

vaultmesh <command> --help says more; vaultmesh --version says which this is. Those that run a node or beside it take no --json.
Exit codes: 0 done or verified, 1 refuted or refused, 2 usage, 3 pending, 4 unreachable, 5 untrusted key.
`
}

function helpOf(command: Command): string {
  const usage = `usage: vaultmesh ${command.name} ${command.usage}`.trimEnd()
  return `${usage}\n\n${command.summary}.\n\n${command.help}\n  --json          one JSON value on stdout, nothing else\n`
}

// Whoever reads us may stop reading (| head): the exit code still says how it went.
for (const stream of [process.stdout, process.stderr]) {
  stream.on('error', (error: NodeJS.ErrnoException) => {
    if (error.code !== 'EPIPE') throw error
  })
}

main(process.argv.slice(2)).then(
  // A runner leaves handles of the runtime behind; what it had to say is said.
  (code) => process.exit(code),
  (error: unknown) => fail(error),
)
