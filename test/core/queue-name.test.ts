import { readFileSync } from 'node:fs'
import { expect, test } from 'vitest'
import { QUEUES, queueName } from '#core/queue-name.ts'

test('a queue is known by its plain name, behind any environment, and before any log number', () => {
  for (const name of QUEUES) {
    for (const before of ['', 'vaultmesh-production-', 'x-anchor-', 'seal-', 'a-1-'])
      for (const after of ['', '-2', '-17'])
        expect(queueName(`${before}${name}${after}`)).toBe(name)
  }
})

test('a queue of others is none of ours', () => {
  for (const name of ['', 'sealer', 'unseal', 'xseal', 'seal-dlq', 'seal-', 'anchor-sol'])
    expect(queueName(name)).toBeNull()
})

test('the queues are those that wrangler.toml consumes', () => {
  const toml = readFileSync(new URL('../../wrangler.toml', import.meta.url), 'utf8')
  const consumed = toml.split('[[queues.consumers]]').slice(1)
  const names = consumed.map((text) => /^queue = "([^"]+)"$/m.exec(text)![1]!)
  expect(names.toSorted()).toEqual(QUEUES.toSorted())
})
