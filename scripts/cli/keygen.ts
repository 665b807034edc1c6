/**
 * keygen: a new signing key, encrypted to this machine's age identity.
 */

import { randomBytes } from 'node:crypto'
import { fromBase64Url, toBase64Url } from '#core/bytes.ts'
import type { Alg } from '#core/signer.ts'
import { createSigner, type EventSigner } from '../../functions/sdk.ts'
import { homeAt } from '../home.ts'
import { identityPath, readClientKey, writeClientKey } from '../keystore.ts'
import { arity, Exit, HOME_HELP, integer, text, UsageError, type Command } from './command.ts'

const ALGS: readonly Alg[] = ['EdDSA', 'ES256', 'ES256K', 'EIP191']

export const keygen: Command = {
  name: 'keygen',
  summary: 'Make a signing key, encrypted with age',
  usage: '[--alg EdDSA] [--out FILE]',
  help: `  --alg ALG       ${ALGS.join(', ')} (default EdDSA)
  --out FILE      where to (default <home>/client.key.age); never overwritten
  --chain N       for EIP191: the chain of its did:pkh (default 1)
${HOME_HELP}`,
  options: {
    alg: { type: 'string' },
    out: { type: 'string', short: 'o' },
    chain: { type: 'string' },
    home: { type: 'string' },
  },
  async run(args, values) {
    arity(args, 0, 0)
    const named = text(values, 'alg') ?? 'EdDSA'
    const alg = ALGS.find((a) => a.toLowerCase() === named.toLowerCase())
    if (alg === undefined) throw new UsageError(`--alg ${named} is none of ${ALGS.join(', ')}.`)
    const file = text(values, 'out') ?? homeAt(text(values, 'home')).clientKey
    const { did, kid } = await makeKey(file, alg, integer(values, 'chain'))
    return {
      exit: Exit.ok,
      value: { alg, did, kid, file, identity: identityPath() },
      lines: [did, `  ${alg} key in ${file}, encrypted to the age identity ${identityPath()}`],
    }
  },
}

/** Makes a key and writes it to `file`. */
export async function makeKey(file: string, alg: Alg, chainId = 1): Promise<EventSigner> {
  // A scalar is out of range once in 2^32 (P-256) or 2^128 draws; then createSigner says so.
  const secret = new Uint8Array(randomBytes(32))
  const signer = await createSigner({ alg, secret, chainId })
  await writeClientKey(file, { alg, kid: signer.kid, secret: toBase64Url(secret) })
  return signer
}

/** The signer whose key is in `file`. */
export async function signerFrom(file: string): Promise<EventSigner> {
  const { alg, kid, secret } = await readClientKey(file)
  const chainId = Number(/^did:pkh:eip155:(\d+):/.exec(kid)?.[1] ?? 1)
  return createSigner({ alg, secret: fromBase64Url(secret), chainId })
}
