/**
 * doctor: one look at everything that keeps a node well, and what to do about what does not (docs/doctor.md).
 */

import { ageText, check, clockCheck, worst, type Check } from '#core/doctor.ts'
import { RemoteProblem } from '../../functions/sdk.ts'
import {
  addressChecks,
  auditChecks,
  backupChecks,
  configChecks,
  environmentChecks,
  holderOf,
  keyChecks,
  permissionChecks,
  roomChecks,
  runtimeChecks,
} from '../doctor.ts'
import { homeAt, type Home } from '../home.ts'
import { SECRETS_DIR } from '../sops.ts'
import { arity, Exit, text, type Command, type Terminal, type Values } from './command.ts'
import { operate, OPERATOR_HELP, operatorOptions, operatorTarget } from './operator.ts'

/** What GET /admin/doctor says. */
interface Answer {
  readonly node: {
    readonly nodeId: string
    readonly origin: string
    readonly publicUrl: string
    readonly network: string
    readonly version: string
  }
  /** Epoch ms, by the node's clock. */
  readonly nowAt: number
  readonly checks: readonly Check[]
}

const COLOURS = { ok: 'green', warn: 'yellow', fail: 'red', skip: 'bold' } as const

export const doctor: Command = {
  name: 'doctor',
  summary: 'Look at everything that keeps a node well, and say what to do',
  usage: '[--home DIR | --url URL] [--local]',
  help: `  Looks at settings, runtime, disk, permissions, keys, clocks, wallets, certificates, providers, peers,
  queues, alerts, Ψ, webhooks, backup and address. It changes nothing. A node that does not run is looked at from
  outside alone.
  --local         ask nobody outside of this machine: no providers, no PUBLIC_URL
  --secrets DIR   the folder of SOPS files (default secrets)
${OPERATOR_HELP}
  exit 0 if all is ok or a warning, 1 if anything fails, 4 if the node of --url does not answer`,
  options: { ...operatorOptions, local: { type: 'boolean' }, secrets: { type: 'string' } },
  async run(args, values, terminal) {
    arity(args, 0, 0)
    const isRemote = text(values, 'url') !== undefined
    const target = operatorTarget(values)
    const found = isRemote ? await remote(target, terminal) : await here(target, terminal)
    const state = worst(found.checks)
    return {
      exit: state === 'fail' ? Exit.refuted : Exit.ok,
      value: { state, ...found },
      lines: lines(found.checks, terminal),
    }
  },
}

interface Found {
  readonly node: Answer['node'] | null
  readonly checks: readonly Check[]
}

/** A node elsewhere: what it says of itself, and what is seen of it from here. */
async function remote(values: Values, terminal: Terminal): Promise<Found> {
  const answer = await ask(values, terminal)
  const skew = { who: 'the node, by this machine', skewMs: Date.now() - answer.nowAt }
  // Theirs is the clock that counts: ours is held against it for who reads this.
  const own =
    clockCheck([skew]).state === 'ok'
      ? []
      : [
          check(
            'clock',
            'warn',
            `this machine is ${ageText(Math.abs(skew.skewMs))} off the node`,
            'Set the clock of the one that is wrong.',
          ),
        ]
  return {
    node: answer.node,
    checks: [
      ...environmentChecks(Object.keys(process.env)),
      ...answer.checks,
      ...own,
      ...(await seen(answer, values)),
    ],
  }
}

async function here(values: Values, terminal: Terminal): Promise<Found> {
  const home = homeAt(text(values, 'home'))
  const secrets = text(values, 'secrets') ?? SECRETS_DIR
  const offline = async (): Promise<Check[]> => [
    ...runtimeChecks(),
    ...environmentChecks(Object.keys(process.env)),
    ...(await roomChecks(home)),
    ...(await permissionChecks(home)),
    ...(await keyChecks(home, secrets)),
    ...backupChecks(home, Date.now()),
    ...(await auditChecks(home)),
  ]
  const [first, answer] = await Promise.all([
    offline(),
    ask(values, terminal).catch((error: unknown) => {
      if (error instanceof RemoteProblem && error.code === 'unreachable') return null
      throw error
    }),
  ])
  if (answer === null)
    return {
      node: null,
      checks: [...first, ...(await configChecks(home, secrets)), await silent(home)],
    }
  return {
    node: answer.node,
    checks: [
      ...first,
      check(
        'node',
        'ok',
        `${answer.node.nodeId} ${answer.node.version} runs: ${answer.node.origin}`,
      ),
      ...answer.checks,
      ...(await seen(answer, values)),
    ],
  }
}

async function ask(values: Values, terminal: Terminal): Promise<Answer> {
  terminal.progress('asking the node, and the node its providers …')
  return operate<Answer>(
    values,
    'GET',
    `/admin/doctor?providers=${values['local'] === true ? 0 : 1}`,
  )
}

async function seen({ node }: Answer, values: Values): Promise<readonly Check[]> {
  if (values['local'] === true) return []
  return addressChecks(node.publicUrl, node.nodeId, Date.now())
}

/** Nobody serves the admin socket: it is stopped, or it hangs. */
async function silent(home: Home): Promise<Check> {
  const pid = await holderOf(home)
  return pid === null
    ? check(
        'node',
        'warn',
        'no node runs here, so what it would say of itself is missing',
        'Start it: vaultmesh selfhost, or systemctl start harbinger.',
      )
    : check(
        'node',
        'fail',
        `process ${pid} holds the home and does not answer`,
        'See its log; if it hangs, end it: it starts again where it was.',
      )
}

function lines(checks: readonly Check[], terminal: Terminal): string[] {
  const rows = checks.flatMap(({ state, area, says, next }) => [
    `${terminal.paint(COLOURS[state], state.padEnd(5))} ${area.padEnd(12)} ${says}`,
    ...(next === undefined || state === 'ok' ? [] : [`${' '.repeat(19)}→ ${next}`]),
  ])
  const count = (state: Check['state']) => checks.filter((c) => c.state === state).length
  return [
    ...rows,
    `${count('ok')} ok, ${count('warn')} to look after, ${count('fail')} failed, ${count('skip')} not looked at`,
  ]
}
