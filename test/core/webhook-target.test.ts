/**
 * A stranger's URL leads to a public host or is refused, however it is spelled.
 */

import * as fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { isPublicHost } from '#core/public-host.ts'
import { MAX_TARGET_CHARS, webhookTarget } from '#core/webhook-target.ts'

function refusal(text: string, allowPrivate = false): string | null {
  try {
    webhookTarget(text, allowPrivate)
    return null
  } catch (error) {
    expect(error).toMatchObject({ code: 'bad-webhook' })
    return (error as Error).message
  }
}

test.each([
  ['https://receiver.example/told?key=1', 'https://receiver.example/told?key=1'],
  ['https://RECEIVER.example:443/a/../b', 'https://receiver.example/b'],
  ['https://8.8.8.8/', 'https://8.8.8.8/'],
  ['https://0x08080808/', 'https://8.8.8.8/'],
  ['https://[2606:4700::1111]/', 'https://[2606:4700::1111]/'],
  ['https://172.32.0.1/', 'https://172.32.0.1/'],
  ['https://100.128.0.1/', 'https://100.128.0.1/'],
  ['https://notlocalhost.example./', 'https://notlocalhost.example./'],
])('%s is a target', (text, url) => {
  expect(webhookTarget(text, false)).toEqual({ url, host: new URL(url).host })
})

test.each([
  ['http://receiver.example/', 'https'],
  ['ftp://receiver.example/', 'https'],
  ['javascript:alert(1)', 'https'],
  ['/told', 'absolute'],
  ['', 'ASCII'],
  ['https://a.example/, https://b.example/', 'space'],
  ['https://a.example/\t', 'space'],
  ['https://räceiver.example/', 'ASCII'],
  ['https://user@receiver.example/', 'user name'],
  ['https://user:pass@receiver.example/', 'user name'],
  ['https://:pass@receiver.example/', 'user name'],
  ['https://receiver.example/#part', 'fragment'],
  ['https://receiver.example:8443/', 'port'],
  ['https://receiver.example:22/', 'port'],
  [`https://receiver.example/${'x'.repeat(MAX_TARGET_CHARS)}`, 'longer'],
  // Each " becomes %22: short as posted, long as kept.
  [`https://receiver.example/?${'"'.repeat(1000)}`, 'normalised'],
])('%s is refused', (text, why) => {
  expect(refusal(text)).toContain(why)
})

describe('every spelling of a host that is not public is refused', () => {
  test.each([
    '127.0.0.1',
    '127.1',
    '2130706433',
    '0x7f000001',
    '0x7f.1',
    '0177.0.0.1',
    '017700000001',
    '127.0.0.1.',
    '%31%32%37.0.0.1',
    '0',
    '0.0.0.0',
    '10.1.2.3',
    '100.64.0.1',
    '100.127.255.255',
    '169.254.169.254',
    '0xa9fea9fe',
    '172.16.0.1',
    '172.31.255.255',
    '192.0.0.192',
    '192.0.2.1',
    '192.88.99.1',
    '192.168.1.1',
    '198.18.0.1',
    '198.19.255.255',
    '198.51.100.7',
    '203.0.113.7',
    '224.0.0.1',
    '239.255.255.255',
    '240.0.0.1',
    '255.255.255.255',
    '[::]',
    '[::1]',
    '[::ffff:127.0.0.1]',
    '[::ffff:8.8.8.8]',
    '[::ffff:0:8.8.8.8]',
    '[::8.8.8.8]',
    '[64:ff9b::8.8.8.8]',
    '[64:ff9b:1::1]',
    '[100::1]',
    '[2001::1]',
    '[2001:db8::1]',
    '[2002:7f00:1::]',
    '[3fff::1]',
    '[fc00::1]',
    '[fd12:3456::1]',
    '[fe80::1]',
    '[fec0::1]',
    '[ff02::1]',
    'localhost',
    'LOCALHOST',
    'localhost.',
    'a.localhost',
    'printer.local',
    'printer.local.',
    'metadata.google.internal',
    'instance-data',
    'router.lan',
    'x.home.arpa',
    '1.0.0.127.in-addr.arpa',
    'hidden.onion',
    'example.test',
    'a..example',
  ])('%s', (host) => {
    expect(refusal(`https://${host}/`)).toMatch(/not public|not an absolute URL/)
  })
})

test('no address of a private network passes in any of its spellings', () => {
  const networks = [
    [0x0a000000, 24],
    [0x7f000000, 24],
    [0xa9fe0000, 16],
    [0xac100000, 20],
    [0xc0a80000, 16],
    [0x64400000, 22],
    [0xe0000000, 29],
  ] as const
  fc.assert(
    fc.property(
      fc.constantFrom(...networks),
      fc.nat(2 ** 29 - 1),
      fc.constantFrom(10, 16, 8),
      fc.integer({ min: 1, max: 4 }),
      ([network, bits], random, radix, parts) => {
        const address = network + (random % 2 ** bits)
        const spelled = spell(address, radix, parts)
        expect(new URL(`https://${spelled}/`).hostname).toBe(dotted(address))
        expect(refusal(`https://${spelled}/`)).toContain('not public')
        expect(isPublicHost(`[::ffff:${hexPair(address)}]`)).toBe(false)
      },
    ),
  )
})

test('an IPv6 address outside of global unicast never passes', () => {
  fc.assert(
    fc.property(fc.bigInt({ min: 0n, max: 2n ** 128n - 1n }), (address) => {
      fc.pre(address >> 125n !== 1n)
      const groups = Array.from({ length: 8 }, (_, i) =>
        ((address >> BigInt(112 - 16 * i)) & 0xffffn).toString(16),
      )
      const host = new URL(`https://[${groups.join(':')}]/`).hostname
      expect(isPublicHost(host)).toBe(false)
    }),
  )
})

test('an operator who allows private targets allows http, any host and any port, and nothing else', () => {
  for (const text of ['http://127.0.0.1:9000/x', 'https://[::1]:1/', 'http://localhost/'])
    expect(refusal(text, true)).toBeNull()
  for (const text of ['ftp://127.0.0.1/', 'http://u:p@localhost/', 'http://localhost/#x', 'x y'])
    expect(refusal(text, true)).not.toBeNull()
})

test('a refusal never repeats the URL', () => {
  const secret = 's3cr3t'
  for (const text of [
    `http://receiver.example/${secret}`,
    `https://u:${secret}@receiver.example/`,
    `https://10.0.0.1/${secret}`,
    `${secret} ${secret}`,
    `https://receiver.example/#${secret}`,
  ])
    expect(refusal(text)).not.toContain(secret)
})

function dotted(address: number): string {
  return [24, 16, 8, 0].map((shift) => (address >>> shift) & 255).join('.')
}

function hexPair(address: number): string {
  return `${(address >>> 16).toString(16)}:${(address & 0xffff).toString(16)}`
}

/** `address` in `parts` numbers of a radix: the last one holds what the others leave (inet_aton). */
function spell(address: number, radix: 10 | 16 | 8, parts: number): string {
  const prefix = { 10: '', 16: '0x', 8: '0' }[radix]
  const numbers = Array.from({ length: parts - 1 }, (_, i) => (address >>> (24 - 8 * i)) & 255)
  numbers.push(address % 2 ** (32 - 8 * (parts - 1)))
  return numbers.map((n) => prefix + n.toString(radix)).join('.')
}
