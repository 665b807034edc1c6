/**
 * R2 as the log uses it: objects that are written once and never change, but for events that are erased.
 *
 * Keys are the URL paths they are served under:
 *   log/tile/entries/<N>[.p/<W>]                   C2SP tlog-tiles entry bundles
 *   log/tile/<L>/<N>[.p/<W>]                       hash tiles above level 0 (level 0 is derived from entries)
 *   log/checkpoint                                 a backup, never read by a node
 *   batches/<height>                               manifest, checkpoint and parts of a batch, as JSON
 *   events/<height>/<part>                         the events of a batch, NDJSON of compact JWS
 *   anchors/<root>/<chain>/<network>/<method>      a verified anchor receipt, as JSON; `.<n>` after n revocations
 *   anchors/…/<method>.revoked                     the record that revoked it
 *   anchors/…/calendar.pending[.<n>]               what calendars promised for a root (store/anchor-receipts.ts)
 */

import { equal } from '#core/bytes.ts'
import { entryOf, linesOf } from '#core/erasure.ts'
import { VaultMeshError } from '#core/errors.ts'

/** Puts in flight at once: what the platform gives no connection waits in its queue. */
const PUTS_IN_FLIGHT = 16
/** Bytes in flight at once: an isolate has 128 MiB, and a part of 4 MB exists three times on its way. */
const BYTES_IN_FLIGHT = 12_000_000

/**
 * Writes an object that must never change. A repeat with the same bytes is harmless; other bytes under
 * the same key are a second history and throw `bad-state`.
 */
export async function putImmutable(
  bucket: R2Bucket,
  key: string,
  bytes: Uint8Array,
  contentType: string,
  isSame: (there: Uint8Array, bytes: Uint8Array) => boolean = () => false,
): Promise<void> {
  const put = await bucket.put(key, bytes, {
    onlyIf: { etagDoesNotMatch: '*' },
    httpMetadata: { contentType },
  })
  if (put !== null) return
  const there = await getBytes(bucket, key)
  if (there === null || !(equal(there, bytes) || isSame(there, bytes))) {
    throw new VaultMeshError('bad-state', `The object ${key} is there with other bytes.`)
  }
}

/**
 * Writes a part of events like `putImmutable`. One that is there with tombstones on lines of the same log entries is the
 * same part and stands: an erased event is not written again.
 */
export async function putEvents(bucket: R2Bucket, key: string, part: Uint8Array): Promise<void> {
  await putImmutable(bucket, key, part, 'application/x-ndjson', sameEntries)
}

function sameEntries(a: Uint8Array, b: Uint8Array): boolean {
  try {
    const [entriesA, entriesB] = [a, b].map((part) =>
      [...linesOf(part)].map((l) => entryOf(l.line)),
    )
    return (
      entriesA!.length === entriesB!.length && entriesA!.every((e, i) => equal(e, entriesB![i]!))
    )
  } catch (error) {
    if (error instanceof VaultMeshError) return false
    throw error
  }
}

/** The object's bytes, or null if there is none. */
export async function getBytes(bucket: R2Bucket, key: string): Promise<Uint8Array | null> {
  const object = await bucket.get(key)
  return object === null ? null : new Uint8Array(await object.arrayBuffer())
}

/** Bytes `offset` to `offset + length` of an object, or null if there is none. */
export async function getRange(
  bucket: R2Bucket,
  key: string,
  range: { readonly offset: number; readonly length: number },
): Promise<Uint8Array | null> {
  const object = await bucket.get(key, { range })
  return object === null ? null : new Uint8Array(await object.arrayBuffer())
}

/** Runs writes with a bounded number and size in flight; `done` waits for all and throws the first failure. */
export class Writes {
  readonly #inFlight = new Set<Promise<void>>()
  #bytes = 0
  #failed: { readonly error: unknown } | null = null

  /** Starts a write of `size` bytes once there is room. */
  async add(size: number, write: () => Promise<void>): Promise<void> {
    while (
      this.#inFlight.size > 0 &&
      (this.#inFlight.size >= PUTS_IN_FLIGHT || this.#bytes + size > BYTES_IN_FLIGHT)
    ) {
      await Promise.race(this.#inFlight)
    }
    if (this.#failed !== null) throw this.#failed.error
    this.#bytes += size
    const running = write()
      .catch((error: unknown) => {
        this.#failed ??= { error }
      })
      .finally(() => {
        this.#bytes -= size
        this.#inFlight.delete(running)
      })
    this.#inFlight.add(running)
  }

  /** Resolves when everything added was written; throws the first failure. */
  async done(): Promise<void> {
    await Promise.all(this.#inFlight)
    if (this.#failed !== null) throw this.#failed.error
  }
}

/** Key of part `part` of a batch's event bundle. */
export function eventsKey(height: number, part: number): string {
  return `events/${height}/${part}`
}

/** Key of a batch's record. */
export function batchKey(height: number): string {
  return `batches/${height}`
}
