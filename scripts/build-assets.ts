/**
 * Builds what browsers load: each entry below as one minified file, all of them as one module, `#assets`, that
 * the Worker holds in its own bundle. Its text and the hash of it in its name come from one build, so a page
 * can never name a file that its Worker does not have.
 *
 * Whoever bundles the Worker builds this first: `bundleWorker` in memory, wrangler by `[build]` and vitest by its
 * config through dist/assets.js, where package.json finds it.
 */

import { createHash } from 'node:crypto'
import { existsSync, mkdirSync, renameSync, writeFileSync } from 'node:fs'
import { resolve } from 'node:path'
import { build } from 'esbuild'

const ROOT = resolve(import.meta.dirname, '..')

/** Names that pages use, and what is bundled under them. */
export const ENTRIES: Readonly<Record<string, string>> = {
  'live.js': 'functions/dashboard/live/main.ts',
  'style.css': 'functions/dashboard/style.css',
  'verify.js': 'functions/dashboard/verify/main.ts',
}

const TYPES: Readonly<Record<string, string>> = {
  css: 'text/css; charset=utf-8',
  js: 'text/javascript; charset=utf-8',
}

/** Browsers that have Ed25519 in WebCrypto, which is what bounds us (Chromium 137, Firefox 129, Safari 17). */
const TARGET = ['es2022', 'chrome120', 'firefox120', 'safari17']

/** One entry, bundled and minified. */
export async function bundleAsset(entry: string): Promise<string> {
  const result = await build({
    entryPoints: [resolve(ROOT, entry)],
    absWorkingDir: ROOT,
    bundle: true,
    write: false,
    minify: true,
    format: 'esm',
    platform: 'browser',
    target: TARGET,
    charset: 'utf8',
    legalComments: 'none',
    logLevel: 'warning',
  })
  return result.outputFiles[0]!.text
}

/** The source of the module `#assets`. */
export async function assetsModule(): Promise<string> {
  const names = Object.keys(ENTRIES).filter((name) => existsSync(resolve(ROOT, ENTRIES[name]!)))
  const assets = await Promise.all(
    names.map(async (name) => {
      const text = await bundleAsset(ENTRIES[name]!)
      // 64 bits: a name for caches, not a proof.
      const hash = createHash('sha256').update(text).digest('hex').slice(0, 16)
      const dot = name.lastIndexOf('.')
      const file = `${name.slice(0, dot)}-${hash}${name.slice(dot)}`
      return [name, { file, type: TYPES[name.slice(dot + 1)], text }] as const
    }),
  )
  return `export const assets = ${JSON.stringify(Object.fromEntries(assets))}\n`
}

/** Writes dist/assets.js, whole or not at all: others may be reading it. */
export async function writeAssets(): Promise<void> {
  const file = resolve(ROOT, 'dist/assets.js')
  mkdirSync(resolve(file, '..'), { recursive: true })
  const part = `${file}.${process.pid}`
  writeFileSync(part, await assetsModule())
  renameSync(part, file)
}

if (import.meta.main) await writeAssets()
