/**
 * certs: an authority of one's own for mTLS, and what it signed.
 */

import { isoTime } from '#core/time.ts'
import { CERT_DAYS, certsIn, issue, makeAuthority, renew, type Cert } from '../certs.ts'
import {
  arity,
  Exit,
  integer,
  list,
  text,
  UsageError,
  type Command,
  type Outcome,
  type Values,
} from './command.ts'

/** Names of the services below a domain, as config/caddy/Caddyfile has them. */
const SERVICES = ['harbinger', 'sealer', 'anchor-manager'] as const
/** Renewed when a third of its time is left. */
const WITHIN_DAYS = 30

export const certs: Command = {
  name: 'certs',
  summary: 'Make and renew certificates for mTLS between services',
  usage: 'init|issue|renew|list --dir DIR',
  help: `  init             an authority, a server certificate for --domain and its services, a client "operator"
  issue NAME       a client certificate; with --host a server's
  renew            sign anew what ends soon; keys stay. Then restart the TLS front
  list             what is there, and until when

  --dir DIR        the folder of certificates and keys
  --domain NAME    of init: NAME, harbinger.NAME, sealer.NAME, anchor-manager.NAME (default localhost)
  --host NAME      of issue: a host name of the server; repeatable
  --days N         valid for so long (default ${CERT_DAYS})
  --within N       of renew: what ends within so many days (default ${WITHIN_DAYS})
Keep ca.key elsewhere once all is issued: whoever has it lets anybody in.`,
  options: {
    dir: { type: 'string' },
    domain: { type: 'string' },
    host: { type: 'string', multiple: true },
    days: { type: 'string' },
    within: { type: 'string' },
  },
  async run([action, ...args], values) {
    const dir = text(values, 'dir')
    if (dir === undefined) throw new UsageError('--dir is missing.')
    const days = positive(values, 'days', CERT_DAYS)
    switch (action) {
      case 'init': {
        arity(args, 0, 0)
        const domain = text(values, 'domain') ?? 'localhost'
        const hosts = [domain, ...SERVICES.map((service) => `${service}.${domain}`)]
        return shown('made', [
          await makeAuthority(dir, `VaultMesh ${domain}`),
          await issue(dir, { name: 'server', hosts, days }),
          await issue(dir, { name: 'operator', hosts: [], days }),
        ])
      }
      case 'issue':
        arity(args, 1, 1)
        return shown('made', [
          await issue(dir, { name: args[0]!, hosts: list(values, 'host'), days }),
        ])
      case 'renew':
        arity(args, 0, 0)
        return shown('renewed', await renew(dir, positive(values, 'within', WITHIN_DAYS), days))
      case 'list':
        arity(args, 0, 0)
        return shown('', certsIn(dir))
      default:
        throw new UsageError(`init, issue, renew or list, not "${action ?? ''}".`)
    }
  },
}

function positive(values: Values, name: string, otherwise: number): number {
  const value = integer(values, name) ?? otherwise
  if (value < 1 || value > 36_500) throw new UsageError(`--${name} is between 1 and 36500.`)
  return value
}

function shown(did: string, found: readonly Cert[]): Outcome {
  const value = found.map(({ endsAt, ...cert }) => ({ ...cert, ends: isoTime(endsAt) }))
  const lines = value.map(({ name, use, hosts, ends }) =>
    [did, name, use, ...hosts, `until ${ends.slice(0, 10)}`]
      .filter((part) => part !== '')
      .join(' '),
  )
  return {
    exit: Exit.ok,
    value,
    lines: lines.length === 0 ? [did === 'renewed' ? 'nothing ends so soon' : 'nothing'] : lines,
  }
}
