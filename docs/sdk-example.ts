/** The SDK in ten lines: sign an event, post it, wait for its receipt, verify that offline. */

import { createSigner, post, sign, trustOf, verify } from 'vaultmesh'

const url = process.env['VAULTMESH_URL'] ?? 'http://127.0.0.1:7077'
const secret = crypto.getRandomValues(new Uint8Array(32)) // keep it: it is who you are
const signer = await createSigner({ alg: 'EdDSA', secret })
const trust = await trustOf(url) // look at it once, then pin it
const jws = await sign(signer, { type: 'com.example.paid', data: { amount: 3 } })
const { receipt, eventHash } = await post(url, jws, { wait: 30 })
if (receipt === undefined) throw new Error(`${eventHash} is durable, but not sealed yet`)
const { verdict, sentence } = await verify(receipt, trust, jws)
console.log(verdict, sentence)
