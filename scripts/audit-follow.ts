/**
 * What became of one request, by the lines of the audit: its commit gives shard and sequence numbers, those name the batch
 * and the leaves, the batch's tree size the anchors that cover it, and their jobs the attempts.
 */

import { rangesOf, requestsOf, type AuditLine } from '#core/audit-line.ts'

type Of<K extends AuditLine['kind']> = Extract<AuditLine, { kind: K }>

/** Where events of a request stand in the log. */
export interface Place {
  readonly log: number
  readonly height: number
  readonly firstLeaf: number
  readonly count: number
}

/** What a request led to. */
export interface Followed {
  /** In the order of the files. */
  readonly lines: readonly AuditLine[]
  readonly places: readonly Place[]
  /** Anchors that cover all of it, the first of each chain that came to its end. */
  readonly anchored: readonly { readonly chain: string; readonly job: number }[]
}

/** Follows a request through lines that are given in their order. */
export class Follower {
  readonly #request: string
  readonly #lines: AuditLine[] = []
  readonly #places: Place[] = []
  /** Numbers that wait for their batch: [log, shard, from, to). */
  #waiting: (readonly [log: number, shard: number, from: number, to: number])[] = []
  readonly #events = new Set<string>()
  readonly #jobs = new Map<string, string>()
  readonly #done = new Set<string>()
  readonly #anchored: { chain: string; job: number }[] = []
  #treeSize = 0
  /** The commit before a `settle` is the one that it settles. */
  #last: AuditLine | null = null

  constructor(request: string) {
    this.#request = request
  }

  push(line: AuditLine): void {
    const isOwn = requestsOf(line).includes(this.#request)
    if (this.#isPart(line) || isOwn) this.#lines.push(line)
    this.#last = line
  }

  end(): Followed {
    return { lines: this.#lines, places: this.#places, anchored: this.#anchored }
  }

  #isPart(line: AuditLine): boolean {
    switch (line.kind) {
      case 'commit':
        for (const [from, to] of rangesOf(line, this.#request))
          this.#waiting.push([line.log, line.shard, from, to])
        return false
      case 'receive':
        if (line.requestId === this.#request) this.#events.add(line.eventHash)
        return false
      case 'settle':
        return this.#settles(line)
      case 'seal':
        return this.#seals(line)
      case 'anchor':
        return this.#covers(line)
      case 'attempt':
        return this.#attempts(line)
      default:
        return false
    }
  }

  #settles(line: Of<'settle'>): boolean {
    if (!this.#events.has(line.eventHash)) return false
    const commit = this.#last
    if (commit?.kind === 'commit' && commit.via === 'check' && commit.requests.length === 0) {
      this.#waiting.push([commit.log, commit.shard, commit.from, commit.to])
      this.#lines.push(commit)
    }
    return true
  }

  /** Leaves come in the order of the ranges. */
  #seals(line: Of<'seal'>): boolean {
    let leaf = line.firstIndex
    let isPart = false
    for (const [shard, from, to] of line.ranges) {
      for (const [log, mine, low, high] of this.#waiting) {
        const start = Math.max(low, from)
        const end = Math.min(high, to)
        if (log !== line.log || mine !== shard || start >= end) continue
        const firstLeaf = leaf + start - from
        this.#places.push({ log, height: line.height, firstLeaf, count: end - start })
        this.#treeSize = Math.max(this.#treeSize, line.treeSize)
        isPart = true
      }
      leaf += to - from
    }
    const left = this.#waiting.flatMap(([log, shard, from, to]) => {
      const range =
        line.log === log ? line.ranges.find(([s, , end]) => s === shard && end > from) : null
      if (range === undefined || range === null) return [[log, shard, from, to] as const]
      return range[2] < to ? [[log, shard, range[2], to] as const] : []
    })
    this.#waiting = left
    return isPart
  }

  #covers(line: Of<'anchor'>): boolean {
    if (this.#places.length === 0 || this.#waiting.length > 0) return false
    if (line.treeSize < this.#treeSize || this.#done.has(line.chain)) return false
    for (const job of line.jobs) this.#jobs.set(`${line.log}/${job}`, line.chain)
    return true
  }

  #attempts(line: Of<'attempt'>): boolean {
    const chain = this.#jobs.get(`${line.log}/${line.job}`)
    if (chain === undefined) return false
    if (line.outcome === 'final' && !this.#done.has(chain)) {
      this.#done.add(chain)
      this.#anchored.push({ chain, job: line.job })
    }
    return true
  }
}
