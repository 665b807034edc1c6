/**
 * Our reader of SOPS files against the real sops: what that encrypts we read alike, what it refuses we refuse, and
 * what it lets pass without protection we refuse too.
 */

import { generateHybridIdentity, generateX25519Identity, identityToRecipient } from 'age-encryption'
import { spawnSync } from 'node:child_process'
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join, resolve } from 'node:path'
import * as fc from 'fast-check'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { VaultMeshError } from '#core/errors.ts'
import { ROOT } from '../../scripts/build.ts'
import { findSops } from '../../scripts/sops-binary.ts'
import { loadSecrets, readSopsEnv } from '../../scripts/sops.ts'
import vector from '../vectors/sops.json' with { type: 'json' }
import { sandbox } from './support.ts'

const SOPS = await findSops()
const real = describe.skipIf(SOPS === null)
const WHY = '(skipped where sops is not installed)'

let box: Awaited<ReturnType<typeof sandbox>>
/** Age identities by name: the file, and the recipient. */
const who: Record<'mine' | 'other' | 'quantum' | 'public', { file: string; recipient: string }> =
  {} as never

beforeAll(async () => {
  box = await sandbox()
  const identities = {
    mine: await generateX25519Identity(),
    other: await generateX25519Identity(),
    quantum: await generateHybridIdentity(),
    public: vector.identity,
  }
  for (const [name, identity] of Object.entries(identities)) {
    const path = join(box.dir, `${name}.txt`)
    writeFileSync(path, `# a comment\n${identity}\n`, { mode: 0o600 })
    who[name as keyof typeof who] = { file: path, recipient: await identityToRecipient(identity) }
  }
  as('mine')
})
afterAll(() => box.remove())

/** From now on this machine has that identity. */
function as(name: keyof typeof who): void {
  process.env['VAULTMESH_AGE_KEY_FILE'] = who[name].file
}

/** Runs the real sops. */
function sops(
  args: readonly string[],
  {
    input = '',
    cwd = box.dir,
    env = {},
  }: { input?: string | Uint8Array; cwd?: string; env?: object } = {},
) {
  const ran = spawnSync(SOPS!, ['--disable-version-check', ...args], {
    cwd,
    input,
    env: { PATH: process.env['PATH'], HOME: box.dir, ...env } as NodeJS.ProcessEnv,
  })
  return { ok: ran.status === 0, stdout: ran.stdout, text: ran.stdout.toString() }
}

/** `input` encrypted by the real sops, in a file. */
function encrypted(input: string | Uint8Array, more: readonly string[] = []): string {
  const args = ['encrypt', '--age', who.mine.recipient, '--filename-override', 'x.env', ...more]
  const ran = sops(args, { input })
  if (!ran.ok) throw new Error('sops did not encrypt')
  return file(ran.text)
}

let files = 0
function file(text: string | Uint8Array): string {
  const path = join(box.dir, `${++files}.env`)
  writeFileSync(path, text)
  return path
}

/** What the real sops reads in `path` with an identity; null if it refuses. */
function readByReal(path: string, name: keyof typeof who = 'mine'): Record<string, string> | null {
  const ran = sops(['decrypt', '--output-type', 'json', path], {
    env: { SOPS_AGE_KEY_FILE: who[name].file },
  })
  return ran.ok ? (JSON.parse(ran.text) as Record<string, string>) : null
}

/** What we read; null if we refuse, which we do in one line that quotes nothing. */
async function readByUs(path: string): Promise<Readonly<Record<string, string>> | null> {
  try {
    return await readSopsEnv(path)
  } catch (error) {
    if (!(error instanceof VaultMeshError) || error.code !== 'bad-config') throw error
    expect(error.message).toMatch(/^[^\n\r]+\.$/)
    expect(error.message).not.toMatch(/ENC\[|AGE ENC|hush|PRIVATE/)
    return null
  }
}

const THREE = 'A=hush-one\nB=hush-two\n# a comment\nC=hush-three\n'
const three = { A: 'hush-one', B: 'hush-two', C: 'hush-three' }

real(`a file of the real sops ${WHY}`, () => {
  const variable = fc
    .stringMatching(/^[A-Za-z_][A-Za-z0-9_]{0,12}$/)
    .filter((n) => !n.startsWith('sops_'))
  const plain = fc
    .oneof(fc.string({ unit: 'binary' }), fc.string(), fc.stringMatching(/^["'\\n =#]*$/))
    .map((value) => value.replaceAll('\n', '\\n'))

  test('reads alike here, or is refused here for an empty value or one in clear', async () => {
    let read = 0
    await fc.assert(
      fc.asyncProperty(
        fc.uniqueArray(fc.tuple(variable, plain), { selector: ([n]) => n, maxLength: 5 }),
        async (lines) => {
          const path = encrypted(lines.map(([n, v]) => `${n}=${v}\n# ${n}\n`).join(''))
          const theirs = readByReal(path)!
          const expected = lines.map(([n, v]) => [n, v.replaceAll('\\n', '\n')] as const)
          expect(new Map(Object.entries(theirs))).toEqual(new Map(expected))
          const unprotected = lines.some(([n, v]) => v === '' || n.endsWith('_unencrypted'))
          expect(await readByUs(path)).toEqual(unprotected ? null : theirs)
          if (!unprotected && lines.length > 0) read++
        },
      ),
      { numRuns: 60 },
    )
    expect(read).toBeGreaterThan(20)
  })

  test('keeps quotes, spaces, hashes, UTF-8, newlines and names as they are', async () => {
    const path = encrypted(
      'A="q"\nB= x \nC=1 # no comment\nD=ü€ 💥\nE=a\\nb\n__proto__=own\nF=a=b\nG=x\r\n',
    )
    const ours = (await readByUs(path))!
    expect(ours).toMatchObject({ A: '"q"', B: ' x ', C: '1 # no comment', D: 'ü€ 💥', E: 'a\nb' })
    expect(ours).toMatchObject({ F: 'a=b', G: 'x\r' })
    expect(Object.hasOwn(ours, '__proto__')).toBe(true)
    expect(await readByUs(encrypted(''))).toEqual({})
  })

  test('is refused by both when a protected line is changed, removed or swapped with another', async () => {
    const lines = readFileSync(encrypted(THREE), 'utf8').trimEnd().split('\n')
    const isProtected = /^(?:[A-C]=|sops_mac|sops_lastmodified|sops_age__list_0__map_enc)/
    const refusedByBoth = async (change: string, now: readonly string[]) => {
      const path = file(`${now.join('\n')}\n`)
      expect({ change, us: await readByUs(path), real: readByReal(path) }).toEqual({
        change,
        us: null,
        real: null,
      })
    }
    let seen = 0
    for (const [at, line] of lines.entries()) {
      if (!isProtected.test(line)) continue
      seen++
      const label = line.slice(0, 20)
      await refusedByBoth(`without ${label}`, lines.toSpliced(at, 1))
      for (const part of ['data', 'iv', 'tag']) {
        if (!line.includes(`,${part}:`) && !line.includes(`[AES256_GCM,${part}:`)) continue
        const other = line.replace(
          new RegExp(`(${part}:)(.)`),
          (_, head: string, c: string) => head + (c === 'A' ? 'B' : 'A'),
        )
        expect(other).not.toBe(line)
        await refusedByBoth(`other ${part} in ${label}`, lines.with(at, other))
      }
      await refusedByBoth(`${label} in clear`, lines.with(at, line.replace(/=.*/, '=x')))
    }
    expect(seen).toBe(6)
    for (const [a, b] of [
      [0, 1],
      [0, 3],
      [1, 3],
    ] as const) {
      await refusedByBoth(
        `lines ${a} and ${b} swapped`,
        lines.with(a, lines[b]!).with(b, lines[a]!),
      )
      const value = (line: string) => line.slice(line.indexOf('='))
      const renamed = `${lines[a]!.slice(0, 1)}${value(lines[b]!)}`
      await refusedByBoth(`the value of line ${b} on line ${a}`, lines.with(a, renamed))
    }
    const elsewhere = readFileSync(encrypted(THREE), 'utf8').split('\n')
    await refusedByBoth('a line of another file', lines.with(0, elsewhere[0]!))
    const earlier = lines.map((l) => l.replace(/^(sops_lastmodified=)2/, '$11'))
    await refusedByBoth('another time', earlier)
    // Untouched, so that each refusal above is of the change.
    expect(await readByUs(file(lines.join('\n')))).toEqual(three)
  })

  test('reads as it was, or not at all, whatever byte is changed', async () => {
    const bytes = readFileSync(encrypted(THREE))
    let refused = 0
    await fc.assert(
      fc.asyncProperty(
        fc.nat(bytes.length - 1),
        fc.integer({ min: 1, max: 255 }),
        async (at, by) => {
          const changed = Uint8Array.from(bytes)
          changed[at]! ^= by
          const read = await readByUs(file(changed))
          if (read === null) refused++
          else expect(read).toEqual(three)
        },
      ),
      { numRuns: 400 },
    )
    expect(refused).toBeGreaterThan(200)
  })

  test('opens with each of its recipients, also one that rotate adds, and with nobody else', async () => {
    const path = encrypted(THREE)
    const rotate = [
      'rotate',
      '-i',
      '--add-age',
      `${who.other.recipient},${who.quantum.recipient}`,
      path,
    ]
    expect(sops(rotate, { env: { SOPS_AGE_KEY_FILE: who.mine.file } }).ok).toBe(true)
    try {
      for (const name of ['mine', 'other', 'quantum'] as const) {
        as(name)
        expect(await readSopsEnv(path)).toEqual(three)
        expect(readByReal(path, name)).toEqual(three)
      }
      as('public')
      expect(readByReal(path, 'public')).toBe(null)
      await expect(readSopsEnv(path)).rejects.toThrow(
        `${path} does not open with ${who.public.file}. Put back the identity`,
      )
    } finally {
      as('mine')
    }
  })

  test('is refused when its selectors leave some values in clear, or their MAC leaves some out', async () => {
    for (const selector of [
      ['--encrypted-regex', '^A$'],
      ['--unencrypted-regex', '^A$'],
      ['--encrypted-suffix', '_secret'],
      ['--unencrypted-suffix', '_clear'],
    ]) {
      const path = encrypted(THREE, selector)
      expect(readByReal(path)).toEqual(three)
      expect({ selector, us: await readByUs(path) }).toEqual({ selector, us: null })
    }
    const dir = join(box.dir, 'maconly')
    mkdirSync(dir)
    const rule = `{path_regex: "[.]env$", age: ${who.mine.recipient}, mac_only_encrypted: true}`
    writeFileSync(join(dir, '.sops.yaml'), `creation_rules: [${rule}]\n`)
    const ran = sops(['encrypt', '--filename-override', 'x.env'], { input: THREE, cwd: dir })
    expect(readByReal(file(ran.text))).toEqual(three)
    await expect(readSopsEnv(file(ran.text))).rejects.toThrow('has metadata on line')
  })

  test('is refused in words that say what is wrong and on which line', async () => {
    const whole = readFileSync(encrypted(THREE), 'utf8')
    const [first] = whole.split('\n')
    const cases: readonly (readonly [string | Uint8Array, string])[] = [
      [THREE, 'is not encrypted. Take it away'],
      ['', 'is empty and not encrypted. Remove it'],
      [`${whole}D=hush\n`, 'has a value on line 11 that is not encrypted'],
      [`${whole}D_unencrypted=hush\n`, 'has a value on line 11 that is not encrypted'],
      // The real sops takes what stands under such a name as it is, even if it looks encrypted.
      [`${whole}D_unencrypted${first!.slice(1)}\n`, 'has a value on line 11 that is not encrypted'],
      [`${whole}D=\n`, 'has an empty value on line 11, which sops does not protect'],
      [`${whole}hush\n`, 'has no NAME=value on line 11'],
      [`${whole}export D=hush\n`, 'has no NAME=value on line 11'],
      [`${whole}${first}\n`, 'has the name of line 11 twice'],
      [`${whole}sops_version=3.12.2\n`, 'has the metadata of line 11 twice'],
      [`${whole}sops_pgp__list_0__map_fp=hush\n`, 'has metadata on line 11 that is not read here'],
      [`${whole}sops_shamir_threshold=2\n`, 'has metadata on line 11 that is not read here'],
      [whole.replace(/^sops_mac=.*\n/m, ''), 'has no MAC'],
      [whole.replace(/^sops_age__list_0__map_enc=.*\n/m, ''), 'has no age recipient'],
      [whole.replace('-----BEGIN AGE', '-----BEGIN CAGE'), 'for age recipient 1 is not age'],
      [whole.replace(/type:str/, 'type:int'), 'has a value on line 1 that is not encrypted'],
      [whole.replaceAll('\n', '\r\n'), 'has a value on line 1 that is not encrypted'],
      [Buffer.concat([Buffer.from(whole), Buffer.from([0xff])]), 'is not UTF-8'],
      [`${whole}${'#'.repeat(262_144)}`, 'has more than 262144 bytes'],
      [whole.split('\n').toSpliced(1, 1).join('\n'), 'its MAC does not match its lines'],
    ]
    for (const [text, words] of cases) {
      const path = file(text)
      expect(await readByUs(path)).toBe(null)
      await expect(readSopsEnv(path)).rejects.toThrow(`${path} `)
      await expect(readSopsEnv(path)).rejects.toThrow(words)
    }
    const bytes = Buffer.concat([Buffer.from('A='), Buffer.from([0xff, 0xfe]), Buffer.from('\n')])
    await expect(readSopsEnv(encrypted(bytes))).rejects.toThrow(
      'holds no UTF-8 in the value of line 1',
    )
    await expect(readSopsEnv(join(box.dir, 'none.env'))).rejects.toThrow(/^Cannot read .*ENOENT/)
  })
})

real(`a folder of secrets ${WHY}`, () => {
  const btc = 'ab'.repeat(32)
  let n = 0
  function folder(contents: Readonly<Record<string, string>>): string {
    const dir = join(box.dir, `folder-${++n}`)
    mkdirSync(dir)
    for (const [name, content] of Object.entries(contents)) {
      writeFileSync(join(dir, name), readFileSync(encrypted(content)))
    }
    return dir
  }

  test('is its *.env files together, and nothing if it is not there', async () => {
    const dir = folder({
      'btc.env': `BTC_PRIVATE_KEY=${btc}\nBTC_URLS=http://u:p@127.0.0.1:1\n`,
      'evm.env': `EVM_PRIVATE_KEY=0x${btc}\n`,
    })
    for (const name of ['README.md', '.env', 'btc.env.bak']) writeFileSync(join(dir, name), 'A=1\n')
    expect(await loadSecrets(dir)).toEqual({
      BTC_PRIVATE_KEY: btc,
      BTC_URLS: 'http://u:p@127.0.0.1:1',
      EVM_PRIVATE_KEY: `0x${btc}`,
    })
    expect(await loadSecrets(join(box.dir, 'no-such-folder'))).toEqual({})
  })

  test('is refused for a name two files set, a name not on the list, and a value of another form', async () => {
    const twice = folder({
      'a.env': `BTC_PRIVATE_KEY=${btc}\n`,
      'b.env': `BTC_PRIVATE_KEY=${btc}\n`,
    })
    await expect(loadSecrets(twice)).rejects.toThrow(
      `${join(twice, 'b.env')} sets BTC_PRIVATE_KEY, and so does ${join(twice, 'a.env')}.`,
    )
    for (const line of [
      'NODE_OPTIONS=x',
      'NODE_SECRET=x',
      'ADMIN_TOKEN=x',
      'PATH=x',
      'constructor=x',
    ]) {
      await expect(loadSecrets(folder({ 'a.env': `${line}\n` }))).rejects.toThrow(
        'is none of BTC_PRIVATE_KEY, EVM_PRIVATE_KEY, BTC_URLS, EVM_URLS, ALERTMANAGER_URL, ALERT_WEBHOOK_URL, OIDC_CLIENT_SECRET, METRICS_TOKEN.',
      )
    }
    for (const line of [
      `BTC_PRIVATE_KEY="${btc}"`,
      `BTC_PRIVATE_KEY=${btc} `,
      `BTC_PRIVATE_KEY=0x${btc}`,
      `BTC_PRIVATE_KEY=${btc}\\n`,
      `EVM_PRIVATE_KEY=${btc}`,
      `EVM_PRIVATE_KEY=0x${btc}ab`,
      'EVM_URLS=http://a http://b',
    ]) {
      const error = await loadSecrets(folder({ 'a.env': `${line}\n` })).catch((e: unknown) => e)
      const { message } = error as Error
      expect(message).toContain('to something else than')
      expect(message).not.toContain('abab')
    }
  })
})

describe('the published example', () => {
  const example = resolve(ROOT, 'secrets/example')

  test('opens with its published identity, in which only dummies are', async () => {
    as('public')
    try {
      for (const [name, values] of Object.entries(vector.files)) {
        expect(await readSopsEnv(join(example, name))).toEqual(values)
      }
      expect(Object.keys(await loadSecrets(example)).sort()).toEqual([
        'BTC_PRIVATE_KEY',
        'BTC_URLS',
        'EVM_PRIVATE_KEY',
        'EVM_URLS',
      ])
    } finally {
      as('mine')
    }
    await expect(loadSecrets(example)).rejects.toThrow('does not open with')
  })

  test.skipIf(SOPS === null)(`reads alike with the real sops ${WHY}`, () => {
    for (const [name, values] of Object.entries(vector.files)) {
      expect(readByReal(join(example, name), 'public')).toEqual(values)
    }
  })
})

real(`.sops.yaml, as the real sops reads it ${WHY}`, () => {
  const ask = (path: string, env = {}) =>
    sops(['encrypt', '--filename-override', path], { input: 'A=1\n', cwd: ROOT, env })

  test('is for secrets/*.env and the example, and for no other file', () => {
    const env = { SOPS_AGE_RECIPIENTS: who.mine.recipient }
    for (const path of [
      'secrets/btc.env',
      'secrets/evm.env',
      'secrets/x.env',
      'secrets/example/x.env',
    ]) {
      const { ok, text } = ask(path, env)
      expect({ path, ok, mine: text.includes(who.mine.recipient) }).toEqual({
        path,
        ok: true,
        mine: true,
      })
    }
    for (const path of [
      'btc.env',
      '.env',
      'README.md',
      'secrets/README.md',
      'secrets/.env',
      'secrets/btc.env.bak',
      'secrets/btc.json',
      'secrets/a/b.env',
      'secrets/example/a/b.env',
      'xsecrets/btc.env',
      'test/secrets/btc.env',
      '/tmp/secrets/btc.env',
    ]) {
      expect({ path, ok: ask(path, env).ok }).toEqual({ path, ok: false })
    }
  })

  test('names no recipient for keys of an operator, and the published one for the example alone', () => {
    expect(ask('secrets/btc.env').ok).toBe(false)
    const { ok, text } = ask('secrets/example/btc.env')
    expect(ok).toBe(true)
    expect(text.match(/age1[0-9a-z]+/g)).toEqual([vector.recipient])
  })
})
