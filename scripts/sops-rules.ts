/**
 * .sops.yaml: whom sops encrypts a new file to. Read as the real sops reads it (getsops/sops, config.go): the first
 * rule whose `path_regex` matches the path relative to the file counts, one without matches every path.
 *
 * Read and changed here are rules with age recipients alone: `age:` as text or list, or one group of `key_groups:`.
 * Comments and other rules stay as they are.
 */

import { existsSync } from 'node:fs'
import { readFile, stat } from 'node:fs/promises'
import { dirname, join, relative, resolve } from 'node:path'
import { isMap, isSeq, parseDocument, type Document, type YAMLMap } from 'yaml'
import { VaultMeshError } from '#core/errors.ts'
import { replaceFile } from './replace-file.ts'
import { SOPS_RULES } from './sops-binary.ts'

/** The rule for a file. */
export interface Rule {
  /** The .sops.yaml it stands in. */
  readonly file: string
  /** Whom it names; none if it leaves that to the environment. */
  readonly recipients: readonly string[]
}

/** The rule for the secrets file `path`, of its folder or the nearest above; null if no file of rules is there. */
export async function ruleOf(path: string): Promise<Rule | null> {
  const file = rulesFile(dirname(resolve(path)))
  if (file === null) return null
  const { recipients } = await ruleIn(file, path)
  return { file, recipients }
}

/** Lets the rule for `path` name `recipients`; throws `bad-config` for one that is not simply a list of them. */
export async function changeRule(path: string, recipients: readonly string[]): Promise<void> {
  const file = rulesFile(dirname(resolve(path)))
  if (file === null) return
  const { mode } = await stat(file)
  await replaceFile(file, mode & 0o777, async () => {
    const { document, at, isText } = await ruleIn(file, path)
    document.setIn(at, isText ? recipients.join(',') : recipients)
    return document.toString({ lineWidth: 0 })
  })
}

function rulesFile(dir: string): string | null {
  const file = join(dir, SOPS_RULES)
  if (existsSync(file)) return file
  return dirname(dir) === dir ? null : rulesFile(dirname(dir))
}

interface Found {
  readonly document: Document
  /** Where its recipients stand. */
  readonly at: readonly (string | number)[]
  readonly isText: boolean
  readonly recipients: readonly string[]
}

async function ruleIn(file: string, path: string): Promise<Found> {
  const document = parseDocument(await readFile(file, 'utf8'))
  const rules = document.errors.length === 0 ? document.get('creation_rules') : null
  if (!isSeq(rules)) throw refuse(file, 'holds no list creation_rules')
  const name = relative(dirname(file), resolve(path))
  for (const [index, rule] of rules.items.entries()) {
    if (!isMap(rule)) throw refuse(file, 'has a rule that is no map')
    if (rule.has('paths') && !rule.has('path_regex')) {
      throw refuse(
        file,
        'has a rule with `paths`, which sops does not know and ignores, so that the rule is for every file. Say path_regex: ^secrets/',
      )
    }
    if (matches(file, rule, name)) return recipientsIn(file, document, rule, index)
  }
  throw refuse(file, `has no rule for ${name}`)
}

function matches(file: string, rule: YAMLMap, name: string): boolean {
  const pattern = rule.get('path_regex')
  if (pattern === undefined) return true
  try {
    // With u, what Go reads in another way (\\A, [[:alpha:]]) is refused here instead of meaning something else.
    if (typeof pattern === 'string') return new RegExp(pattern, 'u').test(name)
  } catch {
    // Said below.
  }
  throw refuse(file, 'has a path_regex that is not understood here')
}

function recipientsIn(file: string, document: Document, rule: YAMLMap, index: number): Found {
  const kinds = ['kms', 'pgp', 'gcp_kms', 'azure_keyvault', 'hc_vault_transit_uri', 'hckms']
  const groups = rule.toJSON() as Record<string, unknown>
  const { key_groups: keyGroups } = groups
  const rest = kinds.some((kind) => rule.has(kind))
  let at: (string | number)[] = ['creation_rules', index, 'age']
  let said: unknown = groups['age']
  if (keyGroups !== undefined) {
    const group = Array.isArray(keyGroups) && keyGroups.length === 1 ? keyGroups[0] : null
    const names = Object.keys((group as object | null) ?? {})
    if (said !== undefined || names.join() !== 'age') throw notAge(file)
    at = ['creation_rules', index, 'key_groups', 0, 'age']
    said = (group as { age: unknown }).age
  }
  if (rest) throw notAge(file)
  if (said === undefined || said === null) said = ''
  const isText = typeof said === 'string'
  const list = isText ? (said as string).split(',') : said
  if (!Array.isArray(list) || !list.every((one) => typeof one === 'string')) throw notAge(file)
  const recipients = list.map((one) => one.trim()).filter((one) => one !== '')
  return { document, at, isText, recipients }
}

function notAge(file: string): VaultMeshError {
  return refuse(file, 'has a rule that names others than one list of age recipients')
}

function refuse(file: string, why: string): VaultMeshError {
  return new VaultMeshError('bad-config', `${file} ${why}.`)
}
