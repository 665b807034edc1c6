/**
 * Runs every check and every test, and ends with one line that counts them.
 *
 * `node scripts/test.ts [filter…]` runs only test files that match; COVERAGE=1 adds what of the core they reach.
 */

import { spawnSync } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { ROOT } from './build.ts'
import { fetchBitcoind } from './devnet/bitcoind-binary.ts'

const filters = process.argv.slice(2)
const folder = mkdtempSync(join(tmpdir(), 'vaultmesh-test-'))
const report = join(folder, 'report.json')
let failed = false

if (filters.length === 0) failed = !run('npm', ['run', '-s', 'check'])

// Before any test looks for it, so that none is skipped for want of it; once it is in the cache, at no cost.
await fetchBitcoind().catch((error: Error) => console.warn(`vaultmesh: ${error.message}`))

const coverage = process.env['COVERAGE'] === '1' ? ['--coverage'] : []
const passed = run('vitest', [
  'run',
  '--reporter=default',
  '--reporter=json',
  `--outputFile=${report}`,
  ...coverage,
  ...filters,
])
failed ||= !passed

const { numPassedTests, numFailedTests, numPendingTests } = JSON.parse(
  readFileSync(report, 'utf8'),
) as {
  numPassedTests: number
  numFailedTests: number
  numPendingTests: number
}
rmSync(folder, { recursive: true })
// A check that failed outside of the runner counts as a failed test: the last line must not look good.
const failures = numFailedTests + (failed && numFailedTests === 0 ? 1 : 0)
console.log(`${numPassedTests} passed, ${failures} failed, ${numPendingTests} skipped`)
process.exit(failures > 0 || numPassedTests === 0 ? 1 : 0)

function run(command: string, args: readonly string[]): boolean {
  return spawnSync(command, args, { cwd: ROOT, stdio: 'inherit' }).status === 0
}
