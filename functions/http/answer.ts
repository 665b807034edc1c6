/**
 * The answer to one admitted event: 202 with the promise, or, for a client that waits, the receipt.
 */

import type { OpenEnvelope } from '#core/envelope.ts'
import { promiseEvent } from '#core/promise.ts'
import type { Receipt } from '#core/receipt.ts'
import { isoTime } from '#core/time.ts'
import { findEvent } from '#store/events.ts'
import { buildReceipt } from '#store/receipts.ts'
import { hashName, type Admission, type Joined } from './admission.ts'
import { conflict, linksOf, terms } from './intake-rules.ts'
import { json, type Call } from './route.ts'

/** Answers 202, or 200 for what was posted before or sealed within `waitS` seconds. */
export async function answer(
  call: Call,
  open: OpenEnvelope,
  joined: Joined,
  waitS: number,
): Promise<Response> {
  const { node } = call
  // Signed while the commit is under way; it leaves this function only if the event was accepted.
  const signing = promiseEvent(node.identity, terms(node, joined.receivedAt), open.eventHash)
  const [admission, early] = await Promise.all([joined.admission, signing])
  if (admission.state === 'conflict' || admission.state === 'erased') throw conflict(admission)
  const body = {
    eventHash: hashName(admission.eventHash),
    eventId: open.event.id,
    status: 'accepted',
    receivedAt: isoTime(admission.receivedAt),
    links: linksOf(admission.eventHash),
    promise:
      admission.state === 'accepted'
        ? early
        : await promiseEvent(node.identity, terms(node, admission.receivedAt), admission.eventHash),
  }
  const headers: Record<string, string> = { location: body.links.self, 'cache-control': 'no-store' }
  if (waitS > 0) {
    headers['preference-applied'] = `wait=${waitS}`
    const receipt = await waitForReceipt(call, open, admission, waitS)
    if (receipt !== null) return json({ ...body, status: receipt.status, receipt }, 200, headers)
  }
  return json(body, admission.state === 'accepted' ? 202 : 200, headers)
}

async function waitForReceipt(
  call: Call,
  open: OpenEnvelope,
  admission: Admission,
  waitS: number,
): Promise<Receipt | null> {
  const { env, node } = call
  try {
    const log = env.SEQUENCER.getByName('log')
    if (!(await log.wait(admission.shard, admission.seq, waitS * 1000))) return null
    const at = await findEvent(env.DB, admission.eventHash)
    if (at === null) return null
    const { id: eventId, source } = open.event
    return await buildReceipt(env, node, { eventHash: admission.eventHash, at, eventId, source })
  } catch (error) {
    // The event is durable: a seal that stumbles costs the client its receipt for now, not the answer.
    console.error(
      JSON.stringify({
        level: 'warn',
        msg: 'wait failed',
        requestId: call.requestId,
        error: String(error),
      }),
    )
    return null
  }
}
