/**
 * Every word in the documentation that a reader could type or follow exists: commands with their options, targets
 * of make, files, links and their anchors.
 *
 * That the commands do what the text says is for the tests that run them: a block marked `sh` is run as it stands, by
 * readme.test.ts or by the test that RUN_BY names for its page.
 */

import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { dirname, join, resolve } from 'node:path'
import { describe, expect, test } from 'vitest'
import { codes } from '#core/errors.ts'
import { ROOT } from '../../scripts/build.ts'
import type { Command } from '../../scripts/cli/command.ts'
import { vaultmesh } from './support.ts'
import { RUN_BY } from './doc-blocks.ts'

const pages = [
  ...readdirSync(ROOT).filter((name) => name.endsWith('.md')),
  ...readdirSync(join(ROOT, 'docs'), { recursive: true, encoding: 'utf8' })
    .filter((name) => name.endsWith('.md'))
    .map((name) => join('docs', name)),
  'secrets/README.md',
]
const texts = new Map(pages.map((page) => [page, readFileSync(join(ROOT, page), 'utf8')]))

/** Lines and spans that are code: fenced blocks of commands, and what stands between backticks. */
function code(page: string): readonly string[] {
  const text = texts.get(page)!
  const fenced = [...text.matchAll(/^```(?:sh|text)\n(.*?)^```/gms)].flatMap((m) =>
    m[1]!.replaceAll('\\\n', ' ').split('\n'),
  )
  const spans = [...text.replaceAll(/^```.*?^```/gms, '').matchAll(/`([^`\n]+)`/g)].map(
    (m) => m[1]!,
  )
  return [...fenced, ...spans]
}

/** A command line without its comment. */
function bare(line: string): string {
  return line.replace(/(?:^|\s)#\s.*$/, '')
}

/** Options of each command, by name; those of programs that run until they are stopped are read in their help. */
async function known(): Promise<ReadonlyMap<string, ReadonlySet<string>>> {
  const found = new Map<string, Set<string>>()
  for (const file of readdirSync(join(ROOT, 'scripts/cli'))) {
    const module = (await import(join(ROOT, 'scripts/cli', file))) as Record<string, unknown>
    for (const value of Object.values(module)) {
      if (typeof value !== 'object' || value === null || !('usage' in value && 'options' in value))
        continue
      const command = value as Command
      found.set(command.name, new Set([...Object.keys(command.options), 'json', 'help']))
    }
  }
  const { stdout } = await vaultmesh(['--help'])
  const listed = [...stdout.matchAll(/^ {2}([a-z][a-z-]*) /gm)].map((m) => m[1]!)
  const others = listed.filter((name) => !found.has(name))
  await Promise.all(
    others.map(async (name) => {
      const help = await vaultmesh([name, '--help'])
      found.set(name, new Set([...help.stdout.matchAll(/--([a-z][a-z-]*)/g)].map((m) => m[1]!)))
    }),
  )
  // What is not in the list is no command that a reader can call.
  for (const name of found.keys()) if (!listed.includes(name)) found.delete(name)
  return found
}

const commands = await known()

/** The anchors of a page, as GitHub makes them of its headings. */
function anchors(page: string): ReadonlySet<string> {
  const headings = [...texts.get(page)!.matchAll(/^#{1,6} (.+)$/gm)].map((m) => m[1]!)
  return new Set(
    headings.map((heading) =>
      heading
        .replaceAll(/`|\*\*/g, '')
        .toLowerCase()
        .replaceAll(/[^\p{L}\p{N} _-]/gu, '')
        .replaceAll(' ', '-'),
    ),
  )
}

describe.each(pages)('%s', (page) => {
  test('every command and every option exists', () => {
    const wrong: string[] = []
    for (const line of code(page).map(bare)) {
      for (const [, rest] of line.matchAll(/(?:^|[\s(=|/])vaultmesh ([a-z][^|;&)]*)/g)) {
        const [name, ...words] = rest!.trim().split(/\s+/)
        const options = commands.get(name!)
        if (options === undefined) {
          // A user, a folder or a unit of that name is none.
          if (/^[a-z][a-z-]*$/.test(name!) && line.includes('scripts/vaultmesh')) wrong.push(rest!)
          continue
        }
        const end = words.indexOf('--')
        for (const word of end < 0 ? words : words.slice(0, end)) {
          const option = /^--([a-z][a-z-]*)/.exec(word)?.[1]
          if (option !== undefined && !options.has(option)) wrong.push(`${name} --${option}`)
        }
      }
    }
    expect(wrong).toEqual([])
  })

  test('every target of make exists', () => {
    const targets = /^\.PHONY: (.*)$/m
      .exec(readFileSync(join(ROOT, 'Makefile'), 'utf8'))![1]!
      .split(' ')
    const said = code(page).flatMap((line) => {
      const words = /(?:^|&& |; )make(?: -\w+)*((?: (?:[a-z][a-z-]*|[A-Z]+=\S+))+)/.exec(
        bare(line),
      )?.[1]
      return (words ?? '').split(' ').filter((word) => /^[a-z]/.test(word))
    })
    expect(said.filter((target) => !targets.includes(target))).toEqual([])
  })

  test('every file of ours exists', () => {
    const path =
      /^(?:\.\/)?((?:scripts|config|docs|test|functions|systemd|services|compose|queues|durable-objects|migrations)\/[\w./-]*[\w/])(?=$|[\s,:#])/
    const said = code(page).flatMap((line) =>
      bare(line)
        .split(/[\s="']+/)
        .flatMap((word) => path.exec(word)?.[1] ?? []),
    )
    expect(said.filter((name) => !existsSync(join(ROOT, name)) && !MADE.has(name))).toEqual([])
  })

  test('every link leads somewhere', () => {
    const wrong: string[] = []
    const text = texts
      .get(page)!
      .replaceAll(/^```.*?^```/gms, '')
      .replaceAll(/`[^`\n]*`/g, '')
    for (const [, target] of text.matchAll(/\]\(([^)\s]+)\)/g)) {
      if (/^[a-z]+:/.test(target!)) continue
      const [file, anchor] = target!.split('#')
      const to = file === '' ? page : join(dirname(page), file!)
      if (!existsSync(resolve(ROOT, to))) wrong.push(target!)
      else if (anchor !== undefined && texts.has(to) && !anchors(to).has(anchor))
        wrong.push(target!)
    }
    expect(wrong).toEqual([])
  })
})

/** Paths that a reader makes by what the text says. */
const MADE = new Set(['config/federation.yaml', 'config/intake.yaml'])

test('every page with commands to run has a test that runs them', () => {
  const without = pages.filter(
    (page) => /^```sh$/m.test(texts.get(page)!) && !Object.hasOwn(RUN_BY, page),
  )
  expect(without).toEqual([])
  for (const [page, file] of Object.entries(RUN_BY)) {
    expect(texts.has(page), page).toBe(true)
    expect(readFileSync(join(ROOT, file), 'utf8'), file).toContain(page.split('/').at(-1))
  }
})

test('what troubleshooting.md quotes is what the programs say', () => {
  const rows = (heading: string): readonly string[] =>
    texts
      .get('docs/troubleshooting.md')!
      .split(/^## /m)
      .find((part) => part.startsWith(heading))!
      .split('\n')
      .filter((line) => line.startsWith('| `'))
      .flatMap((line) => [...line.split(' | ')[0]!.matchAll(/`([^`]+)`/g)].map((m) => m[1]!))
  const sources = ['scripts', 'functions']
    .flatMap((dir) =>
      readdirSync(join(ROOT, dir), { recursive: true, encoding: 'utf8' }).map((f) => join(dir, f)),
    )
    .filter((file) => file.endsWith('.ts'))
    .concat('Makefile')
    .map((file) => readFileSync(join(ROOT, file), 'utf8'))
  const messages = rows('It does not start')
  expect(messages.length).toBeGreaterThan(5)
  expect(messages.filter((said) => !sources.some((text) => text.includes(said)))).toEqual([])
  const named = rows('A post is refused')
  expect(named.length).toBeGreaterThan(5)
  expect(named.filter((name) => !Object.hasOwn(codes, name))).toEqual([])
})
