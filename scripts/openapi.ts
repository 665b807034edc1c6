/**
 * Writes openapi.json from the route table; `--check` fails if the committed file differs.
 *
 * The routes run in the Worker, so they are bundled for it and the bundle is imported. The bundle holds
 * an empty openapi.json: what the page shows must not feed back into what is written.
 */

import { readFileSync, writeFileSync } from 'node:fs'
import { resolve } from 'node:path'
import { build } from 'esbuild'
import { ROOT } from './build.ts'

/** A row of the route table, as far as the document tells of it. */
export interface RouteName {
  readonly method: string
  readonly path: string
  readonly tag: string
  readonly internal?: boolean
}

/** The document, and what it was made from. */
export interface Generated {
  readonly document: Readonly<Record<string, unknown>>
  readonly routes: readonly RouteName[]
  /** Keys of the table of notes; each must name a route. */
  readonly notes: Readonly<Record<string, unknown>>
  /** Words for fields, by component; each must name a field. */
  readonly words: Readonly<Record<string, Readonly<Record<string, string>>>>
}

const FILE = resolve(ROOT, 'openapi.json')

/** The document as the route table gives it now. */
export async function generate(): Promise<Generated> {
  const result = await build({
    stdin: {
      contents: `import { routes } from './functions/http/app.ts'
import { notes, openApiDocument, words } from './functions/http/openapi.ts'
export const generated = { document: openApiDocument(routes), routes, notes, words }`,
      resolveDir: ROOT,
    },
    bundle: true,
    write: false,
    format: 'esm',
    target: 'es2024',
    external: ['cloudflare:*', 'node:*'],
    logLevel: 'warning',
    plugins: [
      {
        name: 'no-feedback',
        setup(bundle) {
          bundle.onResolve({ filter: /^#assets$/ }, ({ path }) => ({ path, namespace: 'none' }))
          bundle.onLoad({ filter: /./, namespace: 'none' }, () => ({
            contents: 'export const assets = {}',
          }))
          bundle.onLoad({ filter: /[/\\]openapi\.json$/ }, () => ({
            contents: '{}',
            loader: 'json',
          }))
        },
      },
    ],
  })
  const url = `data:text/javascript;base64,${Buffer.from(result.outputFiles[0]!.text).toString('base64')}`
  const module = (await import(url)) as { readonly generated: Generated }
  return module.generated
}

/** The text of openapi.json. */
export function documentText({ document }: Generated): string {
  return `${JSON.stringify(document, null, 2)}\n`
}

if (import.meta.main) {
  const text = documentText(await generate())
  if (!process.argv.includes('--check')) writeFileSync(FILE, text)
  else if (readFileSync(FILE, 'utf8') !== text) {
    console.error('openapi.json is not what the routes say: run `npm run openapi` and commit it.')
    process.exit(1)
  }
}
