/**
 * keys: the identity keys of a node, offline: which there are, the next one, and whose they are. And who can read the
 * secret behind them (recipients.ts).
 *
 * All of them derive from the node secret in the home's keystore; what a command adds is a signed statement in the
 * home's rotation.json, which the node reads at its next start. So rotating helps if a signature key leaked, and
 * against nobody who has the secret: for that a new node is the remedy.
 */

import { existsSync, readFileSync } from 'node:fs'
import { rename, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { fromBase64Url, fromHex, toBase64Url, toHex, utf8 } from '#core/bytes.ts'
import { parseDid, type DidKey } from '#core/did.ts'
import { VaultMeshError } from '#core/errors.ts'
import { deriveIdentity } from '#core/node-keys.ts'
import {
  currentKey,
  rotationInput,
  signRotation,
  verifyStatements,
  type KeyHistory,
  type KeyPeriod,
} from '#core/rotation.ts'
import { isoTime } from '#core/time.ts'
import { homeAt, type Home } from '../home.ts'
import { NODE_SECRET_FILE, nodeSecret } from '../keystore.ts'
import { changeStatements, delegatorOf, knownStatements } from '../rotation-file.ts'
import {
  arity,
  Exit,
  HOME_HELP,
  text,
  UsageError,
  type Command,
  type Outcome,
  type Values,
} from './command.ts'
import { identity, recipients } from './recipients.ts'

const DEFAULT_OVERLAP = '7d'
/** Seconds of a unit. */
const UNITS: Readonly<Record<string, number>> = { s: 1, m: 60, h: 3600, d: 86_400 }
/** Longest overlap, a year in days: a key that stays valid for longer was not meant to be replaced. */
const MAX_OVERLAP_S = 366 * 86_400

/** Which options go with which command. */
const allowed: Readonly<Record<string, readonly string[]>> = {
  show: [],
  rotate: ['overlap', 'statement'],
  delegate: ['did', 'signature'],
  recipients: ['add', 'remove', 'key'],
  identity: ['new', 'retire', 'key', 'dir'],
}
const OPTIONS = [...new Set(Object.values(allowed).flat())]

export const keys: Command = {
  name: 'keys',
  summary: 'Show or rotate the identity keys of a node, delegate to them; who can read its secret',
  usage:
    'show|rotate|delegate|recipients|identity [--home DIR] [--overlap 7d] [--statement JWS] [--did DID [--signature 0x…]] [--add age1…] [--remove age1…]',
  help: `  show            the node’s name and its keys, each with the time in which it is valid
  rotate          add the next key and end the one of now; both are valid until --overlap has passed. Restart
                  the node to use the new one (elsewhere deploy again with ROTATION, which --json shows)
  delegate        before the first start: name the node by an address. Prints the text to sign with
                  personal_sign; call it again with the signature
  recipients      who can read node.secret.age and the other *.age files of the home; --add age1… and
                  --remove age1… encrypt them anew, the secrets stay the same; --key FILE for others too
  identity        the age identities of this machine; --new adds one, --retire age1… takes one out that
                  nothing in the home, --key FILE and --dir secrets needs any more
${HOME_HELP}
  --overlap TIME  of rotate: 90s, 30m, 12h, 7d (default ${DEFAULT_OVERLAP}); 0 or now ends the old key at once, for one that
                  was stolen. Who has the node secret has every key: then only a new home helps
  --statement JWS of rotate: take over the one that was signed on the dashboard; never sign another beside it
  --did DID       of delegate: did:pkh:eip155:<chain>:<0x address> of an externally owned account
  --signature HEX of delegate: 0x and 65 bytes, as the wallet gives them
  Nothing here talks to a node. Back the home up afterwards: rotation.json is part of the node’s name`,
  options: {
    home: { type: 'string' },
    overlap: { type: 'string' },
    statement: { type: 'string' },
    did: { type: 'string' },
    signature: { type: 'string' },
    add: { type: 'string', multiple: true },
    remove: { type: 'string', multiple: true },
    key: { type: 'string', multiple: true },
    new: { type: 'boolean' },
    retire: { type: 'string' },
    dir: { type: 'string' },
  },
  async run(args, values) {
    arity(args, 1, 1)
    const command = args[0]!
    const options = Object.hasOwn(allowed, command) ? allowed[command]! : null
    if (options === null) {
      const [last, ...others] = Object.keys(allowed).toReversed()
      throw new UsageError(`keys ${command}: say ${others.toReversed().join(', ')} or ${last}.`)
    }
    for (const name of OPTIONS) {
      if (values[name] !== undefined && !options.includes(name))
        throw new UsageError(`--${name} does not go with keys ${command}.`)
    }
    const home = homeAt(text(values, 'home'))
    if (command === 'recipients') return recipients(home, values)
    if (command === 'identity') return identity(home, values)
    if (command === 'delegate') return delegate(home, values)
    if (!existsSync(join(home.path, NODE_SECRET_FILE))) {
      throw new VaultMeshError('bad-config', `There is no node in ${home.path}.`)
    }
    const secret = fromBase64Url(await nodeSecret(home.path))
    if (command === 'show') return show(home, secret)
    const statement = text(values, 'statement')
    if (statement !== undefined && values['overlap'] !== undefined)
      throw new UsageError('--overlap does not go with --statement, which has one in it.')
    return rotate(home, secret, statement ?? overlapOf(values))
  },
}

async function show(home: Home, secret: Uint8Array): Promise<Outcome> {
  const history = await historyOf(home, secret, knownStatements(home, process.env))
  const nowAt = Date.now()
  const current = currentKey(history, nowAt)
  const shown = history.keys.map((key) => ({ ...said(key), state: stateOf(key, current, nowAt) }))
  return {
    exit: Exit.ok,
    value: { nodeDid: history.nodeDid, keys: shown, ...asVariable(home, history) },
    lines: [
      history.nodeDid,
      ...shown.map(({ epoch, did, from, until, state }) => {
        const times = [
          from === null ? '' : ` from ${from}`,
          until === null ? '' : ` until ${until}`,
        ].join('')
        return `  epoch ${epoch}  ${did}${times}  ${state}`
      }),
    ],
  }
}

/** `current` signs, from the node's next start on; another `valid` one is still believed. */
function stateOf(key: KeyPeriod, current: KeyPeriod | null, nowAt: number): string {
  if (key === current) return 'current'
  if (key.nbf * 1000 > nowAt) return 'not yet'
  return key.end !== null && key.end * 1000 <= nowAt ? 'ended' : 'valid'
}

/** `next`: the overlap in seconds of a statement to sign, or one that was signed elsewhere with the same secret. */
async function rotate(home: Home, secret: Uint8Array, next: number | string): Promise<Outcome> {
  let history: KeyHistory
  await changeStatements(home, async () => {
    const statements = knownStatements(home, process.env)
    const before = await historyOf(home, secret, statements)
    const last = before.keys.at(-1)!
    if (typeof next === 'string') {
      history = await historyOf(home, secret, [...statements, next])
      if (history.keys.length === before.keys.length)
        throw new VaultMeshError('bad-config', 'This statement is in force here already.')
      return history.statements
    }
    const iat = Math.floor(Date.now() / 1000)
    if (iat < last.nbf) {
      throw new VaultMeshError(
        'bad-config',
        `Epoch ${last.epoch} begins at ${time(last.nbf)}, which is still to come: is the clock right?`,
      )
    }
    const signer = await deriveIdentity(secret, last.epoch)
    const { did: key } = await deriveIdentity(secret, last.epoch + 1)
    const epoch = last.epoch + 1
    const claims = { iss: before.nodeDid, key, epoch, nbf: iat, end: iat + next, iat }
    const all = [...statements, await signRotation(signer, claims)]
    history = await historyOf(home, secret, all)
    return history.statements
  })
  const [old, added] = history!.keys.slice(-2) as [KeyPeriod, KeyPeriod]
  const both =
    old.end! * 1000 <= Date.now() ? 'ends now' : `is valid beside it until ${time(old.end!)}`
  return {
    exit: Exit.ok,
    value: {
      nodeDid: history!.nodeDid,
      old: said(old),
      new: said(added),
      ...asVariable(home, history!),
    },
    lines: [
      `epoch ${added.epoch}  ${added.did}`,
      `  epoch ${old.epoch}  ${old.did} ${both}`,
      `  the node’s name stays ${history!.nodeDid}`,
      `  in ${home.rotation}: back it up with the home`,
      `  restart the node (or redeploy with ROTATION) to use it${next === 0 ? '' : ', before the old key ends'}`,
    ],
  }
}

async function delegate(home: Home, values: Values): Promise<Outcome> {
  const address = addressOf(values)
  const signature = signatureOf(values)
  if (existsSync(home.trust)) {
    throw new VaultMeshError(
      'bad-config',
      `The node in ${home.path} has a name already, which others pin: delegate to a new home before its first start.`,
    )
  }
  refuseSecond(knownStatements(home, process.env))
  const secret = fromBase64Url(await nodeSecret(home.path))
  const { did: key } = await deriveIdentity(secret, 1)
  const pending = pendingInput(home, address.canonical, key)
  if (signature === null) {
    const iat = Math.floor(Date.now() / 1000)
    const claims = { iss: address.canonical, key, epoch: 1, nbf: iat, end: null, iat }
    const input = pending ?? rotationInput(claims, address.canonical, 'EIP191')
    if (pending === null) await keepInput(home, input)
    return {
      exit: Exit.ok,
      value: { nodeDid: address.canonical, key, input, hex: `0x${toHex(utf8(input))}` },
      lines: [
        `To let ${key} speak for ${address.canonical}, sign this text with personal_sign (EIP-191):`,
        '',
        input,
        '',
        `then: vaultmesh keys delegate --home ${home.path} --did ${address.canonical} --signature 0x…`,
      ],
    }
  }
  if (pending === null) {
    throw new VaultMeshError(
      'bad-config',
      `No text of ${address.canonical} waits for a signature: call this without --signature first.`,
    )
  }
  const statement = `${pending}.${toBase64Url(signature)}`
  let history: KeyHistory
  await changeStatements(home, async (statements) => {
    refuseSecond(statements)
    history = await verifyStatements(address.canonical, [statement]).catch((cause: unknown) => {
      if (!(cause instanceof VaultMeshError && cause.code === 'bad-signature')) throw cause
      const detail = `The signature is not that of ${address.canonical} over this text.`
      throw new VaultMeshError('bad-signature', detail, { cause })
    })
    return history.statements
  })
  await rm(home.delegation, { force: true })
  return {
    exit: Exit.ok,
    value: {
      nodeDid: history!.nodeDid,
      new: said(history!.keys[0]!),
      ...asVariable(home, history!),
    },
    lines: [
      history!.nodeDid,
      `  speaks through epoch 1  ${key}`,
      `  in ${home.rotation}: back it up with the home`,
      '  start the node (or deploy with NODE_DID and ROTATION) to use it',
    ],
  }
}

/** The address that --did names. */
function addressOf(values: Values): DidKey {
  const did = text(values, 'did')
  if (did === undefined) throw new UsageError('keys delegate needs --did.')
  let parsed: DidKey | null = null
  try {
    parsed = parseDid(did)
  } catch (error) {
    if (!(error instanceof VaultMeshError)) throw error
  }
  if (parsed?.kind !== 'eip155' || did.includes('#'))
    throw new UsageError(`--did ${did} is no did:pkh:eip155:<chain>:<0x address>.`)
  return parsed
}

/** r ‖ s ‖ v, with v 27 or 28 where the wallet wrote 0 or 1; null without --signature. */
function signatureOf(values: Values): Uint8Array | null {
  const given = text(values, 'signature')
  if (given === undefined) return null
  if (!/^0x[0-9a-fA-F]{130}$/.test(given))
    throw new UsageError('--signature is 0x and 65 bytes in hex.')
  const bytes = fromHex(given.slice(2).toLowerCase())
  if (bytes[64]! < 2) bytes[64]! += 27
  return bytes
}

function refuseSecond(statements: readonly string[]): void {
  if (statements.length === 0) return
  const whose = delegatorOf(statements) ?? 'its own key'
  throw new VaultMeshError(
    'bad-config',
    `This node has key statements of ${whose} already, which a delegation would contradict.`,
  )
}

/** The text that was printed for this address and key, so that a signature over it fits; null if there is none. */
function pendingInput(home: Home, did: string, key: string): string | null {
  if (!existsSync(home.delegation)) return null
  try {
    const kept = JSON.parse(readFileSync(home.delegation, 'utf8')) as Record<string, unknown>
    const input = kept['input']
    if (typeof input !== 'string') return null
    const payload = Buffer.from(input.split('.')[1] ?? '', 'base64url').toString()
    const claims = JSON.parse(payload) as Record<string, unknown>
    return claims['iss'] === did && claims['key'] === key ? input : null
  } catch {
    return null // Cut off by a crash: a new one is made, and signed anew.
  }
}

async function keepInput(home: Home, input: string): Promise<void> {
  const part = `${home.delegation}.part`
  await writeFile(part, `${JSON.stringify({ input })}\n`)
  await rename(part, home.delegation)
}

/** The keys that `statements` prove; throws `bad-config` if they are not those of this secret. */
async function historyOf(
  home: Home,
  secret: Uint8Array,
  statements: readonly string[],
): Promise<KeyHistory> {
  const { did } = await deriveIdentity(secret, 1)
  let history: KeyHistory
  try {
    history = await verifyStatements(delegatorOf(statements) ?? did, statements)
  } catch (cause) {
    if (!(cause instanceof VaultMeshError)) throw cause
    throw new VaultMeshError('bad-config', `${home.rotation}: ${cause.message}`, { cause })
  }
  for (const { epoch, did: stated } of history.keys) {
    if ((await deriveIdentity(secret, epoch)).did === stated) continue
    throw new VaultMeshError(
      'bad-config',
      `${home.rotation}: epoch ${epoch} is a key of another secret than ${NODE_SECRET_FILE}.`,
    )
  }
  return history
}

/** The overlap in seconds. */
function overlapOf(values: Values): number {
  const given = text(values, 'overlap') ?? DEFAULT_OVERLAP
  if (given === '0' || given === 'now') return 0
  const [, count, unit] = /^(\d{1,9})([smhd])$/.exec(given) ?? []
  if (count === undefined)
    throw new UsageError(`--overlap ${given} is no time like 90s, 30m, 12h, 7d, 0 or now.`)
  const overlap = Number(count) * UNITS[unit!]!
  if (overlap > MAX_OVERLAP_S)
    throw new UsageError(`--overlap ${given} is longer than ${MAX_OVERLAP_S / 86_400} days.`)
  return overlap
}

function said({ epoch, did, nbf, end }: KeyPeriod) {
  return {
    epoch,
    did,
    from: nbf === 0 ? null : time(nbf),
    until: end === null ? null : time(end),
  }
}

function asVariable(home: Home, { statements }: KeyHistory) {
  return { file: home.rotation, rotation: statements.join(' ') }
}

function time(seconds: number): string {
  return isoTime(seconds * 1000)
}
