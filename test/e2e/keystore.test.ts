import { execFileSync, spawn, spawnSync } from 'node:child_process'
import {
  chmodSync,
  existsSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  utimesSync,
  writeFileSync,
} from 'node:fs'
import { join, resolve } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { generateX25519Identity, identityToRecipient } from 'age-encryption'
import { outcomeOf, parse, type Outcome, type Terminal } from '../../scripts/cli/command.ts'
import { keys as command } from '../../scripts/cli/keys.ts'
import {
  identityPath,
  nodeSecret,
  opened,
  openSecret,
  ownRecipients,
  readClientKey,
  readSecret,
  reencrypt,
  writeClientKey,
  writeSecret,
} from '../../scripts/keystore.ts'
import { replaceFile } from '../../scripts/replace-file.ts'
import { ROOT } from '../../scripts/build.ts'
import { sandbox } from './support.ts'

let box: Awaited<ReturnType<typeof sandbox>>
beforeAll(async () => {
  box = await sandbox()
})
afterAll(() => box.remove())

const key = { alg: 'EdDSA', kid: 'did:key:z6Mk', secret: 'A'.repeat(43) } as const
const hasAge = spawnSync('age', ['--version']).error === undefined

describe('a file that is replaced', () => {
  test('is never another command’s half written one, however long this one slept', async () => {
    const path = join(box.dir, 'slept')
    writeFileSync(path, 'old')
    let woken!: () => void
    const asleep = new Promise<void>((wake) => (woken = wake))
    const slow = replaceFile(path, 0o600, async () => {
      await asleep
      return 'slow'
    })
    const refused = expect(slow).rejects.toThrow('run this again')
    await sleep(50)
    const longAgo = new Date(Date.now() - 3_600_000)
    utimesSync(`${path}.part`, longAgo, longAgo)
    await replaceFile(path, 0o600, async () => {
      // It wakes while this one has written nothing yet.
      woken()
      await refused
      expect(readFileSync(path, 'utf8')).toBe('old')
      return 'quick'
    })
    expect(readFileSync(path, 'utf8')).toBe('quick')
    expect(existsSync(`${path}.part`)).toBe(false)
  })

  test('is the one that a link leads to, so that nothing stays behind', async () => {
    const [path, link] = [join(box.dir, 'far'), join(box.dir, 'near')]
    writeFileSync(path, 'old')
    symlinkSync(path, link)
    await replaceFile(link, 0o600, () => Promise.resolve('new'))
    expect(readFileSync(path, 'utf8')).toBe('new')
    expect(lstatSync(link).isSymbolicLink()).toBe(true)
  })
})

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
      // After the secret stands who can read it: the format of age does not say it.
      const [own] = await ownRecipients({ create: false })
      expect(execFileSync('age', open, { encoding: 'utf8' })).toBe(`ours\n# readable by ${own}\n`)
      const path = join(box.dir, 'theirs.age')
      execFileSync('age', ['-e', '-i', identityPath(), '-o', path], { input: 'theirs' })
      expect(await openSecret(path)).toEqual({ secret: 'theirs', recipients: null })
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

  test('takes a credential of systemd, whose group bits are the mask of an ACL, and nothing like it elsewhere', async () => {
    const path = join(box.dir, 'credential.age')
    await writeSecret(path, 'hush')
    const folder = join(box.dir, 'credentials')
    mkdirSync(folder)
    const own = identityPath()
    const credential = join(folder, 'age.key')
    writeFileSync(credential, readFileSync(own))
    process.env['VAULTMESH_AGE_KEY_FILE'] = credential
    try {
      chmodSync(credential, 0o440)
      await expect(readSecret(path)).rejects.toThrow('Others can read the age identity')
      process.env['CREDENTIALS_DIRECTORY'] = folder
      for (const mode of [0o400, 0o440]) {
        chmodSync(credential, mode)
        expect(await readSecret(path)).toBe('hush')
      }
      for (const mode of [0o444, 0o460, 0o450, 0o404]) {
        chmodSync(credential, mode)
        await expect(readSecret(path)).rejects.toThrow('Others can read the age identity')
      }
    } finally {
      delete process.env['CREDENTIALS_DIRECTORY']
      process.env['VAULTMESH_AGE_KEY_FILE'] = own
    }
  })

  /** All that a log might print of an error. */
  function everythingOf(error: unknown): string {
    const { message, stack, cause } = error as Error
    return `${message}\n${stack}\n${String(cause)}\n${JSON.stringify(error)}`
  }
})

describe('vaultmesh keys recipients and identity', () => {
  let home: string
  let secret: string
  let own: string
  let other: { readonly identity: string; readonly recipient: string }
  let n = 0

  beforeAll(async () => {
    const identity = await generateX25519Identity()
    other = { identity, recipient: await identityToRecipient(identity) }
  })

  /** A home with a node's secret and a client's key. */
  async function fresh(): Promise<void> {
    home = join(box.dir, `home${++n}`)
    secret = await nodeSecret(home)
    await writeClientKey(join(home, 'client.key.age'), key)
    own = (await ownRecipients({ create: false }))[0]!
  }

  async function called(...args: string[]): Promise<Outcome> {
    try {
      const { values, positionals } = parse(command, [...args, '--home', home])
      return await command.run(positionals, values, {} as Terminal)
    } catch (error) {
      return outcomeOf(error, command)
    }
  }

  const files = () => ['client.key.age', 'node.secret.age'].map((name) => join(home, name))
  const bytes = () => files().map((path) => readFileSync(path, 'latin1'))

  test('show who can read the files of a home, and let others in and out; the secrets stay', async () => {
    await fresh()
    const shown = await called('recipients')
    expect(shown).toMatchObject({
      exit: 0,
      value: { changed: false, files: files().map((path) => ({ path, recipients: [own] })) },
    })
    expect((await called('recipients', '--add', other.recipient)).exit).toBe(0)
    for (const path of files()) {
      const theirs = await opened(readFileSync(path), [other.identity], path)
      expect(theirs.recipients).toEqual([own, other.recipient])
      expect(statSync(path).mode & 0o777).toBe(0o600)
    }
    const byOther = await opened(readFileSync(files()[1]!), [other.identity], '')
    expect(byOther.secret).toBe(secret)
    // Again is no change of who; out again.
    await called('recipients', '--add', other.recipient)
    expect((await openSecret(files()[1]!)).recipients).toEqual([own, other.recipient])
    const removed = await called('recipients', '--remove', other.recipient)
    expect(removed.lines.join()).toContain('still reads older copies')
    for (const path of files())
      await expect(opened(readFileSync(path), [other.identity], path)).rejects.toThrow('decrypt')
    expect(await nodeSecret(home)).toBe(secret)
    expect(await readClientKey(files()[0]!)).toEqual(key)
  })

  test('lock nobody out, take no secret for a recipient, and touch no file where one does not open', async () => {
    await fresh()
    const before = bytes()
    for (const [args, words] of [
      [['--remove', own], 'could then no longer read its own secrets'],
      [['--add', other.recipient, '--remove', own], 'could then no longer read'],
      [['--remove', other.recipient], 'is no recipient of'],
      [['--add', own.slice(0, -1)], 'A recipient is age1'],
      [['--add', other.identity], 'a secret, not a recipient'],
      [['--add', other.recipient, '--key', join(home, 'none.age')], 'Cannot read'],
    ] as const) {
      const { exit, lines } = await called('recipients', ...args)
      expect({ args, exit }).toEqual({ args, exit: 1 })
      expect(lines.join()).toContain(words)
      expect(lines.join()).not.toContain('AGE-SECRET')
    }
    expect(bytes()).toEqual(before)
    // An identity that is lost: nothing is made anew in its place.
    const text = readFileSync(identityPath(), 'utf8')
    try {
      writeFileSync(identityPath(), `${other.identity}\n`)
      const lost = await called('recipients', '--add', other.recipient)
      expect(lost.lines[0]).toContain('Put back the identity it was encrypted to')
    } finally {
      writeFileSync(identityPath(), text)
    }
    expect(bytes()).toEqual(before)
  })

  test('replace the identity of a machine: new beside old, all encrypted anew, the old one kept aside', async () => {
    await fresh()
    const dir = join(box.dir, 'no-secrets')
    const made = (await called('identity', '--new')).value as { recipient: string }
    expect((await called('identity')).value).toMatchObject({ recipients: [own, made.recipient] })
    const early = await called('identity', '--retire', own, '--dir', dir)
    expect(early.lines[0]).toContain('does not open without this identity, which stays')
    const args = ['recipients', '--add', made.recipient, '--remove', own]
    expect((await called(...args)).exit).toBe(0)
    const late = await called('identity', '--retire', own, '--dir', dir)
    expect(late.exit, late.lines.join()).toBe(0)
    expect(await ownRecipients({ create: false })).toEqual([made.recipient])
    expect(readFileSync(identityPath(), 'utf8')).not.toContain(own)
    expect(await nodeSecret(home)).toBe(secret)
    const retired = `${identityPath()}.retired`
    expect(readFileSync(retired, 'utf8')).toMatch(
      new RegExp(`^# retired: \\S+Z\n# public key: ${own}\nAGE-SECRET-KEY-1[0-9A-Z]+\n$`),
    )
    for (const path of [identityPath(), retired]) expect(statSync(path).mode & 0o777).toBe(0o600)
    const last = await called('identity', '--retire', made.recipient, '--dir', dir)
    expect(last.exit).toBe(1)
    expect((await called('identity', '--retire', own)).lines[0]).toContain('holds no identity of')
    // The same one twice is no other one that is left.
    const text = readFileSync(identityPath(), 'utf8')
    writeFileSync(identityPath(), text + text)
    const twice = await called('identity', '--retire', made.recipient, '--dir', dir)
    expect(twice.exit).toBe(1)
    expect(await nodeSecret(home)).toBe(secret)
    writeFileSync(identityPath(), text)
    expect((await called('identity', '--new', '--retire', own)).exit).toBe(2)
  })

  test('leave the old file or the new one, whenever they are killed', async () => {
    await fresh()
    const path = join(home, 'node.secret.age')
    const script = `import { reencrypt } from '${resolve(ROOT, 'scripts/keystore.ts')}'
const who = ['${other.recipient}']
console.log('up')
for (;;) {
  await reencrypt('${path}', { add: who, remove: [] })
  await reencrypt('${path}', { add: [], remove: who })
}`
    let cutOff = 0
    for (let round = 0; round < 10; round++) {
      const args = ['--input-type=module-typescript', '-e', script]
      const child = spawn(process.execPath, args, {
        cwd: ROOT,
        stdio: ['ignore', 'pipe', 'ignore'],
      })
      const ended = new Promise((end) => child.once('close', end))
      await new Promise((up) => child.stdout.once('data', up))
      await sleep(7 * round)
      child.kill('SIGKILL')
      await ended
      const { recipients } = await openSecret(path)
      expect([[own], [own, other.recipient]]).toContainEqual(recipients)
      expect(await nodeSecret(home)).toBe(secret)
      const part = `${path}.part`
      if (!existsSync(part)) continue
      cutOff++
      await expect(reencrypt(path, { add: [], remove: [] })).rejects.toThrow('run this again')
      rmSync(part)
      await reencrypt(path, { add: [other.recipient], remove: [] })
      await reencrypt(path, { add: [], remove: [other.recipient] })
    }
    expect(cutOff).toBeGreaterThan(0)
  })
})
