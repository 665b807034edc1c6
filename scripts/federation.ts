/**
 * `make federation`: a self-hosted node with a federation's configuration, which is followed while it runs.
 *
 *   node scripts/federation.ts [--federation config/federation.yaml] [options of vaultmesh selfhost]
 *
 * The file names real keys, so none is supplied. Without one this says who the node here is, in the words that go into
 * its peers' allow-lists, and ends with exit code 1.
 */

import { existsSync, readFileSync } from 'node:fs'
import { relative, resolve } from 'node:path'
import { parseArgs } from 'node:util'
import { unstable_readConfig as readConfig } from 'wrangler'
import { fromBase64Url } from '#core/bytes.ts'
import { deriveIdentity, deriveKey } from '#core/node-keys.ts'
import { originOf } from '#core/succession.ts'
import { formatVkey, TYPE_ED25519, verifierKey } from '#core/signed-note.ts'
import { ROOT } from './build.ts'
import { fail } from './fail.ts'
import { homeAt, type Home } from './home.ts'
import { nodeSecret } from './keystore.ts'
import { rotationVars } from './rotation-file.ts'
import { readLogs } from './succession.ts'
import { portOf } from './listen.ts'
import { selfhost, selfhostOptions } from './selfhost.ts'
import { FEDERATION_USAGE } from './usage.ts'

/** Where the configuration is looked for; the second is the plan's name for it. */
const CONFIGS = ['config/federation.yaml', 'federation/config.yaml'] as const
const EXAMPLE = 'config/examples/federation.config.yaml'

/** What a peer writes down of a node. */
export interface NodeNames {
  readonly did: string
  readonly origin: string
  readonly vkey: string
}

/** The names of the node in `home`, whose keys are made if there are none; it need not run. */
export async function namesIn(home: Home, firstOrigin: string): Promise<NodeNames> {
  const secret = fromBase64Url(await nodeSecret(home.path))
  const { did } = await deriveIdentity(secret, 1)
  // Logs that forked were ended; the one after them is current.
  const number = readLogs(home).length + 1
  const origin = originOf(firstOrigin, number)
  const { publicKey } = await deriveKey(secret, 'log', number)
  const vkey = formatVkey(verifierKey(origin, publicKey, TYPE_ED25519))
  return { did: rotationVars(home, process.env)['NODE_DID'] ?? did, origin, vkey }
}

/** Runs a node of a federation until it is told to stop; resolves to the exit code. */
export async function federation(args: readonly string[]): Promise<number> {
  if (args.includes('--help') || args.includes('-h')) {
    console.log(`usage: make federation ${FEDERATION_USAGE}`)
    return 0
  }
  const { values } = parseArgs({ args: [...args], options: selfhostOptions })
  const named = values.federation
  const found = (named === undefined ? CONFIGS : [named]).find((file) => existsSync(file))
  if (found !== undefined) return selfhost([...args, '--federation', found])
  console.error(
    `vaultmesh: There is no ${named ?? CONFIGS[0]}: copy ${near(resolve(ROOT, EXAMPLE))} there and list your peers.`,
  )
  const home = homeAt(values.home)
  const { did, origin, vkey } = await namesIn(home, firstOriginOf(home))
  console.log(`# This node, for peers_allowlist of its peers (keys in ${near(home.path)}):`)
  if (/\.example(?:\/|$)/.test(origin)) {
    console.log(
      '# Its log has the name of the example: set ORIGIN=log.you.org/log before its first start.',
    )
  }
  console.log(`  - did: '${process.env['NODE_DID'] || did}'`)
  console.log(`    url: '${process.env['PUBLIC_URL'] || addressOf(values.host, values.port)}'`)
  console.log(`    origin: '${origin}'`)
  console.log(`    vkey: '${vkey}'`)
  return 1
}

/** The name of the node's first log as a start would have it; one that was started has it already. */
function firstOriginOf(home: Home): string {
  const named = process.env['ORIGIN'] ?? ''
  if (named !== '') return named
  const [first] = readLogs(home)
  if (first !== undefined) return first.origin
  if (existsSync(home.trust)) {
    return (JSON.parse(readFileSync(home.trust, 'utf8')) as { origin: string }).origin
  }
  const { vars } = readConfig({ config: resolve(ROOT, 'wrangler.toml') })
  return String(vars['ORIGIN'])
}

function addressOf(host: string, port: string): string {
  const everywhere = host === '0.0.0.0' || host === '::'
  const name = everywhere ? '127.0.0.1' : host.includes(':') ? `[${host}]` : host
  return `http://${name}:${portOf(port)}`
}

function near(path: string): string {
  const short = relative(process.cwd(), path)
  return short.startsWith('..') ? path : short
}

if (import.meta.main) federation(process.argv.slice(2)).then((code) => process.exit(code), fail)
