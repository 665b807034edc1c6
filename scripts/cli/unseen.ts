/**
 * Secrets that people type: the terminal shows nothing of them, and no shell keeps them in a history.
 */

import type { Terminal } from './command.ts'

/** What is typed after `prompt`; where standard input is no terminal all of it, without a line's end. */
export async function unseen(prompt: string, terminal: Terminal): Promise<string> {
  if (process.stdin.isTTY) return lineOf(prompt)
  return Buffer.from(await terminal.stdin())
    .toString()
    .replace(/\r?\n$/, '')
}

/** One line from the terminal, which shows nothing of it; Ctrl-C ends the process, Ctrl-D the line. */
async function lineOf(prompt: string): Promise<string> {
  const { stdin, stderr } = process
  // Before the prompt, or the terminal shows what a fast typist typed first.
  stdin.setRawMode(true)
  stderr.write(prompt)
  let line = ''
  try {
    for await (const chunk of stdin) {
      for (const char of String(chunk)) {
        if (char === '\r' || char === '\n' || char === '\u0004') return line
        if (char === '\u0003') process.exit(130)
        line = char === '\u007f' || char === '\b' ? line.slice(0, -1) : line + char
      }
    }
    return line
  } finally {
    stdin.setRawMode(false)
    stderr.write('\n')
  }
}
