/**
 * Changes to a folder of secrets by the real sops: one variable, a whole file in an editor, keys and recipients.
 *
 * sops works on a copy of the encrypted file, in a folder of its own that only we enter; what it made is read back
 * with our own decrypter, and then takes the file's name in one step. So a crash, a full disk or a bad sops leaves
 * the file as it was. A value goes to sops on a pipe. An editor needs a plain file: it lies on a tmpfs, or nowhere.
 */

import { spawn } from 'node:child_process'
import { existsSync } from 'node:fs'
import { mkdtemp, readdir, readFile, rm, statfs, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { basename, dirname, join, resolve } from 'node:path'
import { VaultMeshError } from '#core/errors.ts'
import { changed, identityPath, ownRecipients, type RecipientChange } from './keystore.ts'
import { replaceFile } from './replace-file.ts'
import { decryptSopsEnv, known, loadSecrets, secretFiles, sopsRecipients } from './sops.ts'
import { encryptEnv, endOf, needSops, runSops } from './sops-binary.ts'
import { changeRule, ruleOf, type Rule } from './sops-rules.ts'

/** Of statfs(2): file systems that are in memory. (swap may take them out; encrypt that, or have none.) */
const IN_MEMORY = [0x01021994, 0x858458f6]

type Variables = Readonly<Record<string, string>>

/** Sets `name` to `value` in the file `path`, which is made where it is missing. */
export async function setVariable(path: string, name: string, value: string): Promise<void> {
  known({ [name]: value }, path)
  const sops = await needSops()
  await change(path, tmpdir(), async (copy, before) => {
    if (before === null) await writeFile(copy, await fresh(sops, path, ''))
    // As JSON: a dotenv line would turn \n into a line's end.
    const args = ['set', '--value-stdin', copy, `["${name}"]`]
    const input = JSON.stringify(value)
    await done(sops, await runSops(sops, args, { cwd: dirname(copy), input }))
    return { ...before, [name]: value }
  })
}

/** Opens the file `path`, or a new one, in $EDITOR; returns false if nothing was changed. */
export async function editFile(path: string, env: NodeJS.ProcessEnv): Promise<boolean> {
  const sops = await needSops()
  const memory = await inMemory(env)
  let isChanged = true
  await change(path, memory, async (copy, before) => {
    if (before === null)
      await writeFile(copy, await fresh(sops, path, '# NAME=value, one a line\n'))
    const how = await interactive(sops, ['edit', copy], { ...env, TMPDIR: dirname(copy) })
    // 200: FileHasNotBeenModified.
    isChanged = how !== 200
    if (isChanged && how !== 0) {
      throw refuse(`The editor or sops ended with ${how}: ${path} is as it was.`)
    }
    return null
  })
  return isChanged
}

/** What a rotation did. */
export interface Rotated {
  readonly files: readonly string[]
  readonly recipients: readonly string[]
  readonly rules: string | null
}

/**
 * Gives every file of `dir` a new data key, and the recipients that its rule names after `change`. Rules come first,
 * so that nothing new is encrypted to who was removed; a crash in between is mended by the same call again.
 */
export async function rotateFolder(dir: string, wanted: RecipientChange): Promise<Rotated> {
  const sops = await needSops()
  const files = await secretFiles(dir)
  const [first] = files
  if (first === undefined) throw refuse(`${dir} holds no *.env file.`)
  // Whatever is not in order is said before anything is changed.
  await loadSecrets(dir)
  const own = await ownRecipients({ create: false })
  const rules = await Promise.all(files.map((path) => ruleOf(path)))
  const rule = rules[0] ?? null
  if (rules.some((other) => other?.recipients.join() !== rule?.recipients.join()))
    throw refuse(
      `${rule?.file} has several rules for ${dir}: rotate its files with sops, one by one.`,
    )
  if (rule !== null && rule.recipients.length === 0)
    throw refuse(
      `${rule.file} names no recipient for ${first}: vaultmesh secrets init writes rules of this folder's own.`,
    )
  const present = await Promise.all(files.map(recipientsOf))
  const before = rule?.recipients ?? present[0]!
  const readers = new Set([...before, ...present.flat()])
  for (const who of wanted.remove)
    if (!readers.has(who)) throw refuse(`${who} is no recipient of ${dir}.`)
  const recipients = changed(before, wanted, own)
  if (recipients.join() !== before.join()) await changeRule(first, recipients)
  for (const path of files) await rotateFile(sops, path, recipients)
  return { files, recipients, rules: rule?.file ?? null }
}

/** Whom the file `path` is encrypted to. */
export async function recipientsOf(path: string): Promise<readonly string[]> {
  return sopsRecipients(await readFile(path), path)
}

async function rotateFile(sops: string, path: string, wanted: readonly string[]): Promise<void> {
  await change(path, tmpdir(), async (copy, before) => {
    const now = await recipientsOf(copy)
    const add = wanted.filter((who) => !now.includes(who))
    const gone = now.filter((who) => !wanted.includes(who))
    const flags = [
      ...(add.length === 0 ? [] : ['--add-age', add.join(',')]),
      ...(gone.length === 0 ? [] : ['--rm-age', gone.join(',')]),
    ]
    await done(sops, await runSops(sops, ['rotate', '-i', ...flags, copy], { cwd: dirname(copy) }))
    const after = await recipientsOf(copy)
    if (after.toSorted().join() !== wanted.toSorted().join())
      throw refuse(`${sops} did not encrypt ${path} to whom it was told. The file is as it was.`)
    return before
  })
}

/**
 * Replaces `path` by what `work` makes of a copy of it, in a folder below `where`. `work` is given the variables as
 * they are (null: there is no file) and returns what they must be then (null: whatever is in order).
 */
async function change(
  path: string,
  where: string,
  work: (copy: string, before: Variables | null) => Promise<Variables | null>,
): Promise<void> {
  const folder = await mkdtemp(join(where, `vaultmesh-${process.pid}-`))
  const copy = join(folder, basename(path))
  try {
    const old = await bytesOf(path)
    if (old !== null) await writeFile(copy, old, { mode: 0o600 })
    const wanted = await work(copy, old === null ? null : await decryptSopsEnv(old, path))
    const made = await readFile(copy)
    const after = known(await decryptSopsEnv(made, path), path)
    if (wanted !== null && !isSame(after, wanted))
      throw refuse(`sops made something else of ${path} than was asked. The file is as it was.`)
    await refuseTwice(path, after)
    // An editor may be open for hours: it holds no lock, and gives way to who was faster.
    await replaceFile(path, 0o600, async () => {
      const now = await bytesOf(path)
      if (old === null ? now !== null : now === null || !now.equals(old))
        throw refuse(`${path} was changed by somebody else meanwhile, and is as they left it.`)
      return made
    })
  } finally {
    await rm(folder, { recursive: true, force: true })
  }
}

/** What is in a file; null if there is none. */
async function bytesOf(path: string): Promise<Buffer | null> {
  return readFile(path).catch((error: NodeJS.ErrnoException) => {
    if (error.code === 'ENOENT') return null
    throw refuse(`Cannot read ${path} (${error.code ?? 'unknown error'}).`)
  })
}

/** The start of a node refuses a variable that two files set; so it is not written either. */
async function refuseTwice(path: string, variables: Variables): Promise<void> {
  for (const other of await secretFiles(dirname(path))) {
    if (resolve(other) === resolve(path)) continue
    for (const name of Object.keys(await decryptSopsEnv(await readFile(other), other)))
      if (Object.hasOwn(variables, name)) throw refuse(`${other} sets ${name} already.`)
  }
}

/** A new file of `text`, by the rules for `path`. */
async function fresh(sops: string, path: string, text: string): Promise<Uint8Array> {
  const rule: Rule | null = await ruleOf(path)
  if (rule === null)
    throw refuse(
      `There are no rules for ${path}: vaultmesh secrets init --dir ${dirname(path)} writes some.`,
    )
  return encryptEnv(sops, { dir: dirname(path), name: basename(path), text, config: rule.file })
}

/** A folder in memory that only this user can use below; throws `bad-config` if there is none. */
async function inMemory(env: NodeJS.ProcessEnv): Promise<string> {
  for (const folder of [env['XDG_RUNTIME_DIR'] ?? '', '/dev/shm']) {
    if (folder === '' || !existsSync(folder)) continue
    const { type } = await statfs(folder)
    if (!IN_MEMORY.includes(Number(type))) continue
    await clearAfterCrash(folder)
    return folder
  }
  throw refuse(
    'There is no tmpfs here ($XDG_RUNTIME_DIR or /dev/shm), and an editor would write the secrets to a disk. Set one variable at a time: vaultmesh secrets set NAME',
  )
}

/** Removes what an editor's session left behind whose process was killed: it may hold plain text. */
async function clearAfterCrash(folder: string): Promise<void> {
  for (const name of await readdir(folder)) {
    const pid = /^vaultmesh-(\d+)-/.exec(name)?.[1]
    if (pid === undefined || existsSync(`/proc/${pid}`)) continue
    // Somebody else's cannot be removed, and is theirs to remove.
    await rm(join(folder, name), { recursive: true, force: true }).catch(() => undefined)
  }
}

/** sops with the terminal: an editor is its child. Signals of the terminal reach both; we stay to clean up. */
async function interactive(
  sops: string,
  args: readonly string[],
  env: NodeJS.ProcessEnv,
): Promise<number | string> {
  const own = Object.entries(env).filter(([name]) => !/^SOPS_(?!EDITOR$)/.test(name))
  const child = spawn(sops, ['--disable-version-check', ...args], {
    env: { ...Object.fromEntries(own), SOPS_AGE_KEY_FILE: identityPath() },
    // What it says of a line that it cannot read may quote it: for a terminal, not for a log.
    stdio: ['inherit', 'inherit', process.stderr.isTTY ? 'inherit' : 'ignore'],
  })
  const signals = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const
  const pass = (signal: NodeJS.Signals): void => void (signal === 'SIGINT' || child.kill(signal))
  for (const signal of signals) process.on(signal, pass)
  try {
    return await endOf(child)
  } finally {
    for (const signal of signals) process.off(signal, pass)
  }
}

async function done(sops: string, { how }: { readonly how: number | string }): Promise<void> {
  if (how !== 0) throw refuse(`${sops} ended with ${how}. The file is as it was.`)
}

function isSame(a: Variables, b: Variables): boolean {
  const [left, right] = [Object.entries(a), Object.entries(b)]
  return (
    left.length === right.length &&
    left.every(([name, value]) => Object.hasOwn(b, name) && b[name] === value)
  )
}

function refuse(detail: string): VaultMeshError {
  return new VaultMeshError('bad-config', detail)
}
