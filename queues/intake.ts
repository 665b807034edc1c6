/**
 * events-intake: checks the signatures of events that were received with `respond-async`, by the rules of this moment.
 *
 * The claim is made in the transaction that moves an event to accepted, so a message delivered twice
 * finds it settled and does nothing.
 */

import { concat, fromHex } from '#core/bytes.ts'
import { checkTime, EVENT_TYP, openEnvelope, verifyEnvelope } from '#core/envelope.ts'
import { VaultMeshError } from '#core/errors.ts'
import { checkAllowed, checkSchema } from '#core/intake-config.ts'
import { Signers } from '#core/signer.ts'
import { checkErasure } from '#store/erasures.ts'
import { identityOf } from '#store/event-identity.ts'
import { intakeRules } from '#store/intake-rules.ts'
import { nodeOf } from '#store/node.ts'
import type { IntakeMessage } from '#store/pool-api.ts'

const signers = new Signers(EVENT_TYP)

/** Handles a batch of `events-intake`, each message on its own. */
export async function onIntake(batch: MessageBatch<IntakeMessage>, env: Env): Promise<void> {
  const node = await nodeOf(env)
  for (const message of batch.messages) {
    const { shard, eventHash, requestId } = message.body
    const pool = env.POOL.getByName(String(shard))
    try {
      const bytes = await pool.receivedBytes(eventHash)
      if (bytes !== null) {
        const open = await openEnvelope(bytes, signers)
        try {
          checkTime(open.event, { nowAt: Date.now(), maxAgeMs: node.config.intakeMaxAgeMs })
          const rules = await intakeRules(env)
          checkAllowed(rules, node.config.intakeAllow, open.signer)
          await verifyEnvelope(open)
          checkSchema(rules, open, node.identity.did)
          await checkErasure(env, node, open)
          const identity = identityOf(node, open.signer.canonical, open.event.id)
          const digests = concat(identity, open.signingHash, fromHex(eventHash))
          const group = {
            lengths: Uint32Array.of(bytes.length),
            data: bytes,
            digests,
          }
          await pool.settle(shard, eventHash, group, requestId)
        } catch (error) {
          if (!(error instanceof VaultMeshError) || error.status >= 500) throw error
          await pool.reject(eventHash, error.code, error.message, requestId)
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
