/**
 * What pages are made of: cards, tables, states, lists of facts, pagers.
 *
 * A state is a colour, an icon and a word, never a colour alone (WCAG 2.2 §1.4.1). A table has a caption and scoped
 * heads, and where it is too wide for a phone it scrolls within a region of its own. What is empty says so in words.
 */

import type { Child } from 'hono/jsx'
import { Icon, type IconName } from './icon.tsx'
import { Code } from './text.tsx'

/** What the colour of a state means. */
export type Tone = 'good' | 'warn' | 'bad' | 'wait' | 'sealed' | 'anchored' | 'final' | 'plain'

const TONE_ICONS: Readonly<Record<Tone, IconName>> = {
  good: 'check',
  warn: 'alert',
  bad: 'cross',
  wait: 'clock',
  sealed: 'lock',
  anchored: 'anchor',
  final: 'final',
  plain: 'arrow',
}

/** A state as colour, icon and word. */
export function Badge({
  tone,
  word,
  icon,
}: {
  readonly tone: Tone
  readonly word: string
  readonly icon?: IconName
}) {
  return (
    <span class={`badge ${tone}`}>
      <Icon name={icon ?? TONE_ICONS[tone]} />
      {word}
    </span>
  )
}

/** Every state word of the node and how it looks. */
const STATES: Readonly<Record<string, Tone>> = {
  received: 'wait',
  accepted: 'wait',
  pending: 'wait',
  queued: 'wait',
  signed: 'wait',
  submitted: 'wait',
  broadcast: 'wait',
  included: 'anchored',
  sealed: 'sealed',
  anchored: 'anchored',
  final: 'final',
  verified: 'final',
  rejected: 'bad',
  duplicate: 'warn',
  failed: 'bad',
  error: 'bad',
  orphaned: 'bad',
  reorged: 'bad',
  dropped: 'warn',
  held: 'warn',
  ok: 'good',
  clear: 'good',
  decided: 'warn',
  undecided: 'bad',
  failing: 'bad',
  unseen: 'wait',
  'no-address': 'wait',
  'law-mismatch': 'bad',
  'key-conflict': 'bad',
  critical: 'bad',
  warning: 'warn',
}

/** The badge of a state by its word. */
export function State({ word }: { readonly word: string }) {
  return <Badge tone={STATES[word] ?? 'plain'} word={word} />
}

/** A dev network is said wherever it is named: its anchors prove nothing to others. */
export function Network({ name, dev }: { readonly name: string; readonly dev: boolean }) {
  return (
    <>
      {name}
      {dev ? <span class="dev"> dev</span> : null}
    </>
  )
}

/** A part of a page with a heading of its own. */
export function Card({
  title,
  id,
  children,
  aside,
  wide = false,
  live = false,
}: {
  readonly title: string
  readonly id: string
  readonly children?: Child
  readonly aside?: Child
  readonly wide?: boolean
  /** Its content is brought up to date while somebody looks. */
  readonly live?: boolean
}) {
  return (
    <section class={wide ? 'card wide' : 'card'} aria-labelledby={`${id}-title`} id={id}>
      <header>
        <h2 id={`${id}-title`}>{title}</h2>
        {aside === undefined || aside === null ? null : <div class="aside">{aside}</div>}
      </header>
      <div data-live={live ? id : undefined}>{children}</div>
    </section>
  )
}

/** A column: its head, and whether its cells are numbers or may be left out on a phone. */
export interface Column {
  readonly head: string
  readonly kind?: 'number' | 'extra'
}

/**
 * A table with its caption; `rows` are cells in the order of the columns. On a phone each row is a block of its own with
 * the heads beside the cells; the roles keep it a table for those who hear it, whatever the style sheet makes of it.
 */
export function Table({
  caption,
  columns,
  rows,
  empty,
}: {
  readonly caption: string
  readonly columns: readonly Column[]
  readonly rows: readonly (readonly Child[])[]
  /** What stands there when there are no rows. */
  readonly empty: string
}) {
  if (rows.length === 0) return <Empty>{empty}</Empty>
  return (
    <div class="scroll" tabindex={0} role="region" aria-label={caption}>
      <table role="table">
        <caption class="unseen">{caption}</caption>
        <thead role="rowgroup">
          <tr role="row">
            {columns.map(({ head, kind }) => (
              <th scope="col" role="columnheader" class={kind}>
                {head}
              </th>
            ))}
          </tr>
        </thead>
        <tbody role="rowgroup">
          {rows.map((cells) => (
            <tr role="row">
              {cells.map((cell, i) => (
                <td role="cell" class={columns[i]?.kind} data-head={columns[i]?.head}>
                  {cell}
                </td>
              ))}
            </tr>
          ))}
        </tbody>
      </table>
    </div>
  )
}

/** What stands where nothing is. */
export function Empty({ children }: { readonly children?: Child }) {
  return <p class="empty">{children}</p>
}

/** Names and values. */
export function Facts({
  facts,
}: {
  readonly facts: readonly (readonly [name: string, value: Child] | null)[]
}) {
  return (
    <dl class="facts">
      {facts.map((fact) =>
        fact === null ? null : (
          <div>
            <dt>{fact[0]}</dt>
            <dd>{fact[1]}</dd>
          </div>
        ),
      )}
    </dl>
  )
}

/** One figure of the top row. */
export function Figure({
  name,
  value,
  note,
  tone = 'plain',
  href,
}: {
  readonly name: string
  readonly value: Child
  readonly note?: Child
  readonly tone?: Tone
  readonly href?: string
}) {
  return (
    <div class={`figure ${tone}`}>
      <dt>{href === undefined ? name : <a href={href}>{name}</a>}</dt>
      <dd>
        <span class="number">{value}</span>
        {note === undefined ? null : <span class="note">{note}</span>}
      </dd>
    </div>
  )
}

/** Links to the pages before and after; nothing where there is one page alone. */
export function Pager({
  newer,
  older,
  words = ['Newest', 'Older'],
}: {
  readonly newer?: string | undefined
  readonly older?: string | undefined
  readonly words?: readonly [newer: string, older: string]
}) {
  if (newer === undefined && older === undefined) return null
  return (
    <nav class="pager" aria-label="Pages">
      {newer === undefined ? <span /> : <a href={newer}>← {words[0]}</a>}
      {older === undefined ? <span /> : <a href={older}>{words[1]} →</a>}
    </nav>
  )
}

/** A file to take away. */
export function Download({ href, children }: { readonly href: string; readonly children?: Child }) {
  return (
    <a class="download" href={href}>
      <Icon name="down" />
      {children}
    </a>
  )
}

/** The root of a tree as the ledger writes it. */
export function Root({
  hex,
  href,
  short = true,
}: {
  readonly hex: string
  readonly href?: string
  readonly short?: boolean
}) {
  return (
    <Code value={`sha256:${hex.replace(/^(?:sha256:|0x)/, '')}`} short={short} href={href} copy />
  )
}

/** JSON for people: indented, bounded, hostile characters shown. */
export function Json({ label, text }: { readonly label: string; readonly text: string }) {
  return (
    <pre tabindex={0} role="region" aria-label={label}>
      <code>{text}</code>
    </pre>
  )
}
