/**
 * The certificates of a devnet TSA, made by openssl: root → issuing CA → time-stamping unit.
 *
 * One hierarchy per kind of key (`rsa`: RSA-3072 throughout, `ec`: P-384 CAs and a P-256 unit), each
 * in its own files, so that two units stand in for two operators with nothing in common.
 * `variant` breaks exactly one law of RFC 3161 §2.3 or RFC 5280, for tests that must see it refused.
 */

import { execFile } from 'node:child_process'
import { chmod, mkdir, readFile, writeFile } from 'node:fs/promises'
import path from 'node:path'

export type KeyKind = 'rsa' | 'ec'

/** What is wrong with the hierarchy; `none` is a sound one. */
export type Variant =
  | 'none'
  | 'expired-leaf'
  | 'expired-issuer'
  | 'issuer-not-ca'
  | 'issuer-without-cert-sign'
  | 'path-too-long'
  | 'issuer-critical-extension'
  | 'issuer-other-purpose'
  | 'leaf-is-ca'
  | 'eku-not-critical'
  | 'eku-extra'
  | 'eku-missing'
  | 'key-usage-extra'

/** Where the files of one hierarchy are. */
export interface Authority {
  readonly dir: string
  readonly root: string
  readonly issuing: string
  readonly unit: string
  readonly unitKey: string
  readonly rootPem: string
}

const POLICY = '1.3.6.1.4.1.99999.1.1'
const CA = 'basicConstraints=critical,CA:TRUE'
const NOT_CA = 'basicConstraints=critical,CA:FALSE'
const CERT_SIGN = 'keyUsage=critical,keyCertSign'
const SIGN = 'keyUsage=critical,digitalSignature'
const STAMP = 'extendedKeyUsage=critical,timeStamping'
const ISSUING = [`${CA},pathlen:0`, CERT_SIGN]
const UNIT = [NOT_CA, SIGN, STAMP]
/** Extensions of the issuing CA and of the unit, where a variant has its own. */
const ISSUING_OF: Partial<Record<Variant, string[]>> = {
  'issuer-not-ca': [NOT_CA, CERT_SIGN],
  'issuer-without-cert-sign': [CA, 'keyUsage=critical,cRLSign'],
  'issuer-critical-extension': [...ISSUING, '1.2.3.4=critical,ASN1:NULL'],
  'issuer-other-purpose': [...ISSUING, 'extendedKeyUsage=serverAuth'],
}
const UNIT_OF: Partial<Record<Variant, string[]>> = {
  'leaf-is-ca': [CA, SIGN, STAMP],
  'eku-not-critical': [NOT_CA, SIGN, 'extendedKeyUsage=timeStamping'],
  'eku-extra': [NOT_CA, SIGN, `${STAMP},serverAuth`],
  'eku-missing': [NOT_CA, SIGN],
  'key-usage-extra': [NOT_CA, `${SIGN},keyEncipherment`, STAMP],
}
const KEY_ID = 'subjectKeyIdentifier=hash'

/** Runs openssl in `cwd`; its own words are the error. Says plainly if it is not installed. */
export function openssl(cwd: string, args: readonly string[]): Promise<Buffer> {
  return new Promise((resolve, reject) => {
    execFile('openssl', args, { cwd, encoding: 'buffer' }, (error, stdout, stderr) => {
      if (error === null) resolve(stdout)
      else if (error.code === 'ENOENT') {
        reject(
          new Error('openssl is not installed: the devnet TSA needs it (apt install openssl).'),
        )
      } else reject(new Error(`openssl ${args[0]}: ${stderr.toString().trim()}`))
    })
  })
}

/** The hierarchy of `kind` in `dir`, made if its unit certificate is missing. Keys are mode 0600. */
export async function ensureAuthority(
  dir: string,
  kind: KeyKind,
  variant: Variant = 'none',
): Promise<Authority> {
  const name = (what: string) => `${what}-${kind}.pem`
  const files = { root: name('root'), issuing: name('issuing'), unit: name('unit') }
  const read = () => readFile(path.join(dir, files.root), 'utf8')
  const authority = async () => ({
    dir,
    ...files,
    unitKey: `unit-${kind}.key`,
    rootPem: await read(),
  })
  await mkdir(dir, { recursive: true, mode: 0o700 })
  // The unit is written last: if it is there, all of it is.
  if (await exists(path.join(dir, files.unit))) return authority()

  await writeFile(path.join(dir, 'tsa.cnf'), tsaConfig())
  await writeFile(path.join(dir, 'serial'), '01\n')
  const make = (what: string, issuer: string | null, extensions: string[], days = 3650) =>
    makeCertificate({ dir, kind, what, issuer, extensions, days })
  await make('root', null, [CA, `${CERT_SIGN},cRLSign`])
  let parent = 'root'
  if (variant === 'path-too-long') {
    await make('upper', 'root', ISSUING)
    parent = 'upper'
  }
  const past = -1
  await make(
    'issuing',
    parent,
    ISSUING_OF[variant] ?? ISSUING,
    variant === 'expired-issuer' ? past : 1825,
  )
  await make('unit', 'issuing', UNIT_OF[variant] ?? UNIT, variant === 'expired-leaf' ? past : 730)
  if (parent === 'upper') {
    const chain = [name('issuing'), name('upper')].map((file) => readFile(path.join(dir, file)))
    await writeFile(path.join(dir, files.issuing), Buffer.concat(await Promise.all(chain)))
  }
  return authority()
}

/** DER of the TimeStampResp to a TimeStampReq, signed by the unit. One call at a time (serial file). */
export async function reply(authority: Authority, query: Uint8Array, section = 'tsa_unit') {
  await writeFile(path.join(authority.dir, 'query.tsq'), query)
  const { unit, unitKey, issuing } = authority
  const signer = ['-signer', unit, '-inkey', unitKey, '-chain', issuing]
  const input = ['-config', 'tsa.cnf', '-section', section, '-queryfile', 'query.tsq']
  return new Uint8Array(await openssl(authority.dir, ['ts', '-reply', ...input, ...signer]))
}

async function makeCertificate(input: {
  dir: string
  kind: KeyKind
  what: string
  issuer: string | null
  extensions: string[]
  days: number
}): Promise<void> {
  const { dir, kind, what, issuer, days } = input
  const key = `${what}-${kind}.key`
  const curve = what === 'unit' ? 'P-256' : 'P-384'
  const shape =
    kind === 'rsa'
      ? ['-algorithm', 'RSA', '-pkeyopt', 'rsa_keygen_bits:3072']
      : ['-algorithm', 'EC', '-pkeyopt', `ec_paramgen_curve:${curve}`]
  await openssl(dir, ['genpkey', ...shape, '-out', key])
  await chmod(path.join(dir, key), 0o600)
  const config = `${what}-${kind}.cnf`
  const authorityKeyId = issuer === null ? [] : ['authorityKeyIdentifier=keyid']
  const extensions = [...input.extensions, KEY_ID, ...authorityKeyId]
  const dn = `[req]\ndistinguished_name=dn\nprompt=no\n[dn]\nO=VaultMesh devnet\nCN=TSA ${what} ${kind}\n`
  await writeFile(path.join(dir, config), `${dn}[ext]\n${extensions.join('\n')}\n`)
  const out = ['-out', `${what}-${kind}.pem`, '-days', String(days)]
  if (issuer === null) {
    const self = ['-x509', '-key', key, '-config', config, '-extensions', 'ext', '-sha384']
    await openssl(dir, ['req', '-new', ...self, ...out])
    return
  }
  const request = `${what}-${kind}.csr`
  await openssl(dir, ['req', '-new', '-key', key, '-config', config, '-out', request])
  const by = ['-CA', `${issuer}-${kind}.pem`, '-CAkey', `${issuer}-${kind}.key`, '-CAcreateserial']
  const how = ['-sha256', '-extfile', config, '-extensions', 'ext']
  await openssl(dir, ['x509', '-req', '-in', request, ...by, ...how, ...out])
}

/** `[rejecting]` accepts no digest we send, so openssl itself writes the rejection. */
function tsaConfig(): string {
  const unit = `serial=serial
default_policy=${POLICY}
accuracy=secs:1,millisecs:500
clock_precision_digits=3
ordering=yes
tsa_name=yes
ess_cert_id_chain=no
ess_cert_id_alg=sha256
signer_digest=sha256
`
  return `[tsa_unit]\n${unit}digests=sha256,sha384,sha512\n[rejecting]\n${unit}digests=sha512\n`
}

async function exists(file: string): Promise<boolean> {
  return readFile(file).then(
    () => true,
    () => false,
  )
}
