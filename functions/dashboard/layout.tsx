/**
 * The page around every page: landmarks, navigation by role, the one search box, who is signed in.
 *
 * Order of focus: skip link, brand, search, sign-out, navigation, content. Nothing here needs a script; what one
 * adds (a key for the search box, copy buttons, updates) is marked by `data-` attributes.
 */

import type { Child } from 'hono/jsx'
import { atLeast, type Role } from '#core/roles.ts'
import { assetUrl, type AssetName } from './assets.ts'
import { Icon, Mark, type IconName } from './icon.tsx'
import { visibleText } from './text.tsx'

/** Who looks at a page, as far as the layout shows. */
export interface Visitor {
  readonly name: string
  readonly role: Role
  /** Empty for a machine, which has no session to end. */
  readonly csrf: string
  /** What became of the action that led here. */
  readonly flash?: { readonly good: boolean; readonly text: string } | null
}

/** A place in the navigation. */
export type Place =
  | 'overview'
  | 'events'
  | 'batches'
  | 'anchors'
  | 'federation'
  | 'guardian'
  | 'alerts'
  | 'audit'
  | 'sessions'
  | 'verify'

/** Every place: its address, what it is called, and who may go there. */
export const PLACES: readonly {
  readonly place: Place
  readonly path: string
  readonly name: string
  readonly icon: IconName
  readonly role: Role
}[] = [
  { place: 'overview', path: '/dashboard', name: 'Overview', icon: 'wave', role: 'viewer' },
  { place: 'events', path: '/dashboard/events', name: 'Events', icon: 'search', role: 'viewer' },
  { place: 'batches', path: '/dashboard/batches', name: 'Batches', icon: 'batch', role: 'viewer' },
  { place: 'anchors', path: '/dashboard/anchors', name: 'Anchors', icon: 'anchor', role: 'viewer' },
  {
    place: 'federation',
    path: '/dashboard/federation',
    name: 'Federation',
    icon: 'flag',
    role: 'viewer',
  },
  {
    place: 'guardian',
    path: '/dashboard/guardian',
    name: 'Guardian',
    icon: 'shield',
    role: 'viewer',
  },
  { place: 'alerts', path: '/dashboard/alerts', name: 'Alerts', icon: 'alert', role: 'viewer' },
  { place: 'audit', path: '/dashboard/audit', name: 'Audit', icon: 'clock', role: 'operator' },
  {
    place: 'sessions',
    path: '/dashboard/sessions',
    name: 'Sessions',
    icon: 'person',
    role: 'admin',
  },
]

/** What a page says of itself. */
export interface PageProps {
  readonly title: string
  /** Absent on pages for anybody: sign-in, /verify, errors. */
  readonly viewer?: Visitor | null
  readonly active?: Place
  /** The node that shows it, in the header. */
  readonly node?: { readonly id: string; readonly dev: boolean }
  /** What stands in the search box. */
  readonly query?: string
  /** Scripts of the page beside the one that all pages have. */
  readonly scripts?: readonly AssetName[]
  /** Text or a badge beside the heading. */
  readonly aside?: Child
  /** Seconds between updates while somebody looks; absent: the page stays as it is. */
  readonly liveS?: number
  readonly children?: Child
}

/** A whole document. */
export function Page(props: PageProps) {
  const { title, viewer = null, node, scripts = [], children } = props
  const name = node === undefined ? 'VaultMesh' : node.id
  return (
    <html lang="en">
      <head>
        <meta charset="utf-8" />
        <meta name="viewport" content="width=device-width, initial-scale=1" />
        <meta name="color-scheme" content="light dark" />
        <title>{`${title} · ${name}`}</title>
        <link rel="stylesheet" href={assetUrl('style.css')} />
        <link rel="icon" href="data:," />
        {['live.js' as const, ...scripts].map((script) => (
          <script type="module" src={assetUrl(script)} />
        ))}
      </head>
      <body data-live-seconds={props.liveS}>
        <a class="skip" href="#main">
          Skip to the content
        </a>
        <Top {...props} viewer={viewer} />
        {viewer === null ? null : <Places role={viewer.role} active={props.active} />}
        <main id="main" tabindex={-1}>
          <div class="title">
            <h1>{title}</h1>
            {props.aside === undefined ? null : <span>{props.aside}</span>}
          </div>
          {viewer?.flash == null ? null : (
            <div class={`banner ${viewer.flash.good ? 'good' : 'bad'}`} role="status">
              <Icon name={viewer.flash.good ? 'check' : 'alert'} />
              <p>{visibleText(viewer.flash.text)}</p>
            </div>
          )}
          {children}
        </main>
        <footer>
          <span>VaultMesh · every figure here re-derives from the log</span>
          <a href="/docs">API</a>
          <a href="/verify">Verify a receipt</a>
          <a href="/log/checkpoint">Checkpoint</a>
        </footer>
      </body>
    </html>
  )
}

function Top({ viewer, node, query }: PageProps) {
  return (
    <header class="top">
      <a class="brand" href={viewer === null || viewer === undefined ? '/' : '/dashboard'}>
        <Mark />
        <span>VaultMesh</span>
      </a>
      {node === undefined ? null : (
        <span class="node">
          {node.id}
          {node.dev ? <span class="dev">dev network</span> : null}
        </span>
      )}
      {viewer === null || viewer === undefined ? null : (
        <>
          <form class="search" role="search" action="/dashboard/events" method="get">
            <label class="unseen" for="q">
              Search events, batches, roots and transactions
            </label>
            <Icon name="search" />
            <input
              id="q"
              name="q"
              type="search"
              dir="auto"
              value={query ?? ''}
              maxlength={1200}
              autocomplete="off"
              autocapitalize="off"
              spellcheck={false}
              placeholder="Hash, root, transaction, DID, type, subject, height"
              data-slash="search"
            />
            <button type="submit">Search</button>
          </form>
          <form class="who" action="/logout" method="post">
            <input type="hidden" name="csrf" value={viewer.csrf} />
            <span>
              <Icon name="person" />
              <bdi>{visibleText(viewer.name)}</bdi> <span class="role">{viewer.role}</span>
            </span>
            {viewer.csrf === '' ? null : <button type="submit">Sign out</button>}
          </form>
        </>
      )}
    </header>
  )
}

function Places({ role, active }: { readonly role: Role; readonly active: Place | undefined }) {
  return (
    <nav class="places" aria-label="Dashboard">
      <ul>
        {PLACES.filter((place) => atLeast(role, place.role)).map(({ place, path, name, icon }) => (
          <li>
            <a href={path} aria-current={place === active ? 'page' : undefined}>
              <Icon name={icon} />
              {name}
            </a>
          </li>
        ))}
      </ul>
    </nav>
  )
}
