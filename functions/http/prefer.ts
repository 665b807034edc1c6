/**
 * The Prefer header (RFC 7240): `wait=<seconds>` and `respond-async`; others are ignored.
 */

/** Longest a request may wait for its seal. */
const MAX_WAIT_S = 60

/** What the client prefers. */
export interface Prefer {
  /** Seconds to wait for the seal; 0 for not at all. */
  readonly waitS: number
  readonly respondAsync: boolean
}

/** Reads the header. Of a preference given twice the first counts (§2). */
export function readPrefer(request: Request): Prefer {
  let waitS: number | null = null
  let respondAsync = false
  // A preference is name[=value][;parameters]; values may be quoted and hold commas and semicolons.
  const header = request.headers.get('prefer') ?? ''
  for (const [, name, value] of header.matchAll(PREFERENCE)) {
    if (name!.toLowerCase() === 'respond-async') respondAsync = true
    const seconds = /^"?(\d{1,6})"?$/.exec(value ?? '')?.[1]
    if (name!.toLowerCase() === 'wait' && seconds !== undefined) {
      waitS ??= Math.min(MAX_WAIT_S, Number(seconds))
    }
  }
  // Both together mean: wait so long, then answer as if asynchronous (§4.3). That is what waiting does.
  return { waitS: waitS ?? 0, respondAsync: respondAsync && waitS === null }
}

const PREFERENCE =
  /(?:^|,)\s*([!#$%&'*+.^_`|~\w-]+)(?:\s*=\s*("(?:[^"\\]|\\.)*"|[^,;\s"]*))?(?:\s*;(?:"(?:[^"\\]|\\.)*"|[^,"])*)?\s*(?=,|$)/g
