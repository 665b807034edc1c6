/**
 * Keys for anchoring, end to end: made by `vaultmesh secrets`, taken by a node, and found nowhere in clear.
 */

import { spawnSync } from 'node:child_process'
import {
  chmodSync,
  cpSync,
  existsSync,
  mkdirSync,
  readFileSync,
  statSync,
  writeFileSync,
} from 'node:fs'
import { join, resolve } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { WIF } from '@scure/btc-signer'
import { fromHex } from '#core/bytes.ts'
import { bitcoinAddresses, bitcoinNetworks, evmAddress } from '../../scripts/anchor-keys.ts'
import { ROOT } from '../../scripts/build.ts'
import { startNode } from '../../scripts/selfhost.ts'
import { findSops } from '../../scripts/sops-binary.ts'
import { loadSecrets } from '../../scripts/sops.ts'
import vector from '../vectors/sops.json' with { type: 'json' }
import { filesIn, holds } from '../support/secret-search.ts'
import { freePort, run, sandbox, vaultmesh } from './support.ts'

const SOPS = await findSops()
const WHY = '(skipped where sops is not installed)'
const SELFHOST = resolve(ROOT, 'scripts/selfhost.ts')
const EXAMPLE = resolve(ROOT, 'secrets/example')

let box: Awaited<ReturnType<typeof sandbox>>
beforeAll(async () => {
  box = await sandbox()
})
afterAll(() => box.remove())

/** A folder that `vaultmesh secrets init` filled. */
async function made(name: string): Promise<string> {
  const dir = join(box.dir, name)
  const ran = await vaultmesh(['secrets', 'init', '--dir', dir])
  expect(ran).toMatchObject({ code: 0, stderr: '' })
  return dir
}

describe('vaultmesh secrets init', () => {
  test.skipIf(SOPS === null)(
    `makes two keys that only this machine opens, with rules beside them, closed to others ${WHY}`,
    async () => {
      const dir = join(box.dir, 'fresh')
      const ran = await vaultmesh(['secrets', 'init', '--dir', dir, '--json'])
      expect(ran).toMatchObject({ code: 0, stderr: '' })
      const paths = ['.sops.yaml', 'btc.env', 'evm.env'].map((name) => join(dir, name))
      expect(JSON.parse(ran.stdout)).toMatchObject({ made: paths, kept: [] })
      expect(filesIn(dir).sort()).toEqual(paths)
      for (const path of paths) expect(statSync(path).mode & 0o777).toBe(0o600)
      const keys = await loadSecrets(dir)
      expect(Object.keys(keys)).toEqual(['BTC_PRIVATE_KEY', 'EVM_PRIVATE_KEY'])
      expect(keys['EVM_PRIVATE_KEY']).not.toBe(`0x${keys['BTC_PRIVATE_KEY']}`)
      const said = Buffer.concat(
        [ran.stdout, ran.stderr, ...paths.map((p) => readFileSync(p))].map((p) => Buffer.from(p)),
      )
      expect(holds(said, Object.values(keys))).toBe(false)
    },
  )

  test.skipIf(SOPS === null)(`overwrites nothing, and makes what is missing ${WHY}`, async () => {
    const dir = await made('twice')
    writeFileSync(join(dir, 'evm.env'), 'whatever stands here')
    const before = filesIn(dir).map((path) => readFileSync(path, 'utf8'))
    const again = await vaultmesh(['secrets', 'init', '--dir', dir, '--json'])
    expect(JSON.parse(again.stdout)).toMatchObject({ made: [] })
    expect(filesIn(dir).map((path) => readFileSync(path, 'utf8'))).toEqual(before)
  })

  test.skipIf(SOPS === null)(
    `keeps the rules it finds, and makes no key that this machine could not read ${WHY}`,
    async () => {
      const dir = join(box.dir, 'theirs')
      mkdirSync(dir)
      const rules = (age: string) =>
        writeFileSync(
          join(dir, '.sops.yaml'),
          `creation_rules: [{path_regex: env$, age: "${age}"}]\n`,
        )
      rules(vector.recipient)
      const refused = await vaultmesh(['secrets', 'init', '--dir', dir])
      expect(refused).toMatchObject({ code: 1, stdout: '' })
      expect(refused.stderr).toContain('does not open with')
      rules('')
      const none = await vaultmesh(['secrets', 'init', '--dir', dir])
      expect(none.stderr).toMatch(
        /^vaultmesh: .* does not encrypt btc\.env by .*\.sops\.yaml .*\n$/,
      )
      expect(filesIn(dir)).toEqual([join(dir, '.sops.yaml')])
    },
  )

  test('says in one line that what calls itself sops failed or did nothing', async () => {
    const bin = join(box.dir, 'bin')
    mkdirSync(bin)
    const dir = join(box.dir, 'bad-sops')
    for (const [script, words] of [
      ['cat >&2; exit 7', '(it ended with 7)'],
      ['cat', 'is not encrypted'],
    ] as const) {
      writeFileSync(join(bin, 'sops'), `#!/bin/sh\nPATH=/usr/bin:/bin\n${script}\n`)
      chmodSync(join(bin, 'sops'), 0o755)
      const ran = await vaultmesh(['secrets', 'init', '--dir', dir], { env: { PATH: bin } })
      expect(ran).toMatchObject({ code: 1, stdout: '' })
      expect(ran.stderr).toMatch(/^vaultmesh: [^\n]*\n$/)
      expect(ran.stderr).toContain(words)
      expect(filesIn(dir)).toEqual([join(dir, '.sops.yaml')])
    }
  })

  test('runs the sops on PATH, else the packaged one if its bytes are those of the release', async () => {
    const onPath = join(box.dir, 'on-path')
    mkdirSync(onPath)
    const packaged = join(box.dir, 'packaged')
    for (const path of [join(onPath, 'sops'), packaged]) {
      writeFileSync(path, '#!/bin/sh\n', { mode: 0o755 })
    }
    expect(await findSops(`/nowhere:${onPath}`, packaged)).toBe(join(onPath, 'sops'))
    await expect(findSops('/nowhere', packaged)).rejects.toThrow('its SHA-256 differs')
    expect(await findSops('/nowhere', null)).toBe(null)
    chmodSync(join(onPath, 'sops'), 0o644)
    expect(await findSops(onPath, join(box.dir, 'none'))).toBe(null)
  })

  test.skipIf(SOPS === null)(
    `leaves a checkout clean; encrypted keys go in by choice ${WHY}`,
    async () => {
      const repo = join(box.dir, 'checkout')
      mkdirSync(repo)
      for (const name of ['.gitignore', '.sops.yaml', 'secrets/README.md', 'secrets/example']) {
        cpSync(join(ROOT, name), join(repo, name), { recursive: true })
      }
      const git = (...args: string[]) => {
        const as = ['-c', 'user.name=test', '-c', 'user.email=test@example.invalid']
        return spawnSync('git', [...as, ...args], { cwd: repo, encoding: 'utf8' }).stdout.trim()
      }
      git('init', '-q')
      git('add', '.')
      git('commit', '-qm', 'all')
      expect(git('ls-files').split('\n')).toEqual([
        '.gitignore',
        '.sops.yaml',
        'secrets/README.md',
        'secrets/example/btc.env',
        'secrets/example/evm.env',
      ])
      const ran = await vaultmesh(['secrets', 'init'], { cwd: repo })
      expect(ran.code).toBe(0)
      expect(existsSync(join(repo, 'secrets/btc.env'))).toBe(true)
      expect(git('status', '--porcelain')).toBe('')
      git('add', '-f', 'secrets/btc.env')
      expect(git('status', '--porcelain')).toBe('A  secrets/btc.env')
    },
  )
})

describe('vaultmesh secrets addresses', () => {
  const one = '1'.padStart(64, '0')

  test('are those that BIP 173, BIP 86 and EIP-55 give to well-known keys', () => {
    // Key 1: BIP 173's own example, and the same key tweaked without a script tree; key 2 in EIP-55.
    expect(bitcoinAddresses(one, 'mainnet')).toEqual({
      network: 'mainnet',
      p2wpkh: 'bc1qw508d6qejxtdg4y5r3zarvary0c5xw7kv8f3t4',
      p2tr: 'bc1pmfr3p9j00pfxjh0zmgp99y8zftmd3s5pmedqhyptwy6lm87hf5sspknck9',
    })
    expect(bitcoinAddresses(one, 'signet').p2wpkh).toBe(
      'tb1qw508d6qejxtdg4y5r3zarvary0c5xw7kxpjzsx',
    )
    expect(bitcoinAddresses(one, 'regtest').p2wpkh).toMatch(/^bcrt1q/)
    expect(evmAddress(vector.files['evm.env'].EVM_PRIVATE_KEY)).toBe(
      '0x2B5AD5c4795c026514f8317c7a215E218DcCD6cF',
    )
  })

  test('are the same for a key as hex and as WIF, which counts on its own network only', () => {
    for (const network of ['mainnet', 'testnet', 'regtest'] as const) {
      const wif = WIF(bitcoinNetworks[network]).encode(fromHex(one))
      expect(bitcoinAddresses(wif, network)).toEqual(bitcoinAddresses(one, network))
      const other = network === 'mainnet' ? 'regtest' : 'mainnet'
      expect(() => bitcoinAddresses(wif, other)).toThrow(`nor a WIF of Bitcoin ${other}`)
      expect(() => bitcoinAddresses(`${wif.slice(0, -1)}1`, network)).toThrow('neither')
    }
    for (const none of ['0'.repeat(64), 'f'.repeat(64)]) {
      expect(() => bitcoinAddresses(none, 'mainnet')).toThrow('no key of secp256k1')
      expect(() => evmAddress(`0x${none}`)).toThrow('no key of secp256k1')
    }
  })

  test('are printed for people and programs, the keys are not', async () => {
    const identity = join(box.dir, 'public.txt')
    writeFileSync(identity, `${vector.identity}\n`, { mode: 0o600 })
    const env = { VAULTMESH_AGE_KEY_FILE: identity }
    const args = ['secrets', 'addresses', '--dir', EXAMPLE, '--network', 'regtest']
    const people = await vaultmesh(args, { env })
    const programs = await vaultmesh([...args, '--json'], { env })
    expect(JSON.parse(programs.stdout)).toEqual({
      bitcoin: bitcoinAddresses(one, 'regtest'),
      evm: { address: '0x2B5AD5c4795c026514f8317c7a215E218DcCD6cF' },
    })
    expect(people).toMatchObject({ code: 0, stderr: '' })
    for (const address of Object.values(bitcoinAddresses(one, 'regtest')).slice(1)) {
      expect(people.stdout).toContain(address)
    }
    for (const said of [people.stdout, programs.stdout]) expect(said).not.toContain('00000000')
    const none = await vaultmesh(['secrets', 'addresses', '--dir', join(box.dir, 'none')])
    expect(none).toMatchObject({ code: 1, stdout: '' })
    expect(none.stderr).toContain('holds no keys. Make some: vaultmesh secrets init')
  })
})

test('the search for secrets finds a key however it is spelt and wherever it begins', () => {
  const secrets = [
    'ab'.repeat(32),
    `0x${'c1'.repeat(32)}`,
    'correct-horse/"battery',
    'A1_-'.repeat(11).slice(1),
  ]
  for (const secret of secrets) {
    const hex = /^(?:0x)?([0-9a-f]{64})$/.exec(secret)?.[1]
    for (const before of ['', '"', '{"', '{"k":"', `{"k":"${secret.slice(0, 1)}`]) {
      const texts = [secret, JSON.stringify(secret), encodeURIComponent(secret)]
      if (hex !== undefined) {
        texts.push(hex.toUpperCase(), WIF(bitcoinNetworks.mainnet).encode(Buffer.from(hex, 'hex')))
        texts.push(Buffer.from(hex, 'hex').toString('base64url'))
      }
      const plain = texts.map((text) => Buffer.from(`${before}${text}"}`))
      if (hex !== undefined)
        plain.push(Buffer.concat([before, Buffer.from(hex, 'hex'), '}'].map((p) => Buffer.from(p))))
      for (const bytes of plain)
        for (const spelt of [bytes, bytes.toString('base64'), bytes.toString('base64url')])
          expect(holds(Buffer.from(spelt as string), [secret])).toBe(true)
    }
  }
  expect(holds(Buffer.from('cd'.repeat(64)), secrets)).toBe(false)
})

describe('a node with secrets', () => {
  test.skipIf(SOPS === null)(
    `has them as bindings of its Worker, and not in its environment ${WHY}`,
    async () => {
      const dir = await made('bound')
      const keys = await loadSecrets(dir)
      const node = await startNode({
        home: join(box.dir, 'n1'),
        port: await freePort(),
        secrets: dir,
        cron: false,
      })
      try {
        const bindings = await node.host.miniflare.getBindings<Record<string, unknown>>()
        expect(bindings).toMatchObject(keys)
        expect(holds(Buffer.from(JSON.stringify(process.env)), Object.values(keys))).toBe(false)
      } finally {
        await node.stop()
      }
    },
  )

  test('does not start on secrets in clear, with none where it was told to look, or with ones it cannot open', async () => {
    const work = join(box.dir, 'work')
    mkdirSync(join(work, 'secrets'), { recursive: true })
    const key = 'cd'.repeat(32)
    writeFileSync(join(work, 'secrets', 'btc.env'), `BTC_PRIVATE_KEY=${key}\n`)
    const args = [SELFHOST, '--home', join(box.dir, 'n3'), '--port', String(await freePort())]
    const cases: readonly (readonly [readonly string[], string])[] = [
      [[], 'secrets/btc.env is not encrypted'],
      [['--secrets', 'nowhere'], 'There is no folder nowhere (--secrets).'],
      [['--secrets', EXAMPLE], 'does not open with'],
    ]
    for (const [more, words] of cases) {
      const ran = await run([...args, ...more], { cwd: work })
      expect(ran).toMatchObject({ code: 1, stdout: '' })
      expect(ran.stderr).toMatch(/^vaultmesh: [^\n]*\n$/)
      expect(ran.stderr).toContain(words)
      expect(ran.stderr).not.toContain('cdcd')
    }
  })
})
