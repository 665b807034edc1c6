/**
 * What pages gain where scripts run: `/` leads to the search box, hashes can be copied, and what is marked `data-live`
 * is brought up to date while somebody looks.
 *
 * An update asks for the same page again and puts the new content of each region in place of the old: one source of
 * markup, the server. It stops while the page is hidden or paused (WCAG 2.2 §2.2.2), leaves alone what has the
 * focus or a selection, never lets a region shrink, and says `vaultmesh-live` so that a page left open
 * does not keep its session alive.
 */

/** Longest pause after failures. */
const MAX_WAIT_MS = 60_000

/** Icons: two sheets; a check mark. */
const COPY = 'M5.5 5.5h8v8h-8ZM10.5 5.5v-3h-8v8h3'
const COPIED = 'M2.5 8.5 6 12l7.5-8'

const seconds = Number(document.body.dataset['liveSeconds'] ?? '0')
/** What the server last said of each region, before anything was added to it. */
const said = new Map<string, string>()
let waitMs = seconds * 1000
let isPaused = false
let timer = 0

document.addEventListener('keydown', (event) => {
  if (event.key !== '/' || event.ctrlKey || event.metaKey || event.altKey) return
  const at = event.target
  if (at instanceof HTMLElement && at.matches('input, textarea, select')) return
  const box = document.querySelector<HTMLInputElement>('[data-slash]')
  if (box === null) return
  event.preventDefault()
  box.focus()
  box.select()
})

if (seconds > 0) {
  for (const region of regions()) said.set(region.dataset['live']!, region.innerHTML)
  showPause()
  document.addEventListener('visibilitychange', () => {
    if (document.visibilityState === 'visible') void update()
    else clearTimeout(timer)
  })
  schedule()
}
addCopyButtons(document.body)

function regions(): HTMLElement[] {
  return [...document.querySelectorAll<HTMLElement>('[data-live]')]
}

function schedule(): void {
  clearTimeout(timer)
  if (isPaused || document.visibilityState !== 'visible') return
  timer = window.setTimeout(() => void update(), waitMs)
}

async function update(): Promise<void> {
  clearTimeout(timer)
  if (isPaused) return
  try {
    const answer = await fetch(location.href, {
      headers: { accept: 'text/html', 'vaultmesh-live': '1' },
      redirect: 'manual',
    })
    // Signed out, or the role is gone: the page itself says what there is to say.
    if (answer.type === 'opaqueredirect' || answer.status === 401 || answer.status === 403) {
      location.reload()
      return
    }
    if (!answer.ok) throw new Error(`answered ${answer.status}`)
    show(new DOMParser().parseFromString(await answer.text(), 'text/html'))
    waitMs = seconds * 1000
    tell('Live')
  } catch {
    waitMs = Math.min(MAX_WAIT_MS, waitMs * 2)
    tell('Not reachable, trying again')
  }
  schedule()
}

function show(next: Document): void {
  for (const region of regions()) {
    const name = region.dataset['live']!
    const fresh = next.querySelector(`[data-live="${CSS.escape(name)}"]`)
    if (fresh === null || fresh.innerHTML === said.get(name) || isInUse(region)) continue
    said.set(name, fresh.innerHTML)
    const offsets = [...region.querySelectorAll('.scroll, .strip-box')].map((box) => box.scrollLeft)
    const open = [...region.querySelectorAll('details')].map((details) => details.open)
    region.style.minHeight = `${region.offsetHeight}px`
    region.replaceChildren(...fresh.childNodes)
    for (const [i, box] of [...region.querySelectorAll('.scroll, .strip-box')].entries())
      box.scrollLeft = offsets[i] ?? 0
    for (const [i, details] of [...region.querySelectorAll('details')].entries())
      details.open = open[i] ?? false
    addCopyButtons(region)
    region.classList.remove('fresh')
    // Read so that the browser notices that the class was gone.
    void region.offsetWidth
    region.classList.add('fresh')
  }
}

/** Whether somebody is at work in it. */
function isInUse(region: HTMLElement): boolean {
  const focus = document.activeElement
  if (focus !== null && focus !== region && region.contains(focus)) return true
  const selection = document.getSelection()
  return selection !== null && !selection.isCollapsed && region.contains(selection.anchorNode)
}

/** The button that stops updates, and says how they go. */
function showPause(): void {
  const button = document.createElement('button')
  button.type = 'button'
  button.className = 'live'
  button.setAttribute('aria-pressed', 'true')
  button.textContent = 'Live'
  button.title = `Updated every ${seconds} s; press to pause`
  button.addEventListener('click', () => {
    isPaused = !isPaused
    button.setAttribute('aria-pressed', String(!isPaused))
    tell(isPaused ? 'Paused' : 'Live')
    if (isPaused) clearTimeout(timer)
    else void update()
  })
  document.querySelector('.title')?.append(button)
}

function tell(words: string): void {
  const button = document.querySelector('button.live')
  if (button !== null && button.textContent !== words) button.textContent = words
}

function addCopyButtons(root: HTMLElement): void {
  for (const place of root.querySelectorAll<HTMLElement>('[data-copy]')) {
    const value = place.dataset['copy']!
    const button = document.createElement('button')
    button.type = 'button'
    button.className = 'copy'
    button.title = 'Copy'
    button.setAttribute('aria-label', `Copy ${value.slice(0, 24)}`)
    button.append(icon(COPY))
    button.addEventListener('click', () => {
      navigator.clipboard.writeText(value).then(
        () => answerOn(button, COPIED, 'Copied'),
        () => answerOn(button, COPY, 'Copying is not allowed here'),
      )
    })
    place.replaceChildren(button)
  }
}

/** Says what became of it, for a moment. */
function answerOn(button: HTMLButtonElement, path: string, words: string): void {
  const label = button.getAttribute('aria-label') ?? ''
  button.replaceChildren(icon(path))
  button.title = words
  button.setAttribute('aria-label', words)
  setTimeout(() => {
    button.replaceChildren(icon(COPY))
    button.title = 'Copy'
    button.setAttribute('aria-label', label)
  }, 1500)
}

function icon(path: string): SVGElement {
  const svg = document.createElementNS('http://www.w3.org/2000/svg', 'svg')
  svg.setAttribute('class', 'icon')
  svg.setAttribute('viewBox', '0 0 16 16')
  svg.setAttribute('aria-hidden', 'true')
  const shape = document.createElementNS('http://www.w3.org/2000/svg', 'path')
  shape.setAttribute('d', path)
  svg.append(shape)
  return svg
}
