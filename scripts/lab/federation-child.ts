/**
 * One node of the federation lab as a process of its own, told over IPC what to do: its settings hold keys, so they
 * are on no command line and in no environment. When the channel closes, whoever started it is gone, and the
 * node stops in order.
 */

import { readFileSync } from 'node:fs'
import { untilStopped } from '../listen.ts'
import { startNode, type NodeOptions, type RunningNode } from '../selfhost.ts'

/** What a node of the lab is started with. `script` is the file of the bundled Worker. */
export interface ChildOptions extends Pick<NodeOptions, 'federation'> {
  readonly home: string
  readonly port: number
  readonly script: string
  readonly vars: Readonly<Record<string, string>>
}

/** What the child is told. */
export type Order =
  | { readonly id: number; readonly do: 'start'; readonly options: ChildOptions }
  | { readonly id: number; readonly do: 'tick' | 'stop' }

/** What it answers to the order of this id. */
export interface Answer {
  readonly id: number
  /** Why it could not, in one line. */
  readonly error: string | null
}

let node: RunningNode | null = null

async function obey(order: Order): Promise<void> {
  switch (order.do) {
    case 'start': {
      const { script, ...options } = order.options
      node = await startNode({ ...options, verbose: true, script: readFileSync(script, 'utf8') })
      return
    }
    case 'tick':
      return node?.host.tick()
    case 'stop':
      return node?.stop()
  }
}

/** One order after the other: a stop waits for the start that it ends. */
let turn: Promise<void> = Promise.resolve()

async function serve(order: Order): Promise<void> {
  let error: string | null = null
  try {
    await obey(order)
  } catch (cause) {
    error = cause instanceof Error ? cause.message : String(cause)
  }
  const answer: Answer = { id: order.id, error }
  // The channel may be gone while the order was carried out: then nobody waits for the answer.
  if (!process.connected) return
  await new Promise<void>((sent) => process.send!(answer, () => sent()))
  if (order.do === 'stop') process.exit(0)
}

async function end(): Promise<never> {
  await turn
  await node?.stop()
  process.exit(1)
}

if (import.meta.main) {
  process.on('message', (order: Order) => {
    turn = turn.then(() => serve(order))
  })
  process.once('disconnect', () => void end())
  // Miniflare's handlers would kill the runtime at once.
  void untilStopped().then(end)
}
