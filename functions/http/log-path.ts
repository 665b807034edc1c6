/**
 * Which log a path is of. A node whose log has forked has several, each an instance of this Worker with stores of
 * its own; the newest one has the public address and asks the one before it (binding PREVIOUS) for the rest.
 *
 *   /log/<n>/checkpoint, tile/…, proof/…   the log's C2SP tlog-tiles; of the first log also without its number
 *   /log/<n>/receipts/…, events/…, …       what the instance of log n answers on that path
 *   /admin/…?log=<n>                       the same for the operator
 *
 * All other paths are the current log's. Events and receipts that it does not know are looked for in those before.
 */

const NUMBERED = /^\/log\/([1-9]\d?)(\/.+)$/
/** Paths of the log itself: they stay below /log. */
const OF_LOG = /^\/(?:checkpoint$|tile\/|proof\/)/
/** Paths of the node that are of one log all the same. Never /admin: who guards that guards it by its name. */
const OF_NODE =
  /^\/(?:receipts|events|batches|anchors|alerts|healthz|webhooks|remembrancer|mirror|federation\/feed)(?:\/|$)/

/** The path that this instance is to answer, or null if the one before it is to be asked. */
export function placed(url: URL, number: number): string | null {
  const { pathname } = url
  if (pathname.startsWith('/log/')) {
    const [, digits, rest] = NUMBERED.exec(pathname) ?? []
    if (rest === undefined) return number === 1 ? pathname : null
    const wanted = Number(digits)
    if (wanted < number) return null
    if (wanted > number) return pathname
    if (OF_LOG.test(rest)) return `/log${rest}`
    return OF_NODE.test(rest) ? rest : pathname
  }
  if (number > 1 && pathname.startsWith('/admin/')) {
    const log = url.searchParams.get('log') ?? ''
    return /^[1-9]\d?$/.test(log) && Number(log) < number ? null : pathname
  }
  return pathname
}
