/**
 * secrets: the folder of keys that pay for anchors, made with the real sops, and their public addresses.
 *
 * A new key exists in this process, on the pipe to sops, and encrypted; never in a file, an argument or an
 * environment. What is written was first read back with our own decrypter. Nothing is ever overwritten.
 */

import { secp256k1 } from '@noble/curves/secp256k1.js'
import { identityToRecipient } from 'age-encryption'
import { randomBytes } from 'node:crypto'
import { existsSync } from 'node:fs'
import { mkdir } from 'node:fs/promises'
import { join } from 'node:path'
import { toHex } from '#core/bytes.ts'
import { VaultMeshError } from '#core/errors.ts'
import {
  bitcoinAddresses,
  bitcoinNetworks,
  evmAddress,
  type BitcoinNetwork,
} from '../anchor-keys.ts'
import { identities, identityPath, writeNew } from '../keystore.ts'
import { decryptSopsEnv, loadSecrets, SECRETS_DIR } from '../sops.ts'
import { encryptEnv, findSops, SOPS_RULES } from '../sops-binary.ts'
import { arity, Exit, text, UsageError, type Command, type Outcome } from './command.ts'

const NETWORKS = Object.keys(bitcoinNetworks)

export const secrets: Command = {
  name: 'secrets',
  summary: 'Make the keys that pay for anchors; show their addresses',
  usage: 'init|addresses [--dir secrets] [--network mainnet]',
  help: `  init            make btc.env and evm.env with new keys, encrypted with sops to this machine's age
                  identity, and the rules for sops beside them; what is there already is kept
  addresses       print the addresses to fund, never the keys
  --dir DIR       the folder (default ${SECRETS_DIR})
  --network NAME  for Bitcoin addresses: ${NETWORKS.join(', ')} (default $BTC_NETWORK or mainnet)`,
  options: { dir: { type: 'string' }, network: { type: 'string' } },
  async run(args, values) {
    arity(args, 1, 1)
    const dir = text(values, 'dir') ?? SECRETS_DIR
    const network = text(values, 'network') ?? process.env['BTC_NETWORK'] ?? 'mainnet'
    if (!isNetwork(network)) {
      throw new UsageError(`--network ${network} is none of ${NETWORKS.join(', ')}.`)
    }
    switch (args[0]) {
      case 'init':
        return init(dir)
      case 'addresses':
        return addresses(dir, network)
      default:
        throw new UsageError(`secrets ${args[0]}: say init or addresses.`)
    }
  },
}

/** What `init` makes, and what goes in. */
const files: Readonly<Record<string, () => string>> = {
  'btc.env': () => `BTC_PRIVATE_KEY=${newKey()}\n`,
  'evm.env': () => `EVM_PRIVATE_KEY=0x${newKey()}\n`,
}

async function init(dir: string): Promise<Outcome> {
  const sops = await findSops()
  if (sops === null) {
    throw new VaultMeshError(
      'bad-config',
      'There is no sops on PATH, and its optional npm package is not installed here: get it from github.com/getsops/sops.',
    )
  }
  const recipients = await Promise.all(
    (await identities({ create: true })).map((identity) => identityToRecipient(identity)),
  )
  await mkdir(dir, { recursive: true, mode: 0o700 })
  const made: string[] = []
  const kept: string[] = []
  const rules = join(dir, SOPS_RULES)
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
    const encrypted = await encryptEnv(sops, { dir, name, text: plain })
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
        ? ['BTC  no key']
        : [`BTC  ${network} P2WPKH  ${bitcoin.p2wpkh}`, `BTC  ${network} P2TR    ${bitcoin.p2tr}`]),
      `EVM  ${ethereum?.address ?? 'no key'}`,
    ],
  }
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
# machine, a paper backup) after a comma, then: sops updatekeys btc.env
creation_rules:
  - path_regex: ^[^/]+\\.env$
    age: ${recipients.join(',')}
`
}

function isNetwork(name: string): name is BitcoinNetwork {
  return Object.hasOwn(bitcoinNetworks, name)
}
