/**
 * Verification apart from the page: jobs go to a Worker, so that no file holds up what the visitor sees, and one that
 * takes too long is ended with words.
 *
 * The Worker is this same module, loaded once more by its own address. It is started before any file is given, and
 * its own policy (`default-src 'none'`) lets it reach no network.
 */

import { runJob, type Job, type Outcome } from './job.ts'

/** A receipt takes 10 ms (measured); 64 anchors of a hostile one some seconds. */
const LIMIT_MS = 15_000

const BROKEN: Outcome = { kind: 'unable', reason: 'This browser could not start the verifier.' }

/** What travels between page and Worker. */
interface Asked {
  readonly id: number
  readonly job: Job
}
interface Answered {
  readonly id: number
  readonly outcome: Outcome
}

/** What a Worker's global has that a window's has not. */
interface WorkerScope {
  addEventListener(type: 'message', listen: (event: MessageEvent<Asked>) => void): void
  postMessage(message: Answered, options: StructuredSerializeOptions): void
}

/** Does jobs: this module's part when it runs as the Worker. */
export function serveJobs(scope: WorkerScope): void {
  scope.addEventListener('message', ({ data: { id, job } }) => {
    void runJob(job).then((outcome) => scope.postMessage({ id, outcome }, {}))
  })
}

/** Gives jobs to a Worker, one at a time: whoever asks anew wants no answer to what was asked before. */
export class Verifier {
  #worker = this.#start()
  #isBroken = false
  #id = 0
  readonly #waiting = new Map<number, (outcome: Outcome) => void>()

  /** What came of a job; never rejects. */
  run(job: Job): Promise<Outcome> {
    if (this.#isBroken) return Promise.resolve(BROKEN)
    if (this.#waiting.size > 0) this.#restart('Another verification was begun.')
    const id = ++this.#id
    return new Promise((resolve) => {
      const timer = setTimeout(() => {
        this.#restart(
          `It was given up after ${LIMIT_MS / 1000} s, no receipt takes that long: try vaultmesh verify.`,
        )
      }, LIMIT_MS)
      this.#waiting.set(id, (outcome) => {
        clearTimeout(timer)
        this.#waiting.delete(id)
        resolve(outcome)
      })
      this.#worker.postMessage({ id, job } satisfies Asked, [])
    })
  }

  #start(): Worker {
    const worker = new Worker(import.meta.url, { type: 'module' })
    worker.addEventListener('message', ({ data }: MessageEvent<Answered>) => {
      this.#waiting.get(data.id)?.(data.outcome)
    })
    worker.addEventListener('error', () => {
      this.#isBroken = true
      this.#settle(BROKEN)
    })
    return worker
  }

  /** Ends what runs: a Worker that is busy hears nothing. */
  #restart(reason: string): void {
    this.#worker.terminate()
    this.#worker = this.#start()
    this.#settle({ kind: 'unable', reason })
  }

  #settle(outcome: Outcome): void {
    for (const answer of this.#waiting.values()) answer(outcome)
  }
}
