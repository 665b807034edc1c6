/**
 * The commands of an operator's secrets with the real sops and the real wrangler: set, edit, rotate, check, run, push,
 * and the bootstrap of the plan. A sops that writes down what it is told stands on PATH before the real one.
 */

import { generateX25519Identity, identityToRecipient } from 'age-encryption'
import { spawnSync } from 'node:child_process'
import {
  appendFileSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  statSync,
  writeFileSync,
} from 'node:fs'
import { createServer, type Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import { dirname, join, resolve } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { ROOT } from '../../scripts/build.ts'
import { outcomeOf, parse, type Outcome, type Terminal } from '../../scripts/cli/command.ts'
import { secrets as command } from '../../scripts/cli/secrets.ts'
import { homeAt } from '../../scripts/home.ts'
import { nodeSecret, writeSecret } from '../../scripts/keystore.ts'
import { editFile, recipientsOf } from '../../scripts/secrets-folder.ts'
import { findSops } from '../../scripts/sops-binary.ts'
import { loadSecrets, secretVariables } from '../../scripts/sops.ts'
import { ruleOf } from '../../scripts/sops-rules.ts'
import { filesIn, holds } from '../support/secret-search.ts'
import { blocks } from './doc-blocks.ts'
import { sandbox, vaultmesh } from './support.ts'

const SOPS = await findSops()
const real = describe.skipIf(SOPS === null)
const WHY = '(skipped where sops is not installed)'
const SHM = '/dev/shm'
const onTmpfs = test.skipIf(!existsSync(SHM))

let box: Awaited<ReturnType<typeof sandbox>>
/** What sops was told: arguments and environments of all its runs. */
let told: string
let mine: string
const other = { identity: '', recipient: '', file: '' }

beforeAll(async () => {
  box = await sandbox()
  told = join(box.dir, 'told')
  writeFileSync(told, '')
  const bin = join(box.dir, 'bin')
  mkdirSync(bin)
  const script = `#!/bin/sh\n{ printf '%s\\n' "$@"; env; } >> ${told}\nexec ${SOPS} "$@"\n`
  writeFileSync(join(bin, 'sops'), script, { mode: 0o755 })
  process.env['PATH'] = `${bin}:${process.env['PATH']}`
  const identity = await generateX25519Identity()
  Object.assign(other, {
    identity,
    recipient: await identityToRecipient(identity),
    file: join(box.dir, 'other.txt'),
  })
  writeFileSync(other.file, `${identity}\n`, { mode: 0o600 })
})
afterAll(() => box.remove())

/** `vaultmesh secrets args…` in this process; `input` is its standard input. */
async function called(args: readonly string[], input = ''): Promise<Outcome> {
  const terminal = { stdin: async () => Buffer.from(input) } as unknown as Terminal
  try {
    const { values, positionals } = parse(command, args)
    return await command.run(positionals, values, terminal)
  } catch (error) {
    return outcomeOf(error, command)
  }
}

async function ok(args: readonly string[], input = ''): Promise<Outcome> {
  const outcome = await called(args, input)
  expect(outcome.exit, outcome.lines.join('\n')).toBe(0)
  return outcome
}

/** The one line of a refusal. */
async function refusal(args: readonly string[], input = ''): Promise<string> {
  const { exit, lines } = await called(args, input)
  expect({ exit, lines: lines.length }).toEqual({ exit: 1, lines: 1 })
  return lines[0]!
}

/** Runs `vaultmesh args…` on a terminal, where `keys` (a Python literal) are typed once `when` appears. */
function typing(when: string, keys: string, args: readonly string[], env: object = {}) {
  const pty = `import os,pty,sys
pid,fd=pty.fork()
if pid==0: os.execv(sys.argv[1],sys.argv[1:])
said=b''
while True:
  try: chunk=os.read(fd,1024)
  except OSError: break
  if not chunk: break
  said+=chunk
  if b'${when}' in chunk: os.write(fd,b'${keys}')
sys.stdout.write(said.decode())
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid,0)[1]))`
  const cli = resolve(ROOT, 'scripts/vaultmesh.ts')
  const ran = spawnSync('python3', ['-c', pty, process.execPath, cli, ...args], {
    encoding: 'utf8',
    env: { ...process.env, ...env },
  })
  return { status: ran.status, said: ran.stdout }
}

let folders = 0
/** A folder that `secrets create` filled. */
async function made(): Promise<string> {
  const dir = join(box.dir, `s${++folders}`)
  const { value } = await ok(['create', '--dir', dir])
  expect((value as { made: unknown[] }).made).toHaveLength(3)
  const [found] = await recipientsOf(join(dir, 'btc.env'))
  mine = found!
  return dir
}

/** What the real sops reads, with an identity file. */
function readByReal(path: string, identity = process.env['VAULTMESH_AGE_KEY_FILE']!) {
  const args = ['--disable-version-check', 'decrypt', '--output-type', 'json', path]
  const env = { PATH: process.env['PATH'], SOPS_AGE_KEY_FILE: identity }
  const ran = spawnSync(SOPS!, args, { env, encoding: 'utf8' })
  return ran.status === 0 ? (JSON.parse(ran.stdout) as Record<string, string>) : null
}

function snapshot(dir: string): readonly string[] {
  return filesIn(dir).map((path) => `${path}\n${readFileSync(path, 'latin1')}`)
}

const PASSWORD = 'correct-horse-battery-staple'
const URLS = `core+https://me:${PASSWORD}@btc.example`

real(`vaultmesh secrets set ${WHY}`, () => {
  test('adds a variable or changes it, keeps the others, and tells sops on a pipe alone', async () => {
    const dir = await made()
    const before = await loadSecrets(dir)
    const { value } = await ok(['set', 'BTC_URLS', '--dir', dir], `${URLS}\n`)
    expect(value).toEqual({ file: join(dir, 'btc.env'), name: 'BTC_URLS', replaced: false })
    expect(readByReal(join(dir, 'btc.env'))).toEqual({
      BTC_PRIVATE_KEY: before['BTC_PRIVATE_KEY'],
      BTC_URLS: URLS,
    })
    // What JSON, dotenv and sops each write in another way.
    const odd = String.raw`a"b\c\n 'd' $e #f = %25`
    await ok(['set', 'OIDC_CLIENT_SECRET', '--dir', dir], odd)
    await ok(['set', 'BTC_URLS', '--dir', dir], `${URLS}/2`)
    const after = { ...before, BTC_URLS: `${URLS}/2`, OIDC_CLIENT_SECRET: odd }
    expect(await loadSecrets(dir)).toEqual(after)
    expect(readByReal(join(dir, 'node.env'))).toEqual({ OIDC_CLIENT_SECRET: odd })
    await ok(['rotate', '--dir', dir])
    expect(await loadSecrets(dir)).toEqual(after)
    expect(statSync(join(dir, 'node.env')).mode & 0o777).toBe(0o600)
    const all = [...Object.values(before), PASSWORD, odd]
    expect(readFileSync(told, 'utf8')).toContain('--value-stdin')
    expect(holds(readFileSync(told), all)).toBe(false)
    expect(filesIn(dir).filter((path) => holds(readFileSync(path), all))).toEqual([])
  })

  test('makes a new key, and none over one that may hold money without being told so twice', async () => {
    const dir = await made()
    const { EVM_PRIVATE_KEY: old } = await loadSecrets(dir)
    expect(await refusal(['set', 'EVM_PRIVATE_KEY', '--new', '--dir', dir])).toContain(
      'move that first, then say --replace',
    )
    expect(await loadSecrets(dir)).toMatchObject({ EVM_PRIVATE_KEY: old })
    await ok(['set', 'EVM_PRIVATE_KEY', '--new', '--replace', '--dir', dir])
    const { EVM_PRIVATE_KEY: now } = await loadSecrets(dir)
    expect(now).toMatch(/^0x[0-9a-f]{64}$/)
    expect(now).not.toBe(old)
  })

  test('refuses what a start would refuse, quotes nothing, and leaves all as it was', async () => {
    const dir = await made()
    await ok(['set', 'BTC_URLS', '--dir', dir], URLS)
    const before = snapshot(dir)
    const hush = `hush-${'ab'.repeat(30)}`
    for (const [args, input, words] of [
      [['BTC_PRIVATE_KEY', '--replace'], hush, 'something else than 64 hex digits'],
      [['METRICS_TOKEN'], 'short', '16 to 512'],
      [['EVM_URLS'], 'http://a http://b', 'without spaces'],
      [['BTC_URLS', '--file', 'node.env'], URLS, 'btc.env sets BTC_URLS already.'],
      [['BTC_URLS'], '', 'No value for BTC_URLS'],
    ] as const) {
      const said = await refusal(['set', ...args, '--dir', dir], input)
      expect(said).toContain(words)
      expect(said).not.toMatch(/hush|short|correct-horse/)
    }
    for (const wrong of [
      ['set', 'BTC_PRIVATE_KEY', hush],
      ['set', hush],
      [hush],
      ['set', 'BTC_URLS', '--new'],
      ['set', 'BTC_URLS', '--file', '../x.env'],
      ['edit', '/etc/x.env'],
      ['rotate', '--only', 'A'],
      ['run'],
      [],
      ['addresses', '--network', 'x'],
    ]) {
      const { exit, lines } = await called([...wrong, '--dir', dir])
      expect({ wrong, exit }).toEqual({ wrong, exit: 2 })
      expect(lines.join()).not.toContain('hush')
    }
    expect(await refusal(['set', 'BTC_URLS', '--dir', join(box.dir, 'none')], URLS)).toContain(
      'vaultmesh secrets init makes it',
    )
    expect(snapshot(dir)).toEqual(before)
  })

  test('takes what is typed at a terminal, which shows nothing of it', async () => {
    const dir = await made()
    const args = ['secrets', 'set', 'METRICS_TOKEN', '--dir', dir]
    const { said } = typing('(not shown)', '0123456789abcdefX\\x7f\\r', args)
    expect(said).toContain('METRICS_TOKEN (not shown): ')
    expect(said).not.toContain('0123')
    expect(await loadSecrets(dir)).toMatchObject({ METRICS_TOKEN: '0123456789abcdef' })
  })
})

real(`vaultmesh secrets edit ${WHY}`, () => {
  /** What `secrets edit` does, with an editor that is this shell script; $1 is the plain file. */
  async function edit(dir: string, name: string, script: string): Promise<boolean> {
    const editor = join(box.dir, 'editor')
    writeFileSync(editor, `#!/bin/sh\n${script}\n`, { mode: 0o755 })
    process.env['EDITOR'] = editor
    // Not the tests' own: the command is to find /dev/shm by itself.
    delete process.env['XDG_RUNTIME_DIR']
    return editFile(join(dir, name), process.env)
  }
  const left = () => readdirSync(SHM).filter((name) => name.startsWith(`vaultmesh-${process.pid}-`))

  onTmpfs(
    'shows the plain file on a tmpfs, to this user alone, and takes it away after',
    async () => {
      const dir = await made()
      const before = await loadSecrets(dir)
      const seen = join(box.dir, 'seen')
      const look = `stat -f -c %T "$1" > ${seen}; echo "$1" >> ${seen}; stat -c %a "$1" "$(dirname "$(dirname "$1")")" >> ${seen}`
      const add = `grep -q BTC_PRIVATE_KEY "$1" && echo 'BTC_URLS=${URLS}' >> "$1"`
      expect(await edit(dir, 'btc.env', `${look}; ${add}`)).toBe(true)
      const [type, path, mode, folder] = readFileSync(seen, 'utf8').split('\n')
      expect({ type, mode, folder }).toEqual({ type: 'tmpfs', mode: '600', folder: '700' })
      expect(path).toMatch(new RegExp(`^${SHM}/vaultmesh-${process.pid}-.*/btc\\.env$`))
      expect(left()).toEqual([])
      expect(await loadSecrets(dir)).toEqual({ ...before, BTC_URLS: URLS })
      expect(readByReal(join(dir, 'btc.env'))).toMatchObject({ BTC_URLS: URLS })
      // A file that is not there yet.
      await edit(dir, 'node.env', `echo METRICS_TOKEN=0123456789abcdef > "$1"`)
      expect(readByReal(join(dir, 'node.env'))).toEqual({ METRICS_TOKEN: '0123456789abcdef' })
    },
  )

  onTmpfs(
    'leaves the file as it was when nothing, or what a start refuses, was written',
    async () => {
      const dir = await made()
      const before = snapshot(dir)
      expect(await edit(dir, 'btc.env', 'true')).toBe(false)
      for (const [script, words] of [
        ['exit 3', 'The editor or sops ended with 201'],
        ['echo PATH=hush >> "$1"', 'a variable that is none of'],
        ['echo BTC_URLS= >> "$1"', 'has an empty value'],
        [
          'echo EVM_PRIVATE_KEY=0x$(printf "ab%.0s" $(seq 32)) >> "$1"',
          'sets EVM_PRIVATE_KEY already',
        ],
      ] as const) {
        const error = await edit(dir, 'btc.env', script).catch((thrown: unknown) => thrown)
        const { message } = error as Error
        expect(message).toContain(words)
        expect(message).not.toMatch(/hush|abab/)
        expect(left()).toEqual([])
      }
      expect(snapshot(dir)).toEqual(before)
    },
  )

  onTmpfs('gives way to who changed the file meanwhile', async () => {
    const dir = await made()
    const path = join(dir, 'btc.env')
    const script = `echo '# theirs' >> ${path}; echo 'BTC_URLS=x' >> "$1"`
    await expect(edit(dir, 'btc.env', script)).rejects.toThrow(
      'was changed by somebody else meanwhile',
    )
    expect(readFileSync(path, 'utf8')).toMatch(/# theirs\n$/)
  })

  onTmpfs('needs a terminal, and cleans up when Ctrl-C ends it', async () => {
    const dir = await made()
    const before = snapshot(dir)
    expect(await refusal(['edit', 'btc.env', '--dir', dir])).toContain('There is no terminal')
    const editor = join(box.dir, 'bad-editor')
    writeFileSync(editor, '#!/bin/sh\necho hush >> "$1"\n', { mode: 0o755 })
    const args = ['secrets', 'edit', 'btc.env', '--dir', dir]
    const inMemory = readdirSync(SHM)
    // sops asks what to do about a line that is none.
    const { status, said } = typing('Press enter', '\\x03', args, { EDITOR: editor })
    expect(said).toContain('The editor or sops ended with')
    expect(status).toBe(1)
    const more = readdirSync(SHM).filter((name) => !inMemory.includes(name))
    expect(more.filter((name) => name.startsWith('vaultmesh-'))).toEqual([])
    expect(snapshot(dir)).toEqual(before)
  })

  onTmpfs('removes what a killed session left in memory', async () => {
    const ended = spawnSync('true').pid
    const stale = join(SHM, `vaultmesh-${ended}-x`)
    mkdirSync(stale)
    await edit(await made(), 'btc.env', 'true')
    expect(existsSync(stale)).toBe(false)
  })
})

real(`vaultmesh secrets rotate ${WHY}`, () => {
  test('gives every file a new data key, and recipients come and go, in the rules too', async () => {
    const dir = await made()
    const [btc, evm] = [join(dir, 'btc.env'), join(dir, 'evm.env')]
    const values = await loadSecrets(dir)
    const boxes = () =>
      [btc, evm].map((path) => /map_enc=(.*)/.exec(readFileSync(path, 'utf8'))![1])
    const first = boxes()
    await ok(['rotate', '--dir', dir])
    for (const [index, now] of boxes().entries()) expect(now).not.toBe(first[index])
    expect(readByReal(btc, other.file)).toBe(null)

    await ok(['rotate', '--add', other.recipient, '--dir', dir])
    expect(await ruleOf(btc)).toMatchObject({ recipients: [mine, other.recipient] })
    for (const path of [btc, evm]) {
      expect(await recipientsOf(path)).toEqual([mine, other.recipient])
      expect(readByReal(path, other.file)).toEqual(readByReal(path))
    }
    // A new file is for both from then on.
    await ok(['set', 'METRICS_TOKEN', '--dir', dir], '0123456789abcdef')
    expect(readByReal(join(dir, 'node.env'), other.file)).not.toBe(null)

    const { lines } = await ok(['rotate', '--remove', other.recipient, '--dir', dir])
    expect(lines.join()).toContain('change those too')
    expect(await ruleOf(btc)).toMatchObject({ recipients: [mine] })
    for (const path of filesIn(dir).filter((name) => name.endsWith('.env')))
      expect(readByReal(path, other.file)).toBe(null)
    expect(await loadSecrets(dir)).toMatchObject(values)
    expect(readFileSync(join(dir, '.sops.yaml'), 'utf8')).toMatch(/^# Whom sops encrypts/)
  })

  test('finishes, when called again, what a crash cut off between two files', async () => {
    const dir = await made()
    const evm = join(dir, 'evm.env')
    const before = readFileSync(evm)
    await ok(['rotate', '--add', other.recipient, '--dir', dir])
    writeFileSync(evm, before)
    expect(
      (await called(['check', '--dir', dir, '--home', join(box.dir, 'no')])).lines.join(),
    ).toContain('is encrypted to others than')
    await ok(['rotate', '--add', other.recipient, '--dir', dir])
    expect(await recipientsOf(evm)).toEqual([mine, other.recipient])
    expect((await ruleOf(evm))!.recipients).toEqual([mine, other.recipient])
  })

  test('locks nobody out of his own, and changes nothing where a file is not in order', async () => {
    const dir = await made()
    const before = snapshot(dir)
    for (const [args, words] of [
      [['--remove', mine], 'could then no longer read its own secrets'],
      [['--add', other.recipient, '--remove', mine], 'could then no longer read'],
      [['--remove', other.recipient], 'is no recipient of'],
      [['--add', 'age1nonsense'], 'A recipient is age1'],
      [['--add', other.identity], 'That is an age identity, a secret'],
    ] as const) {
      const said = await refusal(['rotate', ...args, '--dir', dir])
      expect(said).toContain(words)
      expect(said).not.toContain('AGE-SECRET')
    }
    expect(snapshot(dir)).toEqual(before)
    writeFileSync(join(dir, 'a.env'), 'METRICS_TOKEN=hush\n')
    expect(await refusal(['rotate', '--add', other.recipient, '--dir', dir])).toContain(
      'a.env is not encrypted',
    )
    expect(snapshot(dir).slice(-before.length)).toHaveLength(before.length)
    expect((await ruleOf(join(dir, 'btc.env')))!.recipients).toEqual([mine])
  })
})

describe('vaultmesh secrets check', () => {
  test.skipIf(SOPS === null)(
    `says who can read what, and what is wrong with a file ${WHY}`,
    async () => {
      const dir = await made()
      const home = homeAt(join(box.dir, 'home'))
      await nodeSecret(home.path)
      // The keys of make up: a rotation that passes over them would close them for good.
      const devnet = join(home.path, 'devnet', 'keys.age')
      mkdirSync(dirname(devnet))
      await writeSecret(devnet, '{}')
      const check = () => called(['check', '--dir', dir, '--home', home.path])
      const good = await check()
      expect(good).toMatchObject({
        exit: 0,
        value: { problems: [], identity: { recipients: [mine] } },
      })
      expect(good.lines.join('\n')).toContain(`OK   ${join(dir, 'btc.env')}  BTC_PRIVATE_KEY`)
      expect(good.lines.join('\n')).toContain(`OK   ${join(home.path, 'node.secret.age')}`)
      expect(good.lines.join('\n')).toContain(`OK   ${devnet}`)
      expect(good.lines.join('\n')).toContain('has one recipient')
      await ok(['rotate', '--add', other.recipient, '--dir', dir])
      expect((await check()).lines).toContain(`  readable by other ${other.recipient}`)
      // A value that was changed; a file in clear; a node's secret of another machine.
      const btc = join(dir, 'btc.env')
      const text = readFileSync(btc, 'utf8')
      writeFileSync(
        btc,
        text.replace(/data:./, (all) => (all === 'data:A' ? 'data:B' : 'data:A')),
      )
      appendFileSync(join(dir, 'x.env'), 'METRICS_TOKEN=hush\n')
      writeFileSync(join(home.path, 'client.key.age'), 'age-encryption.org/v1\n')
      const bad = await check()
      const { problems } = bad.value as { problems: string[] }
      expect(bad.exit).toBe(1)
      expect(problems).toHaveLength(3)
      expect(problems[0]).toContain('was changed')
      expect(problems[1]).toContain('x.env is not encrypted')
      expect(problems[2]).toContain('Cannot decrypt')
      expect(bad.lines.join()).not.toContain('hush')
    },
  )
})

real(`vaultmesh secrets run ${WHY}`, () => {
  test('gives a command the variables in its environment, no other one, and its exit code', async () => {
    const dir = await made()
    const keys = await loadSecrets(dir)
    const run = (...args: string[]) => vaultmesh(['secrets', 'run', '--dir', dir, ...args])
    const both = await run('--', 'sh', '-c', 'printf %s "$BTC_PRIVATE_KEY$EVM_PRIVATE_KEY"; exit 7')
    expect(both).toMatchObject({ code: 7, stderr: '' })
    expect(both.stdout).toBe(`${keys['BTC_PRIVATE_KEY']}${keys['EVM_PRIVATE_KEY']}`)
    const one = await run('--only', 'BTC_PRIVATE_KEY', '--', 'sh', '-c', 'echo "$EVM_PRIVATE_KEY."')
    expect(one).toMatchObject({ code: 0, stdout: '.\n' })
    expect(process.env['BTC_PRIVATE_KEY']).toBe(undefined)
    expect(await refusal(['run', '--dir', dir, '--', '/no/such/command'])).toContain('(ENOENT)')
    expect(await refusal(['run', '--only', 'EVM_URLS', '--dir', dir, '--', 'true'])).toContain(
      '--only',
    )
  })
})

real(`vaultmesh secrets push ${WHY}`, () => {
  let api: Server
  let answer: { status: number; body: unknown }
  const heard: { method: string; url: string; body: string }[] = []
  /** Arguments and environments of all processes of ours while wrangler waits for an answer. */
  let processes = Buffer.alloc(0)
  const env: Record<string, string> = {}

  beforeAll(async () => {
    api = createServer((request, response) => {
      let body = ''
      request.on('data', (chunk: Buffer) => (body += chunk.toString()))
      request.on('end', () => {
        heard.push({ method: request.method!, url: request.url!, body })
        processes = Buffer.concat(
          readdirSync('/proc')
            .filter((name) => /^\d+$/.test(name))
            .flatMap(seen),
        )
        response.writeHead(answer.status, { 'content-type': 'application/json' })
        response.end(JSON.stringify(answer.body))
      })
    })
    await new Promise<void>((ready) => api.listen(0, '127.0.0.1', ready))
    const { port } = api.address() as AddressInfo
    Object.assign(env, {
      CLOUDFLARE_API_BASE_URL: `http://127.0.0.1:${port}/client/v4`,
      CLOUDFLARE_API_TOKEN: 'api-token',
      CLOUDFLARE_ACCOUNT_ID: 'account',
      HOME: join(box.dir, 'wrangler'),
      XDG_CONFIG_HOME: join(box.dir, 'wrangler'),
      // What a careless shell may have set.
      WRANGLER_LOG: 'debug',
      WRANGLER_LOG_SANITIZE: 'false',
    })
  })
  afterAll(() => api.close())

  function seen(pid: string): Buffer[] {
    return ['cmdline', 'environ'].flatMap((name) => {
      try {
        return [readFileSync(`/proc/${pid}/${name}`)]
      } catch {
        return [] // gone, or somebody else's
      }
    })
  }

  test('sets them by wrangler, which reads them from a pipe', async () => {
    const dir = await made()
    const home = homeAt(join(box.dir, 'pushed'))
    const all = { ...(await loadSecrets(dir)), NODE_SECRET: await nodeSecret(home.path) }
    answer = { status: 200, body: { success: true, errors: [], messages: [], result: {} } }
    const args = ['secrets', 'push', '--dir', dir, '--home', home.path, '--name', 'vm-test']
    const dry = await vaultmesh([...args, '--dry-run'], { env })
    expect(dry).toMatchObject({ code: 0, stderr: '' })
    expect(dry.stdout).toContain('would set NODE_SECRET of vm-test')
    expect(heard).toEqual([])
    const ran = await vaultmesh(args, { env })
    expect(ran).toMatchObject({ code: 0, stderr: '' })
    expect(ran.stdout).toContain('set BTC_PRIVATE_KEY of vm-test')
    const sent = heard.map(({ body }) => body).join('\n')
    expect(heard[0]!.url).toContain('/accounts/account/workers/scripts/vm-test/')
    for (const [name, value] of Object.entries(all)) {
      expect(sent).toContain(`"${name}"`)
      expect(sent).toContain(value)
    }
    expect(processes.includes('wrangler')).toBe(true)
    const left = filesIn(join(box.dir, 'wrangler'))
    const said = Buffer.from(dry.stdout + ran.stdout + ran.stderr)
    for (const content of [processes, said, ...left.map((path) => readFileSync(path))])
      expect(holds(content, Object.values(all))).toBe(false)
  })

  test('says why Cloudflare refused, and never what it was sent', async () => {
    const dir = await made()
    const { BTC_PRIVATE_KEY: key } = await loadSecrets(dir)
    const errors = [{ code: 10_000, message: `Authentication error for ${key}` }]
    answer = { status: 403, body: { success: false, errors, messages: [], result: null } }
    const args = ['secrets', 'push', '--dir', dir, '--only', 'BTC_PRIVATE_KEY', '--name', 'vm-test']
    const ran = await vaultmesh(args, { env })
    expect(ran).toMatchObject({ code: 1, stdout: '' })
    expect(ran.stderr).toContain('wrangler ended with 1')
    expect(holds(Buffer.from(ran.stderr), [key!])).toBe(false)
  })
})

real(`docs/secrets.md ${WHY}`, () => {
  test('has commands that work as they stand, one after the other', async () => {
    const dir = join(box.dir, 'docs')
    mkdirSync(dir)
    writeFileSync(join(dir, 'token.txt'), 'metrics-token-of-docs')
    const env = {
      ...process.env,
      PATH: `${join(ROOT, 'scripts')}:${process.env['PATH']}`,
      VAULTMESH_AGE_KEY_FILE: join(dir, 'keys.txt'),
    }
    const script = blocks('docs/secrets.md').join('\n')
    const before = `mkdir .vaultmesh && vaultmesh keygen > /dev/null\n`
    const ran = spawnSync('bash', ['-euo', 'pipefail', '-c', before + script], {
      cwd: dir,
      env,
      encoding: 'utf8',
    })
    expect(ran.status, ran.stdout + ran.stderr).toBe(0)
    expect(ran.stdout).toContain('set BTC_URLS in secrets/btc.env')
    expect(ran.stdout).toContain('set METRICS_TOKEN in secrets/node.env')
    expect(ran.stdout).toContain('encrypted anew')
    expect(ran.stdout).toMatch(/retired age1/)
    expect(ran.stdout.match(/^BAD /m)).toBe(null)
  })

  test('says every variable and no other', () => {
    const rows = [
      ...readFileSync(join(ROOT, 'docs/secrets.md'), 'utf8').matchAll(/^\| (`[A-Z_`, ]+) \|/gm),
    ]
    const named = rows.flatMap(([, cell]) => cell!.match(/[A-Z_]{4,}/g) ?? [])
    expect(named.sort()).toEqual(Object.keys(secretVariables).sort())
  })
})

real(`the bootstrap of the plan ${WHY}`, () => {
  /** Its lines, with `path_regex` where they say `paths`, which sops does not know. */
  const lines = `age-keygen -o ~/.config/age/keys.txt
echo "creation_rules:
  - path_regex: '^secrets/'
    key_groups:
    - age:
      - $(grep -o 'age1.*' ~/.config/age/keys.txt)" > .sops.yaml
mkdir -p secrets && touch secrets/evm.env secrets/btc.env
sops -e -i secrets/evm.env && sops -e -i secrets/btc.env
`
  const hasKeygen = spawnSync('age-keygen', ['--version']).error === undefined

  test.skipIf(!hasKeygen)('makes files that take keys, and rules that rotate', async () => {
    const dir = join(box.dir, 'plan')
    mkdirSync(join(dir, '.config/age'), { recursive: true })
    const env = { PATH: process.env['PATH'], HOME: dir }
    const shell = (script: string) => spawnSync('bash', ['-euc', script], { cwd: dir, env })
    // As an operator finds them before sops ran: empty, and refused in words.
    expect(shell(lines.split('\n').slice(0, -2).join('\n')).status).toBe(0)
    const mineBefore = process.env['VAULTMESH_AGE_KEY_FILE']
    process.env['VAULTMESH_AGE_KEY_FILE'] = join(dir, '.config/age/keys.txt')
    try {
      const secrets = join(dir, 'secrets')
      await expect(loadSecrets(secrets)).rejects.toThrow('btc.env is empty and not encrypted')
      expect(shell(lines.split('\n').at(-2)!).status).toBe(0)
      expect(await loadSecrets(secrets)).toEqual({})
      for (const name of ['BTC', 'EVM'])
        await ok(['set', `${name}_PRIVATE_KEY`, '--new', '--dir', secrets])
      expect(Object.keys(readByReal(join(secrets, 'evm.env'))!)).toEqual(['EVM_PRIVATE_KEY'])
      expect((await ok(['addresses', '--dir', secrets])).lines).toHaveLength(3)
      await ok(['rotate', '--add', other.recipient, '--dir', secrets])
      expect(readByReal(join(secrets, 'btc.env'), other.file)).not.toBe(null)
      expect(readFileSync(join(dir, '.sops.yaml'), 'utf8')).toContain(other.recipient)
      // Rules that name somebody already are used, not doubled.
      const { value } = await ok(['init', '--dir', secrets])
      expect(value).toMatchObject({ made: [] })
      expect(existsSync(join(secrets, '.sops.yaml'))).toBe(false)
      // A plain file beside them stops a start.
      writeFileSync(join(secrets, 'urls.env'), 'EVM_URLS=https://me:hush@evm.example\n')
      const plain = await called(['check', '--dir', secrets, '--home', dir])
      expect(plain.exit).toBe(1)
      expect(plain.lines.join()).toContain('is not encrypted. Take it away, make new keys')
    } finally {
      process.env['VAULTMESH_AGE_KEY_FILE'] = mineBefore
    }
  })

  test('as the plan has it names every file, which is said', async () => {
    const dir = join(box.dir, 'paths')
    mkdirSync(join(dir, 'secrets'), { recursive: true })
    const rules = `creation_rules:\n  - paths: ['secrets/**']\n    key_groups:\n    - age:\n      - ${other.recipient}\n`
    writeFileSync(join(dir, '.sops.yaml'), rules)
    const args = ['--disable-version-check', 'encrypt', '--filename-override', 'README.md.env']
    const ran = spawnSync(SOPS!, args, { cwd: dir, input: 'A=1\n', encoding: 'utf8' })
    expect(ran.status).toBe(0)
    await expect(ruleOf(join(dir, 'secrets/btc.env'))).rejects.toThrow(
      'a rule with `paths`, which sops does not know and ignores',
    )
  })
})
