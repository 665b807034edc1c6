/**
 * Whether a host name or address is a public one: what a stranger may make a node ask, and what may vouch for
 * time towards others.
 *
 * Addresses by the IANA special-purpose registries (RFC 6890 and its successors), names by the top-level
 * names that are reserved or served by private networks. Whether a name resolves to a private address only
 * whoever connects can tell.
 */

/** Whether a host as WHATWG serialises it may be public: a name of two labels or more, or an address. */
export function isPublicHost(hostname: string): boolean {
  if (hostname.startsWith('[')) {
    // A receipt may name any host: what is no address is not public.
    const address = parseIpv6(hostname.slice(1, -1))
    return address !== null && isPublicIpv6(address)
  }
  if (/^\d{1,3}(?:\.\d{1,3}){3}$/.test(hostname)) return isPublicIpv4(ipv4Number(hostname))
  const name = hostname.endsWith('.') ? hostname.slice(0, -1) : hostname
  const labels = name.split('.')
  return labels.length > 1 && !labels.includes('') && !isPrivateName(name)
}

/** Names that are served, if at all, by the network a node stands in (RFC 6761, RFC 6762, RFC 8375, ICANN). */
const PRIVATE_NAMES = [
  'localhost',
  'localdomain',
  'local',
  'internal',
  'intranet',
  'private',
  'corp',
  'home',
  'lan',
  'arpa',
  'onion',
  'test',
]

function isPrivateName(name: string): boolean {
  return PRIVATE_NAMES.includes(name.slice(name.lastIndexOf('.') + 1))
}

/** [network, prefix length] of what is not globally reachable, or not unicast. */
const PRIVATE_IPV4: readonly (readonly [string, number])[] = [
  ['0.0.0.0', 8], // this network, RFC 791
  ['10.0.0.0', 8], // private, RFC 1918
  ['100.64.0.0', 10], // carrier NAT, RFC 6598
  ['127.0.0.0', 8], // loopback, RFC 1122
  ['169.254.0.0', 16], // link-local and cloud metadata, RFC 3927
  ['172.16.0.0', 12], // private
  ['192.0.0.0', 24], // protocol assignments, RFC 6890
  ['192.0.2.0', 24], // documentation, RFC 5737
  ['192.88.99.0', 24], // 6to4 relays, RFC 7526
  ['192.168.0.0', 16], // private
  ['198.18.0.0', 15], // benchmarks, RFC 2544
  ['198.51.100.0', 24], // documentation
  ['203.0.113.0', 24], // documentation
  ['224.0.0.0', 3], // multicast, reserved, broadcast: RFC 5771, RFC 1112, RFC 919
]

function isPublicIpv4(address: number): boolean {
  return !PRIVATE_IPV4.some(([network, length]) => {
    const size = 2 ** (32 - length)
    return Math.floor(address / size) === Math.floor(ipv4Number(network) / size)
  })
}

function ipv4Number(text: string): number {
  return text.split('.').reduce((sum, part) => sum * 256 + Number(part), 0)
}

/** What global unicast, 2000::/3, holds beside public addresses. */
const PRIVATE_IPV6: readonly (readonly [bigint, number])[] = [
  [0x2001n << 112n, 23], // protocol assignments, Teredo and ORCHID among them, RFC 2928
  [0x20010db8n << 96n, 32], // documentation, RFC 3849
  [0x2002n << 112n, 16], // 6to4: an IPv4 address, private or not, within; RFC 3056
  [0x3fffn << 112n, 20], // documentation, RFC 9637
]

function isPublicIpv6(address: bigint): boolean {
  // Outside of it are loopback, mapped and translated IPv4, unique local, link-local and multicast.
  if (address >> 125n !== 1n) return false
  return !PRIVATE_IPV6.some(([network, length]) => {
    const shift = BigInt(128 - length)
    return address >> shift === network >> shift
  })
}

/** An address as WHATWG writes it: hex groups, at most one `::`, no dotted part; null if it is none. */
function parseIpv6(text: string): bigint | null {
  const [head = '', tail, more] = text.split('::')
  if (more !== undefined) return null
  const groups = (part: string): string[] => (part === '' ? [] : part.split(':'))
  const left = groups(head)
  const right = tail === undefined ? [] : groups(tail)
  const isAddress = [...left, ...right].every((group) => /^[0-9a-f]{1,4}$/.test(group))
  if (!isAddress || left.length + right.length > 8) return null
  if (tail === undefined && left.length < 8) return null
  const zeros = Array.from({ length: 8 - left.length - right.length }, () => '0')
  return [...left, ...zeros, ...right].reduce(
    (sum, group) => (sum << 16n) | BigInt(`0x${group}`),
    0n,
  )
}
