/**
 * Those who look after a node, as real programs on 127.0.0.1 with the files of config/: a Prometheus, an
 * Alertmanager, and a pager that notes what it is called for. Only faster than config/ has them.
 */

import { mkdir, readFile, writeFile } from 'node:fs/promises'
import { createServer, type IncomingHttpHeaders } from 'node:http'
import type { AddressInfo } from 'node:net'
import { join, resolve } from 'node:path'
import { parse, stringify } from 'yaml'
import { ROOT } from '../build.ts'
import { onPath, startChild } from '../devnet/child.ts'
import { portOrFree } from '../devnet/port.ts'

const PROGRAMS = ['prometheus', 'prometheus-alertmanager'] as const

/** An alert as Alertmanager hands it on. */
export interface Called {
  readonly status: 'firing' | 'resolved'
  readonly labels: Readonly<Record<string, string>>
  readonly annotations: Readonly<Record<string, string>>
  readonly startsAt: string
}

/** A notice of the node itself. */
export interface Notice {
  readonly headers: IncomingHttpHeaders
  readonly text: string
  readonly body: {
    readonly type: string
    readonly data: { readonly id: string; readonly kind: string; readonly url: string }
  }
}

/** A program or server that was started here. */
export interface Started {
  readonly url: string
  stop(): Promise<void>
}

/** Where calls end. */
export interface Pager extends Started {
  /** What Alertmanager called for, oldest first. */
  readonly called: Called[]
  /** What nodes told by themselves. */
  readonly notices: Notice[]
}

/** Says what is missing here and how it is installed, or null. */
export function monitoringAbsence(): string | null {
  const missing = PROGRAMS.filter((name) => onPath(name) === null)
  return missing.length === 0
    ? null
    : `${missing.join(', ')} not installed (apt install prometheus prometheus-alertmanager)`
}

/** A receiver of Alertmanager's calls (/pager) and of a node's webhooks (/node). */
export async function startPager(): Promise<Pager> {
  const called: Called[] = []
  const notices: Notice[] = []
  const server = createServer((incoming, response) => {
    const chunks: Buffer[] = []
    incoming.on('data', (chunk: Buffer) => chunks.push(chunk))
    incoming.on('end', () => {
      const text = Buffer.concat(chunks).toString()
      const body = JSON.parse(text) as Notice['body'] & { readonly alerts: Called[] }
      if (incoming.url === '/pager') called.push(...body.alerts)
      if (incoming.url === '/node') notices.push({ headers: incoming.headers, text, body })
      response.writeHead(204).end()
    })
  })
  await new Promise<void>((ready) => server.listen(0, '127.0.0.1', ready))
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    called,
    notices,
    async stop() {
      server.closeAllConnections()
      await new Promise((closed) => server.close(closed))
    },
  }
}

/** Alertmanager with the routes of config/, which wait for nothing and lead to `pager`. Its files are in `dir`. */
export async function startAlertmanager(dir: string, pager: string): Promise<Started> {
  const given = (await config('alertmanager/alertmanager.yaml')) as {
    readonly route: { readonly routes: readonly object[] }
    readonly receivers: readonly { readonly name: string; readonly webhook_configs: object[] }[]
  }
  const fast = { group_wait: '0s', group_interval: '1s', repeat_interval: '1h' }
  const routes = given.route.routes.map((route) => ({ ...route, ...fast }))
  const receivers = given.receivers.map(({ name, webhook_configs: [hook] }) => ({
    name,
    webhook_configs: [{ ...hook, url: `${pager}/${name}` }],
  }))
  await mkdir(dir, { recursive: true })
  const file = join(dir, 'alertmanager.yaml')
  const text = stringify({ ...given, route: { ...given.route, ...fast, routes }, receivers })
  await writeFile(file, text)
  return startDaemon('prometheus-alertmanager', (port) => [
    `--config.file=${file}`,
    `--storage.path=${join(dir, 'data')}`,
    `--web.listen-address=127.0.0.1:${port}`,
    // The empty one, or it opens a gossip port.
    '--cluster.listen-address=',
  ])
}

/** Prometheus with the rules of config/ as they are; it scrapes `target` twice a second. Its files are in `dir`. */
export async function startPrometheus(
  dir: string,
  watched: {
    readonly target: string
    readonly token: string
    readonly alertmanager: string
    readonly evaluationS: number
  },
): Promise<Started> {
  const given = (await config('prometheus/prometheus.yaml')) as {
    readonly scrape_configs: readonly object[]
  }
  await mkdir(dir, { recursive: true })
  await writeFile(join(dir, 'token'), watched.token)
  const file = join(dir, 'prometheus.yaml')
  await writeFile(
    file,
    stringify({
      ...given,
      global: { scrape_interval: '500ms', evaluation_interval: `${watched.evaluationS}s` },
      rule_files: [resolve(ROOT, 'config/prometheus/rules.yaml')],
      alerting: {
        alertmanagers: [{ static_configs: [{ targets: [new URL(watched.alertmanager).host] }] }],
      },
      scrape_configs: given.scrape_configs.map((job) => ({
        ...job,
        authorization: { credentials_file: join(dir, 'token') },
        static_configs: [{ targets: [new URL(watched.target).host] }],
      })),
    }),
  )
  return startDaemon('prometheus', (port) => [
    `--config.file=${file}`,
    `--storage.tsdb.path=${join(dir, 'data')}`,
    `--web.listen-address=127.0.0.1:${port}`,
  ])
}

async function startDaemon(
  name: (typeof PROGRAMS)[number],
  argsOf: (port: number) => readonly string[],
): Promise<Started> {
  const port = await portOrFree(0)
  const url = `http://127.0.0.1:${port}`
  const child = await startChild(name, onPath(name) ?? name, argsOf(port), async () => {
    if (!(await fetch(`${url}/-/ready`)).ok) throw new Error(`${name} is not ready`)
  })
  return { url, stop: child.stop }
}

async function config(path: string): Promise<unknown> {
  return parse(await readFile(resolve(ROOT, 'config', path), 'utf8'))
}
