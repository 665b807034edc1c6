/**
 * erase: take the bytes of an event away for good. Its leaf, and so every receipt, stays.
 *
 * As the operator, through the node's admin socket; or with the key that signed the event, by posting `vm.erased`.
 * Repeats are harmless: an order given twice is one, and the command goes on waiting where it was cut off.
 */

import { createInterface } from 'node:readline/promises'
import { post as postTo, RemoteProblem, sign } from '../../functions/sdk.ts'
import {
  arity,
  eventHash,
  Exit,
  HOME_HELP,
  integer,
  text,
  urlOf,
  UsageError,
  type Command,
  type Outcome,
  type Terminal,
  type Values,
} from './command.ts'
import { signerFrom } from './keygen.ts'
import { operate } from './operator.ts'
import { getJson } from './remote.ts'

/** How long to wait for the seals and the stores, seconds, and how often to look. */
const WAIT_S = 180
const LOOK_MS = 250
const REASON = /^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$/
/** What still holds the bytes after that is not the node's to scrub. */
const REST =
  '  Free pages of its databases and backups may still hold the bytes: docs/erasure.md says until when.'

interface Erasure {
  readonly erasedBy: string
  readonly state: string
  readonly scrubbed: readonly string[]
  readonly why: string | null
}

export const erase: Command = {
  name: 'erase',
  summary: 'Erase an event’s bytes for good; its receipt stays valid',
  usage: '<eventHash> --reason CODE [--key FILE] [--yes]',
  help: `  --reason CODE   why, as a code that says nothing of the content (gdpr-17); it stays in the log
  --key FILE      the key that signed the event; without it, the operator erases through the node’s
                  admin socket
  --yes           do not ask on a terminal
  --wait N        seconds to wait until no store holds the event any more (default ${WAIT_S}); exit 3
                  if some still do
${HOME_HELP}
  --url URL       the node (with --key: default $VAULTMESH_URL or http://127.0.0.1:7077; without: a node
                  elsewhere, its ADMIN_TOKEN in $VAULTMESH_ADMIN_TOKEN)`,
  options: {
    reason: { type: 'string' },
    key: { type: 'string' },
    yes: { type: 'boolean' },
    wait: { type: 'string' },
    home: { type: 'string' },
    url: { type: 'string' },
  },
  async run(args, values, terminal) {
    arity(args, 1, 1)
    const hash = eventHash(args[0])
    const reason = text(values, 'reason')
    if (reason === undefined) throw new UsageError('--reason CODE is missing: why is it erased?')
    if (!REASON.test(reason)) {
      throw new UsageError(
        `--reason ${reason} is no code: 1 to 64 letters, digits, dots, dashes or underscores.`,
      )
    }
    if (!(await isMeant(hash, values))) {
      return {
        exit: Exit.refuted,
        value: { eventHash: hash, erased: false },
        lines: ['nothing was erased'],
      }
    }
    const until = Date.now() + 1000 * (integer(values, 'wait') ?? WAIT_S)
    const key = text(values, 'key')
    return key === undefined
      ? byOperator(hash, reason, { values, terminal, until })
      : bySigner(hash, reason, { values, terminal, until, key })
  },
}

interface Context {
  readonly values: Values
  readonly terminal: Terminal
  readonly until: number
}

async function byOperator(
  hash: string,
  reason: string,
  { values, terminal, until }: Context,
): Promise<Outcome> {
  const path = `/admin/erase/${hash}?reason=${encodeURIComponent(reason)}`
  const ordered = await operate<{ erasedBy: string }>(values, 'POST', path).catch(gone)
  for (;;) {
    const { erasures } = await operate<{ erasures: readonly Erasure[] }>(
      values,
      'POST',
      `/admin/erasures/${hash}`,
    )
    const mine = erasures.find(({ erasedBy }) => erasedBy === ordered.erasedBy)
    if (mine?.state === 'refused') {
      throw new RemoteProblem('erasure-refused', `Not erased: ${mine.why ?? 'refused'}.`)
    }
    const scrubbed = mine?.scrubbed ?? []
    if (mine?.state === 'done') return done(hash, { erasedBy: mine.erasedBy, scrubbed })
    if (Date.now() >= until) return pending(hash, { erasedBy: ordered.erasedBy, scrubbed })
    terminal.progress(`scrubbed: ${scrubbed.join(', ') || 'nothing yet'}`)
    await new Promise((over) => setTimeout(over, LOOK_MS))
  }
}

async function bySigner(
  hash: string,
  reason: string,
  { values, terminal, until, key }: Context & { readonly key: string },
): Promise<Outcome> {
  const url = urlOf(values)
  const wish = await sign(await signerFrom(key), {
    type: 'vm.erased',
    // One wish for a target: asked again, the first one stands.
    id: `vm.erased/${hash}`,
    data: { eventHash: hash, reasonCode: reason },
  })
  const posted = await postTo(url, wish, { wait: 10 }).then(
    ({ eventHash: asked }) => ({ asked }),
    (error: unknown) => {
      if (error instanceof RemoteProblem && error.code === 'event-id-reused') {
        return { asked: String(error.extra['eventHash']) }
      }
      return { asked: gone(error).erasedBy }
    },
  )
  for (;;) {
    const { erased } = await getJson<{ erased?: { erasedBy: string | null; done: boolean } }>(
      `${url}/events/${hash}/status`,
    )
    const facts = { erasedBy: erased?.erasedBy ?? null, asked: posted.asked }
    if (erased?.done === true) {
      return done(hash, { ...facts, scrubbed: ['pools', 'index', 'bundle', 'names'] })
    }
    if (Date.now() >= until) return pending(hash, facts)
    terminal.progress(erased === undefined ? 'waiting for the seal' : 'waiting for the stores')
    await new Promise((over) => setTimeout(over, LOOK_MS))
  }
}

/** The event that erased it before; rethrows what is no such refusal. */
function gone(error: unknown): { readonly erasedBy: string } {
  const { code, extra } = error instanceof RemoteProblem ? error : { code: '', extra: {} }
  const erasedBy = (extra as Readonly<Record<string, unknown>>)['erasedBy']
  if (code === 'erased' && typeof erasedBy === 'string') return { erasedBy }
  throw error
}

interface Facts {
  readonly erasedBy: string | null
  readonly scrubbed?: readonly string[]
  readonly asked?: string
}

function done(hash: string, facts: Facts): Outcome {
  const lines = [
    `erased ${hash}`,
    `  by ${facts.erasedBy ?? 'an event of its log'}`,
    `  scrubbed: ${(facts.scrubbed ?? []).join(', ')}; its receipt verifies as before`,
    REST,
  ]
  return { exit: Exit.ok, value: { eventHash: hash, erased: true, ...facts }, lines }
}

function pending(hash: string, facts: Facts): Outcome {
  const lines = [
    `${hash} is not erased everywhere yet`,
    `  scrubbed: ${(facts.scrubbed ?? []).join(', ') || 'nothing yet'}; the node goes on by itself`,
  ]
  return { exit: Exit.pending, value: { eventHash: hash, erased: false, ...facts }, lines }
}

/** True if nobody is there to be asked, or he says so. */
async function isMeant(hash: string, values: Values): Promise<boolean> {
  const { stdin, stderr } = process
  if (values['yes'] === true || !stdin.isTTY || !stderr.isTTY) return true
  const asking = createInterface({ input: stdin, output: stderr })
  try {
    const question = `Erase ${hash}\nfor good, here and at all peers? Its bytes cannot be brought back. Type yes: `
    return (await asking.question(question)).trim() === 'yes'
  } finally {
    asking.close()
  }
}
