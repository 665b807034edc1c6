/**
 * JSON text with line breaks and indentation, otherwise as it was written: numbers keep their digits and keys their
 * order, because what was signed is the text, not what a parser makes of it.
 */

const OPEN = /[[{]/
const CLOSE = /[\]}]/

/** Indents valid JSON text; what is none is changed in its white space alone, too. */
export function indentJson(text: string): string {
  let out = ''
  let depth = 0
  for (let i = 0; i < text.length;) {
    const character = text[i]!
    if (character === '"') {
      const end = endOfString(text, i)
      out += text.slice(i, end)
      i = end
      continue
    }
    i++
    if (/\s/.test(character)) continue
    if (OPEN.test(character)) {
      const next = text.slice(i).search(/\S/)
      const isEmpty = next >= 0 && CLOSE.test(text[i + next]!)
      out += character
      if (isEmpty) {
        out += text[i + next]
        i += next + 1
      } else out += line(++depth)
    } else if (CLOSE.test(character)) out += line(--depth) + character
    else if (character === ',') out += `,${line(depth)}`
    else out += character === ':' ? ': ' : character
  }
  return out
}

/** Deepest indentation: hostile nesting must not square the page's size. */
const MAX_DEPTH = 32

function line(depth: number): string {
  return `\n${'  '.repeat(Math.max(0, Math.min(depth, MAX_DEPTH)))}`
}

/** One past the closing quote. */
function endOfString(text: string, from: number): number {
  for (let i = from + 1; i < text.length; i++) {
    if (text[i] === '\\') i++
    else if (text[i] === '"') return i + 1
  }
  return text.length
}
