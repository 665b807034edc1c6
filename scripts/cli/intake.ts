/**
 * intake: who may post, and which schemas are pinned to which types, while the node runs (docs/intake.md).
 */

import { readFile } from 'node:fs/promises'
import { fromUtf8, toBase64Url, utf8 } from '#core/bytes.ts'
import { EVENT_TYP, openEnvelope } from '#core/envelope.ts'
import { VaultMeshError } from '#core/errors.ts'
import {
  checkAllowed,
  checkSchema,
  parseIntakeRules,
  type IntakeRules,
} from '#core/intake-config.ts'
import { checkPinned } from '#core/schema-pins.ts'
import { Signers } from '#core/signer.ts'
import { readIntakeFile } from '../intake-file.ts'
import { arity, Exit, UsageError, type Command, type Outcome, type Values } from './command.ts'
import { operate, OPERATOR_HELP, operatorOptions, operatorTarget } from './operator.ts'

interface Applied {
  readonly sha256: string | null
  readonly followsFile: boolean
  readonly rules: {
    readonly allow?: readonly string[]
    readonly schemas: Readonly<Record<string, unknown>>
    readonly unpinned?: string
  } | null
  /** INTAKE_ALLOW. */
  readonly variable: readonly string[]
}

/** DIDs shown to people; all of them are in --json. */
const SHOWN = 20

export const intake: Command = {
  name: 'intake',
  summary: 'Who may post, and what data of which type must look like',
  usage: 'show | check FILE [EVENT] | apply FILE | clear',
  help: `  show            the rules in force
  check FILE      read the file and its schemas as a node would; with EVENT (a JSON CloudEvent or a
                  signed .jws) say whether it would be taken. Asks no node
  apply FILE      take the file over, at once and for good. A node that follows a file is changed by
                  saving that file
  clear           forget the rules: INTAKE_ALLOW decides again, and no schema is pinned
${OPERATOR_HELP}
  config/examples/intake.yaml is a file to begin with`,
  options: operatorOptions,
  async run(args, values) {
    const [what, file, event] = args
    switch (what) {
      case 'show':
        arity(args, 1, 1)
        return shown(await operate<Applied>(operatorTarget(values), 'GET', '/admin/intake'))
      case 'check':
        arity(args, 2, 3)
        return check(file!, event)
      case 'apply':
        arity(args, 2, 2)
        return apply(values, readIntakeFile(file!).text)
      case 'clear':
        arity(args, 1, 1)
        return apply(values, '')
      default:
        throw new UsageError(`intake ${what ?? ''}: say show, check, apply or clear.`)
    }
  },
}

async function apply(values: Values, document: string): Promise<Outcome> {
  const target = operatorTarget(values)
  const before = await operate<Applied>(target, 'GET', '/admin/intake')
  // Of two who change them at once, one: the other has not seen what it would undo.
  const over = before.sha256 ?? 'none'
  const value = await operate<{
    readonly sha256: string | null
    readonly schemas: readonly unknown[]
  }>(target, 'POST', `/admin/intake?over=${over}`, document)
  const said =
    value.sha256 === null
      ? 'No rules of intake any more: INTAKE_ALLOW decides, and no schema is pinned.'
      : `In force within seconds: rules sha256:${value.sha256}, ${value.schemas.length} pinned types.`
  return { exit: Exit.ok, value: { ...value, before: before.sha256 }, lines: [said] }
}

function shown(applied: Applied): Outcome {
  const { sha256, followsFile, rules, variable } = applied
  const allow = rules?.allow ?? variable
  const by = rules?.allow === undefined ? 'INTAKE_ALLOW' : 'the rules'
  const who = allow.includes('*') ? ['anybody'] : allow.length === 0 ? ['nobody'] : allow
  const lines = [
    `rules      ${sha256 === null ? 'none' : `sha256:${sha256}`}${followsFile ? ', from the file that the node follows' : ''}`,
    `may post   ${who[0]} (${by})`,
    ...who.slice(1, SHOWN).map((did) => `           ${did}`),
    ...(who.length > SHOWN ? [`           and ${who.length - SHOWN} more (--json)`] : []),
    `unpinned   ${rules?.unpinned ?? 'accept'}`,
    ...Object.keys(rules?.schemas ?? {}).map((type) => `pinned     ${type}`),
  ]
  return { exit: Exit.ok, value: applied, lines }
}

async function check(file: string, event: string | undefined): Promise<Outcome> {
  const { text: document } = readIntakeFile(file)
  const rules = parseIntakeRules(document)
  const pins = [...rules.pins.values()].map(({ type, sha256, id }) => ({
    type,
    sha256: `sha256:${sha256}`,
    id,
  }))
  const facts = { sha256: rules.sha256, unpinned: rules.unpinned, schemas: pins }
  const lines = [
    `the file is sound: rules sha256:${rules.sha256}`,
    ...pins.map(({ type, sha256 }) => `pinned     ${type} to ${sha256}`),
  ]
  if (event === undefined) return { exit: Exit.ok, value: { taken: null, ...facts }, lines }
  const bytes = trimmed(await readFile(event))
  try {
    await judge(rules, bytes)
  } catch (error) {
    if (!(error instanceof VaultMeshError)) throw error
    const { code, message: detail, advice, extra } = error
    return {
      exit: Exit.refuted,
      value: { taken: false, ...facts, problem: { code, detail, advice, ...extra } },
      lines: [...lines, `${event} would be refused (${code}): ${detail}`],
    }
  }
  return {
    exit: Exit.ok,
    value: { taken: true, ...facts },
    lines: [...lines, `${event} would be taken`],
  }
}

/** A signed event by all of the rules; a JSON event, which nobody signed yet, by its schema. */
async function judge(rules: IntakeRules, bytes: Uint8Array): Promise<void> {
  if (bytes[0] !== 0x7b) {
    const open = await openEnvelope(bytes, new Signers(EVENT_TYP))
    checkAllowed(rules, null, open.signer)
    return checkSchema(rules, open, '')
  }
  let type: unknown
  try {
    ;({ type } = JSON.parse(fromUtf8(bytes)) as { readonly type?: unknown })
  } catch {
    throw new VaultMeshError('bad-event', 'The event is not JSON.')
  }
  if (typeof type !== 'string') throw new VaultMeshError('bad-event', 'The event has no "type".')
  const pin = rules.pins.get(type)
  if (pin !== undefined) return checkPinned(pin, utf8(`.${toBase64Url(bytes)}`))
  if (rules.unpinned === 'refuse')
    throw new VaultMeshError(
      'schema-mismatch',
      `No schema is pinned to "${type}", and unpinned is refuse.`,
    )
}

function trimmed(bytes: Uint8Array): Uint8Array {
  return utf8(fromUtf8(bytes).trim())
}
