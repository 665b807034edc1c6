/**
 * events-intake: checks the signatures of events that were received with `respond-async`.
 *
 * The claim is made in the transaction that moves an event to accepted, so a message delivered twice
 * finds it settled and does nothing.
 */

import { concat, fromHex } from '#core/bytes.ts'
import { checkTime, EVENT_TYP, openEnvelope, verifyEnvelope } from '#core/envelope.ts'
import { VaultMeshError } from '#core/errors.ts'
import { Signers } from '#core/signer.ts'
import { identityOf } from '#store/event-identity.ts'
import { nodeOf } from '#store/node.ts'
import type { IntakeMessage } from '#store/pool-api.ts'

const signers = new Signers(EVENT_TYP)

/** Handles a batch of `events-intake`, each message on its own. */
export async function onIntake(batch: MessageBatch<IntakeMessage>, env: Env): Promise<void> {
  const node = await nodeOf(env)
  for (const message of batch.messages) {
    const { shard, eventHash } = message.body
    const pool = env.POOL.getByName(String(shard))
    try {
      const bytes = await pool.receivedBytes(eventHash)
      if (bytes !== null) {
        const open = await openEnvelope(bytes, signers)
        try {
          checkTime(open.event, { nowAt: Date.now(), maxAgeMs: node.config.intakeMaxAgeMs })
          await verifyEnvelope(open)
          const identity = identityOf(node, open.signer.canonical, open.event.id)
          const digests = concat(identity, open.signingHash, fromHex(eventHash))
          await pool.settle(shard, eventHash, {
            lengths: Uint32Array.of(bytes.length),
            data: bytes,
            digests,
          })
        } catch (error) {
          if (!(error instanceof VaultMeshError) || error.status >= 500) throw error
          await pool.reject(eventHash, error.code, error.message)
        }
      }
      message.ack()
    } catch (error) {
      console.error(
        JSON.stringify({ level: 'error', msg: 'intake step failed', error: String(error) }),
      )
      message.retry()
    }
  }
}
