/**
 * The plan's services by the plan's own words: `node services/{harbinger,sealer,anchor-manager}/dist/*.js` run by the
 * machine's Node, scripts/anchor-*.js, make-stop's command, and what a service manager is told.
 */

import { spawn, type ChildProcess } from 'node:child_process'
import { chmodSync, existsSync, readFileSync, writeFileSync } from 'node:fs'
import { join, resolve } from 'node:path'
import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest'
import { ROOT } from '../../scripts/build.ts'
import { homeAt } from '../../scripts/home.ts'
import { notifier } from '../../scripts/notify.ts'
import { freePort, sandbox, vaultmesh } from './support.ts'

let box: Awaited<ReturnType<typeof sandbox>>
let home: string
let ports: { node: number; sealer: number; anchors: number }
const children: ChildProcess[] = []

/** Runs a file of the plan with `node` as it is on the PATH, in a process group of its own. */
function plan(file: string, ...args: string[]) {
  const child = spawn('node', [resolve(ROOT, file), ...args], { cwd: box.dir, detached: true })
  children.push(child)
  let said = ''
  const ended = new Promise<number | null>((end) => child.once('close', end))
  for (const stream of [child.stdout, child.stderr])
    stream.on('data', (chunk: Buffer) => (said += chunk.toString()))
  const until = (text: string) =>
    expect.poll(() => said, { timeout: 60_000, interval: 50 }).toContain(text)
  return { child, ended, until, said: () => said }
}

beforeAll(async () => {
  box = await sandbox()
  home = join(box.dir, 'n')
  ports = { node: await freePort(), sealer: await freePort(), anchors: await freePort() }
})
afterAll(async () => {
  for (const { pid, exitCode, signalCode } of children) {
    if (exitCode !== null || signalCode !== null) continue
    try {
      process.kill(-pid!, 'SIGKILL')
    } catch {
      // Ended by itself meanwhile.
    }
  }
  await box.remove()
})

const health = async (port: number): Promise<number> =>
  fetch(`http://127.0.0.1:${port}/healthz`).then(
    async (response) => (await response.arrayBuffer(), response.status),
    () => 0,
  )

describe('the plan’s paths', () => {
  test('run the node and its wakers, and vaultmesh stop ends the node whoever started it', async () => {
    const args = (port: number) => ['--home', home, '--port', String(port)]
    const node = plan('services/harbinger/dist/server.js', ...args(ports.node))
    await node.until('rails:')
    const sealer = plan('services/sealer/dist/worker.js', ...args(ports.sealer), '--every', '1')
    const anchors = plan('services/anchor-manager/dist/worker.js', ...args(ports.anchors))
    await sealer.until('sealer: the node answers')
    await anchors.until('anchor-manager: the node answers')
    for (const port of Object.values(ports)) expect(await health(port)).toBe(200)

    const stopped = await vaultmesh(['stop', '--home', home, '--json'])
    expect(JSON.parse(stopped.stdout)).toMatchObject({ home, state: 'stopped' })
    expect(await node.ended).toBe(0)
    expect(existsSync(homeAt(home).lock)).toBe(false)
    await expect.poll(() => health(ports.sealer), { timeout: 20_000 }).toBe(503)
    const again = await vaultmesh(['stop', '--home', home])
    expect(again).toEqual({ code: 0, stdout: `No node runs on ${home}.\n`, stderr: '' })

    sealer.child.kill('SIGTERM')
    expect(await sealer.ended).toBe(0)
    expect(sealer.said()).toContain('sealer stopped (SIGTERM)')
    // Killed without a word: nothing of it may go on.
    anchors.child.kill('SIGKILL')
    await anchors.ended
    await expect.poll(() => health(ports.anchors), { timeout: 20_000 }).toBe(0)
  }, 120_000)

  test('are the commands that they say', async () => {
    const files = {
      'scripts/anchor-btc.js': 'anchor',
      'scripts/anchor-evm.js': 'anchor',
      'services/harbinger/dist/server.js': 'selfhost',
      'services/sealer/dist/worker.js': 'watch',
    }
    await Promise.all(
      Object.entries(files).map(async ([file, command]) => {
        const ran = plan(file, '--help')
        expect(await ran.ended).toBe(0)
        expect(ran.said()).toContain(`usage: vaultmesh ${command}`)
      }),
    )
  })

  test('without a node to anchor with, the script says what to do and exits 4', async () => {
    const ran = plan('scripts/anchor-btc.js', '--home', join(box.dir, 'none'))
    expect(await ran.ended).toBe(4)
    expect(ran.said()).toContain('admin.sock')
  })

  test('refuse what they cannot do in one line', async () => {
    const refusals: readonly [readonly string[], string][] = [
      [['watch', 'node'], 'Name what to watch: vaultmesh watch sealer|anchors.'],
      [['watch', 'sealer', '--every', '0'], '--every 0 is no number of seconds from 1 to 300.'],
    ]
    for (const [args, line] of refusals) {
      expect(await vaultmesh(args)).toEqual({ code: 1, stdout: '', stderr: `vaultmesh: ${line}\n` })
    }
  })
})

describe('a service manager', () => {
  /** A `systemd-notify` that notes what it was told. */
  function manager(settings: Readonly<Record<string, string>>) {
    const log = join(box.dir, 'told')
    writeFileSync(log, '')
    writeFileSync(
      join(box.dir, 'systemd-notify'),
      `#!/bin/sh\necho "$NOTIFY_SOCKET: $*" >> ${log}\n`,
    )
    chmodSync(join(box.dir, 'systemd-notify'), 0o755)
    const before = { ...process.env }
    Object.assign(process.env, { PATH: `${box.dir}:${before['PATH']}`, ...settings })
    return {
      told: () =>
        readFileSync(log, 'utf8')
          .split('\n')
          .filter((line) => line !== ''),
      restore: () => (process.env['PATH'] = before['PATH']),
    }
  }

  test('is told of readiness, of life only while life is seen, and of the end', async () => {
    const complaint = vi.spyOn(console, 'error').mockImplementation(() => undefined)
    const { told, restore } = manager({ NOTIFY_SOCKET: '@vm', WATCHDOG_USEC: '300000' })
    let isAlive = true
    let asked = 0
    const self = notifier(async () => {
      asked++
      if (!isAlive) throw new Error('it hangs')
    })
    // What runs below must not speak for the service.
    expect(process.env['NOTIFY_SOCKET']).toBeUndefined()
    await self.ready('up')
    const pings = () => told().filter((line) => line === '@vm: WATCHDOG=1').length
    await expect.poll(pings).toBeGreaterThan(1)
    isAlive = false
    const before = asked
    await expect.poll(() => asked).toBeGreaterThan(before + 1)
    const silent = pings()
    const then = asked
    await expect.poll(() => asked).toBeGreaterThan(then + 1)
    expect(pings()).toBe(silent)
    isAlive = true
    await expect.poll(pings).toBeGreaterThan(silent)
    await self.stopping()
    restore()
    expect(complaint).toHaveBeenCalledWith('vaultmesh: no sign of life for the watchdog: it hangs')
    complaint.mockRestore()
    expect(told()[0]).toBe('@vm: --ready --status=up')
    expect(told().at(-1)).toBe('@vm: STOPPING=1 --status=stopping')
  })

  test('that watches another process, or none at all, is told nothing of life', async () => {
    const other = manager({ NOTIFY_SOCKET: '@vm', WATCHDOG_USEC: '1000', WATCHDOG_PID: '1' })
    const never = () => Promise.reject(new Error('asked'))
    const self = notifier(never)
    await self.ready('up')
    await self.stopping()
    expect(other.told()).toEqual(['@vm: --ready --status=up', '@vm: STOPPING=1 --status=stopping'])
    const none = manager({})
    await notifier(never).ready('up')
    expect(none.told()).toEqual([])
    none.restore()
    other.restore()
  })
})
