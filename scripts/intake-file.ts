/**
 * config/intake.yaml, and the schemas that it names, as the one JSON document that a node takes (core/intake-config.ts).
 *
 * A schema stands in the file itself or is the path of a JSON file, from the file's own folder. YAML is read as plain
 * data: no anchors, aliases, tags or repeated keys, so a file says what it shows.
 */

import { dirname, resolve } from 'node:path'
import { isAlias, isCollection, isScalar, parseDocument, visit } from 'yaml'
import { canonicalJson } from '#core/canonical-json.ts'
import { VaultMeshError } from '#core/errors.ts'
import { MAX_INTAKE_BYTES, parseIntakeRules } from '#core/intake-config.ts'
import { MAX_SCHEMA_BYTES } from '#core/schema-pins.ts'
import { parseStrictJson, type Json } from '#core/strict-json.ts'
import { followedFile, readConfig, type FollowedFile } from './federation-file.ts'

/** Where a node looks for its rules unless the operator says otherwise. */
export const INTAKE_FILE = 'config/intake.yaml'

/** The document of the file at `path`, checked by the rules of the node. Throws `bad-config` naming what is wrong. */
export function readIntakeFile(path: string): {
  readonly text: string
  readonly paths: readonly string[]
} {
  const file = resolve(path)
  const paths = [file]
  const rules = plainYaml(readConfig(file, 'the intake rules'), path)
  const schemas = rules['schemas'] ?? {}
  if (typeof schemas !== 'object' || schemas === null || Array.isArray(schemas))
    throw bad(path, 'schemas must map types to schemas or paths')
  const inside: Record<string, Json> = {}
  for (const [type, schema] of Object.entries(schemas)) {
    if (typeof schema !== 'string') inside[type] = schema
    else {
      const at = resolve(dirname(file), schema)
      paths.push(at)
      inside[type] = readSchema(at)
    }
  }
  const text = canonicalJson({ ...rules, schemas: inside })
  parseIntakeRules(text)
  return { text, paths }
}

/** The rules of a node, followed while it runs; `hand` gives a document to it and throws what it refuses. */
export function intakeFile(path: string, hand: (text: string) => Promise<void>): FollowedFile {
  return followedFile(path, () => readIntakeFile(path), hand)
}

function readSchema(path: string): Json {
  const text = readConfig(path, 'the schema')
  // Indented it may be several times as long as what counts.
  if (text.length > 4 * MAX_SCHEMA_BYTES)
    throw bad(path, `has more than ${4 * MAX_SCHEMA_BYTES} bytes`)
  try {
    return parseStrictJson(text, { code: 'bad-config', name: path })
  } catch (cause) {
    throw bad(path, cause instanceof Error ? cause.message.replace(/\.$/, '') : 'is no JSON', cause)
  }
}

function plainYaml(text: string, path: string): Readonly<Record<string, Json>> {
  if (text.length > MAX_INTAKE_BYTES) throw bad(path, `has more than ${MAX_INTAKE_BYTES} bytes`)
  const document = parseDocument(text, {
    prettyErrors: false,
    stringKeys: true,
    resolveKnownTags: false,
  })
  const [problem] = [...document.errors, ...document.warnings]
  if (problem !== undefined) throw bad(path, `is not YAML: ${problem.message}`)
  visit(document, (_key, node) => {
    if (isAlias(node)) throw bad(path, 'holds an alias; write the value out')
    if (
      (isScalar(node) || isCollection(node)) &&
      (node.anchor !== undefined || node.tag !== undefined)
    )
      throw bad(path, 'holds an anchor or a tag; write values out')
  })
  // Through JSON: what YAML has beside it (dates, Infinity, a lone key) must not reach the node.
  const value: unknown =
    document.contents === null ? {} : JSON.parse(JSON.stringify(document.toJS()))
  if (typeof value !== 'object' || value === null || Array.isArray(value))
    throw bad(path, 'must be a mapping with allow, schemas or unpinned')
  return value as Readonly<Record<string, Json>>
}

function bad(path: string, why: string, cause?: unknown): VaultMeshError {
  return new VaultMeshError('bad-config', `${path} ${why}.`, { cause })
}
