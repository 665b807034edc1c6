/**
 * The API document as a page: plain HTML made from openapi.json, nothing to run in the browser.
 *
 * One style sheet stands in the page and its hash in the Content-Security-Policy, so that nothing else
 * can style it, no script can run and no other origin is ever asked.
 */

import { toBase64, utf8 } from '#core/bytes.ts'
import { codes } from '#core/errors.ts'
import { sha256 } from '#core/sha256.ts'

/** What is read of a JSON Schema. */
interface Schema {
  readonly $ref?: string
  readonly type?: string | readonly string[]
  readonly format?: string
  readonly description?: string
  readonly pattern?: string
  readonly enum?: readonly unknown[]
  readonly const?: unknown
  readonly default?: unknown
  readonly minimum?: number
  /** Only 0 is used, of integers. */
  readonly exclusiveMinimum?: number
  readonly maximum?: number
  readonly minLength?: number
  readonly maxLength?: number
  readonly anyOf?: readonly Schema[]
  readonly items?: Schema
  readonly properties?: Readonly<Record<string, Schema>>
  readonly required?: readonly string[]
  readonly additionalProperties?: boolean | Schema
  readonly examples?: readonly unknown[]
}

interface Parameter {
  readonly name: string
  readonly in: string
  readonly required?: boolean
  readonly description?: string
  readonly schema: Schema
}

type Content = Readonly<Record<string, { readonly schema: Schema }>>

interface Answer {
  readonly $ref?: string
  readonly description?: string
  readonly content?: Content
}

interface Operation {
  readonly operationId: string
  readonly tags: readonly string[]
  readonly summary: string
  readonly description?: string
  readonly parameters?: readonly Parameter[]
  readonly requestBody?: { readonly content: Content }
  readonly responses: Readonly<Record<string, Answer>>
  readonly 'x-codeSamples': readonly { readonly source: string }[]
}

/** What is read of openapi.json. */
export interface OpenApi {
  readonly info: { readonly title: string; readonly version: string; readonly description: string }
  readonly tags: readonly { readonly name: string; readonly description: string }[]
  readonly paths: Readonly<Record<string, Readonly<Record<string, Operation>>>>
  readonly components: {
    readonly schemas: Readonly<Record<string, Schema>>
    readonly responses: Readonly<Record<string, Answer>>
  }
}

interface Named extends Operation {
  readonly method: string
  readonly path: string
}

/** The body of /docs. */
export function docsBody({ info, tags, paths, components }: OpenApi): string {
  const operations: Named[] = Object.entries(paths).flatMap(([path, methods]) =>
    Object.entries(methods).map(([method, operation]) => ({
      ...operation,
      method: method.toUpperCase(),
      path,
    })),
  )
  const byTag = tags.map((tag) => ({
    ...tag,
    operations: operations.filter((operation) => operation.tags.includes(tag.name)),
  }))
  const index = byTag
    .map(
      (tag) =>
        `<li><a href="#${tag.name}">${tag.name}</a><ul>${tag.operations.map((o) => `<li><a href="#${o.operationId}">${signature(o)}</a></li>`).join('')}</ul></li>`,
    )
    .join('')
  const sections = byTag
    .map(
      (tag) =>
        `<section aria-labelledby="${tag.name}"><h2 id="${tag.name}">${tag.name}</h2><p>${prose(tag.description)}</p>${tag.operations.map((o) => article(o, components)).join('')}</section>`,
    )
    .join('')
  const schemas = Object.entries(components.schemas)
    .map(([name, schema]) => component(name, schema))
    .join('')
  return `<header><h1>${escape(info.title)} API</h1><p>${prose(info.description)}</p>
<p>Version ${escape(info.version)} · <a href="/openapi.json">openapi.json</a> · <a href="#schemas">schemas</a> · <a href="#problems">problems</a></p></header>
<nav aria-label="Index"><ul>${index}</ul></nav>
<main>${sections}<section aria-labelledby="schemas"><h2 id="schemas">schemas</h2>${schemas}</section>
<section aria-labelledby="problems"><h2 id="problems">problems</h2><p>Every refusal is <code>application/problem+json</code> (RFC 9457); <code>type</code> is <code>/problems/</code> and one of these codes.</p>${problemTable()}</section></main>`
}

/** The body of /problems/{code}. */
export function problemBody(code: keyof typeof codes): string {
  const { title, status, advice } = codes[code]
  return `<main><h1>${escape(title)}</h1><p><code>${code}</code> · HTTP ${status}</p><p>${escape(advice)}</p><p><a href="/docs#problems">All problems</a></p></main>`
}

function article(o: Named, { schemas, responses }: OpenApi['components']): string {
  const parameters = o.parameters ?? []
  const parts = [
    `<h3 id="${o.operationId}">${signature(o)}</h3><p><strong>${escape(o.summary)}.</strong></p>`,
    ...(o.description ?? '')
      .split('\n\n')
      .filter((p) => p !== '')
      .map((p) => `<p>${prose(p)}</p>`),
  ]
  if (parameters.length > 0) {
    const rows = parameters.map((p) => [
      `<code>${escape(p.name)}</code>${p.required === true ? ' <em>required</em>' : ''}`,
      escape(p.in),
      limits(p.schema),
      prose(p.description ?? ''),
    ])
    parts.push(table('Parameters', ['name', 'in', 'value', 'meaning'], rows))
  }
  if (o.requestBody !== undefined) {
    const rows = Object.entries(o.requestBody.content).map(([type, { schema }]) => [
      `<code>${escape(type)}</code>`,
      limits(schema),
      prose((schemas[schema.$ref?.split('/').at(-1) ?? ''] ?? schema).description ?? ''),
    ])
    parts.push(table('Request body', ['media type', 'value', 'meaning'], rows))
  }
  // Answers that mean the same share a row: "400, 403, 409".
  const answers = new Map<string, string[]>()
  for (const [status, answer] of Object.entries(o.responses)) {
    const { description = '', content = {} } =
      answer.$ref === undefined ? answer : responses[answer.$ref.split('/').at(-1)!]!
    const meaning = JSON.stringify([prose(description), bodies(content)])
    const name = status === 'default' ? 'any other' : status
    answers.set(meaning, [...(answers.get(meaning) ?? []), name])
  }
  const answerRows = [...answers].map(([meaning, statuses]) => [
    statuses.join(', '),
    ...(JSON.parse(meaning) as string[]),
  ])
  parts.push(table('Answers', ['status', 'meaning', 'body'], answerRows))
  for (const { source } of o['x-codeSamples'])
    parts.push(
      `<pre tabindex="0" aria-label="Example for ${escape(o.method)} ${escape(o.path)}"><code>${escape(source)}</code></pre>`,
    )
  return `<article aria-labelledby="${o.operationId}">${parts.join('')}</article>`
}

function bodies(content: Content): string {
  return Object.entries(content)
    .map(([type, { schema }]) => {
      const value = limits(schema)
      return `<code>${escape(type)}</code>${value === 'string' || value === 'object' ? '' : `: ${value}`}`
    })
    .join('<br>')
}

function component(name: string, schema: Schema): string {
  const example = schema.examples?.[0]
  const shown = typeof example === 'string' ? example : JSON.stringify(example, null, 2)
  const rows = fields(schema, '')
  return `<article aria-labelledby="schema-${name}"><h3 id="schema-${name}">${name}</h3>${
    schema.description === undefined ? '' : `<p>${prose(schema.description)}</p>`
  }${rows.length === 0 ? `<p>${limits(schema)}</p>` : table('Fields', ['field', 'value', 'meaning'], rows)}${
    example === undefined
      ? ''
      : `<details><summary>Example</summary><pre tabindex="0"><code>${escape(shown)}</code></pre></details>`
  }</article>`
}

/** A row for each field, nested ones with a dotted name. */
function fields(schema: Schema, prefix: string): string[][] {
  return Object.entries(schema.properties ?? {}).flatMap(([name, field]) => {
    const path = `${prefix}${name}`
    const optional = schema.required?.includes(name) === true ? '' : ' <em>optional</em>'
    const row = [
      `<code>${escape(path)}</code>${optional}`,
      limits(field),
      prose(field.description ?? ''),
    ]
    const variants = [field, ...(field.anyOf ?? [])]
    const nested = variants.flatMap((v) => [
      ...fields(v, `${path}.`),
      ...[v.items, ...(v.items?.anyOf ?? [])].flatMap((item) =>
        item === undefined ? [] : fields(item, `${path}[].`),
      ),
    ])
    // Variants share fields: each is shown once, with the values of all.
    const merged = new Map<string, string[]>()
    for (const [cell, value, meaning] of nested as [string, string, string][]) {
      const key = cell.split('</code>')[0]!
      const before = merged.get(key)
      if (before === undefined) merged.set(key, [cell, value, meaning])
      else if (before[1] !== value) before[1] += ` or ${value}`
    }
    return [row, ...merged.values()]
  })
}

/** A value in few words: its type and what bounds it. */
function limits(schema: Schema): string {
  if (schema.$ref !== undefined) {
    const name = schema.$ref.split('/').at(-1)!
    return `<a href="#schema-${name}">${name}</a>`
  }
  if (schema.anyOf !== undefined) return [...new Set(schema.anyOf.map(limits))].join(' or ')
  if (schema.const !== undefined) return `<code>${escape(JSON.stringify(schema.const))}</code>`
  if (schema.enum !== undefined)
    return schema.enum.map((v) => `<code>${escape(String(v))}</code>`).join(', ')
  if (schema.type === 'array') {
    const item = schema.items === undefined ? 'any' : limits(schema.items)
    return `list of ${item}`
  }
  const parts = [schema.format ?? [schema.type ?? 'any'].flat().join(' or ')]
  const { maximum, minLength, maxLength } = schema
  const minimum = schema.exclusiveMinimum === 0 ? 1 : schema.minimum
  if (minimum !== undefined && maximum !== undefined) parts.push(`${minimum} to ${maximum}`)
  else if (minimum !== undefined) parts.push(`≥ ${minimum}`)
  else if (maximum !== undefined) parts.push(`≤ ${maximum}`)
  if (maxLength !== undefined)
    parts.push(`${minLength === undefined ? '≤' : `${minLength} to`} ${maxLength} characters`)
  if (schema.pattern !== undefined && schema.pattern.length < 60)
    parts.push(`<code>${escape(schema.pattern)}</code>`)
  if (schema.default !== undefined) parts.push(`default ${escape(JSON.stringify(schema.default))}`)
  return parts.join(', ')
}

function problemTable(): string {
  const rows = Object.entries(codes).map(([code, { status, title, advice }]) => [
    `<a href="/problems/${code}"><code>${code}</code></a>`,
    String(status),
    escape(title),
    escape(advice),
  ])
  return table('Problem codes', ['code', 'status', 'title', 'what to do'], rows)
}

function table(
  caption: string,
  head: readonly string[],
  rows: readonly (readonly string[])[],
): string {
  // A column without a word is left out.
  const used = (_: string, column: number): boolean => rows.some((row) => row[column] !== '')
  const body = rows
    .map(
      (row) =>
        `<tr>${row
          .filter(used)
          .map((cell) => `<td>${cell}</td>`)
          .join('')}</tr>`,
    )
    .join('')
  return `<div class="wide" tabindex="0" role="region" aria-label="${caption}"><table><caption>${caption}</caption><thead><tr>${head
    .filter(used)
    .map((h) => `<th scope="col">${h}</th>`)
    .join('')}</tr></thead><tbody>${body}</tbody></table></div>`
}

function signature({ method, path }: Named): string {
  // A long path may break behind a slash.
  return `<code><b class="${method.toLowerCase()}">${method}</b> ${escape(path).replaceAll('/', '/<wbr>')}</code>`
}

/** Text with `code` in backticks. */
function prose(text: string): string {
  return escape(text).replaceAll(/`([^`]+)`/g, '<code>$1</code>')
}

function escape(text: string): string {
  return text
    .replaceAll('&', '&amp;')
    .replaceAll('<', '&lt;')
    .replaceAll('>', '&gt;')
    .replaceAll('"', '&quot;')
}

const STYLE = `
:root{color-scheme:light dark;--ink:#1b1f24;--soft:#57606a;--line:#d0d7de;--back:#fff;--code:#f3f5f7;--link:#0b57b0;--get:#0a6640;--post:#8a3b00}
@media (prefers-color-scheme:dark){:root{--ink:#e6e9ec;--soft:#a3acb5;--line:#39414a;--back:#14181c;--code:#1f252b;--link:#7db7ff;--get:#5fd6a0;--post:#ffb27a}}
*{box-sizing:border-box}
html{scroll-padding-top:1rem}
body{margin:0 auto;max-width:84rem;padding:1rem 1.25rem 4rem;background:var(--back);color:var(--ink);font:1rem/1.55 system-ui,sans-serif}
@media (min-width:64rem){body.docs{display:grid;grid-template-columns:17rem minmax(0,1fr);column-gap:3rem}.docs>header{grid-column:1/-1}.docs>nav{position:sticky;top:0;align-self:start;max-height:100vh;overflow:auto;padding:1rem 0}}
header p,main>section>p,article>p{max-width:46rem}
h1{margin:1rem 0 .5rem;line-height:1.2}h2{margin:3rem 0 .5rem;padding-bottom:.25rem;border-bottom:1px solid var(--line);text-transform:capitalize}h3{margin:0 0 .5rem;font-size:1.1rem}
nav{font-size:.875rem;line-height:1.45}nav ul{margin:0;padding:0;list-style:none}nav>ul>li{margin:0 0 .75rem}nav>ul>li>a{font-weight:600;text-transform:capitalize}nav li li{padding:.15rem 0 .15rem .75rem}nav code{background:none;padding:0}
article{margin:0 0 2.5rem;padding-top:1rem}
a{color:var(--link)}nav a{text-decoration:none}nav a:hover{text-decoration:underline}
:focus-visible{outline:2px solid var(--link);outline-offset:2px}
code{padding:.1em .3em;border-radius:3px;background:var(--code);font:.875em/1.4 ui-monospace,"DejaVu Sans Mono",monospace;overflow-wrap:anywhere}
h3 code{padding:0;background:none;font-size:1em}.get{color:var(--get)}.post{color:var(--post)}
pre{margin:.75rem 0;padding:.75rem 1rem;border:1px solid var(--line);border-radius:6px;background:var(--code);overflow:auto}pre code{padding:0;background:none;overflow-wrap:normal}
details pre{max-height:30rem}summary{cursor:pointer;color:var(--link)}
.wide{margin:.75rem 0;overflow-x:auto}
table{width:100%;border-collapse:collapse;font-size:.9rem}caption{padding:.25rem 0;text-align:left;font-weight:600;color:var(--soft)}
th,td{padding:.35rem .9rem .35rem 0;border-top:1px solid var(--line);text-align:left;vertical-align:top}th{color:var(--soft);font-weight:500}
td:last-child{width:45%;padding-right:0}em{color:var(--soft);font-size:.85em}
td:first-child code{overflow-wrap:normal}
@media (max-width:40rem){body{padding:.5rem 1rem 3rem}table{min-width:32rem}th,td{padding-right:.7rem}}
`

/** SHA-256 of the style sheet as CSP names it: no other style applies. */
const CSP = `default-src 'none'; style-src 'sha256-${toBase64(sha256(utf8(STYLE)))}'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'`

/** A whole page around `body`. */
export function page(title: string, body: string, kind = 'plain'): Response {
  return new Response(
    `<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1"><title>${escape(title)}</title><style>${STYLE}</style></head><body class="${kind}">${body}</body></html>`,
    {
      headers: {
        'content-type': 'text/html; charset=utf-8',
        'content-security-policy': CSP,
        'referrer-policy': 'no-referrer',
        'x-content-type-options': 'nosniff',
        'cache-control': 'public, max-age=300',
      },
    },
  )
}
