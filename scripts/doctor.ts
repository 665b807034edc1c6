/**
 * The part of `vaultmesh doctor` that needs no running node: this machine, the home folder, the keys, the settings as
 * this shell has them, and what the world sees of the address. It changes nothing and prints no value of a secret.
 */

import { readFileSync } from 'node:fs'
import { readFile, stat, statfs } from 'node:fs/promises'
import { join } from 'node:path'
import { connect } from 'node:tls'
import { VARIABLES } from '#core/config.ts'
import { ageText, check, diskChecks, misspelt, tlsExpiryCheck, type Check } from '#core/doctor.ts'
import { VaultMeshError } from '#core/errors.ts'
import { auditFiles } from './audit-files.ts'
import { audit } from './cli/audit.ts'
import { checkSecrets } from './cli/secrets-check.ts'
import { Exit } from './cli/command.ts'
import type { Home } from './home.ts'
import { identityPath, NODE_SECRET_FILE, readSecret } from './keystore.ts'

/** Variables of the commands. */
const OF_COMMANDS = [
  'VAULTMESH_HOME',
  'VAULTMESH_URL',
  'VAULTMESH_KEY',
  'VAULTMESH_AGE_KEY_FILE',
  'VAULTMESH_ADMIN_TOKEN',
] as const
/** Oldest Node.js that the commands run on; the node itself runs in workerd. */
const LEAST_NODE = 20
/** Where a backup may note itself: `{"takenAt": "<ISO time>"}`. */
const BACKUP_FILE = 'last-backup.json'
const BACKUP_WARN_MS = 8 * 86_400_000
const TIMEOUT_MS = 5000

/** Versions of what runs here. */
export function runtimeChecks(): Check[] {
  const major = Number(process.versions.node.split('.')[0])
  const says = `Node.js ${process.versions.node}, ${process.platform} ${process.arch}`
  return [
    check(
      'runtime',
      major < LEAST_NODE ? 'fail' : 'ok',
      says,
      `Install Node.js ${LEAST_NODE} or newer.`,
    ),
  ]
}

/** Names in the environment that are nearly ours. */
export function environmentChecks(names: readonly string[]): Check[] {
  const found = misspelt(
    names.filter((name) => /^[A-Za-z][A-Za-z0-9_]*$/.test(name)),
    [...VARIABLES, ...OF_COMMANDS],
  )
  return found.map(({ name, meant }) =>
    check(
      'config',
      'warn',
      `${name} in the environment is no variable of ours`,
      `Is ${meant} meant? What is set under another name counts for nothing.`,
    ),
  )
}

/** The settings as a node started from this shell would have them. */
export async function configChecks(home: Home, secretsDir: string): Promise<Check[]> {
  const { loadSecrets } = await import('./sops.ts')
  // Pulls in the whole runtime: only where no node runs that has judged its settings itself.
  const { variablesHere } = await import('./selfhost.ts')
  const { parseConfig } = await import('#core/config.ts')
  try {
    const secrets = await loadSecrets(secretsDir)
    const { network, origin } = parseConfig(variablesHere(home, secrets))
    return [
      check(
        'config',
        'ok',
        `every variable parses, as this shell and ${secretsDir} set them: ${origin}, NETWORK=${network}`,
      ),
    ]
  } catch (error) {
    if (!(error instanceof VaultMeshError)) throw error
    return [
      check(
        'config',
        'fail',
        error.message,
        'Mend the named variable; wrangler.toml says what each is for.',
      ),
    ]
  }
}

/** Room on the file system of the home. */
export async function roomChecks(home: Home): Promise<Check[]> {
  try {
    const { bavail, bsize, files, ffree } = await statfs(home.path)
    return diskChecks({ freeBytes: bavail * bsize, freeInodes: files === 0 ? null : ffree })
  } catch {
    return [
      check(
        'disk',
        'fail',
        `there is no home folder ${home.path}`,
        'Name it with --home, or start a node: it makes one.',
      ),
    ]
  }
}

/** Who else may read the keys and the state. */
export async function permissionChecks(home: Home): Promise<Check[]> {
  const wrong: Check[] = []
  const paths: [path: string, allowed: number][] = [
    [home.path, 0o700],
    [home.state, 0o700],
    [join(home.path, NODE_SECRET_FILE), 0o600],
    [home.clientKey, 0o600],
    [home.socket, 0o600],
    [identityPath(), 0o600],
  ]
  let seen = 0
  for (const [path, allowed] of paths) {
    const mode = await stat(path).then(
      (s) => s.mode & 0o777,
      () => null,
    )
    if (mode === null) continue
    seen++
    // Others may read a folder's names at worst, but a key or the socket is theirs then.
    const isFolder = allowed === 0o700
    const open = mode & ~allowed
    if (open === 0) continue
    const isBad = !isFolder || (open & 0o022) !== 0
    wrong.push(
      check(
        'permissions',
        isBad ? 'fail' : 'warn',
        `${path} has mode ${mode.toString(8)}: others may ${(open & 0o022) !== 0 ? 'write' : 'read'} it`,
        `chmod ${allowed.toString(8)} ${path}`,
      ),
    )
  }
  return wrong.length > 0
    ? wrong
    : [check('permissions', 'ok', `${seen} files and folders are their owner's alone`)]
}

/** Whether the keys open. */
export async function keyChecks(home: Home, secretsDir: string): Promise<Check[]> {
  const found: Check[] = []
  const file = join(home.path, NODE_SECRET_FILE)
  try {
    await readSecret(file)
    found.push(check('keys', 'ok', `${identityPath()} opens ${file}`))
  } catch (error) {
    if (!(error instanceof VaultMeshError)) throw error
    const next =
      'Put the file or the age identity back from a backup. A new node secret would be another node.'
    found.push(check('keys', 'fail', error.message, next))
    return found
  }
  try {
    const { exit, lines } = await checkSecrets(secretsDir, home)
    found.push(
      exit === Exit.ok
        ? check('keys', 'ok', `secrets in ${secretsDir} open, by vaultmesh secrets check`)
        : check(
            'keys',
            'fail',
            `vaultmesh secrets check finds: ${lines.join(' ').slice(0, 500)}`,
            'docs/secrets.md',
          ),
    )
  } catch (error) {
    if (!(error instanceof VaultMeshError)) throw error
    found.push(check('keys', 'fail', error.message, 'docs/secrets.md'))
  }
  return found
}

/** Whether the newest files of the audit hold: the one that is open, and the one before it with what sealed it. */
export async function auditChecks(home: Home): Promise<Check[]> {
  const from = auditFiles(home.audit).slice(-2)[0]
  if (from === undefined) return [check('audit', 'skip', 'there are no audit files yet')]
  const quiet = { progress: () => undefined, paint: (_: string, said: string) => said }
  const stdin = (): Promise<Uint8Array> => Promise.resolve(new Uint8Array())
  try {
    const { exit, lines } = await audit.run(
      ['verify'],
      { home: home.path, from },
      { ...quiet, stdin },
    )
    // What is not sealed yet will be; it is no fault.
    if (exit === Exit.ok || exit === Exit.pending)
      return [check('audit', 'ok', `every line holds from ${from} on`)]
    const said = lines.slice(0, 3).join(' ')
    return [check('audit', 'fail', said.slice(0, 500), 'vaultmesh audit verify; docs/audit.md')]
  } catch (error) {
    if (!(error instanceof VaultMeshError)) throw error
    return [check('audit', 'warn', error.message, 'vaultmesh audit verify; docs/audit.md')]
  }
}

/** How old the newest backup is, where one notes itself in the home. */
export function backupChecks(home: Home, nowAt: number): Check[] {
  let takenAt: number
  try {
    const said = JSON.parse(readFileSync(join(home.path, BACKUP_FILE), 'utf8')) as {
      readonly takenAt?: unknown
    }
    takenAt = Date.parse(String(said.takenAt))
  } catch {
    return [check('backup', 'skip', `no ${BACKUP_FILE} in the home says when the last one was`)]
  }
  if (!Number.isFinite(takenAt))
    return [
      check('backup', 'warn', `${BACKUP_FILE} names no time`, 'Take a backup (docs/backup.md).'),
    ]
  const age = nowAt - takenAt
  return [
    check(
      'backup',
      age > BACKUP_WARN_MS ? 'warn' : 'ok',
      `the newest is ${ageText(age)} old`,
      'Take a backup (docs/backup.md).',
    ),
  ]
}

/** What the world sees at PUBLIC_URL: whether the node answers there, and how long its certificate lasts. */
export async function addressChecks(
  publicUrl: string,
  nodeId: string,
  nowAt: number,
): Promise<Check[]> {
  const url = URL.parse(publicUrl)
  if (url === null)
    return [check('tls', 'skip', 'PUBLIC_URL is empty: there is no address to look at')]
  const found: Check[] = []
  if (url.protocol === 'https:') {
    const seen = await certificateOf(url)
    if (typeof seen === 'string')
      return [
        check(
          'tls',
          'fail',
          `${url.host} cannot be reached: ${seen}`,
          'See that the proxy runs and that the name leads to it.',
        ),
      ]
    const { expiresAt, fault } = seen
    if (fault !== null)
      found.push(
        check(
          'tls',
          'fail',
          `the certificate of ${url.host} is not trusted here: ${fault}`,
          'Peers would not speak to it. A CA of your own is named in NODE_EXTRA_CA_CERTS.',
        ),
      )
    if (expiresAt !== null) found.push(tlsExpiryCheck(url.host, expiresAt, nowAt))
    if (fault !== null) return found
  }
  try {
    const response = await fetch(new URL('/healthz', url), {
      signal: AbortSignal.timeout(TIMEOUT_MS),
      redirect: 'manual',
    })
    const { node_id: there } = (await response.json()) as { readonly node_id?: unknown }
    if (there !== nodeId)
      found.push(
        check(
          'tls',
          'fail',
          `${url.origin} answers as "${String(there).slice(0, 63)}", not as ${nodeId}`,
          'PUBLIC_URL or the proxy leads to another node.',
        ),
      )
    else found.push(check('tls', 'ok', `${url.origin} answers as ${nodeId}`))
  } catch {
    found.push(
      check(
        'tls',
        'fail',
        `${url.origin}/healthz does not answer`,
        'See that the proxy passes requests on to the node.',
      ),
    )
  }
  return found
}

/** When the certificate ends and why it is not trusted; or why there is none, in words. */
function certificateOf(
  url: URL,
): Promise<{ readonly expiresAt: number | null; readonly fault: string | null } | string> {
  return new Promise((done) => {
    const host = url.hostname.replace(/^\[|\]$/g, '')
    const isName = !/^[\d.]+$|:/.test(host)
    const socket = connect({
      host,
      port: Number(url.port === '' ? 443 : url.port),
      rejectUnauthorized: false,
      ...(isName ? { servername: host } : {}),
    })
    const end = (found: { expiresAt: number | null; fault: string | null } | string): void => {
      socket.destroy()
      done(found)
    }
    socket.setTimeout(TIMEOUT_MS, () => end(`no answer in ${TIMEOUT_MS / 1000} s`))
    socket.once('error', (error: NodeJS.ErrnoException) => end(error.code ?? 'no TLS'))
    socket.once('secureConnect', () => {
      const until = Date.parse(socket.getPeerCertificate().valid_to ?? '')
      const error: unknown = socket.authorizationError
      const fault = socket.authorized
        ? null
        : error instanceof Error
          ? error.message
          : String(error)
      end({ expiresAt: Number.isFinite(until) ? until : null, fault })
    })
  })
}

/** The process that holds the home, if its lock says so and it lives. */
export async function holderOf(home: Home): Promise<number | null> {
  try {
    const { pid } = JSON.parse(await readFile(home.lock, 'utf8')) as { readonly pid: number }
    process.kill(pid, 0)
    return pid
  } catch {
    return null
  }
}
