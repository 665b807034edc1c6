/**
 * The built SDK judges anchors as the sources do, where a browser would load it: one ES module in a runtime that
 * has the web's interfaces and nothing of Node.
 */

import { readFileSync } from 'node:fs'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Miniflare } from 'miniflare'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { utf8 } from '#core/bytes.ts'
import { verifyReceipt } from '#core/receipt.ts'
import { buildSdk } from '../../scripts/build-sdk.ts'
import { event, receipt, receiptWith, tamperedAnchors, trust } from '../support/anchor-vectors.ts'

const WORKER = `import { verify } from './sdk.js'
export default { async fetch(request) {
  if (typeof process !== 'undefined' || typeof Buffer !== 'undefined') throw new Error('Node is here')
  const { receipts, trust, event } = await request.json()
  const reports = []
  for (const receipt of receipts) reports.push(await verify(receipt, trust, event))
  return Response.json(reports)
} }`

let folder: string
let browser: Miniflare

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'vm-sdk-'))
  await buildSdk(folder)
  const modules = {
    'index.js': { type: 'esm', contents: WORKER },
    'sdk.js': { type: 'esm', contents: readFileSync(join(folder, 'sdk.js'), 'utf8') },
  }
  browser = new Miniflare({
    host: '127.0.0.1',
    port: 0,
    cf: false,
    workers: [
      {
        config: {
          name: 'page',
          compatibilityDate: '2026-10-23',
          compatibilityFlags: ['no_nodejs_compat_v2'],
          manifest: { mainModule: 'index.js', modules },
          env: {},
        },
      },
    ],
  } as never)
}, 60_000)

afterAll(async () => {
  await browser?.dispose()
  await rm(folder, { recursive: true, force: true })
})

test('the built SDK says of a receipt with four anchors, and of 24 changed ones, what the sources say', async () => {
  const changed = tamperedAnchors()
  const receipts = [receipt, ...changed.map(({ anchor }) => receiptWith(anchor))]
  const response = await browser.dispatchFetch('http://page/', {
    method: 'POST',
    body: JSON.stringify({ receipts, trust, event }),
  })
  const reports = (await response.json()) as { verdict: string; sentence: string }[]
  const own = await Promise.all(receipts.map((one) => verifyReceipt(one, trust, utf8(event))))
  expect(reports).toEqual(JSON.parse(JSON.stringify(own)))
  expect(reports.map(({ verdict }) => verdict)).toEqual([
    'verified',
    ...changed.map(() => 'refuted'),
  ])
  // A changed root is another tree before its proof is looked at; all else fails at its check.
  for (const [i, { check, anchor }] of changed.entries()) {
    if (anchor.root !== `0x${receipt.root.slice(7)}`) continue
    expect(reports[i + 1]!.sentence).toContain(`: ${check}: `)
  }
})
