import path from 'node:path'
import { cloudflareTest, readD1Migrations } from '@cloudflare/vitest-plugin'
import { defineConfig } from 'vitest/config'
import { writeAssets } from './scripts/build-assets.ts'

// What the Worker holds for browsers, as of now.
await writeAssets()
const migrations = await readD1Migrations(path.join(import.meta.dirname, 'migrations'))

/** End-to-end files that no clock hurries: each passed beside other work on two cores. */
const PATIENT = [
  'anchor-commands',
  'anchor-sdk',
  'anchor-secrets',
  'audit',
  'backup',
  'bad-input',
  'bitcoin-rail',
  'bitcoin-reorg',
  'calendar',
  'calendar-rail',
  'cli',
  'containers',
  'devnet',
  'doc-words',
  'docs',
  'doctor',
  'erasure',
  'esplora',
  'ethereum-block',
  'ethereum-nodes',
  'ethereum-rail',
  'federation-refusals',
  'fsck',
  'http-manners',
  'independent',
  'keystore',
  'monitoring-config',
  'oidc',
  'provision',
  'plan',
  'readme',
  'rotation',
  'sdk',
  'secrets',
  'secrets-commands',
  'services',
  'sops',
  'tls',
  'webhooks',
].map((name) => `test/e2e/${name}.test.ts`)

export default defineConfig({
  test: {
    // Of two cores vitest would use one.
    maxWorkers: 2,
    coverage: {
      provider: 'v8',
      include: ['functions/core/**'],
      reporter: ['text-summary', 'json-summary'],
    },
    projects: [
      {
        test: {
          name: 'core',
          include: ['test/core/**/*.test.ts'],
          environment: 'node',
          setupFiles: ['test/support/seed.ts'],
        },
      },
      {
        // The real Worker and Durable Objects on a simulated platform whose every step can fail.
        resolve: {
          alias: {
            'cloudflare:workers': path.resolve(
              import.meta.dirname,
              'test/sim/cloudflare-workers.ts',
            ),
          },
        },
        test: { name: 'sim', include: ['test/sim/**/*.test.ts'], environment: 'node' },
      },
      {
        // The same in the real runtime.
        plugins: [
          cloudflareTest({
            wrangler: { configPath: './wrangler.toml' },
            miniflare: {
              compatibilityFlags: ['service_binding_extra_handlers'],
              bindings: {
                TEST_MIGRATIONS: migrations,
                NODE_SECRET: Buffer.alloc(32, 1).toString('base64url'),
                INTAKE_SHARDS: '2',
                AUDIT_LINES: '0',
                SEAL_BATCH_MAX_INTERVAL_MS: '500',
              },
            },
          }),
        ],
        test: {
          name: 'workerd',
          include: ['test/workerd/**/*.test.ts'],
          setupFiles: ['test/workerd/setup.ts'],
          testTimeout: 60_000,
        },
      },
      {
        // Whole nodes in their own processes: one file at a time, on two cores they would time out.
        test: {
          name: 'e2e',
          setupFiles: ['test/support/seed.ts'],
          include: ['test/e2e/**/*.test.ts'],
          exclude: PATIENT,
          environment: 'node',
          testTimeout: 60_000,
          hookTimeout: 60_000,
          fileParallelism: false,
          sequence: { groupOrder: 1 },
        },
      },
      {
        // Those that wait for answers rather than against a clock: two files at a time.
        test: {
          name: 'e2e-patient',
          setupFiles: ['test/support/seed.ts'],
          include: PATIENT,
          environment: 'node',
          testTimeout: 120_000,
          hookTimeout: 120_000,
          sequence: { groupOrder: 2 },
        },
      },
    ],
  },
})
