/**
 * Where a webhook may go: the guard against requests that a node is tricked into making (SSRF).
 *
 * A target is given by a stranger, so by default it is https on port 443 at a public name or a globally
 * routable address (IANA special-purpose registries, RFC 6890 and its successors). The WHATWG URL parser
 * has brought every spelling of an IPv4 address (hex, octal, one number) to four decimals before we look.
 * A name may still resolve to a private address: only whoever connects can refuse that (scripts/host.ts).
 */

import { VaultMeshError } from '#core/errors.ts'
import { isPublicHost } from '#core/public-host.ts'

/** Longest URL kept. */
export const MAX_TARGET_CHARS = 2048

/** A URL that passed the guard. */
export interface WebhookTarget {
  /** As WHATWG serialises it. Its path may be a secret of the receiver: it is never logged or shown. */
  readonly url: string
  /** Host with port, the unit that a node is polite to. */
  readonly host: string
}

/**
 * The target that `text` names; throws `bad-webhook` with the reason, and never with the URL.
 * `allowPrivate` lets http, any port and any host pass: for development networks.
 */
export function webhookTarget(text: string, allowPrivate: boolean): WebhookTarget {
  if (text.length > MAX_TARGET_CHARS) throw bad(`is longer than ${MAX_TARGET_CHARS} characters`)
  // Parsers drop or keep these differently, and a list of two URLs would read as one.
  if (!/^[\x21-\x7e]+$/.test(text)) throw bad('holds a space or a character that is not ASCII')
  const url = URL.parse(text)
  if (url === null) throw bad('is not an absolute URL')
  if (url.username !== '' || url.password !== '')
    throw bad('holds a user name or password; put a secret in the path or the query')
  if (url.hash !== '') throw bad('has a fragment, which is never sent')
  if (url.protocol !== 'https:' && !(allowPrivate && url.protocol === 'http:'))
    throw bad('is not https')
  if (url.href.length > MAX_TARGET_CHARS)
    throw bad(`is longer than ${MAX_TARGET_CHARS} characters once it is normalised`)
  if (!allowPrivate) {
    if (url.port !== '') throw bad('names a port other than 443')
    if (!isPublicHost(url.hostname)) throw bad('names a host that is not public')
  }
  return { url: url.href, host: url.host }
}

function bad(why: string): VaultMeshError {
  return new VaultMeshError('bad-webhook', `The webhook's URL ${why}.`)
}
