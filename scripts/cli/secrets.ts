/**
 * secrets: the folder of keys that pay for anchors and of passwords: made, changed, checked, used and sent to
 * Cloudflare, with the real sops.
 *
 * A value exists in this process, on a pipe, and encrypted; never in an argument, nor in a file but an editor's, which
 * is in memory (secrets-folder.ts). `run` gives them to one command's environment, because it was asked to.
 */

import { secp256k1 } from '@noble/curves/secp256k1.js'
import { spawn } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { existsSync } from 'node:fs'
import { mkdir } from 'node:fs/promises'
import { constants } from 'node:os'
import { join } from 'node:path'
import { toHex } from '#core/bytes.ts'
import { VaultMeshError } from '#core/errors.ts'
import {
  bitcoinAddresses,
  bitcoinNetworks,
  evmAddress,
  type BitcoinNetwork,
} from '../anchor-keys.ts'
import { homeAt } from '../home.ts'
import {
  identityPath,
  NODE_SECRET_FILE,
  nodeSecret,
  ownRecipients,
  recipient,
  writeNew,
} from '../keystore.ts'
import { editFile, rotateFolder, setVariable } from '../secrets-folder.ts'
import {
  decryptSopsEnv,
  loadSecrets,
  readSopsEnv,
  secretFiles,
  SECRETS_DIR,
  secretVariables,
} from '../sops.ts'
import { encryptEnv, endOf, needSops, SOPS_RULES } from '../sops-binary.ts'
import { ruleOf } from '../sops-rules.ts'
import { pushSecrets } from '../wrangler-secrets.ts'
import {
  Exit,
  HOME_HELP,
  list,
  text,
  UsageError,
  type Command,
  type ExitCode,
  type Outcome,
  type Terminal,
  type Values,
} from './command.ts'
import { checkSecrets } from './secrets-check.ts'
import { unseen } from './unseen.ts'

const NETWORKS = Object.keys(bitcoinNetworks)
const NAMES = Object.keys(secretVariables)

/** Which options and how many arguments go with which command. */
const allowed: Readonly<
  Record<string, { options: readonly string[]; least?: number; most?: number }>
> = {
  init: { options: [] },
  create: { options: [] },
  addresses: { options: ['network'] },
  set: { options: ['file', 'new', 'replace'], least: 1, most: 1 },
  edit: { options: [], least: 1, most: 1 },
  rotate: { options: ['add', 'remove'] },
  check: { options: ['home'] },
  run: { options: ['only'], least: 1, most: Infinity },
  push: { options: ['env', 'name', 'config', 'home', 'only', 'dry-run'] },
}

export const secrets: Command = {
  name: 'secrets',
  summary: 'Keys that pay for anchors, and passwords: make, set, edit, rotate, check, run, push',
  usage: 'init|addresses|set NAME|edit FILE|rotate|check|run -- COMMAND|push [--dir secrets]',
  help: `  init, create    make btc.env and evm.env with new keys, encrypted with sops to this machine's age
                  identity, and the rules for sops beside them; what is there already is kept
  addresses       print the addresses to fund, never the keys; --network NAME for those of Bitcoin:
                  ${NETWORKS.join(', ')} (default $BTC_NETWORK or mainnet)
  set NAME        set one variable: typed without echo, or from standard input; never from an argument
                  --file btc.env in that file (default: where it is, or where its like are)
                  --new          a new key for BTC_PRIVATE_KEY or EVM_PRIVATE_KEY
                  --replace      over a key that is there: what its address holds is lost without it
  edit FILE       open a file in $EDITOR; the plain text is in memory only (tmpfs)
  rotate          a new data key for every file, for the recipients in .sops.yaml;
                  --add age1… and --remove age1… change those first
  check           do all files open, unchanged, and who can read them; the node's own secrets too (--home)
  run -- COMMAND  run a command with the variables in its environment; --only A,B for some of them
  push            give them to the Worker on Cloudflare (wrangler secret bulk), --only A,B for some
                  --env NAME, --name WORKER, --config FILE as wrangler takes them
                  --home DIR     NODE_SECRET of the node there too
                  --dry-run      say what would be set, and set nothing
  --dir DIR       the folder (default ${SECRETS_DIR})
${HOME_HELP}
  Variables: ${NAMES.slice(0, 5).join(', ')},
  ${NAMES.slice(5).join(', ')}. docs/secrets.md says more`,
  options: {
    dir: { type: 'string' },
    network: { type: 'string' },
    file: { type: 'string' },
    new: { type: 'boolean' },
    replace: { type: 'boolean' },
    add: { type: 'string', multiple: true },
    remove: { type: 'string', multiple: true },
    only: { type: 'string' },
    env: { type: 'string' },
    name: { type: 'string' },
    config: { type: 'string' },
    home: { type: 'string' },
    'dry-run': { type: 'boolean' },
  },
  async run([name = '', ...args], values, terminal) {
    checkCall(name, args, values)
    const dir = text(values, 'dir') ?? SECRETS_DIR
    switch (name) {
      case 'addresses':
        return addresses(dir, networkOf(values))
      case 'set':
        return set(dir, args[0]!, values, terminal)
      case 'edit':
        return edit(dir, args[0]!)
      case 'rotate':
        return rotate(dir, values)
      case 'check':
        return checkSecrets(dir, homeAt(text(values, 'home')))
      case 'run':
        return run(await chosen(dir, values), args)
      case 'push':
        return push(dir, values)
      default:
        return init(dir)
    }
  },
}

/** Throws `UsageError`, which never quotes an argument: it may be a secret that stands in the wrong place. */
function checkCall(name: string, args: readonly string[], values: Values): void {
  const call = Object.hasOwn(allowed, name) ? allowed[name]! : null
  if (call === null) {
    const [last, ...others] = Object.keys(allowed).toReversed()
    throw new UsageError(`secrets takes ${others.toReversed().join(', ')} or ${last}.`)
  }
  for (const option of Object.keys(secrets.options)) {
    if (values[option] !== undefined && option !== 'dir' && !call.options.includes(option))
      throw new UsageError(`--${option} does not go with secrets ${name}.`)
  }
  if (args.length < (call.least ?? 0))
    throw new UsageError(`secrets ${name}: an argument is missing.`)
  if (args.length > (call.most ?? 0))
    throw new UsageError(`secrets ${name}: there is an argument too many.`)
}

function networkOf(values: Values): BitcoinNetwork {
  const name = text(values, 'network') ?? process.env['BTC_NETWORK'] ?? 'mainnet'
  if (isNetwork(name)) return name
  throw new UsageError(`--network ${name} is none of ${NETWORKS.join(', ')}.`)
}

/** What `init` makes, and what goes in. */
const files: Readonly<Record<string, () => string>> = {
  'btc.env': () => `BTC_PRIVATE_KEY=${newKey()}\n`,
  'evm.env': () => `EVM_PRIVATE_KEY=0x${newKey()}\n`,
}

async function init(dir: string): Promise<Outcome> {
  const sops = await needSops()
  const recipients = await ownRecipients({ create: true })
  await mkdir(dir, { recursive: true, mode: 0o700 })
  const made: string[] = []
  const kept: string[] = []
  const rules = await rulesAbove(dir)
  if (existsSync(rules)) kept.push(rules)
  else {
    await writeNew(rules, rulesFor(recipients))
    made.push(rules)
  }
  for (const [name, content] of Object.entries(files)) {
    const path = join(dir, name)
    if (existsSync(path)) {
      kept.push(path)
      continue
    }
    const plain = content()
    const encrypted = await encryptEnv(sops, { dir, name, text: plain, config: rules })
    const back = await decryptSopsEnv(encrypted, path)
    const [[variable, value] = []] = Object.entries(back)
    if (plain !== `${variable}=${value}\n`) {
      throw new VaultMeshError('bad-config', `${sops} encrypted something else for ${path}.`)
    }
    await writeNew(path, encrypted)
    made.push(path)
  }
  return {
    exit: Exit.ok,
    value: { dir, made, kept, identity: identityPath(), sops },
    lines: [
      ...made.map((path) => `made ${path}`),
      ...kept.map((path) => `kept ${path}`),
      `  readable with the age identity ${identityPath()}: back it up`,
      `  vaultmesh secrets addresses --dir ${dir}   shows what to fund`,
    ],
  }
}

/** The rules for the folder: its own, else those above it if they name recipients for it; else its own to be. */
async function rulesAbove(dir: string): Promise<string> {
  const own = join(dir, SOPS_RULES)
  if (existsSync(own)) return own
  try {
    const rule = await ruleOf(join(dir, 'btc.env'))
    return rule === null || rule.recipients.length === 0 ? own : rule.file
  } catch (error) {
    // Rules for other folders; these here get their own.
    if (error instanceof VaultMeshError) return own
    throw error
  }
}

async function addresses(dir: string, network: BitcoinNetwork): Promise<Outcome> {
  const { BTC_PRIVATE_KEY: btc, EVM_PRIVATE_KEY: evm } = await loadSecrets(dir)
  if (btc === undefined && evm === undefined) {
    throw new VaultMeshError(
      'bad-config',
      `${dir} holds no keys. Make some: vaultmesh secrets init --dir ${dir}`,
    )
  }
  const bitcoin = btc === undefined ? null : bitcoinAddresses(btc, network)
  const ethereum = evm === undefined ? null : { address: evmAddress(evm) }
  return {
    exit: Exit.ok,
    value: { bitcoin, evm: ethereum },
    lines: [
      ...(bitcoin === null
        ? ['BTC  no key (vaultmesh secrets set BTC_PRIVATE_KEY --new makes one)']
        : [`BTC  ${network} P2WPKH  ${bitcoin.p2wpkh}`, `BTC  ${network} P2TR    ${bitcoin.p2tr}`]),
      `EVM  ${ethereum?.address ?? 'no key (vaultmesh secrets set EVM_PRIVATE_KEY --new makes one)'}`,
    ],
  }
}

/** Sets one variable, in the file that has it, or where its like are. */
async function set(
  dir: string,
  name: string,
  values: Values,
  terminal: Terminal,
): Promise<Outcome> {
  if (!Object.hasOwn(secretVariables, name)) {
    throw new UsageError(`secrets set: the first argument is one of ${NAMES.join(', ')}.`)
  }
  const isKey = name.endsWith('_PRIVATE_KEY')
  if (values['new'] === true && !isKey) throw new UsageError('--new is for private keys.')
  if (!existsSync(dir)) {
    throw new VaultMeshError(
      'bad-config',
      `There is no folder ${dir}: vaultmesh secrets init makes it.`,
    )
  }
  const path = await fileFor(dir, name, text(values, 'file'))
  const isThere = existsSync(path) && Object.hasOwn(await readSopsEnv(path), name)
  if (isKey && isThere && values['replace'] !== true) {
    throw new VaultMeshError(
      'bad-config',
      `${path} has a ${name}. Without it, what its address holds is lost: move that first, then say --replace.`,
    )
  }
  const value = values['new'] === true ? newKeyFor(name) : await typed(name, terminal)
  await setVariable(path, name, value)
  return {
    exit: Exit.ok,
    value: { file: path, name, replaced: isThere },
    lines: [
      `${isThere ? 'changed' : 'set'} ${name} in ${path}`,
      '  a running node has it from its next start',
    ],
  }
}

async function typed(name: string, terminal: Terminal): Promise<string> {
  const given = await unseen(`${name} (not shown): `, terminal)
  if (given === '') throw new VaultMeshError('bad-config', `No value for ${name} was given.`)
  return given
}

async function fileFor(dir: string, name: string, named: string | undefined): Promise<string> {
  if (named !== undefined) return join(dir, envFile(named))
  for (const path of await secretFiles(dir))
    if (Object.hasOwn(await readSopsEnv(path), name)) return path
  const like = /^(BTC|EVM)_/.exec(name)?.[1]?.toLowerCase() ?? 'node'
  return join(dir, `${like}.env`)
}

/** The name of a file of the folder: a path to elsewhere would not be read at a start. */
function envFile(name: string): string {
  if (/^[A-Za-z0-9_][A-Za-z0-9_.-]*\.env$/.test(name)) return name
  throw new UsageError('A file of secrets is a name like btc.env, within the folder (--dir).')
}

async function edit(dir: string, name: string): Promise<Outcome> {
  if (!existsSync(dir)) {
    throw new VaultMeshError(
      'bad-config',
      `There is no folder ${dir}: vaultmesh secrets init makes it.`,
    )
  }
  const path = join(dir, envFile(name))
  // sops asks a terminal what to do about a line it cannot read; without one it would ask for ever.
  if (!process.stdin.isTTY) {
    throw new VaultMeshError(
      'bad-config',
      'There is no terminal to edit in. From a program: vaultmesh secrets set NAME, the value on standard input.',
    )
  }
  const isChanged = await editFile(path, process.env)
  return {
    exit: Exit.ok,
    value: { file: path, changed: isChanged },
    lines: [isChanged ? `changed ${path}` : `${path} is as it was`],
  }
}

async function rotate(dir: string, values: Values): Promise<Outcome> {
  const [add, remove] = [list(values, 'add').map(recipient), list(values, 'remove').map(recipient)]
  const done = await rotateFolder(dir, { add, remove })
  return {
    exit: Exit.ok,
    value: done,
    lines: [
      ...done.files.map((path) => `rotated ${path}`),
      ...done.recipients.map((who) => `  readable by ${who}`),
      ...(done.rules === null ? [] : [`  so say the rules in ${done.rules}`]),
      ...(remove.length === 0
        ? []
        : [
            '  who was removed knows the values of before, and can read older copies: change those too',
          ]),
    ],
  }
}

/** The variables of the folder, or those of them that --only names. */
async function chosen(dir: string, values: Values): Promise<Readonly<Record<string, string>>> {
  const all = await loadSecrets(dir)
  const only = text(values, 'only')?.split(',')
  if (only === undefined) return all
  const missing = only.find((name) => !Object.hasOwn(all, name))
  if (missing !== undefined)
    throw new VaultMeshError('bad-config', `${dir} sets no variable of the names in --only.`)
  return Object.fromEntries(only.map((name) => [name, all[name]!]))
}

/** Runs a command with the variables in its environment, and ends as it does. */
async function run(
  variables: Readonly<Record<string, string>>,
  [command, ...args]: readonly string[],
): Promise<Outcome> {
  const child = spawn(command!, args, {
    stdio: 'inherit',
    env: { ...process.env, ...variables },
  })
  const signals = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const
  // A terminal's own Ctrl-C reaches it as well as us.
  const pass = (signal: NodeJS.Signals): void => void (signal === 'SIGINT' || child.kill(signal))
  for (const signal of signals) process.on(signal, pass)
  const how = await endOf(child)
  if (how === 'ENOENT' || how === 'EACCES')
    throw new VaultMeshError('bad-config', `The command does not start (${how}).`)
  // As a shell says it.
  const code = typeof how === 'number' ? how : 128 + (constants.signals[how as NodeJS.Signals] ?? 0)
  return {
    exit: code as ExitCode,
    value: { variables: Object.keys(variables), exit: how },
    lines: [],
  }
}

async function push(dir: string, values: Values): Promise<Outcome> {
  const home = text(values, 'home')
  const node: Record<string, string> = {}
  if (home !== undefined) {
    if (!existsSync(join(homeAt(home).path, NODE_SECRET_FILE)))
      throw new VaultMeshError('bad-config', `There is no node in ${home}.`)
    node['NODE_SECRET'] = await nodeSecret(homeAt(home).path)
  }
  const variables = { ...(await chosen(dir, values)), ...node }
  const names = Object.keys(variables)
  if (names.length === 0) throw new VaultMeshError('bad-config', `${dir} holds no variables.`)
  const [env, name, config] = [text(values, 'env'), text(values, 'name'), text(values, 'config')]
  const isDry = values['dry-run'] === true
  if (!isDry) {
    await pushSecrets({
      values: variables,
      ...(env === undefined ? {} : { env }),
      ...(name === undefined ? {} : { name }),
      ...(config === undefined ? {} : { config }),
    })
  }
  const where = `${name ?? 'the Worker'}${env === undefined ? '' : ` (${env})`}`
  return {
    exit: Exit.ok,
    value: { pushed: isDry ? [] : names, names, env: env ?? null, dryRun: isDry },
    lines: names.map((one) => `${isDry ? 'would set' : 'set'} ${one} of ${where}`),
  }
}

function newKeyFor(name: string): string {
  return name === 'EVM_PRIVATE_KEY' ? `0x${newKey()}` : newKey()
}

/** A new secp256k1 secret as 64 hex digits. */
function newKey(): string {
  for (;;) {
    const key = new Uint8Array(randomBytes(32))
    if (secp256k1.utils.isValidSecretKey(key)) return toHex(key)
  }
}

function rulesFor(recipients: readonly string[]): string {
  return `# Whom sops encrypts new *.env files of this folder to; run it here. Add a second recipient (another
# machine, a paper backup) with: vaultmesh secrets rotate --add age1…
creation_rules:
  - path_regex: ^[^/]+\\.env$
    age: ${recipients.join(',')}
`
}

function isNetwork(name: string): name is BitcoinNetwork {
  return Object.hasOwn(bitcoinNetworks, name)
}
