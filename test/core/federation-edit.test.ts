import { readFileSync } from 'node:fs'
import { describe, expect, test } from 'vitest'
import { parseFederationConfig } from '#core/federation-config.ts'
import { addPeer, removePeer } from '#core/federation-edit.ts'

const example = readFileSync('config/examples/federation.config.yaml', 'utf8')
const did = 'did:key:z6MkgoLTnTypo3tDRCvkRXSTPZWHKTf1BaWUPbcBxjWvBRhN'
const peers = (text: string) => parseFederationConfig(text).peers.map((peer) => peer.did)
const there = peers(example)
const comments = (text: string) => text.split('\n').filter((line) => /^\s*#/.test(line))

describe('a peer', () => {
  test('is added at the end; comments and all other keys stay as they are', () => {
    const text = addPeer(example, { did })
    expect(peers(text)).toEqual([...there, did])
    expect(comments(text)).toEqual(comments(example))
    const { peers: _, ...rest } = parseFederationConfig(text)
    expect(parseFederationConfig(example)).toMatchObject(rest)
  })

  test('is added with what pins it', () => {
    const origin = 'node-9.example/log'
    const text = addPeer(example, { did, url: 'https://node-9.example', origin })
    expect(parseFederationConfig(text).peers.at(-1)).toMatchObject({
      did,
      url: 'https://node-9.example',
      origin,
      vkey: null,
    })
  })

  test('is removed wherever it stands, in whatever spelling its DID has', () => {
    for (const [i, gone] of there.entries()) {
      const text = removePeer(example, gone.startsWith('did:pkh') ? gone.toLowerCase() : gone)
      expect(peers(text)).toEqual(there.toSpliced(i, 1))
    }
    const none = there.reduce(removePeer, example)
    expect(peers(none)).toEqual([])
    expect(peers(addPeer(none, { did }))).toEqual([did])
  })

  test('that was added and removed leaves the same peers', () => {
    expect(peers(removePeer(addPeer(example, { did }), did))).toEqual(there)
  })

  test('can be added to a file without a list, or with an empty one', () => {
    for (const text of [
      'node_id: a\n',
      'node_id: a\npeers_allowlist: []\n',
      'peers_allowlist: # none\n  []\n',
    ])
      expect(peers(addPeer(text, { did }))).toEqual([did])
  })

  test('is refused if it is there, is no DID, or the file would be refused with it', () => {
    expect(() => addPeer(example, { did: there[0]! })).toThrow('is in peers_allowlist already')
    expect(() => addPeer(example, { did: 'alice' })).toThrow('"alice" is not a DID')
    expect(() => addPeer(example, { did, url: 'ftp://x' })).toThrow('must be an http')
    expect(() => addPeer(example, { did, vkey: 'x' })).toThrow('is no vkey')
    expect(() => addPeer(example, { did, origin: 'node-3.example/log' })).toThrow('origin')
    expect(() => removePeer(example, did)).toThrow('is not in peers_allowlist')
  })

  test('is added with a note, which goes with it', () => {
    for (const url of [undefined, 'https://node-9.example']) {
      const text = addPeer(example, { did, url, note: "Bob's node: #3 'there'" })
      expect(text).toMatch(new RegExp(`${did}'? # Bob's node: #3 'there'`))
      expect(peers(text)).toEqual([...there, did])
      expect(removePeer(text, did)).not.toContain('Bob')
    }
    expect(() => addPeer(example, { did, note: 'a\nb: c' })).toThrow('one line')
  })

  test('cannot bring in YAML of its own', () => {
    const origin = 'x/log"\npeers_allowlist: []'
    expect(() => addPeer(example, { did, origin })).toThrow('must be an origin')
    const url = "https://node-9.example/'a:{b}"
    expect(parseFederationConfig(addPeer(example, { did, url })).peers.at(-1)!.url).toContain("'a")
  })
})
