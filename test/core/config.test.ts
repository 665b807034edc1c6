import * as fc from 'fast-check'
import type { Chain } from 'viem'
import * as chains from 'viem/chains'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { parseConfig } from '#core/config.ts'
import { VaultMeshError } from '#core/errors.ts'
import { authorities } from '../support/tsa.ts'
import accounts from '../vectors/ethereum-accounts.json' with { type: 'json' }

const base = { ORIGIN: 'vm-node-01.example/log' }
const did = 'did:key:z6MkiTBz1ymuepAQ4HEHYSF1H8quG5GLVVQR3djdX3mDooWp'

let home: Awaited<ReturnType<typeof authorities>>
let pem: string
beforeAll(async () => {
  home = await authorities()
  pem = (await home.make()).rootPem
})
afterAll(() => home.remove())

function refusal(env: Record<string, unknown>): string | null {
  try {
    parseConfig(env)
    return null
  } catch (error) {
    if (!(error instanceof VaultMeshError && error.code === 'bad-config')) throw error
    return error.message
  }
}

describe('the settings', () => {
  test('have the defaults of the plan', () => {
    expect(parseConfig(base)).toMatchObject({
      nodeId: 'vm-node-01',
      origin: base.ORIGIN,
      network: 'dev',
      sigRequired: true,
      intakeShards: 16,
      intakeAllow: null,
      intakeMaxAgeMs: 0,
      rateLimitDid: 60_000,
      rateLimitIp: 120_000,
      sealBatchMaxItems: 5000,
      sealBatchMaxIntervalMs: 120_000,
      sealPromiseSlackMs: 600_000,
      sealEagerMs: 250,
      rails: [],
      publicEvents: true,
      webhookAllowPrivate: false,
      signIn: null,
    })
  })

  test('are read as numbers, flags and lists, and other bindings are left alone', () => {
    const env = {
      ...base,
      HARBINGER_SIG_REQUIRED: '0',
      INTAKE_MAX_AGE_S: '60',
      PUBLIC_EVENTS: '0',
      WEBHOOK_ALLOW_PRIVATE: '1',
      RAILS: ' tsa , TSA ',
      TSA_URLS: 'http://127.0.0.1:8318, https://tsa.example/x',
      TSA_ROOTS: `# two roots\n${pem}\n${pem}`,
      DB: { prepare: () => null },
    }
    expect(parseConfig(env)).toMatchObject({
      sigRequired: false,
      webhookAllowPrivate: true,
      intakeMaxAgeMs: 60_000,
      publicEvents: false,
      rails: ['TSA'],
      tsaUrls: ['http://127.0.0.1:8318', 'https://tsa.example/x'],
      tsaRoots: [pem.trim(), pem.trim()],
    })
  })

  test('take the plan’s own spelling HARbINGER_SIG_REQUIRED where the other is not given', () => {
    expect(parseConfig({ ...base, HARbINGER_SIG_REQUIRED: '0' }).sigRequired).toBe(false)
  })

  test('allow DIDs in their canonical form, a DID URL by its DID', () => {
    const wallet = `did:pkh:eip155:1:${accounts.eip55[4]}`
    const env = { ...base, INTAKE_ALLOW: `${did}#${did.slice(8)}, ${wallet}` }
    expect([...parseConfig(env).intakeAllow!]).toEqual([did, wallet.toLowerCase()])
    expect(parseConfig({ ...base, INTAKE_ALLOW: `${did},*` }).intakeAllow).toBeNull()
    // Empty means nobody: an operator who cleared the list must not open the node.
    expect(parseConfig({ ...base, INTAKE_ALLOW: '' }).intakeAllow?.size).toBe(0)
  })

  test.each([
    ['ORIGIN', undefined],
    ['ORIGIN', ''],
    ['ORIGIN', 'https://vm.example/log'],
    ['ORIGIN', 'a b'],
    ['ORIGIN', 'a+b'],
    ['ORIGIN', 'a\u00a0b'],
    ['ORIGIN', 'a\nb'],
    ['ORIGIN', 'a\u0001b'],
    ['ORIGIN', 'é'.repeat(128)],
    ['NODE_ID', 'UPPER'],
    ['NODE_ID', ''],
    ['NETWORK', 'prod'],
    ['HARBINGER_SIG_REQUIRED', 'true'],
    ['HARBINGER_SIG_REQUIRED', ''],
    ['PUBLIC_EVENTS', '2'],
    ['WEBHOOK_ALLOW_PRIVATE', 'true'],
    ['INTAKE_SHARDS', '0'],
    ['INTAKE_SHARDS', '257'],
    ['INTAKE_SHARDS', '1.5'],
    ['INTAKE_SHARDS', '-1'],
    ['INTAKE_SHARDS', ' 1'],
    ['INTAKE_SHARDS', '1e1'],
    ['INTAKE_SHARDS', 1],
    ['INTAKE_ALLOW', 'did:web:example.com'],
    ['INTAKE_ALLOW', `${did},nonsense`],
    ['SEAL_BATCH_MAX_ITEMS', '0'],
    ['SEAL_BATCH_MAX_INTERVAL_MS', '9'],
    ['CLIENT_IP_HEADER', 'CF-Connecting-IP'],
    ['RAILS', 'DOGE'],
    ['TSA_URLS', 'tsa.example'],
    ['TSA_URLS', 'ftp://tsa.example/'],
    ['TSA_URLS', 'javascript:alert(1)'],
  ])('with %s = %j stop the start and name it', (key, value) => {
    expect(refusal({ ...base, [key]: value })).toMatch(new RegExp(`^${key}: `))
  })

  test('never quote an address, which may hold a password', () => {
    const secret = 'htps://user:s3cret@tsa.example/'
    const calendar = {
      ...base,
      RAILS: 'BTC',
      ANCHOR_BTC_METHOD: 'calendar',
      BTC_URLS: 'core+http://h',
    }
    for (const env of [
      { ...base, RAILS: 'TSA', TSA_URLS: secret },
      { ...calendar, OTS_CALENDARS: secret },
      { ...calendar, BTC_URLS: secret },
      { ...base, RAILS: 'EVM', EVM_URLS: secret },
    ]) {
      expect(refusal(env)).toMatch(/_(?:URLS|CALENDARS): /)
      expect(refusal(env)).not.toContain('s3cret')
    }
  })

  test('that name a chain whose data fee no cap can hold stop the start', () => {
    const known = Object.values<Chain>(chains)
      .filter((chain) => chain.contracts?.['gasPriceOracle'] !== undefined)
      .map(({ id }) => id)
    expect(known).toContain(8453)
    const env = { ...base, RAILS: 'EVM', EVM_URLS: 'https://h/' }
    const settings = { ...env, EVM_PRIVATE_KEY: `0x${'22'.repeat(32)}` }
    for (const id of [...known, 534352].filter((chainId) => chainId <= 2 ** 40)) {
      const EVM_CHAIN_ID = String(id)
      expect(refusal({ ...settings, EVM_CHAIN_ID })).toMatch(/^EVM_CHAIN_ID: chain \d+ charges/)
    }
    for (const chainId of [1, 42161]) {
      const { evm } = parseConfig({ ...settings, EVM_CHAIN_ID: String(chainId) })
      expect(evm).toMatchObject({ chainId })
    }
  })

  test('that name the TSA rail need an authority and a root', () => {
    expect(refusal({ ...base, RAILS: 'TSA' })).toMatch(/^TSA_URLS: /)
    const urls = { ...base, RAILS: 'TSA', TSA_URLS: 'https://tsa.example/' }
    expect(refusal(urls)).toMatch(/^TSA_ROOTS: /)
    expect(refusal({ ...urls, TSA_ROOTS: 'no pem' })).toMatch(/^TSA_ROOTS: /)
  })

  test('of sign-in are whole, or refused by the name of the one that is wrong', () => {
    const signIn = {
      ...base,
      PUBLIC_URL: 'https://node.example/below',
      OIDC_ISSUER: 'https://login.example/realms/x',
      OIDC_CLIENT_ID: 'dashboard',
      OIDC_ROLE_MAP: 'admins=admin',
    }
    expect(parseConfig(signIn).signIn).toMatchObject({
      issuer: 'https://login.example/realms/x',
      clientSecret: '',
      scopes: 'openid profile groups',
      rolesClaim: 'groups',
      allowHttp: false,
      publicOrigin: 'https://node.example',
      idleMs: 3_600_000,
      maxMs: 43_200_000,
    })
    const http = { ...signIn, OIDC_ISSUER: 'http://127.0.0.1:7081' }
    for (const [env, name] of [
      [{ ...signIn, OIDC_ISSUER: 'login.example' }, 'OIDC_ISSUER'],
      [{ ...signIn, OIDC_ISSUER: 'https://login.example/?x' }, 'OIDC_ISSUER'],
      [http, 'OIDC_ISSUER'],
      [{ ...http, OIDC_ALLOW_HTTP: '1', NETWORK: 'production' }, 'OIDC_ALLOW_HTTP'],
      [{ ...signIn, OIDC_CLIENT_ID: '' }, 'OIDC_CLIENT_ID'],
      [{ ...signIn, OIDC_SCOPES: 'profile' }, 'OIDC_SCOPES'],
      [{ ...signIn, OIDC_ROLE_MAP: '' }, 'OIDC_ROLE_MAP'],
      [{ ...signIn, OIDC_ROLE_MAP: 'admins=root' }, 'OIDC_ROLE_MAP'],
      [{ ...signIn, PUBLIC_URL: '' }, 'PUBLIC_URL'],
      [{ ...signIn, PUBLIC_URL: 'http://node.example' }, 'PUBLIC_URL'],
      [{ ...signIn, SESSION_IDLE_S: '0' }, 'SESSION_IDLE_S'],
      [{ ...signIn, SESSION_MAX_S: '2592001' }, 'SESSION_MAX_S'],
    ] as const)
      expect(refusal(env)).toMatch(new RegExp(`^${name}: `))
    expect(parseConfig({ ...http, OIDC_ALLOW_HTTP: '1' }).signIn?.allowHttp).toBe(true)
  })

  test('of any text are read or refused by an error of ours', () => {
    const names = fc.constantFrom(
      'ORIGIN',
      'INTAKE_ALLOW',
      'RAILS',
      'TSA_URLS',
      'NODE_ID',
      'SEAL_EAGER_MS',
    )
    fc.assert(
      fc.property(fc.dictionary(names, fc.oneof(fc.string(), fc.anything())), (env) => {
        refusal(env)
      }),
    )
  })
})
