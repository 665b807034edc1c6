/**
 * A real browser for tests: Debian's Chromium, driven by playwright-core over pipes, with what it tells of itself:
 * requests, errors and breaches of the page's policy.
 */

import { existsSync } from 'node:fs'
import { chromium, type Browser, type BrowserContextOptions, type Page } from 'playwright-core'

const PATH = process.env['CHROMIUM'] ?? '/usr/bin/chromium'

/** The sentence that says why there is no browser, or null. */
export const browserAbsence: string | null = existsSync(PATH)
  ? null
  : `no browser at ${PATH}: apt install chromium, or name one in CHROMIUM`

/** Starts the browser; whoever starts it closes it. */
export function startBrowser(): Promise<Browser> {
  // Tests run as root in containers, where its sandbox cannot.
  const args = ['--no-sandbox', '--disable-gpu', '--disable-dev-shm-usage']
  return chromium.launch({ executablePath: PATH, args })
}

/** A page and what it did. */
export interface Watched {
  readonly page: Page
  /** URLs that it or its Workers asked for. */
  readonly requests: string[]
  /** Uncaught errors, errors on the console, and breaches of a policy. */
  readonly troubles: string[]
}

/** A page in a context of its own. */
export async function openPage(
  browser: Browser,
  options: BrowserContextOptions = {},
): Promise<Watched> {
  const context = await browser.newContext(options)
  const page = await context.newPage()
  const requests: string[] = []
  const troubles: string[] = []
  // The context's: a page does not tell what its Workers ask for.
  context.on('request', (request) => requests.push(request.url()))
  page.on('pageerror', (error) => troubles.push(error.message))
  page.on('console', (message) => {
    if (message.type() === 'error') troubles.push(message.text())
  })
  await page.exposeFunction('tellBreach', (what: string) => troubles.push(`policy: ${what}`))
  await page.addInitScript(() => {
    document.addEventListener('securitypolicyviolation', (event) => {
      const tell = (globalThis as unknown as { tellBreach(what: string): void }).tellBreach
      tell(`${event.effectiveDirective} ${event.blockedURI}`)
    })
  })
  return { page, requests, troubles }
}
