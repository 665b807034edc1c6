/**
 * The pages of an action: what to fill in, what will happen, what happened. Forms alone, no script.
 *
 * Filling in is a GET, which changes nothing and lands on the second page; that one states the effects and posts, with
 * the session's token. So an action is never one click away from a page, nor from a link of somebody else's.
 */

import type { Child } from 'hono/jsx'
import { Page, type Visitor } from './layout.tsx'
import { Facts } from './parts.tsx'
import { Said } from './text.tsx'

/** A field as it is shown. */
export interface FieldView {
  readonly name: string
  readonly label: string
  readonly kind: 'hidden' | 'text' | 'choice' | 'checks'
  readonly hint?: string | undefined
  readonly choices?: readonly (readonly [value: string, label: string])[] | undefined
  readonly optional?: boolean | undefined
  /** What was filled in; of checks, separated by spaces. */
  readonly value: string
}

/** What all of its pages share. */
interface ActionPage {
  readonly title: string
  readonly viewer: Visitor
  readonly node: { readonly id: string; readonly dev: boolean }
  /** Path of the action. */
  readonly path: string
  /** Where to go instead. */
  readonly back: string
}

function Frame({ page, children }: { readonly page: ActionPage; readonly children?: Child }) {
  const { title, viewer, node } = page
  return (
    <Page title={title} viewer={viewer} node={node}>
      <section class="card notice">{children}</section>
    </Page>
  )
}

/** What to fill in. `problem` says what was wrong with what was filled in before. */
export function ActionForm(
  props: ActionPage & {
    readonly fields: readonly FieldView[]
    readonly problem?: string | undefined
  },
) {
  const { path, back, fields, problem } = props
  return (
    <Frame page={props}>
      {problem === undefined ? null : (
        <p class="badge bad" role="alert" id="problem">
          {problem}
        </p>
      )}
      <form class="fields" action={path} method="get">
        {fields.map((field) => (
          <FieldInput field={field} />
        ))}
        <div class="buttons">
          <button class="primary" type="submit">
            Continue
          </button>
          <a href={back}>Cancel</a>
        </div>
      </form>
    </Frame>
  )
}

function FieldInput({ field }: { readonly field: FieldView }) {
  const { name, label, kind, hint, choices = [], optional = false, value } = field
  const hintId = `${name}-hint`
  const described = hint === undefined ? undefined : hintId
  const note =
    hint === undefined ? null : (
      <span class="note" id={hintId}>
        {hint}
      </span>
    )
  if (kind === 'hidden') return <input type="hidden" name={name} value={value} />
  if (kind === 'checks') {
    const chosen = value.split(' ')
    return (
      <fieldset>
        <legend>{label}</legend>
        {choices.map(([choice, text]) => (
          <label class="check">
            <input type="checkbox" name={name} value={choice} checked={chosen.includes(choice)} />
            {text}
          </label>
        ))}
        {note}
      </fieldset>
    )
  }
  return (
    <div class="field">
      <label for={name}>
        {label}
        {optional ? <span class="note"> (optional)</span> : null}
      </label>
      {kind === 'choice' ? (
        <select id={name} name={name} aria-describedby={described}>
          {choices.map(([choice, text]) => (
            <option value={choice} selected={choice === value}>
              {text}
            </option>
          ))}
        </select>
      ) : (
        <input
          id={name}
          name={name}
          type="text"
          value={value}
          required={!optional}
          autocomplete="off"
          spellcheck={false}
          maxlength={2048}
          aria-describedby={described}
        />
      )}
      {note}
    </div>
  )
}

/** What will happen, and the button that does it. */
export function ActionConfirm(
  props: ActionPage & {
    readonly verb: string
    readonly facts: readonly (readonly [name: string, value: string])[]
    readonly effects: readonly string[]
    /** Hidden fields of the form. */
    readonly carried: Readonly<Record<string, string>>
  },
) {
  const { path, back, verb, facts, effects, carried } = props
  return (
    <Frame page={props}>
      <Facts facts={facts.map(([name, value]) => [name, <Said text={value} />] as const)} />
      <h2>What will happen</h2>
      <ul class="effects">
        {effects.map((effect) => (
          <li>
            <Said text={effect} max={1000} />
          </li>
        ))}
      </ul>
      <form action={path} method="post">
        {Object.entries(carried).map(([name, value]) => (
          <input type="hidden" name={name} value={value} />
        ))}
        <div class="buttons">
          <button class="danger" type="submit">
            {verb}
          </button>
          <a href={back}>Cancel</a>
        </div>
      </form>
    </Frame>
  )
}

/** What happened, with something to take away that is shown this once. */
export function ActionDone(
  props: ActionPage & {
    readonly detail: string
    readonly label: string
    readonly text: string
    readonly notes: readonly string[]
  },
) {
  const { back, detail, label, text, notes } = props
  return (
    <Frame page={props}>
      <p>
        <Said text={detail} max={1000} />
      </p>
      <h2 id="shown">{label}</h2>
      <pre class="wrap" tabindex={0} role="region" aria-labelledby="shown">
        <code>{text}</code>
      </pre>
      <ul class="effects">
        {notes.map((note) => (
          <li>{note}</li>
        ))}
      </ul>
      <p>
        <a href={back}>Done</a>
      </p>
    </Frame>
  )
}
