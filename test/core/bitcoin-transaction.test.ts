import * as fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import {
  couldBeTransaction,
  fromDisplay,
  parseTransaction,
  payloads,
  toDisplay,
} from '#core/bitcoin-transaction.ts'
import { concat, fromHex, toHex } from '#core/bytes.ts'
import { VaultMeshError } from '#core/errors.ts'
import vectors from '../vectors/bitcoin.json' with { type: 'json' }

const { block100000 } = vectors
const data = 'ab'.repeat(32)

/** Hex of a transaction with one input, the given outputs (hex) and, if any, witness (hex). */
function transaction(outputs: readonly string[], { witness = '', scriptSig = '00' } = {}): string {
  const count = outputs.length.toString(16).padStart(2, '0')
  const input = `01${'11'.repeat(32)}00000000${scriptSig}fdffffff`
  return `02000000${witness && '0001'}${input}${count}${outputs.join('')}${witness}00000000`
}

/** Hex of an output of one satoshi. */
function output(script: string): string {
  return `0100000000000000${(script.length / 2).toString(16).padStart(2, '0')}${script}`
}

const change = output(`0014${'22'.repeat(20)}`)
const commitment = output(`6a20${data}`)

function refusal(hex: string): string {
  try {
    parseTransaction(fromHex(hex))
    return 'parsed'
  } catch (error) {
    if (!(error instanceof VaultMeshError)) throw error
    expect([error.code, error.extra['check']]).toEqual(['bad-proof', 'transaction'])
    return error.message
  }
}

describe('a transaction of mainnet', () => {
  test.each(block100000.transactions.map((hex, i) => [block100000.txids[i]!, hex]))(
    '%s has that txid',
    (txid, hex) => {
      const parsed = parseTransaction(fromHex(hex))
      expect(toDisplay(parsed.txid)).toBe(txid)
      expect(toHex(parsed.stripped)).toBe(hex)
      expect(parsed.hasWitness).toBe(false)
      expect(payloads(parsed)).toEqual([])
    },
  )

  test('tells its outputs in satoshi', () => {
    const { inputs, outputs } = parseTransaction(fromHex(block100000.transactions[1]!))
    expect(inputs).toBe(1)
    expect(outputs.map(({ value }) => value)).toEqual([556_000_000n, 4_444_000_000n])
    expect(toHex(outputs[0]!.script)).toBe('76a914c398efa9c392ba6013c5e04ee729755ef7f58b3288ac')
  })

  test('parses wherever its bytes lie in a buffer', () => {
    const bytes = fromHex(block100000.transactions[2]!)
    const moved = concat(new Uint8Array(7), bytes).subarray(7)
    expect(parseTransaction(moved)).toEqual(parseTransaction(bytes))
  })

  test('is not one when a bit of it changes or its end is missing', () => {
    const bytes = fromHex(block100000.transactions[3]!)
    const { txid } = parseTransaction(bytes)
    for (let bit = 0; bit < bytes.length * 8; bit++) {
      const changed = bytes.slice()
      changed[bit >> 3]! ^= 1 << (bit & 7)
      let other: Uint8Array | null = null
      try {
        other = parseTransaction(changed).txid
      } catch (error) {
        expect(error).toBeInstanceOf(VaultMeshError)
      }
      expect(other).not.toEqual(txid)
    }
    for (let end = 0; end < bytes.length; end++) {
      expect(refusal(toHex(bytes.subarray(0, end)))).not.toBe('parsed')
    }
  })
})

describe('a witness', () => {
  const plain = transaction([change, commitment])
  const signed = transaction([change, commitment], { witness: '0202aabb01cc' })

  test('changes neither txid nor outputs', () => {
    const { hasWitness, ...bare } = parseTransaction(fromHex(plain))
    expect(parseTransaction(fromHex(signed))).toEqual({ ...bare, hasWitness: !hasWitness })
    expect(toHex(bare.stripped)).toBe(plain)
  })

  test('without any item, or under another flag, is refused', () => {
    expect(refusal(transaction([change], { witness: '00' }))).toContain('witness is empty')
    expect(refusal(signed.replace('020000000001', '020000000002'))).toContain('flag')
  })
})

describe('the parser refuses', () => {
  test.each([
    ['a byte too many', `${transaction([change])}00`, 'bytes follow its end'],
    ['no input', '02000000000100000000', 'no input'],
    ['no input behind a marker', '0200000000010000', 'no input'],
    ['no output', transaction([]), 'no output'],
    ['a length of 3 bytes for 0', transaction([change], { scriptSig: 'fd0000' }), 'not minimal'],
    [
      'a length of 3 bytes for 252',
      transaction([change], { scriptSig: `fdfc00${'00'.repeat(252)}` }),
      'not minimal',
    ],
    [
      'a length of 5 bytes for 65535',
      transaction([change], { scriptSig: `feffff0000${'00'.repeat(65_535)}` }),
      'not minimal',
    ],
    ['a length of 9 bytes', transaction([change], { scriptSig: 'ff0000000000000000' }), 'absurd'],
    ['a length beyond the end', transaction([change], { scriptSig: 'feffffffff' }), 'cut short'],
    [
      'more coins than there are',
      transaction([change.replace('0100000000000000', '0140075af0750700')]),
      'than there is',
    ],
    [
      'more coins than there are, together',
      transaction([change.replace('0100000000000000', '0040075af0750700'), change]),
      'than there is',
    ],
    ['64 bytes', transaction([output('51515151')]), '64 bytes'],
    [
      '64 bytes and a witness',
      transaction([output('51515151')], { witness: '0101aa' }),
      '64 bytes',
    ],
    ['more than 100 kB', '00'.repeat(100_001), '100001 bytes'],
  ])('%s', (_, hex, message) => {
    expect(refusal(hex)).toContain(message)
  })

  test('but takes all coins there are, 253 bytes of script and its 63 or 65 bytes', () => {
    expect(refusal(transaction([change.replace('0100000000000000', '0040075af0750700')]))).toBe(
      'parsed',
    )
    expect(refusal(transaction([change], { scriptSig: `fdfd00${'00'.repeat(253)}` }))).toBe(
      'parsed',
    )
    expect(refusal(transaction([change], { scriptSig: `fe00000100${'00'.repeat(65_536)}` }))).toBe(
      'parsed',
    )
    expect(refusal(transaction([output('515151')]))).toBe('parsed')
    expect(refusal(transaction([output('5151515151')]))).toBe('parsed')
  })

  test('exactly 100 kB are read', () => {
    const rest = transaction([change]).length / 2 + 4
    const script = `fe${toHex(new Uint8Array(new Uint32Array([100_000 - rest]).buffer))}${'00'.repeat(100_000 - rest)}`
    expect(refusal(transaction([change], { scriptSig: script }))).toBe('parsed')
  })

  test('whatever bytes it gets, with one type of error', () => {
    const near = fc.tuple(fc.nat(), fc.uint8Array({ maxLength: 4 })).map(([at, patch]) => {
      const bytes = fromHex(transaction([change, commitment], { witness: '0202aabb01cc' }))
      bytes.set(patch, at % (bytes.length - 4))
      return toHex(bytes)
    })
    fc.assert(fc.property(fc.uint8Array().map(toHex), (hex) => void refusal(hex)))
    fc.assert(
      fc.property(near, (hex) => void refusal(hex)),
      { numRuns: 1000 },
    )
  })
})

describe('a payload', () => {
  const bytes = (n: number) => 'cd'.repeat(n)

  test.each([
    ['6a20' + data, data],
    ['6a01ee', 'ee'],
    [`6a4b${bytes(75)}`, bytes(75)],
    [`6a4c4c${bytes(76)}`, bytes(76)],
    [`6a4c50${bytes(80)}`, bytes(80)],
  ])('of %s is its data', (script, expected) => {
    const parsed = parseTransaction(fromHex(transaction([change, output(script)])))
    const [payload, ...rest] = payloads(parsed)
    expect(rest).toEqual([])
    expect(payload!.output).toBe(1)
    expect(toHex(payload!.bytes)).toBe(expected)
    const { at } = payload!
    expect(toHex(parsed.stripped.subarray(at, at + expected.length / 2))).toBe(expected)
  })

  test('of more than 255 bytes takes a length of two', () => {
    const script = `6a4d0001${bytes(256)}`
    const raw = transaction([`0100000000000000fd0401${script}`])
    expect(payloads(parseTransaction(fromHex(raw)))[0]!.bytes).toHaveLength(256)
  })

  test.each([
    ['an empty script', ''],
    ['another opcode', `6920${data}`],
    ['OP_RETURN alone', '6a'],
    ['an empty push', '6a00'],
    ['a push cut short', `6a21${data}`],
    ['a push and more', `6a20${data}00`],
    ['a push of non-minimal length', `6a4c20${data}`],
    ['a push of non-minimal length, 75 bytes', `6a4c4b${bytes(75)}`],
    ['a push of non-minimal length of two', `6a4d2000${data}`],
    ['a length of four', `6a4e20000000${data}`],
    ['two pushes', `6a10${bytes(16)}10${bytes(16)}`],
    ['a small number', '6a51'],
  ])('is not in %s', (_, script) => {
    expect(payloads(parseTransaction(fromHex(transaction([change, output(script)]))))).toEqual([])
  })
})

describe('an inner node', () => {
  test('that reads as a transaction is told from one that does not', () => {
    expect(couldBeTransaction(fromHex(transaction([output('51515151')])))).toBe(true)
    expect(couldBeTransaction(fromHex('00'.repeat(64)))).toBe(false)
    // A leaf is hashed without witness, so what has one is no leaf.
    const signed = fromHex(transaction([output('')], { witness: '0100' }))
    expect(signed).toHaveLength(64)
    expect(couldBeTransaction(signed)).toBe(false)
    fc.assert(
      fc.property(fc.uint8Array({ minLength: 64, maxLength: 64 }), (b) => !couldBeTransaction(b)),
    )
  })
})

test('display order is the hash back to front', () => {
  expect(toDisplay(fromHex(`01${'00'.repeat(31)}`))).toBe(`${'00'.repeat(31)}01`)
  expect(toHex(fromDisplay(`${'00'.repeat(31)}01`))).toBe(`01${'00'.repeat(31)}`)
  expect(() => fromDisplay('00')).toThrow(VaultMeshError)
})
