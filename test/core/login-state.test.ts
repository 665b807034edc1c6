import { describe, expect, test } from 'vitest'
import { toBase64Url, utf8 } from '#core/bytes.ts'
import { LOGIN_MS, openState, sealState, secretsOf } from '#core/login-state.ts'
import { hmacKey } from '#core/sha256.ts'

const key = hmacKey(new Uint8Array(32).fill(7))
const cookie = toBase64Url(new Uint8Array(32).fill(1))
const random = new Uint8Array(16).fill(2)
const nowAt = 1_780_000_000_500
const next = '/dashboard/batches/7'
const state = sealState(key, cookie, { next, nowAt, random })
const open = (text: string, by = cookie, at = nowAt, under = key) => openState(under, by, text, at)

describe('the state of a sign-in', () => {
  test('opens in the browser that began it, and says where to go', () => {
    expect(open(state)).toEqual({ next, expiresAt: Math.floor((nowAt + LOGIN_MS) / 1000) * 1000 })
  })

  test('opens in no other browser, and in none that has no cookie', () => {
    const other = toBase64Url(new Uint8Array(32).fill(3))
    expect(() => open(state, other)).toThrow('another browser')
    for (const none of ['', 'x', `${cookie}x`, cookie.slice(1)])
      expect(() => open(state, none)).toThrow('another browser')
  })

  test('opens for ten minutes', () => {
    expect(open(state, cookie, nowAt + LOGIN_MS - 501).next).toBe(next)
    expect(() => open(state, cookie, nowAt + LOGIN_MS)).toThrow('longer than 10 minutes')
  })

  test('is refused if one character differs, or another node made it', () => {
    for (let at = 0; at < state.length; at++) {
      for (const character of ['A', '9', '.']) {
        if (state[at] === character) continue
        const changed = state.slice(0, at) + character + state.slice(at + 1)
        expect(() => open(changed)).toThrow(/state/)
      }
    }
    expect(() => open(state, cookie, nowAt, hmacKey(new Uint8Array(32)))).toThrow(/state/)
    for (const text of ['', '.', 'a.b.c.d', state.repeat(2), `${state}\n`]) {
      expect(() => open(text)).toThrow(/state/)
    }
  })

  test('leads to the dashboard, whatever it was sealed with', () => {
    const elsewhere = sealState(key, cookie, { next: '//evil.example', nowAt, random })
    expect(open(elsewhere).next).toBe('/dashboard')
    expect(elsewhere).not.toContain(toBase64Url(utf8('//evil.example')))
  })

  test('has a verifier and a nonce that differ with cookie, state and key', () => {
    const all = [
      secretsOf(key, cookie, state),
      secretsOf(key, toBase64Url(new Uint8Array(32)), state),
      secretsOf(key, cookie, `${state}x`),
      secretsOf(hmacKey(new Uint8Array(32)), cookie, state),
    ].flatMap(({ verifier, nonce }) => [verifier, nonce])
    expect(new Set(all).size).toBe(8)
    // RFC 7636 §4.1: 43 to 128 unreserved characters.
    for (const secret of all) expect(secret).toMatch(/^[A-Za-z0-9_-]{43}$/)
    expect(secretsOf(key, cookie, state)).toEqual(secretsOf(key, cookie, state))
  })
})
