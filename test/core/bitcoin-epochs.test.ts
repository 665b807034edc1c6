import { describe, expect, test } from 'vitest'
import { easiestBits, KNOWN_EPOCHS, mainnetBits } from '#core/bitcoin-epochs.ts'
import { bitsOf, EPOCH_BLOCKS, targetOf } from '#core/bitcoin-proof.ts'

describe('the table of epochs', () => {
  test.each([
    [0, 0x1d00ffff],
    [32_255, 0x1d00ffff],
    [32_256, 0x1d00d86a],
    [200_000, 0x1a05db8b],
    [702_861, 0x170ed0eb],
    [800_000, 0x17053894],
  ])('block %i has the bits that its header has', (height, bits) => {
    expect(mainnetBits(height)).toBe(bits)
  })

  test('is in compact form, and no retarget in it passes a factor of four', () => {
    for (let epoch = 1; epoch < KNOWN_EPOCHS; epoch++) {
      const [before, after] = [epoch - 1, epoch].map((e) =>
        targetOf(mainnetBits(e * EPOCH_BLOCKS)!),
      )
      expect(after! <= before! * 4n && after! * 4n >= targetOf(bitsOf(before!)) / 2n).toBe(true)
    }
  })

  test('ends, and knows nothing beyond its end or before its begin', () => {
    const end = KNOWN_EPOCHS * EPOCH_BLOCKS
    expect(mainnetBits(end - 1)).not.toBeNull()
    for (const height of [end, -1, 0.5, Number.NaN, Infinity, 2 ** 53])
      expect(mainnetBits(height)).toBeNull()
  })

  test('believes a later block that is up to 16 times as easy', () => {
    const last = targetOf(mainnetBits(KNOWN_EPOCHS * EPOCH_BLOCKS - 1)!)
    expect(targetOf(easiestBits()) <= last * 16n).toBe(true)
    expect(targetOf(easiestBits()) > last * 15n).toBe(true)
  })
})
