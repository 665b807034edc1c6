/**
 * One change to `peers_allowlist` of a config/federation.yaml: its text in, its text out. Comments and all other keys
 * stay as they are, and what comes out was parsed by the same rules as any file.
 */

import { isMap, isScalar, isSeq, parseDocument, type Document, type YAMLSeq } from 'yaml'
import { parseDid } from '#core/did.ts'
import { VaultMeshError } from '#core/errors.ts'
import { parseFederationConfig } from '#core/federation-config.ts'

/** A peer as an operator writes it down. */
export interface NewPeer {
  readonly did: string
  readonly url?: string | undefined
  readonly origin?: string | undefined
  readonly vkey?: string | undefined
  /** Why it is there, for whoever reads the file: a comment behind the DID. */
  readonly note?: string | undefined
}

/** Adds a peer at the end. Throws `bad-request` if it is there, or the file would be refused with it. */
export function addPeer(yamlText: string, peer: NewPeer): string {
  const { did, url, origin, vkey, note } = peer
  if (note !== undefined && (note.length > 200 || /[\p{Cc}\p{Zl}\p{Zp}]/u.test(note)))
    throw refused('a note is one line of at most 200 characters')
  return edited(yamlText, (list, dids, document) => {
    const canonical = canonicalOf(did)
    if (dids.includes(canonical)) throw refused(`${did} is in peers_allowlist already`)
    const pins = Object.entries({ did, url, origin, vkey }).filter(([, value]) => value)
    const added = document.createNode(pins.length === 1 ? did : Object.fromEntries(pins))
    const named: unknown = isMap(added) ? added.get('did', true) : added
    if (note !== undefined && isScalar(named)) named.comment = ` ${note}`
    // An empty list is written as []: what is added to it must not stand in brackets.
    if (list.items.length === 0) list.flow = false
    list.add(added)
    return [...dids, canonical]
  })
}

/** Removes a peer. Throws `not-found` if it is not there, `bad-request` if the file would be refused without it. */
export function removePeer(yamlText: string, did: string): string {
  return edited(yamlText, (list, dids) => {
    const at = dids.indexOf(canonicalOf(did))
    if (at < 0) throw new VaultMeshError('not-found', `${did} is not in peers_allowlist.`)
    list.delete(at)
    return dids.toSpliced(at, 1)
  })
}

/** `change` alters the list and returns the DIDs that must be in it afterwards. */
function edited(
  yamlText: string,
  change: (list: YAMLSeq, dids: readonly string[], document: Document) => readonly string[],
): string {
  // Plain data by the rules of the file: no anchors, aliases or repeated keys from here on.
  const before = parseFederationConfig(yamlText).peers.map(({ canonical }) => canonical)
  const document = parseDocument(yamlText)
  let list: unknown = document.get('peers_allowlist', true)
  if (!isSeq(list)) {
    // Absent, or `peers_allowlist:` with nothing behind it.
    document.set('peers_allowlist', document.createNode([]))
    list = document.get('peers_allowlist', true)
  }
  const wanted = change(list as YAMLSeq, before, document)
  const text = document.toString({ lineWidth: 0 })
  let after: readonly string[]
  try {
    after = parseFederationConfig(text).peers.map(({ canonical }) => canonical)
  } catch (cause) {
    if (!(cause instanceof VaultMeshError)) throw cause
    throw new VaultMeshError('bad-request', cause.message, { cause })
  }
  if (JSON.stringify(after) !== JSON.stringify(wanted))
    throw refused('the file could not be changed in this one place')
  return text
}

function canonicalOf(did: string): string {
  try {
    return parseDid(did).canonical
  } catch {
    throw refused(`"${did.slice(0, 120)}" is not a DID`)
  }
}

function refused(why: string): VaultMeshError {
  return new VaultMeshError('bad-request', `${why}.`)
}
