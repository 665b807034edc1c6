/**
 * Bundles the Worker as wrangler would (esbuild, the same conditions), in 0.2 s instead of 3 s (measured).
 */

import { build, type Plugin } from 'esbuild'
import { resolve } from 'node:path'
import { assetsModule } from './build-assets.ts'

/** The repository's root folder. */
export const ROOT = resolve(import.meta.dirname, '..')

/** Gives the Worker its assets without a file: a self-hosted node may not be allowed to write beside its code. */
export const builtAssets: Plugin = {
  name: 'assets',
  setup(bundle) {
    bundle.onResolve({ filter: /^#assets$/ }, ({ path }) => ({ path, namespace: 'assets' }))
    bundle.onLoad({ filter: /./, namespace: 'assets' }, async () => ({
      contents: await assetsModule(),
      loader: 'js',
    }))
  },
}

/**
 * The Worker as one ES module; `entry` relative to the root. `inject` names files whose exports stand in for
 * globals of the same names, for labs that run the Worker under a clock of their own.
 */
export async function bundleWorker(
  entry = 'functions/worker.ts',
  inject: readonly string[] = [],
): Promise<string> {
  const result = await build({
    entryPoints: [resolve(ROOT, entry)],
    inject: inject.map((file) => resolve(ROOT, file)),
    bundle: true,
    write: false,
    format: 'esm',
    target: 'es2024',
    conditions: ['workerd', 'worker', 'browser'],
    external: ['cloudflare:*', 'node:*'],
    plugins: [builtAssets],
    logLevel: 'warning',
  })
  return result.outputFiles[0]!.text
}
