/**
 * Certificates for mTLS between services and peers: a small authority of one's own, by stock openssl.
 *
 *   <dir>/ca.pem, ca.key      the authority; whoever has ca.key lets anybody in: keep it off the machines that serve
 *   <dir>/<name>.pem, .key    a server's (serverAuth, its host names) or a client's (clientAuth)
 *
 * Keys are P-256, mode 0600. A certificate is for one use only: a server's lets nobody in as a client. Renewal keeps
 * the key and swaps the certificate in one rename, so that a crash leaves a pair that fits.
 */

import { execFile } from 'node:child_process'
import { X509Certificate } from 'node:crypto'
import { existsSync, mkdirSync, readdirSync, readFileSync } from 'node:fs'
import { chmod, mkdtemp, rename, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { VaultMeshError } from '#core/errors.ts'

const DAY_MS = 86_400_000
/** Ten years: an authority that ends takes every certificate with it. */
export const CA_DAYS = 3650
/** Long enough to renew by hand, short enough that a lost key ends by itself. */
export const CERT_DAYS = 90

/** A certificate that lies in a folder. */
export interface Cert {
  readonly name: string
  readonly use: 'authority' | 'server' | 'client'
  /** Host names of a server's. */
  readonly hosts: readonly string[]
  /** Epoch ms. */
  readonly endsAt: number
}

/** What a certificate is for. */
export interface CertRequest {
  readonly name: string
  /** A server's host names; a client's certificate has none. */
  readonly hosts: readonly string[]
  readonly days: number
}

/** Makes the authority in `dir`; throws `bad-config` if there is one: a new one would shut everybody out. */
export async function makeAuthority(dir: string, name: string): Promise<Cert> {
  mkdirSync(dir, { recursive: true, mode: 0o700 })
  const { pem, key } = pathsOf(dir, 'ca')
  if (existsSync(pem) || existsSync(key)) {
    throw new VaultMeshError('bad-config', `There is an authority in ${dir} already.`)
  }
  await newKey(key)
  const extensions = [
    'basicConstraints=critical,CA:TRUE,pathlen:0',
    'keyUsage=critical,keyCertSign,cRLSign',
    'subjectKeyIdentifier=hash',
  ]
  await withConfig(extensions, async (config) => {
    const subject = ['-subj', `/CN=${name}`, '-days', String(CA_DAYS)]
    const args = ['req', '-x509', '-new', '-key', key, '-config', config, '-extensions', 'ext']
    await openssl([...args, ...subject, '-sha256', '-out', `${pem}.new`])
  })
  await rename(`${pem}.new`, pem)
  return certAt(dir, 'ca')
}

/** Makes a key and its certificate; throws `bad-config` without an authority or if the name is taken. */
export async function issue(dir: string, request: CertRequest): Promise<Cert> {
  needAuthority(dir)
  const { name } = request
  if (!/^[a-z0-9](?:[a-z0-9.-]{0,61}[a-z0-9])?$/.test(name) || name === 'ca') {
    throw new VaultMeshError('bad-config', `${name} is no name: use a-z, 0-9, dots and hyphens.`)
  }
  const { pem, key } = pathsOf(dir, name)
  if (existsSync(pem)) {
    throw new VaultMeshError('bad-config', `${pem} is there already; renew it, or remove it.`)
  }
  // A key without a certificate is what a crash left behind.
  if (!existsSync(key)) await newKey(key)
  await sign(dir, request)
  return certAt(dir, name)
}

/** Signs every certificate anew that ends within `withinDays`; resolves to those. */
export async function renew(dir: string, withinDays: number, days: number): Promise<Cert[]> {
  needAuthority(dir)
  const before = Date.now() + withinDays * DAY_MS
  const renewed: Cert[] = []
  for (const { name, hosts, use, endsAt } of certsIn(dir)) {
    if (use === 'authority' || endsAt > before || !existsSync(pathsOf(dir, name).key)) continue
    await sign(dir, { name, hosts, days })
    renewed.push(certAt(dir, name))
  }
  return renewed
}

/** The certificates in `dir`, the authority first. */
export function certsIn(dir: string): Cert[] {
  const names = existsSync(dir)
    ? readdirSync(dir)
        .filter((file) => file.endsWith('.pem'))
        .map((file) => file.slice(0, -4))
    : []
  return names
    .sort((a, b) => Number(b === 'ca') - Number(a === 'ca') || a.localeCompare(b))
    .map((name) => certAt(dir, name))
}

async function sign(dir: string, { name, hosts, days }: CertRequest): Promise<void> {
  const { pem, key } = pathsOf(dir, name)
  const isServer = hosts.length > 0
  for (const host of hosts) {
    if (!/^(?:\*\.)?[a-z0-9](?:[a-z0-9.-]{0,251}[a-z0-9])?$/i.test(host)) {
      throw new VaultMeshError('bad-config', `${host} is no host name.`)
    }
    // A client that calls an address sends no server name, and then no rule for a name applies.
    if (/^[\d.]+$/.test(host)) {
      throw new VaultMeshError('bad-config', `${host} is an address; services are called by name.`)
    }
  }
  const extensions = [
    'basicConstraints=critical,CA:FALSE',
    'keyUsage=critical,digitalSignature',
    `extendedKeyUsage=${isServer ? 'serverAuth' : 'clientAuth'}`,
    `subjectAltName=${isServer ? hosts.map((host) => `DNS:${host}`).join(',') : `URI:urn:vaultmesh:${name}`}`,
    'subjectKeyIdentifier=hash',
    'authorityKeyIdentifier=keyid',
  ]
  const ca = pathsOf(dir, 'ca')
  await withConfig(extensions, async (config, folder) => {
    const csr = join(folder, 'csr')
    await openssl([
      'req',
      '-new',
      '-key',
      key,
      '-config',
      config,
      '-subj',
      `/CN=${name}`,
      '-out',
      csr,
    ])
    const signer = ['-CA', ca.pem, '-CAkey', ca.key, '-days', String(days), '-sha256']
    const from = ['-extfile', config, '-extensions', 'ext', '-out', `${pem}.new`]
    await openssl(['x509', '-req', '-in', csr, ...signer, ...from])
  })
  await rename(`${pem}.new`, pem)
}

function needAuthority(dir: string): void {
  if (existsSync(pathsOf(dir, 'ca').key)) return
  throw new VaultMeshError(
    'bad-config',
    `There is no ca.key in ${dir}. Make an authority with: vaultmesh certs init --dir ${dir}`,
  )
}

function pathsOf(dir: string, name: string): { readonly pem: string; readonly key: string } {
  return { pem: join(dir, `${name}.pem`), key: join(dir, `${name}.key`) }
}

function certAt(dir: string, name: string): Cert {
  const { pem } = pathsOf(dir, name)
  let cert: X509Certificate
  try {
    cert = new X509Certificate(readFileSync(pem))
  } catch {
    throw new VaultMeshError('bad-config', `${pem} is no certificate.`)
  }
  const hosts = (cert.subjectAltName ?? '')
    .split(', ')
    .filter((entry) => entry.startsWith('DNS:'))
    .map((entry) => entry.slice(4))
  const use = cert.ca ? 'authority' : hosts.length > 0 ? 'server' : 'client'
  return { name, use, hosts, endsAt: Date.parse(cert.validTo) }
}

async function newKey(path: string): Promise<void> {
  await openssl([
    'genpkey',
    '-algorithm',
    'EC',
    '-pkeyopt',
    'ec_paramgen_curve:P-256',
    '-out',
    path,
  ])
  await chmod(path, 0o600)
}

async function withConfig(
  extensions: readonly string[],
  run: (config: string, folder: string) => Promise<void>,
): Promise<void> {
  const folder = await mkdtemp(join(tmpdir(), 'vm-certs-'))
  try {
    const config = join(folder, 'cnf')
    const text = `[req]\ndistinguished_name=dn\nprompt=no\n[dn]\nCN=x\n[ext]\n${extensions.join('\n')}\n`
    await writeFile(config, text)
    await run(config, folder)
  } finally {
    await rm(folder, { recursive: true, force: true })
  }
}

const run = promisify(execFile)

/** openssl writes private keys with mode 0600 by itself (since 1.1.0). */
async function openssl(args: readonly string[]): Promise<void> {
  try {
    await run('openssl', args)
  } catch (error) {
    const { code, stderr = '' } = error as NodeJS.ErrnoException & { stderr?: string }
    throw new VaultMeshError(
      'bad-config',
      code === 'ENOENT'
        ? 'openssl is missing. On Debian: apt install openssl'
        : `openssl ${args[0]} fails: ${stderr.trim().split('\n').pop()}`,
    )
  }
}
