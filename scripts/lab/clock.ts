/**
 * A clock that can be told to go ahead, in the place of the platform's: what the bundler puts where the Worker
 * says `Date`, `AbortSignal` and `setTimeout` (scripts/build.ts, `inject`). The product has no such knob.
 *
 * Time goes on at its own pace and jumps when told, never back. Waits within the Worker can be made shorter by a
 * factor, so that a provider that hangs costs a moment and not ten seconds. Alarms and delayed queue messages
 * stay on the platform's clock: in a lab the cron does their work.
 */

let aheadMs = 0
let haste = 1

/** Jumps to `at` (epoch ms) unless it is past, and divides every wait by `factor`. */
export function setClock({ at, factor }: { at: number; factor: number }): void {
  aheadMs += Math.max(0, at - now())
  haste = factor
}

function now(): number {
  return Date.now() + aheadMs
}

const LabDate = new Proxy(Date, {
  get: (real, name) => (name === 'now' ? now : (Reflect.get(real, name) as unknown)),
  construct: (real, args) => Reflect.construct(real, args.length === 0 ? [now()] : args) as Date,
})

const LabSignal = new Proxy(AbortSignal, {
  get: (real, name) =>
    name === 'timeout'
      ? (ms: number) => real.timeout(Math.ceil(ms / haste))
      : (Reflect.get(real, name) as unknown),
})

const labTimeout = (run: () => void, ms = 0): ReturnType<typeof setTimeout> =>
  setTimeout(run, ms / haste)

// Within this file the names mean the platform's own.
export { LabDate as Date, LabSignal as AbortSignal, labTimeout as setTimeout }
