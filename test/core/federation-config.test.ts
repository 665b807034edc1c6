import { readFileSync } from 'node:fs'
import path from 'node:path'
import * as fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { stringify } from 'yaml'
import { didKey } from '#core/did.ts'
import { VaultMeshError } from '#core/errors.ts'
import {
  MAX_CONFIG_BYTES,
  parseFederationConfig,
  type FederationConfig,
} from '#core/federation-config.ts'
import { TYPE_COSIGNATURE, TYPE_ED25519, formatVkey, verifierKey } from '#core/signed-note.ts'

const key = (seed: number): Uint8Array => new Uint8Array(32).fill(seed)
const didOf = (seed: number): string => didKey('ed25519', key(seed))
const logKey = (name: string, seed = 1): string =>
  formatVkey(verifierKey(name, key(seed), TYPE_ED25519))
const witnessKey = (name: string, seed = 1): string =>
  formatVkey(verifierKey(name, key(seed), TYPE_COSIGNATURE))
const pkh = 'did:pkh:eip155:1:0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed'

/** The refusal of `yaml`: its words, and the key it names. */
function refusal(yaml: string): { message: string; key: unknown } {
  let config: FederationConfig
  try {
    config = parseFederationConfig(yaml)
  } catch (error) {
    if (!(error instanceof VaultMeshError)) throw error
    expect(error.code).toBe('bad-config')
    expect(error.message).toMatch(/^config\/federation\.yaml: [\x20-\x7e…]+\.$/)
    expect(Object.keys(error.extra)).toEqual(['key'])
    return { message: error.message, key: error.extra['key'] }
  }
  throw new Error(`accepted: ${JSON.stringify(config)}`)
}

/** As `refusal`, for a fault at `key` in line `line`; gives the rest of the words. */
function faultAt(yaml: string, expectedKey: string, line: number): string {
  const { message, key: named } = refusal(yaml)
  const head = `config/federation.yaml: ${expectedKey} (line ${line}): `
  expect(message.slice(0, head.length)).toBe(head)
  expect(named).toBe(expectedKey)
  return message.slice(head.length)
}

const DEFAULTS: FederationConfig = {
  nodeId: null,
  nodeDid: null,
  intervalMs: 1500,
  maxPeers: 16,
  url: null,
  seeds: [],
  peers: [],
  order: ['BTC', 'EVM', 'TSA'],
  quarantineMinutes: 15,
  remembrancerUrl: null,
  timeoutMs: 3000,
  logs: [],
  witnesses: [],
}

const PLAN = `node_id: "vm-node-01"
node_did: "did:key:z6Mkv..."
gossip:
  interval_ms: 1500
  max_peers: 16
peers_allowlist:
  - "did:key:z6MkA_peerA"
  - "did:pkh:eip155:1:0xabc..."
conflict_policy:
  order: ["BTC", "EVM", "TSA"]
  tie_breakers: ["earliest_anchor_ts", "lowest_tx_hash"]
  quarantine_minutes: 15
remembrancer:
  url: "http://remembrancer:7070"
  timeout_ms: 3000
`

test('a did:key that is no Ed25519 key can never speak, and is refused', () => {
  const p256 = 'did:key:zDnaerDaTF5BXEavCrfRZEk316dpbLsfPDZ3WJ5hRTPFU2169'
  const words = faultAt(`peers_allowlist: ["${p256}"]\n`, 'peers_allowlist[0]', 1)
  expect(words).toMatch(/holds no Ed25519 key/)
})

describe("the plan's schema", () => {
  test('is read exactly, once its placeholders are DIDs', () => {
    const yaml = PLAN.replace('did:key:z6Mkv...', didOf(1))
      .replace('did:key:z6MkA_peerA', didOf(2))
      .replace('did:pkh:eip155:1:0xabc...', pkh)
    const bare = { url: null, origin: null, vkey: null }
    expect(parseFederationConfig(yaml)).toEqual({
      ...DEFAULTS,
      nodeId: 'vm-node-01',
      nodeDid: didOf(1),
      peers: [
        { did: didOf(2), canonical: didOf(2), ...bare },
        { did: pkh, canonical: pkh.toLowerCase(), ...bare },
      ],
      remembrancerUrl: 'http://remembrancer:7070',
    })
  })

  test('with the placeholders of the plan names the first of them and its line', () => {
    let words = faultAt(PLAN, 'node_did', 2)
    expect(words).toMatch(/^"did:key:z6Mkv\.\.\." is not a DID that can sign .*not base58btc\.$/)
    const named = PLAN.replace('did:key:z6Mkv...', didOf(1))
    words = faultAt(named, 'peers_allowlist[0]', 7)
    expect(words).toMatch(/^"did:key:z6MkA_peerA" is not a DID/)
    words = faultAt(named.replace('did:key:z6MkA_peerA', didOf(2)), 'peers_allowlist[1]', 8)
    expect(words).toMatch(/^"did:pkh:eip155:1:0xabc\.\.\." is not a DID.*0x address/)
  })

  test('has the defaults of the plan for all that is left out', () => {
    expect(parseFederationConfig(`peers_allowlist: []`)).toEqual(DEFAULTS)
    expect(
      parseFederationConfig(
        'gossip: {}\nconflict_policy: {}\nremembrancer: {}\nwitness: {}\npeers_allowlist: []',
      ),
    ).toEqual(DEFAULTS)
  })

  test('takes another order of tiers', () => {
    const { order } = parseFederationConfig('conflict_policy: { order: [TSA, BTC, EVM] }')
    expect(order).toEqual(['TSA', 'BTC', 'EVM'])
  })
})

test('the shipped example parses, in full', () => {
  const file = path.join(import.meta.dirname, '../../config/examples/federation.config.yaml')
  const config = parseFederationConfig(readFileSync(file, 'utf8'))
  expect(config).toMatchObject({
    nodeId: 'vm-node-01',
    intervalMs: 1500,
    maxPeers: 16,
    url: 'https://vm-node-01.example',
    seeds: ['https://vm-node-02.example'],
    order: ['BTC', 'EVM', 'TSA'],
    quarantineMinutes: 15,
    remembrancerUrl: 'http://remembrancer:7070',
    timeoutMs: 3000,
  })
  expect(config.nodeDid).toMatch(/^did:key:z6Mk/)
  expect(config.peers).toHaveLength(3)
  expect(config.peers[2]).toMatchObject({
    url: 'https://vm-node-03.example',
    origin: 'node-3.example/log',
  })
  expect(config.logs).toHaveLength(1)
  expect(config.witnesses).toHaveLength(1)
  // Every optional key is shown.
  for (const value of Object.values(config)) expect(value).not.toBeNull()
})

describe('peers', () => {
  test('may be mappings; a vkey tells the origin, and only a DID is needed', () => {
    const vkey = logKey('a.example/log')
    const { peers } = parseFederationConfig(`
peers_allowlist:
  - did: ${didOf(1)}
  - { did: "${didOf(2)}", vkey: "${vkey}" }
  - did: ${didOf(3)}
    url: HTTPS://Node-3.Example:443/vault//
    origin: b.example/log
  - ${didOf(4)}
`)
    expect(peers).toEqual([
      { did: didOf(1), canonical: didOf(1), url: null, origin: null, vkey: null },
      { did: didOf(2), canonical: didOf(2), url: null, origin: 'a.example/log', vkey },
      {
        did: didOf(3),
        canonical: didOf(3),
        url: 'https://node-3.example/vault',
        origin: 'b.example/log',
        vkey: null,
      },
      { did: didOf(4), canonical: didOf(4), url: null, origin: null, vkey: null },
    ])
  })

  test('are listed once: a DID is compared canonically', () => {
    const yaml = `peers_allowlist:\n  - ${pkh}\n  - ${didOf(1)}\n  - did: ${pkh.toLowerCase()}\n`
    expect(faultAt(yaml, 'peers_allowlist[2].did', 4)).toBe('repeats that of peers_allowlist[0].')
    const bare = `peers_allowlist: [\n "${didOf(1)}",\n "${didOf(1)}"]`
    expect(faultAt(bare, 'peers_allowlist[1]', 3)).toBe('repeats that of peers_allowlist[0].')
  })

  test.each([
    ['a method that cannot sign', 'did:web:a.example'],
    ['an X25519 key', 'did:key:z6LSbysY2xFMRpGMhb7tFTLMpeuPRaqaWM1yECx2AtzE3KCc'],
    ['a truncated key', didOf(1).slice(0, -1)],
    ['a key in uppercase', didOf(1).toUpperCase()],
    ['an address with a bad checksum', pkh.replace('5aAe', '5aAE')],
    [
      'a solana account',
      'did:pkh:solana:4sGjMW1sUnHzSxGspuhpqLDx6wiyjNtZ:CKg5d12Jhpej1JqtmxLJgaFqqeYjxgPqToJ4LBdvG9Ev',
    ],
    ['an empty text', ''],
    ['a lone prefix', 'did:key:z'],
    ['white space', `${didOf(1)} `],
    ['no DID but an address', 'https://user:secret@a.example'],
    ['a text of 100,000 characters', `did:key:z${'6'.repeat(100_000)}`],
  ])('are DIDs that can sign, not %s', (_name, did) => {
    const yaml = `\npeers_allowlist:\n  - ${JSON.stringify(did)}\n  - did: ${JSON.stringify(did)}\n`
    const words = faultAt(yaml, 'peers_allowlist[0]', 3)
    expect(words).toMatch(/is not a DID that can sign/)
    expect(words).not.toContain('secret')
    expect(words.length).toBeLessThan(400)
    faultAt(
      `peers_allowlist:\n  - url: http://a\n    did: ${JSON.stringify(did)}`,
      'peers_allowlist[0].did',
      3,
    )
    faultAt(`node_did: ${JSON.stringify(did)}`, 'node_did', 1)
  })

  test('are DIDs without a fragment, which would name one key of theirs', () => {
    const words = faultAt(
      `peers_allowlist: ["${didOf(1)}#${didOf(1).slice(8)}"]`,
      'peers_allowlist[0]',
      1,
    )
    expect(words).toMatch(/has a fragment; write the DID alone/)
  })

  test.each([
    ['not text of base64', 'a.example/log+00000000+!!!', /^is no vkey: /],
    [
      'of another key ID',
      logKey('a.example/log').replace(/\+[0-9a-f]{8}\+/, '+00000000+'),
      /^is no vkey: /,
    ],
    ['with a name of spaces', 'a b+00000000+AA==', /^is no vkey: /],
    ['empty', '', /^is no vkey: /],
    ['of a witness', witnessKey('a.example/log'), /^is a key of type 0x04, not 0x01\.$/],
    [
      'of a type we do not know',
      'a.example/log+00000000+/wE=',
      /^is a key of type 0xff, not 0x01\.$/,
    ],
    ['named otherwise', logKey('b.example/log'), /^is not named like its origin\.$/],
  ])('have no vkey that is %s', (_name, vkey, words) => {
    const yaml = `peers_allowlist:
  - ${didOf(1)}
  - did: ${didOf(2)}
    origin: a.example/log
    vkey: ${JSON.stringify(vkey)}
`
    expect(faultAt(yaml, 'peers_allowlist[1].vkey', 5)).toMatch(words)
    const log = `witness:\n  logs:\n    - origin: a.example/log\n      vkey: ${JSON.stringify(vkey)}\n`
    expect(faultAt(log, 'witness.logs[0].vkey', 4)).toMatch(words)
  })

  test.each(['https://a.example/log', 'a b', 'a+b', 'a\u00a0b', 'a\u0007', '', 'ö'.repeat(128)])(
    'have no origin "%s"',
    (origin) => {
      const yaml = `peers_allowlist:\n- did: ${didOf(1)}\n  origin: ${JSON.stringify(origin)}`
      faultAt(yaml, 'peers_allowlist[0].origin', 3)
    },
  )

  test('have no vkey whose name is too long for an origin', () => {
    const yaml = `peers_allowlist:\n- did: ${didOf(1)}\n  vkey: ${logKey('a'.repeat(256))}`
    expect(faultAt(yaml, 'peers_allowlist[0].vkey', 3)).toBe('has a name too long for an origin.')
  })

  test('never share an origin: one log has one owner', () => {
    const yaml = `peers_allowlist:
  - { did: "${didOf(1)}", origin: a.example/log }
  - did: ${didOf(2)}
    vkey: ${logKey('a.example/log')}
`
    const words = faultAt(yaml, 'peers_allowlist[1].origin', 3)
    expect(words).toBe('repeats that of peers_allowlist[0].')
  })
})

describe('addresses', () => {
  const paths = {
    'gossip.url': (value: string) => `gossip:\n  url: ${value}`,
    'gossip.seeds[1]': (value: string) => `gossip: { seeds: [http://a,\n ${value}] }`,
    'remembrancer.url': (value: string) => `remembrancer:\n  url: ${value}`,
    'peers_allowlist[0].url': (value: string) =>
      `peers_allowlist: [{ did: "${didOf(1)}",\n url: ${value} }]`,
    'witness.witnesses[0].url': (value: string) =>
      `witness: { witnesses: [{ vkey: "${witnessKey('w')}",\n url: ${value} }] }`,
  }

  test.each([
    ['another scheme', 'ftp://a.example'],
    ['a script', 'javascript:alert(1)'],
    ['a file', 'file:///etc/passwd'],
    ['no scheme', 'a.example:7070'],
    ['no host', 'http://'],
    ['no slashes', 'http:a.example'],
    ['backslashes', 'http:\\\\a.example'],
    ['a user', 'https://user@a.example'],
    ['credentials', 'https://user:s3cret@a.example'],
    ['a password alone', 'https://:s3cret@a.example'],
    ['a query', 'https://a.example/?key=s3cret'],
    ['an empty query', 'https://a.example/?'],
    ['a fragment', 'https://a.example/#x'],
    ['white space within', 'https://a.example/ b'],
    ['white space around', ' https://a.example'],
    ['a newline', 'https://a.example/\nb'],
    ['a tab', 'https://a.exa\tmple'],
    ['a bad port', 'https://a.example:70000'],
    ['a bad host', 'https://a..b%00/'],
    ['nothing', ''],
    ['3,000 characters', `https://a.example/${'a'.repeat(3000)}`],
    ['1,000 characters that become 3,000', `https://a.example/${'ä'.repeat(1000)}`],
  ])('are http or https and bare: not %s', (_name, value) => {
    for (const [at, yaml] of Object.entries(paths)) {
      expect(faultAt(yaml(JSON.stringify(value)), at, 2)).not.toContain('s3cret')
    }
  })

  test.each([
    ['http://remembrancer:7070/', 'http://remembrancer:7070'],
    ['https://a.example/vault/', 'https://a.example/vault'],
    ['https://a.example/vault///', 'https://a.example/vault'],
    ['https://A.Example:443', 'https://a.example'],
    ['http://127.0.0.1:8787', 'http://127.0.0.1:8787'],
    ['http://[::1]:8787/x', 'http://[::1]:8787/x'],
  ])('%s is kept as %s', (value, kept) => {
    const yaml = Object.values(paths)
      .map((of) => of(JSON.stringify(value)))
      .filter((part) => !part.startsWith('gossip: {'))
      .join('\n')
    const config = parseFederationConfig(yaml)
    expect(config.url).toBe(kept)
    expect(config.remembrancerUrl).toBe(kept)
    expect(config.peers[0]!.url).toBe(kept)
    expect(config.witnesses[0]!.url).toBe(kept)
    expect(parseFederationConfig(paths['gossip.seeds[1]'](JSON.stringify(value))).seeds).toEqual([
      'http://a',
      kept,
    ])
  })

  test('of seeds are called once each', () => {
    const yaml = 'gossip: { seeds: [http://a, http://b, http://a/] }'
    expect(parseFederationConfig(yaml).seeds).toEqual(['http://a', 'http://b'])
  })
})

describe('foreign logs and witnesses', () => {
  test('are read as they are written', () => {
    const config = parseFederationConfig(`
witness:
  logs: [{ origin: a.example/log, vkey: "${logKey('a.example/log')}" }]
  witnesses: [{ url: https://w.example/, vkey: "${witnessKey('w.example')}" }]
`)
    expect(config.logs).toEqual([{ origin: 'a.example/log', vkey: logKey('a.example/log') }])
    expect(config.witnesses).toEqual([{ url: 'https://w.example', vkey: witnessKey('w.example') }])
  })

  test('a witness has a key of type 0x04', () => {
    const yaml = (vkey: string): string =>
      `witness:\n  witnesses:\n  - url: http://w\n    vkey: ${vkey}`
    const at = 'witness.witnesses[0].vkey'
    expect(faultAt(yaml(logKey('w')), at, 4)).toBe('is a key of type 0x01, not 0x04.')
    expect(faultAt(yaml('nonsense'), at, 4)).toMatch(/^is no vkey: /)
  })

  test('a key counts as one witness, whatever its names', () => {
    const yaml = `witness:
  witnesses:
    - { url: http://a, vkey: "${witnessKey('a')}" }
    - { url: http://b, vkey: "${witnessKey('b', 2)}" }
    - { url: http://c, vkey: "${witnessKey('c')}" }
`
    const words = faultAt(yaml, 'witness.witnesses[2].vkey', 5)
    expect(words).toBe('repeats that of witness.witnesses[0].')
  })

  test('a log is listed once', () => {
    const log = `{ origin: a, vkey: "${logKey('a')}" }`
    const words = faultAt(`witness: { logs: [${log},\n ${log}] }`, 'witness.logs[1].origin', 2)
    expect(words).toBe('repeats that of witness.logs[0].')
  })

  test('a log that is a peer has one key', () => {
    const yaml = (seed: number, peerKey: string): string =>
      `peers_allowlist: [{ did: "${didOf(1)}", origin: a ${peerKey} }]
witness:
  logs:
    - origin: a
      vkey: ${logKey('a', seed)}
`
    const pinned = `, vkey: "${logKey('a')}"`
    expect(faultAt(yaml(2, pinned), 'witness.logs[0].vkey', 5)).toBe(
      'is not the vkey of this origin in peers_allowlist[0].',
    )
    expect(parseFederationConfig(yaml(1, pinned)).logs).toHaveLength(1)
    expect(parseFederationConfig(yaml(2, '')).logs).toHaveLength(1)
  })

  test.each([
    ['witness.logs[0].vkey', 'witness:\n  logs:\n    - origin: a', 'is missing.'],
    ['witness.logs[0].origin', `witness:\n  logs:\n    - vkey: a`, 'is missing.'],
    ['witness.witnesses[0].url', `witness:\n  witnesses:\n    - vkey: a`, 'is missing.'],
    ['witness.witnesses[0].vkey', `witness:\n  witnesses:\n    - url: http://a`, 'is missing.'],
    ['peers_allowlist[0].did', `\npeers_allowlist:\n  - url: http://a`, 'is missing.'],
  ])('%s is needed', (at, yaml, words) => {
    expect(faultAt(yaml, at, 3)).toBe(words)
  })
})

describe('numbers are whole and within their bounds', () => {
  test.each([
    ['gossip', 'interval_ms', 200, 3_600_000, 'intervalMs'],
    ['gossip', 'max_peers', 1, 64, 'maxPeers'],
    ['conflict_policy', 'quarantine_minutes', 0, 10_080, 'quarantineMinutes'],
    ['remembrancer', 'timeout_ms', 100, 60_000, 'timeoutMs'],
  ] as const)('%s.%s from %i to %i', (section, name, min, max, field) => {
    const yaml = (value: unknown): string => `${section}:\n  ${name}: ${String(value)}\n`
    for (const value of [min, max]) {
      expect(parseFederationConfig(yaml(value))[field]).toBe(value)
    }
    const others = [min - 1, max + 1, `${min}.5`, '.nan', '.inf', '-.inf', `"${max}"`, '~', 'true']
    for (const value of [...others, '[1]', '{}', '1e400', '99999999999999999999', '1_000', '']) {
      const words = faultAt(yaml(value), `${section}.${name}`, 2)
      expect(words).toBe(`must be a whole number from ${min} to ${max}.`)
    }
  })
})

describe('a law that is none is refused', () => {
  test.each([
    ['[BTC, EVM]'],
    ['[BTC, EVM, EVM]'],
    ['[BTC, EVM, TSA, TSA]'],
    ['[btc, evm, tsa]'],
    ['[BTC, EVM, DOGE]'],
    ['[]'],
    ['BTC'],
    ['~'],
    ['{ BTC: 1, EVM: 2, TSA: 3 }'],
  ])('order: %s', (order) => {
    const words = faultAt(`conflict_policy:\n  order: ${order}`, 'conflict_policy.order', 2)
    expect(words).toBe('must hold BTC, EVM and TSA once each.')
  })

  test.each([
    ['[lowest_tx_hash, earliest_anchor_ts]'],
    ['[earliest_anchor_ts]'],
    ['[earliest_anchor_ts, lowest_tx_hash, lowest_root]'],
    ['[latest_anchor_ts, lowest_tx_hash]'],
    ['[]'],
    ['earliest_anchor_ts'],
    ['~'],
  ])('tie_breakers: %s', (names) => {
    const yaml = `conflict_policy:\n  order: [BTC, EVM, TSA]\n  tie_breakers: ${names}`
    const words = faultAt(yaml, 'conflict_policy.tie_breakers', 3)
    expect(words).toBe('must be [earliest_anchor_ts, lowest_tx_hash], in this order.')
  })
})

describe('what is not of the schema is refused', () => {
  test.each([
    ['peers', 'peers: []', 1],
    ['gossip.intervall_ms', 'gossip:\n  interval_ms: 1500\n  intervall_ms: 1', 3],
    ['conflict_policy.tiebreakers', 'conflict_policy: {\n tiebreakers: [] }', 2],
    ['remembrancer.token', 'remembrancer:\n  token: x', 2],
    ['witness.log', 'witness:\n  log: []', 2],
    ['peers_allowlist[0].name', `peers_allowlist:\n  - did: ${didOf(1)}\n    name: x`, 3],
    ['witness.logs[0].url', 'witness:\n  logs:\n  - origin: a\n    vkey: b\n    url: http://a', 5],
    ['__proto__', 'node_id: a\n__proto__:\n  node_did: x', 2],
    ['gossip.__proto__', 'gossip:\n  __proto__: { url: x }', 2],
    ['gossip.constructor', 'gossip:\n  constructor: x', 2],
    ['<<', '<<: { node_id: a }', 1],
    ['1', '1: 2', 1],
    ['Node_id', 'Node_id: a', 1],
  ])('%s', (at, yaml, line) => {
    expect(faultAt(yaml, at, line)).toBe('is not a key of this file.')
  })

  test('and a key that would forge a line of the message is shown on one', () => {
    const { message } = refusal('"a\\nconfig/federation.yaml: node_id\\u001b[2J": 1')
    expect(message).toMatch(/^config\/federation\.yaml: a\?config.*\(line 1\): is not a key/)
  })

  test('the fault nearest to the top is named, whatever the order of the schema', () => {
    const yaml = 'witness: []\nnode_id: A\nzzz: 1\ngossip: 1\n'
    faultAt(yaml, 'witness', 1)
    faultAt(yaml.split('\n').toReversed().join('\n'), 'gossip', 2)
  })
})

describe('values of another type are refused', () => {
  const mappings = ['gossip', 'conflict_policy', 'remembrancer', 'witness']
  test.each(mappings)('%s is a mapping', (name) => {
    for (const value of ['1', 'x', '[]', '~', '', 'true']) {
      expect(faultAt(`\n${name}: ${value}`, name, 2)).toBe('must be a mapping.')
    }
  })

  test.each(['gossip.seeds', 'peers_allowlist', 'witness.logs', 'witness.witnesses'])(
    '%s is a list',
    (name) => {
      const [section, list] = name.split('.')
      for (const value of ['1', 'x', '{}', '~', '', didOf(1)]) {
        const yaml = list === undefined ? `\n${name}: ${value}` : `${section}:\n  ${list}: ${value}`
        expect(faultAt(yaml, name, 2)).toBe('must be a list.')
      }
    },
  )

  test.each(['node_id', 'node_did', 'gossip.url', 'remembrancer.url'])('%s is text', (name) => {
    const [section, field] = name.split('.')
    for (const value of ['1', '01', '[]', '{}', '~', '', 'true', '2025-10-24: 1']) {
      if (value.includes(':') && field === undefined) continue
      const yaml =
        field === undefined ? `\n${name}: ${value}` : `${section}:\n  ${field}: ${flow(value)}`
      expect(faultAt(yaml, name, 2)).toMatch(/^must be text; /)
    }
  })

  test('entries of lists are what they must be', () => {
    for (const value of ['1', '~', '[]', 'true']) {
      const words = faultAt(`peers_allowlist:\n  - ${value}`, 'peers_allowlist[0]', 2)
      expect(words).toBe('must be a DID, or a mapping with did.')
      expect(faultAt(`gossip: { seeds: [\n ${value}] }`, 'gossip.seeds[0]', 2)).toMatch(
        /^must be text/,
      )
      expect(faultAt(`witness:\n  logs: [${value}]`, 'witness.logs[0]', 2)).toBe(
        'must be a mapping.',
      )
    }
  })

  test.each(['A', '-a', 'a_b', 'a b', 'a'.repeat(64), '""'])('node_id %s is no label', (value) => {
    expect(faultAt(`node_id: ${value}`, 'node_id', 1)).toBe('must be a host-name-like label.')
  })
})

describe('a file that says something else than it shows is refused', () => {
  test('a key that is there twice', () => {
    expect(faultAt('node_id: a\ngossip: {}\nnode_id: a', 'node_id', 3)).toBe('is there twice.')
    expect(faultAt('gossip:\n  url: http://a\n  "url": http://b', 'gossip.url', 3)).toBe(
      'is there twice.',
    )
    const peer = `peers_allowlist:\n  - did: ${didOf(1)}\n    did: ${didOf(2)}`
    expect(faultAt(peer, 'peers_allowlist[0].did', 3)).toBe('is there twice.')
    faultAt('__proto__: 1\n__proto__: 2', '__proto__', 2)
  })

  test('an alias, an anchor', () => {
    const bomb = ['a: &a [x, x]', 'b: &b [*a, *a]', 'c: &c [*b, *b]', 'd: [*c, *c]'].join('\n')
    expect(refusal(bomb).message).toMatch(/line 1\): has an anchor/)
    expect(refusal('node_id: &x a').message).toMatch(/node_id \(line 1\): has an anchor/)
    expect(refusal('&k node_id: a').message).toMatch(/has an anchor/)
    expect(refusal('&r\nnode_id: a').message).toMatch(/has an anchor/)
    expect(refusal('node_id: a\ngossip: *x').message).toMatch(/line 2\)?: is an alias|not YAML/)
    const self = refusal('gossip: &g\n  seeds: *g')
    expect(self.message).toMatch(/has an anchor/)
  })

  test('a tag', () => {
    for (const tag of ['!!str', '!', '!foo', '!!binary', '!!js/function', '!!set']) {
      refusal(`node_id: ${tag} a`)
    }
    expect(refusal('node_id: !!str a').message).toMatch(/node_id \(line 1\): has a tag/)
    expect(refusal('!!map\nnode_id: a').message).toMatch(/has a tag/)
    expect(refusal('gossip: !!map {}').message).toMatch(/has a tag/)
  })

  test('another version of YAML, in which yes is true', () => {
    expect(refusal('%YAML 1.1\n---\nnode_id: yes').message).toMatch(/must be YAML 1\.2/)
    expect(parseFederationConfig('%YAML 1.2\n---\nnode_id: yes\n...\n').nodeId).toBe('yes')
  })

  test('a second document', () => {
    expect(refusal('node_id: a\n---\nnode_id: b').message).toMatch(/line 2: is not YAML/)
  })

  test('a text with a lone surrogate', () => {
    expect(refusal('node_id: "\\ud800"').message).toMatch(/holds a lone surrogate/)
    expect(refusal('"\\ud800": a').message).toMatch(/holds a lone surrogate/)
  })

  test.each([
    ['nothing', '', /line 1: is empty\.$/],
    ['only comments', '# nothing\n', /line 1: is empty\.$/],
    ['a list', '\n- a', /line 2: must be a mapping\.$/],
    ['a text', 'hello', /line 1: must be a mapping\.$/],
    ['null', '~', /line 1: must be a mapping\.$/],
  ])('what is no mapping: %s', (_name, yaml, words) => {
    expect(refusal(yaml).message).toMatch(words)
  })

  test.each([
    ['tabs', 'gossip:\n\turl: http://a', 2],
    ['an open bracket', 'node_id: a\npeers_allowlist: [', 2],
    ['an open quote', 'node_id: a\nnode_did: "did', 2],
    ['a mapping for a key', 'node_id: a\n? { a: b }\n: c', 2],
    ['bad indentation', 'gossip:\n   url: http://a\n  seeds: []', 3],
    ['an unknown directive', '%FOO bar\n---\nnode_id: a', 1],
    ['a bad escape', 'node_id: "\\q"', 1],
  ])('what is no YAML: %s', (_name, yaml, line) => {
    const { message, key: named } = refusal(yaml)
    expect(message).toMatch(new RegExp(`^config/federation.yaml: line ${line}: is not YAML: `))
    expect(named).toBe('config/federation.yaml')
  })

  test('and a broken file is not quoted: it may hold a password', () => {
    for (const yaml of [
      'remembrancer:\n  url: "http://u:s3cret@a" "s3cret"',
      'a: "x" s3cret: y',
      '"s3cret',
      '} s3cret',
      'a: [s3cret\nb: s3cret}',
    ]) {
      expect(refusal(yaml).message).not.toContain('s3cret')
    }
  })
})

describe('the size of the file is bounded', () => {
  const base = 'node_id: a\n#'

  test('at 256 KiB, counted in bytes', () => {
    const fits = base.padEnd(MAX_CONFIG_BYTES, 'x')
    expect(parseFederationConfig(fits).nodeId).toBe('a')
    expect(refusal(`${fits}x`).message).toMatch(/has more than 262144 bytes/)
    expect(refusal(`${fits.slice(0, -1)}ö`).message).toMatch(/has more than 262144 bytes/)
    expect(refusal('x'.repeat(10_000_000)).message).toMatch(/has more than 262144 bytes/)
  })

  test('at which it still reads thousands of peers', () => {
    const dids = Array.from({ length: 4000 }, (_, i) => {
      const bytes = new Uint8Array(32)
      new DataView(bytes.buffer).setUint32(0, i)
      return `- ${didKey('ed25519', bytes)}`
    })
    const yaml = `peers_allowlist:\n${dids.join('\n')}\n`
    expect(parseFederationConfig(yaml).peers).toHaveLength(4000)
    expect(faultAt(`${yaml}${dids[7]}\n`, 'peers_allowlist[4000]', 4002)).toBe(
      'repeats that of peers_allowlist[7].',
    )
  })

  test.each([
    ['nested lists', '['],
    ['nested mappings', '{a: '],
    ['anchors', '&a '],
    ['brackets that close nothing', '}\n'],
    ['aliases', '- *a\n'],
    ['keys', 'a: 1\n'],
    ['bad peers', 'peers_allowlist:\n', '- x\n'],
  ])('so that %s end in a refusal', { timeout: 30_000 }, (_name, head, repeated = head) => {
    refusal(head + repeated.repeat((MAX_CONFIG_BYTES - head.length) / repeated.length))
  })

  test('and its depth by what the schema can need', () => {
    const deep = (n: number): string => `node_id: ${'['.repeat(n)}${']'.repeat(n)}`
    expect(refusal(deep(8)).message).toMatch(/must be text/)
    expect(refusal(deep(9)).message).toMatch(/nests deeper than 8/)
    expect(refusal(deep(2000)).message).toMatch(/nests deeper than 8|is not YAML/)
  })
})

describe('any file', () => {
  const config = fc.record(
    {
      node_id: fc.stringMatching(/^[a-z0-9][a-z0-9.-]{0,62}$/),
      gossip: fc.record(
        {
          interval_ms: fc.integer({ min: 200, max: 3_600_000 }),
          max_peers: fc.integer({ min: 1, max: 64 }),
          seeds: fc.array(fc.constantFrom('http://a', 'http://b:1', 'https://c.example/d')),
        },
        { requiredKeys: [] },
      ),
      peers_allowlist: fc
        .uniqueArray(fc.integer({ min: 1, max: 200 }), { maxLength: 6 })
        .map((all) =>
          all.map((seed) => {
            const name = `node-${seed}.example/log`
            const full = {
              did: didOf(seed),
              origin: name,
              vkey: logKey(name, seed),
              url: 'http://p',
            }
            return [didOf(seed), { did: didOf(seed) }, full][seed % 3]
          }),
        ),
      conflict_policy: fc.record(
        {
          order: fc.constantFrom(
            ['BTC', 'EVM', 'TSA'],
            ['TSA', 'EVM', 'BTC'],
            ['EVM', 'BTC', 'TSA'],
          ),
          quarantine_minutes: fc.integer({ min: 0, max: 10_080 }),
        },
        { requiredKeys: [] },
      ),
    },
    { requiredKeys: ['node_id'] },
  )

  test('of good values is read back as those values, in block or flow style', () => {
    fc.assert(
      fc.property(config, fc.boolean(), (values, flowStyle) => {
        const yaml = stringify(values, {
          aliasDuplicateObjects: false,
          collectionStyle: flowStyle ? 'flow' : 'any',
        })
        const read = parseFederationConfig(yaml)
        const given = values.gossip ?? {}
        expect(read.nodeId).toBe(values.node_id)
        expect(read.intervalMs).toBe(given.interval_ms ?? 1500)
        expect(read.maxPeers).toBe(given.max_peers ?? 16)
        expect(read.seeds).toEqual([...new Set(given.seeds)])
        expect(read.order).toEqual(values.conflict_policy?.order ?? ['BTC', 'EVM', 'TSA'])
        expect(read.quarantineMinutes).toBe(values.conflict_policy?.quarantine_minutes ?? 15)
        const peers = (values.peers_allowlist ?? []).map((entry) =>
          typeof entry === 'string' ? { did: entry } : entry!,
        )
        expect(read.peers).toEqual(
          peers.map((entry) => ({
            url: null,
            origin: null,
            vkey: null,
            canonical: entry.did,
            ...entry,
          })),
        )
      }),
      { numRuns: 300 },
    )
  })

  test('is read or refused as bad-config, whatever it holds', () => {
    const piece = fc.oneof(
      fc.constantFrom(...PLAN.split('\n').map((line) => `${line}\n`)),
      fc.constantFrom(
        '\n',
        '  ',
        '- ',
        ': ',
        '{',
        '}',
        '[',
        ']',
        '&a ',
        '*a',
        '!!x ',
        '"',
        "'",
        '|',
        '#',
      ),
      fc.constantFrom(
        '---\n',
        '...\n',
        '%YAML 1.1\n',
        '? ',
        '\t',
        '\r',
        '\u0000',
        '\ud800',
        '\ufeff',
      ),
      fc.string({ unit: 'binary', maxLength: 8 }),
    )
    const run = (yaml: string): void => {
      try {
        parseFederationConfig(yaml)
      } catch (error) {
        if (!(error instanceof VaultMeshError && error.code === 'bad-config')) throw error
      }
    }
    fc.assert(
      fc.property(fc.array(piece, { maxLength: 24 }), (pieces) => run(pieces.join(''))),
      { numRuns: 2000 },
    )
  })

  test('of JSON is read like YAML, and a wrong value anywhere is refused', () => {
    const good = { node_id: 'a', gossip: { url: 'http://a' }, peers_allowlist: [didOf(1)] }
    expect(parseFederationConfig(JSON.stringify(good)).url).toBe('http://a')
    fc.assert(
      fc.property(fc.constantFrom(...Object.keys(good)), fc.jsonValue(), (name, value) => {
        const fits = Array.isArray(value) && value.length === 0 && name === 'peers_allowlist'
        const empty = JSON.stringify(value) === '{}' && name === 'gossip'
        const label = typeof value === 'string' && /^[a-z0-9][a-z0-9.-]*$/.test(value)
        fc.pre(!fits && !empty && !(label && name === 'node_id'))
        refusal(JSON.stringify({ ...good, [name]: value }))
      }),
      { numRuns: 500 },
    )
  })
})

/** A block mapping may not stand behind a key on its line. */
function flow(value: string): string {
  return value.includes(': ') ? `{ ${value} }` : value
}
