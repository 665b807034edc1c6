import * as fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import {
  ACTIONS,
  atLeast,
  claimAt,
  isAction,
  isScope,
  mayDo,
  pageAfterSignIn,
  parseRoleMap,
  roleOfClaims,
  ROLES,
  SCOPES,
  type Action,
} from '#core/roles.ts'

const map = parseRoleMap('ledger-viewer=viewer, ledger-operator=operator,ledger-admin=admin')
const actions = Object.keys(ACTIONS) as Action[]

describe('the order of roles', () => {
  test('an operator may do all that a viewer may, an admin all that an operator may', () => {
    expect(ROLES.map((role) => ROLES.map((needed) => atLeast(role, needed)))).toEqual([
      [true, false, false],
      [true, true, false],
      [true, true, true],
    ])
  })

  test('a viewer may do no action, an operator the four of operation, an admin all', () => {
    const may = (role: (typeof ROLES)[number]) => actions.filter((name) => mayDo(role, null, name))
    expect(may('viewer')).toEqual([])
    expect(may('operator')).toEqual([
      'quarantine-release',
      'dead-letters-replay',
      'anchor-retry',
      'anchor-release',
    ])
    expect(may('admin')).toEqual(actions)
  })

  test('what the table does not name is no action, whatever an object has by birth', () => {
    for (const name of ['constructor', '__proto__', 'toString', '', 'anchor-burn'])
      expect(isAction(name)).toBe(false)
  })
})

describe('scopes of API tokens', () => {
  test('a token may do exactly what its scopes name, whatever role it is shown with', () => {
    for (const role of ROLES) {
      for (const scope of SCOPES) {
        const may = actions.filter((name) => mayDo(role, [scope], name))
        expect(may).toEqual(scope.startsWith('action:') ? [scope.slice(7)] : [])
      }
      expect(actions.some((name) => mayDo(role, [], name))).toBe(false)
    }
  })

  test('no scope is for what an admin alone may do: tokens make no tokens', () => {
    for (const name of actions.filter((a) => ACTIONS[a] === 'admin'))
      expect(isScope(`action:${name}`)).toBe(false)
  })
})

describe('the role map', () => {
  test('names each value once, with a role that there is', () => {
    expect([...map]).toEqual([
      ['ledger-viewer', 'viewer'],
      ['ledger-operator', 'operator'],
      ['ledger-admin', 'admin'],
    ])
    expect([...parseRoleMap(' ')]).toEqual([])
    expect(parseRoleMap('cn=admins=admin').get('cn=admins')).toBe('admin')
    for (const text of ['x', 'x=', '=admin', 'x=root', 'x=Admin', ' =admin', 'x=admin=root'])
      expect(() => parseRoleMap(text)).toThrow(/^OIDC_ROLE_MAP: .* is not value=role/)
    expect(() => parseRoleMap('x=viewer,x=admin')).toThrow('names "x" twice')
  })
})

describe('the role of claims', () => {
  test('is that of the value, or the highest of several', () => {
    expect(roleOfClaims({ groups: 'ledger-viewer' }, 'groups', map)).toBe('viewer')
    const groups = ['ledger-operator', 'x', 'ledger-viewer']
    expect(roleOfClaims({ groups }, 'groups', map)).toBe('operator')
    expect(roleOfClaims({ groups: groups.toReversed() }, 'groups', map)).toBe('operator')
  })

  test('is found through objects by dots, and the longest name that is there wins', () => {
    const claims = {
      realm_access: { roles: ['ledger-admin'] },
      'https://example.com/roles': 'ledger-viewer',
      'a.b': { c: 'ledger-operator' },
      a: { 'b.c': 'ledger-viewer' },
    }
    expect(roleOfClaims(claims, 'realm_access.roles', map)).toBe('admin')
    expect(roleOfClaims(claims, 'https://example.com/roles', map)).toBe('viewer')
    expect(claimAt(claims, 'a.b.c')).toBe('ledger-operator')
  })

  test('is nobody’s by default: what is absent, of another type or only contains a mapped value', () => {
    const nothing: unknown[] = [
      null,
      undefined,
      7,
      true,
      '',
      'ledger-admin ledger-viewer',
      'ledger-admin,x',
      'LEDGER-ADMIN',
      ' ledger-admin',
      [],
      [['ledger-admin']],
      [{ name: 'ledger-admin' }],
      { 0: 'ledger-admin' },
      { 'ledger-admin': true },
    ]
    for (const groups of nothing) expect(roleOfClaims({ groups }, 'groups', map)).toBeNull()
    for (const claims of [null, 'ledger-admin', ['ledger-admin'], { other: 'ledger-admin' }])
      expect(roleOfClaims(claims, 'groups', map)).toBeNull()
    for (const path of ['__proto__', 'constructor.name', 'groups.length', '.', 'groups.', ''])
      expect(roleOfClaims({ groups: 'ledger-admin' }, path, map)).toBeNull()
  })

  test('is never higher than one of the values gives by itself', () => {
    fc.assert(
      fc.property(fc.array(fc.constantFrom(...map.keys(), 'x', 'y')), (groups) => {
        const alone = groups.map((group) => roleOfClaims({ groups: group }, 'groups', map))
        const highest = ROLES.findLast((role) => alone.includes(role)) ?? null
        expect(roleOfClaims({ groups }, 'groups', map)).toBe(highest)
      }),
    )
  })
})

describe('the page after sign-in', () => {
  test('is the one that was asked for, if it is of the dashboard', () => {
    for (const next of [
      '/dashboard',
      '/dashboard/batches/7',
      '/dashboard/events?q=did%3Akey%3Az6M%2F1',
      '/dashboard?said=3',
      '/dashboard/actions/anchor-retry?id=1',
    ])
      expect(pageAfterSignIn(next)).toBe(next)
  })

  test('is the overview for whatever leads elsewhere, or might in some browser or proxy', () => {
    for (const next of [
      null,
      undefined,
      '',
      '/',
      'dashboard',
      '//evil.example',
      '/\\evil.example',
      '\\\\evil.example',
      'https://evil.example/dashboard',
      'https:evil.example',
      'javascript:alert(1)',
      '/%2f%2fevil.example',
      '%2f%2fevil.example',
      '/dashboard//evil.example',
      '/dashboard/%2f%2fevil.example',
      '/dashboard/%5Cevil.example',
      '/dashboard/..//evil.example',
      '/dashboard/../admin',
      '/dashboard/%2e%2e/login',
      '/dashboard/./x',
      '/dashboard\\..\\',
      '/dashboardx',
      '/dashboard@evil.example',
      '/dashboard.evil.example',
      '/dashboard\r\nset-cookie:x=1',
      '/dashboard\t',
      '/dashboard /x',
      '/dashboard/é',
      '/login?next=/dashboard',
      '/auth/callback',
      '/logout',
      `/dashboard/${'x'.repeat(1500)}`,
    ])
      expect(pageAfterSignIn(next)).toBe('/dashboard')
  })

  test('stays on the origin and below the dashboard, whatever is asked for', () => {
    const piece = fc.constantFrom(
      '/',
      '//',
      '\\',
      '..',
      '.',
      '%2f',
      '%2e',
      '@',
      ':',
      '?',
      '#',
      'x',
      '/dashboard',
      '\t',
    )
    fc.assert(
      fc.property(
        fc.array(piece).map((pieces) => pieces.join('')),
        (next) => {
          for (const base of ['https://node.example', 'https://node.example/dashboard/x']) {
            const url = new URL(pageAfterSignIn(next), base)
            expect(url.origin).toBe('https://node.example')
            expect(url.pathname).toMatch(/^\/dashboard(?:\/|$)/)
          }
        },
      ),
    )
  })
})
