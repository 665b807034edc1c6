import { execFileSync, spawnSync } from 'node:child_process'
import {
  chmodSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { generateX25519Identity } from 'age-encryption'
import {
  identityPath,
  nodeSecret,
  readClientKey,
  readSecret,
  writeClientKey,
  writeSecret,
} from '../../scripts/keystore.ts'
import { sandbox } from './support.ts'

let box: Awaited<ReturnType<typeof sandbox>>
beforeAll(async () => {
  box = await sandbox()
})
afterAll(() => box.remove())

const key = { alg: 'EdDSA', kid: 'did:key:z6Mk', secret: 'A'.repeat(43) } as const
const hasAge = spawnSync('age', ['--version']).error === undefined

describe('the keystore', () => {
  test('makes an identity as age-keygen writes it, closed to others', async () => {
    await writeSecret(join(box.dir, 'a.age'), 'hush')
    expect(readFileSync(identityPath(), 'utf8')).toMatch(
      /^# created: \S+Z\n# public key: age1[0-9a-z]+\nAGE-SECRET-KEY-1[0-9A-Z]+\n$/,
    )
    expect(statSync(identityPath()).mode & 0o777).toBe(0o600)
    expect(statSync(join(box.dir, 'a.age')).mode & 0o777).toBe(0o600)
    expect(readFileSync(join(box.dir, 'a.age')).includes('hush')).toBe(false)
    expect(await readSecret(join(box.dir, 'a.age'))).toBe('hush')
  })

  test.skipIf(!hasAge)(
    'writes files that the stock age tool opens, and opens those it writes (skipped where age is not installed)',
    async () => {
      await writeSecret(join(box.dir, 'stock.age'), 'ours')
      const open = ['-d', '-i', identityPath(), join(box.dir, 'stock.age')]
      expect(execFileSync('age', open, { encoding: 'utf8' })).toBe('ours')
      const path = join(box.dir, 'theirs.age')
      execFileSync('age', ['-e', '-i', identityPath(), '-o', path], { input: 'theirs' })
      expect(await readSecret(path)).toBe('theirs')
    },
  )

  test('never overwrites a key', async () => {
    const path = join(box.dir, 'deep', 'client.key.age')
    await writeClientKey(path, key)
    await expect(writeClientKey(path, { ...key, kid: 'other' })).rejects.toMatchObject({
      code: 'bad-config',
      message: `${path} exists already; it is not overwritten.`,
    })
    expect(await readClientKey(path)).toEqual(key)
  })

  test('makes a node secret once', async () => {
    const first = await nodeSecret(join(box.dir, 'node'))
    expect(Buffer.from(first, 'base64url')).toHaveLength(32)
    expect(await nodeSecret(join(box.dir, 'node'))).toBe(first)
  })

  test('makes no node secret, and no identity, beside the state of a log', async () => {
    const home = join(box.dir, 'bereft')
    mkdirSync(join(home, 'state'), { recursive: true })
    writeFileSync(join(home, 'state', 'log.sqlite'), '')
    await expect(nodeSecret(home)).rejects.toMatchObject({
      code: 'bad-config',
      message: expect.stringContaining('put back node.secret.age (from your backup)') as string,
    })
    expect(readdirSync(home)).toEqual(['state'])
  })

  test.each([
    ['no JSON', 'hush-hush'],
    ['a key of the wrong length', JSON.stringify({ ...key, secret: 'hush' })],
    ['a field missing', JSON.stringify({ alg: 'EdDSA', secret: 'hush' })],
  ])('refuses %s without quoting it', async (name, content) => {
    const path = join(box.dir, `${name}.age`)
    await writeSecret(path, content)
    const error = await readClientKey(path).then(
      () => null,
      (thrown: unknown) => thrown,
    )
    expect(error).toMatchObject({ code: 'bad-config' })
    expect(everythingOf(error)).not.toContain('hush')
  })

  test('refuses a file of another identity, and says which identity it tried', async () => {
    const path = join(box.dir, 'foreign.age')
    await writeSecret(path, 'hush')
    const own = readFileSync(identityPath(), 'utf8')
    try {
      writeFileSync(identityPath(), `${await generateX25519Identity()}\n`)
      const error = await readSecret(path).catch((thrown: unknown) => thrown)
      expect(error).toMatchObject({ code: 'bad-config' })
      expect(everythingOf(error)).toContain(identityPath())
      expect(everythingOf(error)).not.toContain('AGE-SECRET-KEY')
    } finally {
      writeFileSync(identityPath(), own)
    }
  })

  test('refuses an identity that others can read, holds nothing, or is gone, before it makes a new one', async () => {
    const path = join(box.dir, 'kept.age')
    await writeSecret(path, 'hush')
    const own = readFileSync(identityPath(), 'utf8')
    chmodSync(identityPath(), 0o644)
    await expect(readSecret(path)).rejects.toThrow(`chmod 600 ${identityPath()}`)
    chmodSync(identityPath(), 0o600)
    writeFileSync(identityPath(), '# nothing\n')
    await expect(readSecret(path)).rejects.toThrow('holds no age identity')
    rmSync(identityPath())
    // A new identity could not open it either: losing the old one must be seen at once.
    await expect(readSecret(path)).rejects.toThrow('There is no age identity at')
    writeFileSync(identityPath(), own, { mode: 0o600 })
    expect(await readSecret(path)).toBe('hush')
  })

  /** All that a log might print of an error. */
  function everythingOf(error: unknown): string {
    const { message, stack, cause } = error as Error
    return `${message}\n${stack}\n${String(cause)}\n${JSON.stringify(error)}`
  }
})
