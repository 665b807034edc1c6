/**
 * peer: the federation's allow-list. Where the node follows a file, the file is edited in place, comments and all, and
 * the node takes it over by itself; elsewhere the node is asked to change its list.
 */

import { readFile, realpath, stat } from 'node:fs/promises'
import { setTimeout as sleep } from 'node:timers/promises'
import { parseDid } from '#core/did.ts'
import { parseFederationConfig } from '#core/federation-config.ts'
import { addPeer, removePeer, type NewPeer } from '#core/federation-edit.ts'
import type { OperatedPeers } from '#store/federation-api.ts'
import { RemoteProblem } from '../../functions/sdk.ts'
import { followedBy, homeAt } from '../home.ts'
import { replaceFile } from '../replace-file.ts'
import {
  arity,
  Exit,
  text,
  UsageError,
  type Command,
  type Outcome,
  type Values,
} from './command.ts'
import { operate, OPERATOR_HELP, operatorOptions, operatorTarget } from './operator.ts'

/** The node looks at its file each half second; applying it takes a moment. */
const TAKEN_OVER_MS = 10_000

export const peer: Command = {
  name: 'peer',
  summary: 'List, allow or revoke peers of the federation',
  usage: 'list | allow <did> [--at URL] [--origin O] [--vkey K] [--note TEXT] | revoke <did>',
  help: `  list            each peer: state, tip, lag, law, and who cosigned whom
  allow <did>     take its gossip from now on, mirror and recompute its log, tell it of ours
    --at URL      … where it is reached (else through a seed, or when it calls)
    --origin O, --vkey K   … pin its log and its key: its own word for them is not taken then
    --note TEXT   … with this comment in the file
  revoke <did>    refuse its envelopes from now on; what was mirrored of its log stays
  Where the node follows a config/federation.yaml, that file is edited (also while the node is stopped).
  --file FILE     edit this file instead of the one that the node here was started with
${OPERATOR_HELP}
  Asked twice is as once: the second time nothing is changed, and the exit code is 0`,
  options: {
    ...operatorOptions,
    at: { type: 'string' },
    origin: { type: 'string' },
    vkey: { type: 'string' },
    note: { type: 'string' },
    file: { type: 'string' },
  },
  async run(args, values) {
    switch (args[0]) {
      case 'list':
        arity(args, 1, 1)
        return list(await operate<OperatedPeers>(operatorTarget(values), 'GET', '/admin/peers'))
      case 'allow':
      case 'revoke': {
        arity(args, 2, 2)
        const did = didOf(args[1]!)
        const pins = {
          url: text(values, 'at'),
          origin: text(values, 'origin'),
          vkey: text(values, 'vkey'),
          note: text(values, 'note'),
        }
        if (args[0] === 'revoke' && Object.values(pins).some((pin) => pin !== undefined))
          throw new UsageError('--at, --origin, --vkey and --note are for allow.')
        return change(operatorTarget(values), args[0], { did, ...pins })
      }
      default:
        throw new UsageError(`peer ${args[0] ?? ''}: say list, allow or revoke.`)
    }
  },
}

function list(view: OperatedPeers): Outcome {
  const { peers, lawHash } = view
  const lines = peers.flatMap((p) => {
    const law =
      p.lawHash === null ? 'law not heard yet' : p.lawHash === lawHash ? 'same law' : 'ANOTHER LAW'
    const tip = p.tip === null ? 'no tip yet' : `tip ${p.tip.height} (${p.tip.treeSize} events)`
    const lag =
      p.lag === null ? '' : p.lag === 0 ? ', all verified here' : `, ${p.lag} batches to verify`
    const ours =
      p.cosignedSize === null ? 'not cosigned here' : `cosigned here at ${p.cosignedSize}`
    const theirs =
      p.cosignsUs === null
        ? ''
        : p.cosignsUs
          ? ', cosigns our newest'
          : ', has not cosigned our newest'
    return [
      p.did,
      `  ${p.state.padEnd(12)} ${p.node_id ?? 'no name yet'}, ${p.url ?? 'no address'}; last seen ${p.lastSeen ?? 'never'}`,
      `  ${p.origin ?? 'origin not known yet'}: ${tip}${lag}; ${law}; ${ours}${theirs}`,
      ...(p.error === null ? [] : [`  ${p.error}`]),
    ]
  })
  return {
    exit: Exit.ok,
    value: view,
    lines: lines.length === 0 ? ['no peers: nobody is on peers_allowlist'] : lines,
  }
}

type Op = 'allow' | 'revoke'

async function change(values: Values, op: Op, wanted: NewPeer): Promise<Outcome> {
  const isRemote = text(values, 'url') !== undefined
  const file =
    text(values, 'file') ??
    (isRemote ? undefined : followedBy(homeAt(text(values, 'home'))).federation)
  if (file !== undefined) return changeFile(values, { op, wanted, file })
  const query = new URLSearchParams({ op })
  for (const [name, value] of Object.entries(wanted))
    if (value !== undefined) query.set(name, value)
  const value = await operate<{ readonly changed: boolean }>(
    values,
    'POST',
    `/admin/peers?${query}`,
  )
  return told({ op, did: wanted.did, changed: value.changed, inForce: true, file: null })
}

/** Edits the file, and waits until a running node has taken it over. */
async function changeFile(
  values: Values,
  { op, wanted, file }: { readonly op: Op; readonly wanted: NewPeer; readonly file: string },
): Promise<Outcome> {
  const { canonical } = parseDid(wanted.did)
  const path = await realpath(file)
  const isListed = (yaml: string) =>
    parseFederationConfig(yaml).peers.some((p) => p.canonical === canonical)
  const isWanted = op === 'allow'
  const changed = isListed(await readFile(path, 'utf8')) !== isWanted
  if (changed) {
    const { mode } = await stat(path)
    // Read again: of two commands at once, each must see what the other wrote.
    await replaceFile(path, mode, async () => {
      const before = await readFile(path, 'utf8')
      if (isListed(before) === isWanted) return before
      return isWanted ? addPeer(before, wanted) : removePeer(before, wanted.did)
    })
  }
  const inForce = await takenOver(values, canonical, op)
  return told({ op, did: wanted.did, changed, inForce, file })
}

/** Whether the node's list says so; null if no node runs here. */
async function takenOver(values: Values, canonical: string, op: Op): Promise<boolean | null> {
  const deadline = Date.now() + TAKEN_OVER_MS
  for (;;) {
    try {
      const { yaml } = await operate<{ readonly yaml: string | null }>(
        values,
        'GET',
        '/admin/federation',
      )
      const peers = yaml === null ? [] : parseFederationConfig(yaml).peers
      if (peers.some((p) => p.canonical === canonical) === (op === 'allow')) return true
    } catch (error) {
      if (error instanceof RemoteProblem && error.code === 'unreachable') return null
      throw error
    }
    if (Date.now() > deadline) return false
    await sleep(100)
  }
}

function told(value: {
  readonly op: Op
  readonly did: string
  readonly changed: boolean
  readonly inForce: boolean | null
  readonly file: string | null
}): Outcome {
  const { op, did, changed, inForce, file } = value
  const what = op === 'allow' ? 'allowed' : 'revoked'
  const where = file === null ? '' : ` in ${file}`
  const said = changed
    ? `${did} is ${what}${where}`
    : `${did} was ${what} before${where}; nothing is changed`
  if (inForce === true)
    return { exit: Exit.ok, value, lines: [`${said}; the node has taken it over.`] }
  if (inForce === null)
    return {
      exit: Exit.ok,
      value,
      lines: [`${said}; no node runs here, so it counts from the next start.`],
    }
  return {
    exit: Exit.refuted,
    value,
    lines: [
      `${said}, but the node has not taken it over: see its log for why the file is refused.`,
    ],
  }
}

function didOf(argument: string): string {
  try {
    return parseDid(argument).did
  } catch {
    throw new UsageError(
      `"${argument.slice(0, 120)}" is no DID; a node tells its own in /.well-known/vaultmesh.json.`,
    )
  }
}
