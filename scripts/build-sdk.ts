/**
 * Builds the SDK: one ES module for every platform (no node: imports) and its types, in dist/sdk.
 *
 * Types are emitted by tsc file by file, so that editors lead to the documented sources' shapes; `#core/…`
 * in them is rewritten to a relative path, because package imports of ours mean sources, not types.
 */

import { spawnSync } from 'node:child_process'
import { mkdirSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { dirname, join, relative, resolve } from 'node:path'
import { build } from 'esbuild'
import { ROOT } from './build.ts'

/** Bundles the SDK to `folder` and emits its types there. */
export async function buildSdk(folder = resolve(ROOT, 'dist/sdk')): Promise<void> {
  rmSync(folder, { recursive: true, force: true })
  mkdirSync(folder, { recursive: true })
  await build({
    entryPoints: [resolve(ROOT, 'functions/sdk.ts')],
    outfile: join(folder, 'sdk.js'),
    bundle: true,
    format: 'esm',
    platform: 'neutral',
    mainFields: ['module', 'main'],
    target: 'es2022',
    logLevel: 'warning',
  })
  const emitted = spawnSync(
    resolve(ROOT, 'node_modules/.bin/tsc'),
    `functions/sdk.ts --ignoreConfig --declaration --emitDeclarationOnly --rootDir functions
     --target es2024 --module esnext --moduleResolution bundler --lib es2024,dom,dom.iterable
     --strict --skipLibCheck --allowImportingTsExtensions --noUncheckedIndexedAccess`
      .split(/\s+/)
      .concat('--types', '', '--outDir', folder),
    { cwd: ROOT, encoding: 'utf8' },
  )
  if (emitted.status !== 0) throw new Error(`tsc: ${emitted.stdout}${emitted.stderr}`)
  for (const name of readdirSync(folder, { recursive: true, encoding: 'utf8' })) {
    if (name.endsWith('.d.ts')) mendImports(folder, join(folder, name))
  }
}

/** `#core/x.ts` → `./core/x.js` as seen from the file. */
function mendImports(folder: string, file: string): void {
  const near = relative(dirname(file), join(folder, 'core')) || '.'
  const prefix = near.startsWith('.') ? near : `./${near}`
  const text = readFileSync(file, 'utf8').replaceAll(
    /(["'])#core\/([\w-]+)\.ts\1/g,
    (_, quote: string, name: string) => `${quote}${prefix}/${name}.js${quote}`,
  )
  // Whole or not at all: a test may read while another builds.
  writeFileSync(`${file}.part`, text)
  renameSync(`${file}.part`, file)
}

if (import.meta.main) await buildSdk()
