/**
 * keys recipients and keys identity: who can read the secrets of a node, and the age identities of this machine.
 *
 * The secrets stay what they are and are encrypted anew, each file in one step. All of them are opened before the
 * first is changed, and a change that was cut off is finished by the same call again.
 */

import { existsSync } from 'node:fs'
import { readdir, readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { VaultMeshError } from '#core/errors.ts'
import type { Home } from '../home.ts'
import {
  addIdentity,
  changed,
  identities,
  identityPath,
  opened,
  openSecret,
  ownRecipients,
  recipient,
  reencrypt,
  retireIdentity,
} from '../keystore.ts'
import { decryptSopsEnv, secretFiles, SECRETS_DIR } from '../sops.ts'
import { Exit, list, text, UsageError, type Outcome, type Values } from './command.ts'

/** The age files of a home: node.secret.age, client.key.age, what else was put beside them, and the keys of `make up`. */
export async function ageFiles(home: Home): Promise<readonly string[]> {
  const folders = [home.path, join(home.path, 'devnet')].filter((folder) => existsSync(folder))
  const names = await Promise.all(
    folders.map(async (folder) => (await readdir(folder)).sort().map((name) => join(folder, name))),
  )
  return names.flat().filter((name) => name.endsWith('.age'))
}

/** `keys recipients`: shows them, or changes them in every age file of the home and of --key. */
export async function recipients(home: Home, values: Values): Promise<Outcome> {
  const change = {
    add: list(values, 'add').map(recipient),
    remove: list(values, 'remove').map(recipient),
  }
  const paths = await filesOf(home, values)
  const own = await ownRecipients({ create: false })
  const before = await Promise.all(
    paths.map(async (path) => (await openSecret(path)).recipients ?? own),
  )
  for (const who of change.remove)
    if (!before.flat().includes(who))
      throw refuse(`${who} is no recipient of ${paths.join(' or ')}.`)
  for (const readers of before) changed(readers, change, own)
  const isChange = change.add.length + change.remove.length > 0
  const files: { path: string; recipients: readonly string[] }[] = []
  for (const [index, path] of paths.entries())
    files.push({ path, recipients: isChange ? await reencrypt(path, change) : before[index]! })
  return {
    exit: Exit.ok,
    value: { identity: { path: identityPath(), recipients: own }, files, changed: isChange },
    lines: [
      ...files.flatMap((file) => [
        `${isChange ? 'encrypted anew ' : ''}${file.path}`,
        ...file.recipients.map(
          (who) => `  readable by ${own.includes(who) ? 'us   ' : 'other'} ${who}`,
        ),
      ]),
      ...(change.remove.length === 0
        ? []
        : [
            '  who was removed still reads older copies: a secret that he may have read is not secret any more',
          ]),
    ],
  }
}

/** `keys identity`: shows this machine's, adds one, or retires one that nothing here needs any more. */
export async function identity(home: Home, values: Values): Promise<Outcome> {
  const retire = text(values, 'retire')
  if (values['new'] === true && retire !== undefined)
    throw new UsageError('--new and --retire are two steps.')
  if (values['new'] === true) {
    const made = await addIdentity()
    return {
      exit: Exit.ok,
      value: { path: identityPath(), recipient: made },
      lines: [made, `  added to ${identityPath()}; nothing is encrypted to it yet`],
    }
  }
  if (retire === undefined) {
    const own = await ownRecipients({ create: false })
    return {
      exit: Exit.ok,
      value: { path: identityPath(), recipients: own },
      lines: [...own, `  in ${identityPath()}`],
    }
  }
  const who = recipient(retire)
  await refuseIfNeeded(who, home, values)
  const kept = await retireIdentity(who)
  return {
    exit: Exit.ok,
    value: { path: identityPath(), retired: who, kept },
    lines: [
      `retired ${who}`,
      `  it is in ${kept} for older backups: remove that file with the last of them`,
    ],
  }
}

/** Throws if a secret here would not open without the identity of `who`. */
async function refuseIfNeeded(who: string, home: Home, values: Values): Promise<void> {
  const own = await ownRecipients({ create: false })
  const left = (await identities({ create: false })).filter((_, index) => own[index] !== who)
  const dir = text(values, 'dir') ?? SECRETS_DIR
  const paths = [...(await ageFiles(home)), ...list(values, 'key'), ...(await secretFiles(dir))]
  for (const path of paths) {
    const file = await readFile(path).catch((error: NodeJS.ErrnoException) => {
      throw refuse(`Cannot read ${path} (${error.code ?? 'unknown error'}).`)
    })
    const open = path.endsWith('.env') ? decryptSopsEnv(file, path, left) : opened(file, left, path)
    await open.catch((error: unknown) => {
      if (!(error instanceof VaultMeshError)) throw error
      throw refuse(
        `${path} does not open without this identity, which stays. First: vaultmesh ${path.endsWith('.env') ? 'secrets rotate' : 'keys recipients'} --add age1… --remove ${who}`,
      )
    })
  }
}

async function filesOf(home: Home, values: Values): Promise<readonly string[]> {
  const paths = [...(await ageFiles(home)), ...list(values, 'key')]
  if (paths.length > 0) return paths
  throw refuse(`There is no node in ${home.path}, and no --key was named.`)
}

function refuse(detail: string): VaultMeshError {
  return new VaultMeshError('bad-config', detail)
}
