/**
 * Text of strangers, hashes and moments as pages show them.
 *
 * Everything that comes from an event, a peer or a provider is hostile: hono/jsx escapes what is markup; here what
 * could turn the text around it (bidi controls), hide (zero width) or break a line is shown by its code point, and
 * a `bdi` keeps the direction of the text to itself. No address from an event ever becomes a link.
 */

import { isoTime } from '#core/time.ts'

/**
 * What shows as something else than itself, or as nothing: controls, formats (bidi, zero width, tags), surrogates,
 * private use, what is not assigned (C), separators of lines, what Unicode lets a renderer ignore (UAX #44), the blank
 * braille pattern.
 */
const INVISIBLE = /[\p{C}\p{Zl}\p{Zp}\p{Default_Ignorable_Code_Point}\u2800\ufffc]/u
const INVISIBLES = new RegExp(INVISIBLE.source, 'gu')

function codePoint(character: string): string {
  return `U+${character.codePointAt(0)!.toString(16).toUpperCase().padStart(4, '0')}`
}

/** `text` for an attribute: what cannot be seen by its code point. */
export function visibleText(text: string): string {
  return text.replaceAll(INVISIBLES, (character) => `⟨${codePoint(character)}⟩`)
}

/** The same of text whose line ends are to be kept. */
export function visibleLines(text: string): string {
  return text.split('\n').map(visibleText).join('\n')
}

/** Text of a stranger. `max`: characters shown; all of it stands in the title. */
export function Said({ text, max = 400 }: { readonly text: string; readonly max?: number }) {
  // Whole characters: a half of a surrogate pair would be shown as one that cannot be seen.
  const cut = Array.from(text.slice(0, 2 * max + 2))
    .slice(0, max)
    .join('')
  const isCut = cut.length < text.length
  const parts: (string | ReturnType<typeof Invisible>)[] = []
  let rest = cut
  for (;;) {
    const at = rest.search(INVISIBLE)
    if (at < 0) break
    const character = String.fromCodePoint(rest.codePointAt(at)!)
    parts.push(rest.slice(0, at), <Invisible character={character} />)
    rest = rest.slice(at + character.length)
  }
  return (
    <bdi class="said" title={isCut ? visibleText(text.slice(0, 2000)) : undefined}>
      {parts}
      {rest}
      {isCut ? '…' : ''}
    </bdi>
  )
}

function Invisible({ character }: { readonly character: string }) {
  return <span class="invisible">{codePoint(character)}</span>
}

/** Long text of one word (a hash, a DID, an origin) that may break after each group of eight. */
function Breakable({ text }: { readonly text: string }) {
  const groups = visibleText(text).match(/.{1,8}/gsu) ?? []
  return groups.map((group, i) => (i === 0 ? group : [<wbr />, group]))
}

/** How a hash, an identifier or a name is shown. */
export interface CodeProps {
  readonly value: string
  readonly href?: string | undefined
  /** Only head and tail; the whole value stands in the title, and the copy button has it. */
  readonly short?: boolean
  /** Offers to copy it, where scripts run. */
  readonly copy?: boolean
}

/** A hash, DID or name in fixed width. */
export function Code({ value, href, short = false, copy = false }: CodeProps) {
  const shown = short ? abridged(value) : value
  const inner = (
    <code
      class={short ? 'code short' : 'code'}
      title={shown === value ? undefined : visibleText(value)}
    >
      {short ? visibleText(shown) : <Breakable text={shown} />}
    </code>
  )
  return (
    <span class="value">
      {href === undefined ? inner : <a href={href}>{inner}</a>}
      {copy ? <span data-copy={visibleText(value)} /> : null}
    </span>
  )
}

/** Head and tail of a long value: prefixes that say what it is are kept whole. */
export function abridged(value: string): string {
  const prefix = /^(?:sha256:|0x|did:[a-z]+:(?:eip155:\d+:0x)?)/.exec(value)?.[0] ?? ''
  const body = value.slice(prefix.length)
  if (body.length <= 18) return value
  return `${prefix === 'sha256:' ? '' : prefix}${body.slice(0, 8)}…${body.slice(-6)}`
}

/** How long ago or ahead, in one unit. */
export function relative(at: number, nowAt: number): string {
  const ms = nowAt - at
  const span = duration(Math.abs(ms))
  if (Math.abs(ms) < 1500) return 'now'
  return ms > 0 ? `${span} ago` : `in ${span}`
}

const UNITS: readonly (readonly [ms: number, name: string])[] = [
  [86_400_000, 'd'],
  [3_600_000, 'h'],
  [60_000, 'min'],
  [1000, 's'],
]

/** A span of time in one unit, or two where the first is small: `45 s`, `2 min 5 s`, `3 h`, `12 d`. */
export function duration(ms: number): string {
  if (ms < 1000) return `${Math.round(ms)} ms`
  const i = UNITS.findIndex(([unit]) => ms >= unit)
  const [unit, name] = UNITS[i]!
  const whole = Math.floor(ms / unit)
  const next = UNITS[i + 1]
  if (whole >= 10 || next === undefined) return `${whole} ${name}`
  const rest = Math.floor((ms - whole * unit) / next[0])
  return rest === 0 ? `${whole} ${name}` : `${whole} ${name} ${rest} ${next[1]}`
}

/** A moment: how long ago, and when exactly. */
export function Time({ at, nowAt }: { readonly at: number; readonly nowAt: number }) {
  const iso = isoTime(at)
  return (
    <time datetime={iso}>
      <span class="ago">{relative(at, nowAt)}</span> <span class="iso">{clock(iso)}</span>
    </time>
  )
}

/** ISO 8601 as people read it: `2026-11-23 10:44:31Z`. Milliseconds are in the attribute. */
function clock(iso: string): string {
  return `${iso.slice(0, 10)} ${iso.slice(11, 19)}Z`
}

const THOUSANDS = /\B(?=(?:\d{3})+(?!\d))/g

/** An integer with thin spaces between thousands. */
export function count(n: number): string {
  return String(n).replaceAll(THOUSANDS, '\u202f')
}

/** `1 event`, `2 events`. */
export function plural(n: number, one: string, many = `${one}s`): string {
  return `${count(n)} ${n === 1 ? one : many}`
}

/** Bytes as people read them. */
export function bytes(n: number): string {
  if (n < 1000) return `${n} B`
  return n < 1_000_000 ? `${(n / 1000).toFixed(1)} kB` : `${(n / 1_000_000).toFixed(1)} MB`
}
