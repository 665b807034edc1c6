/**
 * Time at the edge: RFC 3339 in, ISO 8601 UTC out. Inside, time is epoch milliseconds.
 */

const RFC3339 =
  /^(\d{4})-(\d\d)-(\d\d)[Tt](\d\d):(\d\d):(\d\d)(?:\.(\d+))?(?:[Zz]|([+-])(\d\d):(\d\d))$/

const YEAR_0 = Date.UTC(-1, 12)
const YEAR_10000 = Date.UTC(10_000)

/**
 * Epoch milliseconds of an RFC 3339 date-time (§5.6), or null if it is none. Fractions beyond a
 * millisecond are cut off; a leap second :60 counts as the second after it. A moment whose UTC year is
 * not 0000 to 9999 (§1) is none either: nothing could write it back.
 */
export function parseTime(text: string): number | null {
  const m = RFC3339.exec(text)
  if (m === null) return null
  const [year, month, day] = [Number(m[1]), Number(m[2]), Number(m[3])]
  const [hour, minute, second] = [Number(m[4]), Number(m[5]), Number(m[6])]
  const [offsetHour, offsetMinute] = [Number(m[9] ?? 0), Number(m[10] ?? 0)]
  if (hour > 23 || minute > 59 || second > 60 || offsetHour > 23 || offsetMinute > 59) return null
  const date = new Date(0)
  date.setUTCFullYear(year, month - 1, day)
  // A day that the month lacks rolls over; then the parts do not come back.
  if (date.getUTCMonth() !== month - 1 || date.getUTCDate() !== day) return null
  const ms = Number((m[7] ?? '').padEnd(3, '0').slice(0, 3))
  const offset = (m[8] === '-' ? -1 : 1) * (offsetHour * 60 + offsetMinute) * 60_000
  const at = date.getTime() + ((hour * 60 + minute) * 60 + second) * 1000 + ms - offset
  return at < YEAR_0 || at >= YEAR_10000 ? null : at
}

/** `2026-11-23T05:36:00.000Z` for epoch milliseconds. */
export function isoTime(at: number): string {
  // A bulk says one moment a thousand times.
  if (at !== lastAt) {
    lastText = new Date(at).toISOString()
    lastAt = at
  }
  return lastText
}
let lastAt = Number.NaN
let lastText = ''
