import path from 'node:path'
import { cloudflareTest, readD1Migrations } from '@cloudflare/vitest-plugin'
import { defineConfig } from 'vitest/config'

export default defineConfig({
  test: {
    coverage: {
      provider: 'v8',
      include: ['functions/core/**'],
      reporter: ['text-summary', 'json-summary'],
    },
    projects: [
      {
        test: { name: 'core', include: ['test/core/**/*.test.ts'], environment: 'node' },
      },
    ],
  },
})
