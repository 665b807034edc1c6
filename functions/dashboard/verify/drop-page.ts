/**
 * /verify: files are dropped or chosen, and verified here. Nothing is sent anywhere: the page's own policy
 * (`connect-src 'none'`) would not let it.
 *
 * A dropped file finds its place by its content; one that is chosen for a place is taken for what the place says.
 */

import { equal } from '#core/bytes.ts'
import { kindOf, LIMITS, NAMES, tooLarge, type Kind } from './inputs.ts'
import type { Job } from './job.ts'
import { Verifier } from './verifier.ts'
import { element, View } from './view.ts'

const KINDS = ['receipt', 'event', 'trust'] as const

/** Starts in `form`, which has a file input and a place for a name for each kind, and a text area for trust. */
export function startDropPage(form: HTMLFormElement, result: HTMLElement): void {
  const verifier = new Verifier()
  const view = new View(result)
  const files: Partial<Record<Kind, { readonly name: string; readonly bytes: Uint8Array }>> = {}
  const slots = Object.fromEntries(KINDS.map((kind) => [kind, slotOf(form, kind)])) as Record<
    Kind,
    Slot
  >
  const pasted = form.querySelector('textarea')!
  /** Counts what was asked: an answer is shown only while nothing else was. */
  let asked = 0
  const tell: View['tell'] = (...said) => {
    asked++
    view.tell(...said)
  }

  const verify = async (): Promise<void> => {
    const { receipt, event, trust } = files
    if (receipt === undefined) {
      const what = event === undefined && trust === undefined ? 'a receipt' : 'the receipt, too'
      return tell(`Drop ${what}, or choose the file.`)
    }
    const text = [trust === undefined ? '' : new TextDecoder().decode(trust.bytes), pasted.value]
      .map((part) => part.trim())
      .filter((part) => part !== '')
    if (text.length > 1) {
      return tell('Give a trust file or paste keys, not both.', 'failed', 'Trust twice')
    }
    const job: Job = {
      receipt: receipt.bytes,
      event: event?.bytes ?? null,
      trust: { from: 'visitor', text: text[0] ?? '' },
    }
    // What stood there was about other files.
    tell('Checking.')
    const own = asked
    const outcome = await verifier.run(job)
    if (own === asked) await view.show(outcome)
  }

  const keep = (kind: Kind, name: string, bytes: Uint8Array): void => {
    files[kind] = { name, bytes }
    const { file, input } = slots[kind]
    const remove = element('button', '', 'Remove') as HTMLButtonElement
    remove.type = 'button'
    remove.setAttribute('aria-label', `Remove the ${NAMES[kind]}`)
    remove.addEventListener('click', () => {
      delete files[kind]
      file.replaceChildren()
      input.focus()
      void verify()
    })
    file.replaceChildren(element('bdi', '', name.slice(0, 80)), remove)
  }

  const take = async (list: readonly File[], chosenFor: Kind | null): Promise<void> => {
    for (const file of list) {
      const refusal = tooLarge(chosenFor ?? 'receipt', file.size)
      if (refusal !== null) return tell(refusal, 'failed', `${file.name.slice(0, 80)} is too large`)
      let bytes: Uint8Array
      try {
        bytes = new Uint8Array(await file.arrayBuffer())
      } catch {
        return tell('It could not be read: is it a folder?', 'failed', file.name.slice(0, 80))
      }
      const kind = chosenFor ?? kindOf(bytes)
      if (kind === null || bytes.length > LIMITS[kind]) {
        const why = 'It is neither a receipt, nor an event (a compact JWS), nor a trust file.'
        return tell(
          kind === null ? why : tooLarge(kind, bytes.length)!,
          'failed',
          file.name.slice(0, 80),
        )
      }
      // Among files of a stranger may be one that vouches for them: it takes no place of the visitor's own.
      if (list.length > 1 && kind === 'trust' && isOther(files.trust?.bytes, bytes)) {
        const why = 'Another trust file is there already: remove it first.'
        return tell(why, 'failed', file.name.slice(0, 80))
      }
      keep(kind, file.name, bytes)
    }
    await verify()
  }

  form.addEventListener('submit', (event) => event.preventDefault())
  for (const kind of KINDS) {
    const { input } = slots[kind]
    input.addEventListener('change', () => {
      const [file] = input.files ?? []
      // Emptied, so that the same file, changed meanwhile, can be chosen again.
      input.value = ''
      if (file !== undefined) void take([file], kind)
    })
  }
  pasted.addEventListener('change', () => void verify())
  // Once what was pasted is in it.
  pasted.addEventListener('paste', () => setTimeout(() => void verify()))
  document.addEventListener('dragover', (event) => {
    event.preventDefault()
    document.body.classList.add('dragging')
  })
  document.addEventListener('dragleave', (event) => {
    if (event.relatedTarget === null) document.body.classList.remove('dragging')
  })
  document.addEventListener('drop', (event) => {
    event.preventDefault()
    document.body.classList.remove('dragging')
    // Three kinds: a fourth file is one too many, and a folder of a million is none of ours.
    void take([...(event.dataTransfer?.files ?? [])].slice(0, KINDS.length), null)
  })
  form.hidden = false
  void verify()
}

function isOther(known: Uint8Array | undefined, bytes: Uint8Array): boolean {
  return known !== undefined && !equal(known, bytes)
}

interface Slot {
  readonly input: HTMLInputElement
  /** Where the file's name stands. */
  readonly file: HTMLElement
}

function slotOf(form: HTMLFormElement, kind: Kind): Slot {
  const place = form.querySelector(`[data-kind="${kind}"]`)!
  return { input: place.querySelector('input')!, file: place.querySelector('output')! }
}
