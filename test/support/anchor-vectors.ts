/**
 * The receipt of test/vectors/anchor-receipts.json and what is made of it: one anchor of each kind, and changed
 * ones with the check that must refuse them. Pure, because the same runs in Node, workerd and browsers.
 */

import type { AnchorReceipt } from '#core/anchor-receipt.ts'
import type { Receipt, ReceiptTrust } from '#core/receipt.ts'
import vectors from '../vectors/anchor-receipts.json' with { type: 'json' }

/** The event's bytes, its receipt with four anchors, and whom to trust. */
export const event: string = vectors.event
export const receipt = vectors.receipt as unknown as Receipt
export const trust: ReceiptTrust = vectors.trust

/** A changed anchor. */
export interface Tampered {
  /** The proof's type. */
  readonly kind: string
  readonly name: string
  /** The check that must refuse it. */
  readonly check: string
  readonly anchor: AnchorReceipt
}

/** One anchor by its proof's type; all four are of the receipt's own tree. */
export function anchorOfKind(kind: string): AnchorReceipt {
  const found = receipt.anchors.find(
    (anchor) => (anchor as unknown as AnchorReceipt).proof.type === kind,
  )
  if (found === undefined) throw new Error(`The vectors have no ${kind}.`)
  return structuredClone(found) as unknown as AnchorReceipt
}

/** The receipt with `anchor` in the place of its own of that kind. */
export function receiptWith(anchor: AnchorReceipt): Receipt {
  const anchors = receipt.anchors.map((own) =>
    (own as unknown as AnchorReceipt).proof.type === anchor.proof.type ? anchor : own,
  )
  return { ...receipt, anchors: anchors as Receipt['anchors'] }
}

export const kinds = ['bitcoin-tx', 'opentimestamps', 'evm-tx', 'rfc3161'] as const

/** Every changed anchor of the file. */
export function tamperedAnchors(): readonly Tampered[] {
  return vectors.tampered.map(({ kind, check, path, change }) => {
    const anchor = anchorOfKind(kind)
    set(anchor as unknown as Record<string, unknown>, path, change as Change)
    return { kind, check, anchor, name: `${path.join('.')} ${Object.keys(change)[0]}` }
  })
}

/** `flip`: the character at that index becomes another of its alphabet; `keep`: so many items; `value`: instead. */
type Change = { readonly flip: number } | { readonly keep: number } | { readonly value: unknown }

function set(
  target: Record<string, unknown>,
  path: readonly (string | number)[],
  change: Change,
): void {
  const [key, ...rest] = path
  if (rest.length > 0) return set(target[key!] as Record<string, unknown>, rest, change)
  target[key!] = changed(target[key!], change)
}

function changed(value: unknown, change: Change): unknown {
  if ('value' in change) return change.value
  if ('keep' in change) return (value as readonly unknown[]).slice(0, change.keep)
  const text = value as string
  const other = text[change.flip] === '1' ? '2' : '1'
  return text.slice(0, change.flip) + other + text.slice(change.flip + 1)
}
