/**
 * A page with one thing to say: why something was refused, that you are signed out, what to do next.
 */

import { Page, type Visitor } from './layout.tsx'
import { Said } from './text.tsx'

/** What it says. */
export interface NoticeProps {
  readonly title: string
  /** What happened, a sentence each; may hold words of strangers. */
  readonly lines: readonly string[]
  readonly advice?: string | undefined
  readonly links: readonly { readonly href: string; readonly text: string }[]
  readonly requestId?: string | undefined
  readonly viewer?: Visitor | null
  readonly node?: { readonly id: string; readonly dev: boolean }
}

/** The page. */
export function Notice(props: NoticeProps) {
  const { title, lines, advice, links, requestId, viewer = null, node } = props
  return (
    <Page title={title} viewer={viewer} {...(node === undefined ? {} : { node })}>
      <section class="card notice">
        {lines.map((line) => (
          <p>
            <Said text={line} max={1000} />
          </p>
        ))}
        {advice === undefined ? null : <p class="note">{advice}</p>}
        {links.length === 0 ? null : (
          <ul class="links">
            {links.map(({ href, text }) => (
              <li>
                <a href={href}>{text}</a>
              </li>
            ))}
          </ul>
        )}
        {requestId === undefined ? null : (
          <p class="note">
            Request <code>{requestId}</code>
          </p>
        )}
      </section>
    </Page>
  )
}
