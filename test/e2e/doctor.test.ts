/**
 * What an operator does to a running node without stopping it: doctor, peer, intake and dlq, as commands, on one node.
 */

import { execFile } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { chmod, readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import type { Check } from '#core/doctor.ts'
import type { OperatedPeers } from '#store/federation-api.ts'
import { ROOT } from '../../scripts/build.ts'
import { outcomeOf, parse } from '../../scripts/cli/command.ts'
import { dlq } from '../../scripts/cli/dlq.ts'
import { doctor } from '../../scripts/cli/doctor.ts'
import { intake } from '../../scripts/cli/intake.ts'
import { peer as peerCommand } from '../../scripts/cli/peer.ts'
import { readSecret, NODE_SECRET_FILE } from '../../scripts/keystore.ts'
import { startNode, type RunningNode } from '../../scripts/selfhost.ts'
import { signEvent, testSigner } from '../support/signing.ts'
import { FakePeer, refusedBy, until } from './federation-support.ts'
import { freePort, sandbox, vaultmesh } from './support.ts'

const BTC_KEY = '5c'.repeat(32)
const TYPE = 'com.example.paid'
const me = testSigner('EdDSA', 'operated')

let dir: string
let remove: () => Promise<void>
let node: RunningNode
let peer: FakePeer
let home: string
let federation: string
let rules: string
let silent: string

beforeAll(async () => {
  ;({ dir, remove } = await sandbox())
  home = join(dir, 'home')
  federation = join(dir, 'federation.yaml')
  rules = join(dir, 'intake.yaml')
  silent = `127.0.0.1:${await freePort()}`
  await writeFile(federation, '# ours\ngossip:\n  interval_ms: 500 # often\npeers_allowlist: []\n')
  await writeFile(rules, `schemas:\n  ${TYPE}: paid.json\n`)
  await writeFile(join(dir, 'paid.json'), JSON.stringify({ required: ['amount'] }))
  node = await startNode({
    home,
    port: await freePort(),
    federation,
    intake: rules,
    // A provider that is silent, behind a password that nobody may see.
    vars: {
      RAILS: 'BTC',
      BTC_NETWORK: 'regtest',
      BTC_URLS: `core+http://user:hunter2@${silent}`,
      BTC_PRIVATE_KEY: BTC_KEY,
    },
  })
  peer = await FakePeer.start('operated', 'no law')
})

afterAll(async () => {
  await peer?.stop()
  await node?.stop()
  await remove?.()
})

/** The command line as a process of its own. */
function spawned(...args: readonly string[]) {
  return vaultmesh(args, { env: { VAULTMESH_HOME: home } })
}

const commands = { doctor, peer: peerCommand, intake, dlq }
const terminal = {
  progress: () => undefined,
  paint: (_colour: string, text: string) => text,
  stdin: () => Promise.reject(new Error('nothing is typed')),
  secret: () => Promise.reject(new Error('nothing is typed')),
}

/** What a command said, and how it ended. */
interface Ran<T> {
  readonly code: number
  readonly value: T
  readonly said: string
}

/** The same within this process: a process each would be half of this file's time. */
async function run(
  [name, ...args]: readonly [keyof typeof commands, ...string[]],
  env: Record<string, string> = {},
): Promise<Ran<unknown>> {
  const before = { ...process.env }
  Object.assign(process.env, { VAULTMESH_HOME: home, ...env })
  const command = commands[name]
  try {
    const { values, positionals } = parse(command, args)
    const { exit: code, value, lines } = await command.run(positionals, values, terminal)
    return { code, value, said: lines.join('\n') }
  } catch (error) {
    const { exit: code, value, lines } = outcomeOf(error, command)
    return { code, value, said: lines.join('\n') }
  } finally {
    process.env = before
  }
}

interface Doctored {
  readonly state: string
  readonly checks: readonly Check[]
}
const doctored = async (...args: Parameters<typeof run>) => (await run(...args)) as Ran<Doctored>
const peers = async () => (await run(['peer', 'list'])) as Ran<OperatedPeers>
const of = (found: Doctored, area: string) => found.checks.filter((c) => c.area === area)

describe('doctor', () => {
  test('fails by what fails, with what to do, and says no secret', async () => {
    const { code, value } = await doctored(['doctor'])
    const shown = await spawned('doctor')
    const identity = await readFile(join(dir, 'age.txt'), 'utf8')
    const secrets = [
      'hunter2',
      BTC_KEY,
      await readSecret(join(home, NODE_SECRET_FILE)),
      /AGE-SECRET-KEY-\w+/.exec(identity)![0],
    ]
    for (const secret of secrets)
      expect(JSON.stringify(value) + shown.stdout + shown.stderr).not.toContain(secret)
    expect(shown.code).toBe(1)
    expect([code, value.state]).toEqual([1, 'fail'])
    expect(of(value, 'provider')).toMatchObject([
      { state: 'fail', next: expect.stringContaining('BTC_URLS') as string },
    ])
    expect(of(value, 'provider')[0]!.says).toContain(`BTC ${silent}: could not be reached`)
    expect(shown.stdout).toContain('fail  provider')
    expect(shown.stdout).toContain('→ Ask its operator')
  })

  test('asks nobody outside with --local, and what it finds well ends with 0', async () => {
    const { code, value } = await doctored(['doctor', '--local'])
    expect(value.checks.filter(({ state }) => state === 'fail')).toEqual([])
    expect(code).toBe(0)
    for (const area of [
      'runtime',
      'disk',
      'permissions',
      'keys',
      'node',
      'config',
      'intake',
      'checkpoint',
      'queues',
    ])
      expect([area, of(value, area)[0]?.state]).toEqual([area, 'ok'])
    expect(of(value, 'provider')).toEqual([])
  })

  test('sees a name that is nearly a variable, and a key that others may read', async () => {
    const key = join(dir, 'age.txt')
    await chmod(key, 0o644)
    const { code, value } = await doctored(['doctor', '--local'], {
      SEAL_BATCH_MAX_ITEM: '9',
    })
    await chmod(key, 0o600)
    expect(code).toBe(1)
    expect(of(value, 'permissions')).toMatchObject([{ state: 'fail', next: `chmod 600 ${key}` }])
    expect(
      of(value, 'config')
        .map(({ next }) => next ?? '')
        .join(),
    ).toContain('SEAL_BATCH_MAX_ITEMS')
  })

  test('ends with 4 if the node of --url does not answer, and with 2 without its token', async () => {
    const args = ['doctor', '--url', `http://${silent}`] as const
    expect((await run(args, { VAULTMESH_ADMIN_TOKEN: 't' })).code).toBe(4)
    expect((await run(args)).code).toBe(2)
  })
})

describe('peer', () => {
  const did = () => peer.did

  test('allow writes the file in place, comments and all, and the node takes the peer’s envelopes', async () => {
    const ran = await spawned('peer', 'allow', did(), '--at', peer.url, '--note', 'met at #2')
    expect(ran).toMatchObject({
      code: 0,
      stdout: expect.stringContaining('has taken it over') as string,
    })
    const text = await readFile(federation, 'utf8')
    expect(text).toBe(
      `# ours\ngossip:\n  interval_ms: 500 # often\npeers_allowlist:\n  - did: ${did()} # met at #2\n    url: ${peer.url}\n`,
    )
    const known = { url: node.url, did: node.trust.node_did }
    await until(
      'an envelope to be heard',
      async () => (await peer.speak(known)).status,
      (status) => status === 200,
    )
    const { code, value } = await peers()
    expect(code).toBe(0)
    expect(value.followsFile).toBe(true)
    expect(value.peers).toMatchObject([{ did: did(), url: peer.url, cosignedSize: null }])
    expect((await run(['peer', 'list'])).said).toContain('ANOTHER LAW')
  })

  test('revoke has its envelopes refused at once', async () => {
    const known = { url: node.url, did: node.trust.node_did }
    expect((await peer.speak(known)).status).toBe(200)
    expect((await run(['peer', 'revoke', did()])).code).toBe(0)
    await refusedBy(await peer.speak(known), 'unknown-peer')
    expect(await readFile(federation, 'utf8')).toContain('# ours')
    expect((await peers()).value.peers).toEqual([])
  })

  test('asked twice changes nothing, and a wrong call is told so', async () => {
    const before = await readFile(federation, 'utf8')
    expect(await run(['peer', 'revoke', did()])).toMatchObject({
      code: 0,
      value: { changed: false },
    })
    expect((await run(['peer', 'allow', 'alice'])).code).toBe(2)
    expect((await run(['peer', 'allow', did(), '--at', 'ftp://x'])).code).toBe(1)
    expect(await readFile(federation, 'utf8')).toBe(before)
  })
})

describe('intake', () => {
  const post = async (data: unknown): Promise<number> => {
    const body = signEvent(me, { payload: { type: TYPE, data } })
    const headers = { 'content-type': 'application/jose' }
    return (await fetch(`${node.url}/events`, { method: 'POST', headers, body })).status
  }
  const shown = async () => {
    const { value } = await run(['intake', 'show'])
    return value as { readonly sha256: string; readonly followsFile: boolean }
  }

  test('follows its file and the schemas that it names, without a restart', async () => {
    expect(await post({})).toBe(422)
    expect(await post({ amount: 1 })).toBe(202)
    await writeFile(join(dir, 'paid.json'), JSON.stringify({ required: ['sum'] }))
    await until(
      'the new schema',
      () => post({ sum: 1 }),
      (status) => status === 202,
    )
    expect(await post({ amount: 1 })).toBe(422)
    expect(await (await fetch(`${node.url}/schemas/${TYPE}`)).json()).toEqual({ required: ['sum'] })
  })

  test('who may post follows the file as well', async () => {
    await writeFile(
      rules,
      `allow: [${testSigner('EdDSA', 'other').did}]\nschemas:\n  ${TYPE}: paid.json\n`,
    )
    await until(
      'the list',
      () => post({ sum: 1 }),
      (status) => status === 403,
    )
    await writeFile(rules, `schemas:\n  ${TYPE}: paid.json\n`)
    await until(
      'the list to be gone',
      () => post({ sum: 1 }),
      (status) => status === 202,
    )
  })

  test('a file that is refused changes nothing, and check says why before it is saved', async () => {
    const before = await shown()
    expect(before.followsFile).toBe(true)
    const wrong = join(dir, 'wrong.yaml')
    await writeFile(wrong, `schemas:\n  ${TYPE}: { requird: [sum] }\n`)
    const checked = await run(['intake', 'check', wrong])
    expect(checked.code).toBe(1)
    expect(checked.said).toContain(`The schema of ${TYPE}: /requird`)
    await writeFile(rules, await readFile(wrong))
    // Twice as long as the file is looked at.
    await new Promise((over) => setTimeout(over, 1200))
    expect(await shown()).toEqual(before)
    expect(await post({ amount: 1 })).toBe(422)
  })

  test('check judges an event before it is posted, signed or not', async () => {
    const example = 'config/examples/intake.yaml'
    const file = join(dir, 'event.json')
    for (const [amount, code] of [
      [1, 0],
      [0, 1],
    ] as const) {
      await writeFile(file, JSON.stringify({ type: TYPE, data: { amount } }))
      expect((await run(['intake', 'check', example, file])).code).toBe(code)
    }
    await writeFile(file, signEvent(me, { payload: { type: TYPE, data: { amount: 0 } } }))
    expect(await run(['intake', 'check', example, file])).toMatchObject({
      code: 1,
      value: { taken: false, problem: { code: 'schema-mismatch', instancePath: '/data/amount' } },
    })
  })

  test('apply is refused where the node follows a file', async () => {
    const ran = await run(['intake', 'apply', 'config/examples/intake.yaml'])
    expect(ran.code).toBe(1)
    expect(ran.said).toContain('change that file')
  })
})

test('dlq lists and replays nothing where nothing is dead, and knows no name that is none', async () => {
  expect(await run(['dlq', 'list'])).toMatchObject({ code: 0, value: { deadLetters: [] } })
  expect(await run(['dlq', 'replay'])).toMatchObject({ code: 0, value: { replayed: 0 } })
  expect((await run(['dlq', 'replay', 'abcd'])).code).toBe(1)
  expect((await spawned('dlq', 'replay', 'no name')).code).toBe(2)
})

test('the commands of docs/doctor.md and docs/intake.md do what they say', async () => {
  const blocks = ['docs/doctor.md', 'docs/intake.md'].flatMap((file) =>
    [...readFileSync(join(ROOT, file), 'utf8').matchAll(/^```sh\n([\s\S]*?)^```$/gm)].map(
      ([, sh]) => sh!,
    ),
  )
  expect(blocks.length).toBe(5)
  const env = { ...process.env, VAULTMESH_HOME: home, VAULTMESH_URL: node.url }
  const { stdout } = await promisify(execFile)('bash', ['-euc', blocks.join('\n')], {
    cwd: ROOT,
    env,
  })
  for (const said of [
    'ok    keys',
    'no peers',
    'no dead letters',
    '0 replayed',
    'the file is sound',
    'may post',
  ])
    expect(stdout).toContain(said)
  expect(stdout).toContain(`"url":"/schemas/${TYPE}"`)
})

test('with the node stopped, doctor looks at the rest, and peer edits the file for the next start', async () => {
  await node.stop()
  const { code, value } = await doctored(['doctor'])
  expect([code, value.state]).toEqual([0, 'warn'])
  expect(of(value, 'node')).toMatchObject([{ state: 'warn' }])
  expect(of(value, 'config')[0]).toMatchObject({ state: 'ok' })
  const ran = await run(['peer', 'allow', peer.did])
  expect(ran).toMatchObject({
    code: 0,
    said: expect.stringContaining('from the next start') as string,
  })
  expect(await readFile(federation, 'utf8')).toContain(`- ${peer.did}`)
})
