/**
 * The verifier in the browser. One module, two lives: on a page it finds what is to be verified there, and as the
 * Worker that it starts of itself it verifies.
 */

import './no-eval.ts'
import { startDropPage } from './drop-page.ts'
import { startEventPage } from './event-page.ts'
import { serveJobs } from './verifier.ts'

if (typeof document === 'undefined') {
  serveJobs(globalThis)
} else {
  const form = document.querySelector<HTMLFormElement>('form#verify-files')
  const result = document.getElementById('verify-result')
  if (form !== null && result !== null) startDropPage(form, result)
  const place = document.getElementById('verify')
  if (place !== null) startEventPage(place)
}
