/**
 * A verification on the page: everything stands there from the first moment, in grey; then each line is revealed in
 * the order in which it was checked, and nothing moves meanwhile.
 *
 * A state is an icon, a word and a colour. Who wants less motion, or does not look, gets all at once. What is said
 * aloud (aria-live) is the verdict, not each line.
 */

import { abridged, visibleText } from '../text.tsx'
import type { Outcome } from './job.ts'
import type { Line, Section, State } from './sections.ts'

/** Longest show, and longest time for one line. */
const SHOW_MS = 2600
const LINE_MS = 90

/** How a state looks: its word and the icon's path in 16 × 16. */
const LOOKS: Readonly<Record<State | 'waiting', readonly [word: string, path: string]>> = {
  waiting: ['waiting', 'M8 2.5a5.5 5.5 0 1 0 0 11 5.5 5.5 0 0 0 0-11Z'],
  proven: ['proven', 'M2.5 8.5 6 12l7.5-8'],
  failed: ['failed', 'M3.5 3.5l9 9M12.5 3.5l-9 9'],
  unpinned: ['not pinned', 'M8 2 14.5 13.5H1.5ZM8 6.5v3M8 11.7v.1'],
  unchecked: ['not checked', 'M3 8h10'],
  unreached: ['not reached', 'M5.5 3.5v9M10.5 3.5v9'],
}

const VERDICTS = {
  verified: ['proven', 'Verified'],
  refuted: ['failed', 'Refuted'],
  untrusted: ['unpinned', 'Not trusted'],
} as const satisfies Readonly<Record<string, readonly [State, string]>>

/** Shows outcomes in `place`; `said` is the live region that speaks the verdict. */
export class View {
  readonly #place: HTMLElement
  readonly #said: HTMLElement
  /** Counts shows: one that is overtaken stops. */
  #show = 0

  constructor(place: HTMLElement) {
    this.#said = element('p', 'unseen')
    this.#said.setAttribute('role', 'status')
    this.#place = element('div', 'proof')
    place.replaceChildren(this.#said, this.#place)
  }

  /** Words alone: before there is anything to show, or why there is nothing. */
  tell(words: string, state: State | 'waiting' = 'waiting', title = ''): void {
    this.#show++
    const box = element('div', `proof-verdict ${state}`)
    const text = element('div', 'proof-text')
    if (title !== '') text.append(element('p', 'proof-word', title))
    text.append(element('p', 'proof-sentence', words))
    box.append(icon(state), text)
    this.#place.replaceChildren(box)
    this.#said.textContent = title === '' ? words : `${title}. ${words}`
  }

  /** Shows what came of a verification, and resolves once all of it is revealed. */
  async show(outcome: Outcome): Promise<void> {
    if (outcome.kind === 'unable') return this.tell(outcome.reason, 'unchecked', 'Not verified')
    if (outcome.kind === 'unreadable') {
      const what = { receipt: 'The receipt', event: 'The event', trust: 'The trust' }[outcome.file]
      return this.tell(outcome.reason, 'failed', `${what} cannot be read`)
    }
    const own = ++this.#show
    const count = outcome.sections.reduce((sum, { lines }) => sum + lines.length, 0)
    const [state, word] = VERDICTS[outcome.verdict]
    const verdict = element('div', 'proof-verdict waiting')
    const text = element('div', 'proof-text')
    const head = element('p', 'proof-word', 'Checking')
    const late = element('div', 'proof-late')
    late.append(
      sentenceNode(withoutWord(outcome.sentence)),
      element('p', 'proof-trust', outcome.trust),
      element(
        'p',
        'note',
        `${count} steps in ${duration(outcome.ms)}, in your browser, by the code of vaultmesh verify.`,
      ),
    )
    text.append(head, late)
    const progress = element('progress', '') as HTMLProgressElement
    progress.setAttribute('aria-hidden', 'true')
    progress.value = 0
    verdict.append(icon('waiting'), text, progress)
    const list = element('div', 'proof-sections')
    const reveals = outcome.sections.flatMap((section) => {
      const { node, reveal } = sectionNode(section)
      list.append(node)
      return reveal
    })
    this.#place.replaceChildren(verdict, list)
    // Where the page gives it little room it scrolls by itself: then it must be reachable by keyboard.
    if (list.scrollHeight > list.clientHeight + 1) {
      list.tabIndex = 0
      list.setAttribute('role', 'region')
      list.setAttribute('aria-label', 'Steps')
    }
    this.#place.classList.add('running')
    this.#said.textContent = 'Checking.'
    const pause = isStill() ? 0 : Math.min(LINE_MS, SHOW_MS / reveals.length)
    for (const [i, reveal] of reveals.entries()) {
      if (pause > 0) await wait(pause)
      if (this.#show !== own) return
      const at = reveal()
      // No more than the list itself ever moves.
      list.scrollTop = at.offsetTop - list.offsetTop - list.clientHeight / 2
      head.textContent = `Checking, ${i + 1} of ${reveals.length}`
      progress.value = (i + 1) / reveals.length
    }
    progress.remove()
    head.textContent = word
    look(verdict, state)
    if (outcome.verdict === 'verified') list.scrollTop = 0
    this.#place.classList.remove('running')
    this.#said.textContent = `${word}. ${sentenceNode(withoutWord(outcome.sentence)).textContent}`
  }
}

/** A section in grey, and what reveals it line by line. */
function sectionNode(section: Section): {
  readonly node: HTMLElement
  /** Each gives the element that it revealed. */
  readonly reveal: readonly (() => HTMLElement)[]
} {
  const node = element('details', 'proof-section waiting') as HTMLDetailsElement
  const summary = element('summary', '')
  const title = element('h3', '', section.title)
  summary.append(icon('waiting'), title, stateWord())
  node.append(summary, element('p', 'proof-detail', section.detail))
  node.open = true
  const lines = section.lines.map((line) => ({ line, item: lineNode(line) }))
  if (lines.length > 0) {
    const list = element('ol', 'proof-lines')
    list.append(...lines.map(({ item }) => item))
    node.append(list)
  }
  const reveal = lines.map(({ line, item }, i) => () => {
    if (i === lines.length - 1) look(node, section.state)
    return look(item, line.state)
  })
  return { node, reveal: reveal.length > 0 ? reveal : [() => look(node, section.state)] }
}

function lineNode(line: Line): HTMLElement {
  const item = element('li', `proof-line waiting step-${line.step}`)
  const text = element('div', 'proof-text')
  text.append(element('p', '', line.words))
  if (line.problem !== null) text.append(element('p', 'proof-problem', line.problem))
  if (line.values.length > 0) {
    const list = element('dl', 'proof-values')
    for (const { label, value, carried } of line.values) {
      const pair = element('div', carried ? 'carried' : '')
      const code = element('code', '', value)
      const place = element('dd', '')
      place.append(code)
      pair.append(element('dt', '', carried ? `${label}, from below` : label), place)
      list.append(pair)
    }
    text.append(list)
  }
  item.append(icon('waiting'), text, stateWord())
  return item
}

/** Gives an element made in grey its state. */
function look(node: HTMLElement, state: State): HTMLElement {
  const [word, path] = LOOKS[state]
  node.classList.replace('waiting', state)
  node.querySelector('path')?.setAttribute('d', path)
  const said = node.querySelector(':scope > .proof-state, :scope > summary > .proof-state')
  if (said !== null) said.textContent = word
  return node
}

function stateWord(): HTMLElement {
  return element('span', 'proof-state', LOOKS.waiting[0])
}

function icon(state: State | 'waiting'): SVGElement {
  const space = 'http://www.w3.org/2000/svg'
  const svg = document.createElementNS(space, 'svg')
  svg.setAttribute('class', 'icon')
  svg.setAttribute('viewBox', '0 0 16 16')
  svg.setAttribute('aria-hidden', 'true')
  const path = document.createElementNS(space, 'path')
  path.setAttribute('d', LOOKS[state][1])
  svg.append(path)
  return svg
}

/** An element with a class and text: text is never markup, and nothing in it unseen. */
export function element(name: string, className: string, text = ''): HTMLElement {
  const node = document.createElement(name)
  if (className !== '') node.className = className
  if (text !== '') node.textContent = visibleText(text)
  return node
}

/** Hashes and keys in a sentence: nobody reads 64 digits, and the whole of each is in its title. */
const LONG = /((?:0x)?[0-9a-f]{64}|did:key:z[1-9A-HJ-NP-Za-km-z]{30,})/

function sentenceNode(sentence: string): HTMLElement {
  const node = element('p', 'proof-sentence')
  for (const part of sentence.split(LONG)) {
    if (LONG.test(part)) {
      const short = element('code', '', abridged(part))
      short.title = part
      node.append(short)
    } else node.append(part)
  }
  return node
}

/** The verdict's own word stands beside the sentence. */
function withoutWord(sentence: string): string {
  const rest = sentence.replace(/^(?:Refuted at|Nothing was proven:) /, '')
  return rest.charAt(0) === '"' ? `At ${rest}` : rest
}

function duration(ms: number): string {
  return ms < 10 ? `${ms.toFixed(1)} ms` : `${Math.round(ms)} ms`
}

/** Whether all is to be shown at once. */
function isStill(): boolean {
  return document.hidden || matchMedia('(prefers-reduced-motion: reduce)').matches
}

function wait(ms: number): Promise<void> {
  return new Promise((done) => setTimeout(done, ms))
}
