/**
 * Icons as SVG paths in the page: no request, no font, the colour of the text beside them. An icon never stands
 * without a word, so each is hidden from assistive technology.
 */

/** 16 × 16 outlines, drawn with the pen of `.icon` in the style sheet. */
const PATHS = {
  alert: 'M8 2 14.5 13.5H1.5ZM8 6.5v3M8 11.7v.1',
  anchor:
    'M8 5.5V14M8 5.5a1.8 1.8 0 1 0 0-3.6 1.8 1.8 0 0 0 0 3.6ZM5 7.5h6M2.5 9.5C3 12.3 5.2 14 8 14s5-1.7 5.5-4.5',
  arrow: 'M3 8h10M9 4l4 4-4 4',
  batch: 'M8 1.8 14 5v6l-6 3.2L2 11V5ZM2 5l6 3.2L14 5M8 8.2v6',
  check: 'M2.5 8.5 6 12l7.5-8',
  clock: 'M8 1.8a6.2 6.2 0 1 0 0 12.4A6.2 6.2 0 0 0 8 1.8ZM8 4.5V8l2.5 1.8',
  cross: 'M3.5 3.5l9 9M12.5 3.5l-9 9',
  down: 'M8 2.5v8M4.5 7.5 8 11l3.5-3.5M3 13.5h10',
  final: 'M1.5 8.5 4.5 11.5 10 5M7.5 10.5l1.2 1L14.5 5',
  flag: 'M3.5 14V2.2M3.5 3h8.5l-2 3 2 3H3.5',
  lock: 'M4 7.2h8V14H4ZM5.7 7.2V5a2.3 2.3 0 0 1 4.6 0v2.2',
  pause: 'M5.5 3.5v9M10.5 3.5v9',
  person:
    'M8 8a2.8 2.8 0 1 0 0-5.6A2.8 2.8 0 0 0 8 8ZM2.8 14c.5-2.8 2.5-4.2 5.2-4.2s4.7 1.4 5.2 4.2',
  search: 'M7 2.2a4.8 4.8 0 1 0 0 9.6 4.8 4.8 0 0 0 0-9.6ZM10.6 10.6 14 14',
  shield: 'M8 1.8 13.5 4v4c0 3.2-2.3 5.3-5.5 6.2C4.8 13.3 2.5 11.2 2.5 8V4Z',
  wave: 'M1.5 8h3l2-5 3 10 2-5h3',
} as const

export type IconName = keyof typeof PATHS

/** An icon; decoration only. */
export function Icon({ name }: { readonly name: IconName }) {
  return (
    <svg
      class="icon"
      viewBox="0 0 16 16"
      width="16"
      height="16"
      aria-hidden="true"
      focusable="false"
    >
      <path d={PATHS[name]} />
    </svg>
  )
}

/** The mark: a Ψ whose stem is an anchor's. */
export function Mark() {
  return (
    <svg
      class="mark"
      viewBox="0 0 24 24"
      width="24"
      height="24"
      aria-hidden="true"
      focusable="false"
    >
      <path d="M12 2v20M8 22h8M3 4c0 8 3.2 11 9 11s9-3 9-11" />
    </svg>
  )
}
