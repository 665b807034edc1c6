#!/usr/bin/env node
// Stands in for curl where there is none: the flags that the documentation's examples use, and no others.
import { readFileSync, writeFileSync } from 'node:fs'

const args = process.argv.slice(2)
const headers = {}
let url
let body
let method
let out
for (let i = 0; i < args.length; i++) {
  const arg = args[i]
  if (/^-[sSf]+$/.test(arg) || arg === '--fail' || arg === '--silent') continue
  if (arg === '-H') {
    const [name, ...value] = args[++i].split(':')
    headers[name.trim()] = value.join(':').trim()
  } else if (arg === '-X') method = args[++i]
  else if (arg === '-o') out = args[++i]
  else if (arg === '-d' || arg === '--data-binary') {
    const data = args[++i]
    body = data.startsWith('@') ? readFileSync(data === '@-' ? 0 : data.slice(1)) : data
  } else if (arg.startsWith('-')) throw new Error(`curl stand-in: unknown option ${arg}`)
  else url = arg
}
const response = await fetch(url, {
  method: method ?? (body === undefined ? 'GET' : 'POST'),
  headers,
  body,
  redirect: 'manual',
})
const bytes = Buffer.from(await response.arrayBuffer())
if (response.status >= 400) process.exit(22)
if (out === undefined) process.stdout.write(bytes)
else writeFileSync(out, bytes)
