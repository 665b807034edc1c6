/**
 * An event's page verifies itself: the receipt and the event's bytes as anybody gets them, against the keys that
 * this server states. That is said, since a server that lies about its keys could show a log of its own making.
 */

import type { TrustSource } from './job.ts'
import { Verifier } from './verifier.ts'
import { element, View } from './view.ts'

/** Starts in `place`, which names its files in `data-receipt` (whose path has the event's hash) and `data-event`. */
export function startEventPage(place: HTMLElement): void {
  const { receipt, event } = place.dataset
  const about = /sha256:[0-9a-f]{64}/.exec(receipt ?? '')?.[0]
  if (receipt === undefined || event === undefined || about === undefined) return
  const verifier = new Verifier()
  const shown = element('div', '')
  const more = element('div', 'proof-more')
  const again = element('button', '', 'Check again') as HTMLButtonElement
  again.type = 'button'
  const pinned = element(
    'a',
    '',
    'Verify a receipt by keys that you have pinned',
  ) as HTMLAnchorElement
  pinned.href = '/verify'
  more.append(again, pinned)
  place.replaceChildren(shown, more)
  const view = new View(shown)
  const check = async (): Promise<void> => {
    again.disabled = true
    try {
      const [receiptBytes, eventBytes, trust] = await Promise.all([
        bytesOf(receipt, 'application/json'),
        // Its absence is no failure: who signed is then not checked, and the verdict says so.
        bytesOf(event, 'application/jose').catch(() => null),
        serverTrust(),
      ])
      const job = { receipt: receiptBytes, event: eventBytes, trust, about }
      await view.show(await verifier.run(job))
    } catch (error) {
      const reason = error instanceof Error ? error.message : String(error)
      view.tell(reason, 'unchecked', 'Not verified')
    }
    again.disabled = false
  }
  again.addEventListener('click', () => void check())
  void check()
}

async function serverTrust(): Promise<TrustSource> {
  const bytes = await bytesOf('/.well-known/vaultmesh.json', 'application/json')
  return { from: 'server', url: location.origin, wellKnown: new TextDecoder().decode(bytes) }
}

/** What this server answers; throws its words where that is a refusal. */
async function bytesOf(path: string, accept: string): Promise<Uint8Array> {
  const answer = await fetch(path, { headers: { accept } })
  if (answer.ok) return new Uint8Array(await answer.arrayBuffer())
  const problem = (await answer.json().catch(() => null)) as { readonly detail?: string } | null
  throw new Error(problem?.detail ?? `${path} answered ${answer.status}.`)
}
