/**
 * What a request's headers say of the representation wanted: conditional requests (RFC 9110 §13.1.2) and
 * content negotiation (§12.5.1).
 */

/** One entity-tag (§8.8.3); the weak prefix does not count, as §13.1.2 compares weakly. */
const ENTITY_TAG = /(?:W\/)?("[\u0021\u0023-\u007e\u0080-\u00ff]*")/g

/** Whether If-None-Match names `etag`, or any by `*`: then the answer is 304. `etag` is strong, with its quotes. */
export function noneMatchFails(request: Request, etag: string): boolean {
  const given = request.headers.get('if-none-match')
  if (given === null) return false
  if (given.trim() === '*') return true
  for (const [, tag] of given.matchAll(ENTITY_TAG)) if (tag === etag) return true
  return false
}

/**
 * The media type of `offered` that Accept likes best; of equals the first. Without the header, or if it
 * likes none, the first too: §12.5.1 lets a server disregard it, and an answer helps more than a 406.
 */
export function preferred<T extends string>(request: Request, offered: readonly [T, ...T[]]): T {
  const given = request.headers.get('accept')
  if (given === null) return offered[0]
  const ranges = given.split(',').slice(0, MAX_RANGES).map(parseRange)
  let best = offered[0]
  let bestQuality = 0
  for (const type of offered) {
    const quality = qualityOf(type, ranges)
    if (quality > bestQuality) [best, bestQuality] = [type, quality]
  }
  return best
}

/** Browsers send eight at most. */
const MAX_RANGES = 32

interface Range {
  readonly range: string
  readonly quality: number
}

/** Parameters but `q` are not told apart: nothing here is offered in two of them. */
function parseRange(text: string): Range {
  const [range = '', ...parameters] = text.split(';').map((part) => part.trim().toLowerCase())
  const weight = parameters.find((parameter) => /^q\s*=/.test(parameter))
  if (weight === undefined) return { range, quality: 1 }
  // §12.4.2: 0 to 1 with up to three digits; what is no weight asks for nothing.
  const value = /^q\s*=\s*(0(?:\.\d{0,3})?|1(?:\.0{0,3})?)$/.exec(weight)?.[1]
  return { range, quality: value === undefined ? 0 : Number(value) }
}

/** The weight of the most specific range that holds `type`; 0 if none does. */
function qualityOf(type: string, ranges: readonly Range[]): number {
  for (const name of [type, `${type.split('/')[0]}/*`, '*/*']) {
    const found = ranges.filter(({ range }) => range === name)
    if (found.length > 0) return Math.max(...found.map(({ quality }) => quality))
  }
  return 0
}
