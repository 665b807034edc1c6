/**
 * secrets check: whether every secret of this machine opens, is unchanged, and is read by whom the rules say.
 *
 * It looks at the SOPS files of a folder, the rules for them, the age files of a home (node.secret.age,
 * client.key.age) and the identity file. It changes nothing and prints no value.
 */

import { readFile } from 'node:fs/promises'
import { VaultMeshError } from '#core/errors.ts'
import type { Home } from '../home.ts'
import { identityPath, openSecret, ownRecipients } from '../keystore.ts'
import { decryptSopsEnv, known, secretFiles, sopsRecipients } from '../sops.ts'
import { ruleOf } from '../sops-rules.ts'
import { Exit, type Outcome } from './command.ts'
import { ageFiles } from './recipients.ts'

/** What is said of one file. */
interface Checked {
  readonly path: string
  readonly variables: readonly string[]
  /** Null where a file does not say it. */
  readonly recipients: readonly string[] | null
  readonly problem: string | null
}

/** Looks at all of it; refuted if anything is wrong. */
export async function checkSecrets(dir: string, home: Home): Promise<Outcome> {
  const own = await ownRecipients({ create: false })
  const paths = await secretFiles(dir)
  const files = await Promise.all(paths.map((path) => checkFile(path)))
  const setBy = new Map<string, string>()
  for (const [index, file] of files.entries()) {
    for (const name of file.variables) {
      const other = setBy.get(name)
      if (other !== undefined)
        files[index] = { ...file, problem: `${file.path} sets ${name}, and so does ${other}.` }
      setBy.set(name, file.path)
    }
  }
  const ages = await Promise.all((await ageFiles(home)).map((path) => checkAge(path)))
  const all = [...files, ...ages]
  const notes: string[] = []
  if (all.length === 0) notes.push(`There are no secrets in ${dir}, and none in ${home.path}.`)
  for (const { path, recipients } of all) {
    if (recipients === null)
      notes.push(
        `${path} does not say who can read it; vaultmesh keys recipients --home ${home.path} lets it.`,
      )
    else if (recipients.length === 1)
      notes.push(
        `${path} has one recipient: whoever loses that identity loses it. Add a second (docs/secrets.md).`,
      )
  }
  const problems = all.flatMap(({ problem }) => problem ?? [])
  return {
    exit: problems.length === 0 ? Exit.ok : Exit.refuted,
    value: {
      identity: { path: identityPath(), recipients: own },
      files,
      home: ages,
      problems,
      notes,
    },
    lines: [
      `identity ${identityPath()}`,
      ...own.map((who) => `  ${who}`),
      ...all.flatMap(({ path, variables, recipients, problem }) => [
        `${problem === null ? 'OK  ' : 'BAD '} ${path}${variables.length === 0 ? '' : `  ${variables.join(', ')}`}`,
        ...(problem === null ? [] : [`  ${problem}`]),
        ...(recipients ?? []).map(
          (who) => `  readable by ${own.includes(who) ? 'us   ' : 'other'} ${who}`,
        ),
      ]),
      ...notes.map((note) => `note: ${note}`),
    ],
  }
}

async function checkFile(path: string): Promise<Checked> {
  let recipients: readonly string[] | null = null
  let variables: readonly string[] = []
  const problem = await problemOf(async () => {
    const bytes = await readFile(path)
    recipients = sopsRecipients(bytes, path)
    const rule = await ruleOf(path)
    variables = Object.keys(known(await decryptSopsEnv(bytes, path), path))
    if (rule === null || rule.recipients.length === 0) return null
    const same = rule.recipients.toSorted().join() === recipients.toSorted().join()
    return same
      ? null
      : `${path} is encrypted to others than ${rule.file} says: vaultmesh secrets rotate`
  })
  return { path, variables, recipients, problem }
}

async function checkAge(path: string): Promise<Checked> {
  let recipients: readonly string[] | null = null
  const problem = await problemOf(async () => {
    recipients = (await openSecret(path)).recipients
    return null
  })
  return { path, variables: [], recipients, problem }
}

async function problemOf(look: () => Promise<string | null>): Promise<string | null> {
  try {
    return await look()
  } catch (error) {
    if (error instanceof VaultMeshError) return error.message
    throw error
  }
}
