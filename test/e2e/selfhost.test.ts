import { execFileSync } from 'node:child_process'
import { existsSync, readdirSync, readFileSync, rmSync, statSync } from 'node:fs'
import { writeFile } from 'node:fs/promises'
import { createServer } from 'node:net'
import { join, resolve } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { fromBase64Url, toHex } from '#core/bytes.ts'
import type { Receipt } from '#core/receipt.ts'
import { createSigner, post, sign, trustOf, verify, type Trust } from '../../functions/sdk.ts'
import { ROOT } from '../../scripts/build.ts'
import { startTsa } from '../../scripts/devnet/tsa.ts'
import { homeAt, isHeld, lockHome, runningIn } from '../../scripts/home.ts'
import { nodeSecret, readClientKey } from '../../scripts/keystore.ts'
import { makeKey } from '../../scripts/cli/keygen.ts'
import { freePort, run, sandbox, start } from './support.ts'

const SELFHOST = resolve(ROOT, 'scripts/selfhost.ts')
const READY = 'rails:'

let box: Awaited<ReturnType<typeof sandbox>>
beforeAll(async () => {
  box = await sandbox()
})
afterAll(() => box.remove())

async function node(name: string, env: Record<string, string> = {}, more: string[] = []) {
  const port = await freePort()
  const home = homeAt(join(box.dir, name))
  const args = [SELFHOST, '--home', home.path, '--port', String(port), ...more]
  const running = await start(args, READY, { SEAL_BATCH_MAX_INTERVAL_MS: '200', ...env })
  return { ...running, home, args, url: `http://127.0.0.1:${port}` }
}

async function anEvent() {
  const secret = crypto.getRandomValues(new Uint8Array(32))
  return sign(await createSigner({ alg: 'EdDSA', secret }), { type: 'test.event' })
}

describe('a self-hosted node', () => {
  test('keeps everything over a restart, and its old receipts verify against its old keys', async () => {
    const first = await node('restart')
    const trust = JSON.parse(readFileSync(first.home.trust, 'utf8')) as Trust
    expect(trust).toEqual(await trustOf(first.url))
    const jws = await anEvent()
    const { receipt, eventHash } = await post(first.url, jws, { wait: 20 })
    const waiting = await post(first.url, await anEvent())
    expect(await first.stop('SIGTERM')).toBe(0)

    const second = await node('restart')
    try {
      expect(await trustOf(second.url)).toEqual(trust)
      const again = (await (await fetch(`${second.url}/receipts/${eventHash}`)).json()) as Receipt
      expect(again).toEqual(receipt)
      expect((await verify(again, trust, jws)).verdict).toBe('verified')
      expect(await (await fetch(`${second.url}/events/${eventHash}`)).text()).toBe(jws)
      // The same event again is the first answer, and what was accepted before is sealed.
      expect((await post(second.url, jws)).eventHash).toBe(eventHash)
      await expect
        .poll(async () => (await fetch(`${second.url}/receipts/${waiting.eventHash}`)).status, {
          timeout: 20_000,
        })
        .toBe(200)
    } finally {
      await second.stop('SIGTERM')
    }
  })

  test('refuses a second start on one home in one plain line', async () => {
    const first = await node('twice')
    try {
      const port = String(await freePort())
      const second = await run([SELFHOST, '--home', first.home.path, '--port', port])
      expect(second).toEqual({
        code: 1,
        stdout: '',
        stderr: `vaultmesh: A node runs on ${first.home.path} already (process ${first.pid}).\n`,
      })
      expect((await fetch(`${first.url}/healthz`)).status).toBe(200)
    } finally {
      await first.stop('SIGTERM')
    }
  })

  test('a process of another container, which cannot be seen, keeps its home all the same', async () => {
    const home = homeAt(join(box.dir, 'contained'))
    const lock = lockHome(home)
    // What a lock of another process namespace looks like from here.
    const unseen = { pid: 2 ** 22 + 7, start: '1' }
    await writeFile(home.lock, JSON.stringify(unseen))
    expect(runningIn(home)).toBeNull()
    expect(isHeld(home)).toBe(true)
    const port = String(await freePort())
    const second = await run([SELFHOST, '--home', home.path, '--port', port])
    expect(second).toMatchObject({ code: 1, stdout: '' })
    expect(second.stderr).toContain('already (a process that is not seen from here')
    const stopped = await run([resolve(ROOT, 'scripts/vaultmesh.ts'), 'stop', '--home', home.path])
    expect(stopped).toMatchObject({ code: 1 })
    expect(JSON.parse(readFileSync(home.lock, 'utf8'))).toEqual(unseen)
    lock.release()
    expect(isHeld(home)).toBe(false)
    // A dead one's lock, of whatever namespace, is taken over.
    lockHome(home).release()
    expect(existsSync(home.lock)).toBe(false)
  })

  test('takes over from a killed process, its runtime included, and has what that one accepted', async () => {
    const killed = await node('killed', { SEAL_BATCH_MAX_INTERVAL_MS: '60000' })
    const { eventHash } = await post(killed.url, await anEvent())
    await killed.stop('SIGKILL')
    expect(existsSync(killed.home.lock)).toBe(true)
    // The same port: an orphaned runtime would still hold it.
    const next = await start(killed.args, READY, { SEAL_BATCH_MAX_INTERVAL_MS: '200' })
    try {
      await expect
        .poll(async () => (await fetch(`${killed.url}/receipts/${eventHash}`)).status, {
          timeout: 30_000,
        })
        .toBe(200)
    } finally {
      await next.stop('SIGTERM')
    }
  })

  test('never forgets a timestamp root it pinned, and warns if its log is no longer timestamped', async () => {
    const tsa = await startTsa({ dir: join(box.dir, 'tsa'), port: 0 })
    await tsa.stop()
    const first = await node('roots')
    expect(first.output()).toContain('The log is named vm-node-01.example/log for ever')
    await first.stop('SIGTERM')
    const trust = JSON.parse(readFileSync(first.home.trust, 'utf8')) as Trust
    const pinned = { ...trust, tsaRoots: [tsa.rootPem] }
    await writeFile(first.home.trust, JSON.stringify(pinned))
    const warning = 'This log was timestamped before and is not now: give --tsa and --tsa-roots'
    for (const [env, warns] of [
      [{}, true],
      [{ RAILS: '' }, false],
    ] as const) {
      const again = await start(first.args, READY, env)
      await again.stop('SIGTERM')
      expect(again.output().includes(warning)).toBe(warns)
      expect(again.output()).not.toContain('for ever')
      expect(JSON.parse(readFileSync(first.home.trust, 'utf8'))).toEqual(pinned)
    }
    await writeFile(first.home.trust, '{"tsaRoots":["cut o')
    const cut = await run(first.args)
    expect(cut).toMatchObject({ code: 1, stdout: '' })
    expect(cut.stderr).toContain(`Cannot read the pins in ${first.home.trust}.`)
  })

  test('makes no new secret beside a log, and says which file to put back', async () => {
    const first = await node('lost')
    await first.stop('SIGTERM')
    const secret = join(first.home.path, 'node.secret.age')
    const kept = readFileSync(secret)
    rmSync(secret)
    const before = readdirSync(first.home.path)
    const ran = await run(first.args)
    expect(ran).toMatchObject({ code: 1, stdout: '' })
    expect(ran.stderr).toContain('put back node.secret.age (from your backup)')
    expect(readdirSync(first.home.path)).toEqual(before)
    await writeFile(secret, kept, { mode: 0o600 })
    const again = await start(first.args, READY)
    expect(await again.stop('SIGTERM')).toBe(0)
  })

  test('recovers a lock that a crash cut off', async () => {
    const first = await node('cut')
    await first.stop('SIGTERM')
    await writeFile(first.home.lock, '{"pid":12')
    const second = await start(first.args, READY)
    expect(await second.stop('SIGTERM')).toBe(0)
  })

  test('refuses settings that its log was not started with', async () => {
    const first = await node('shards')
    await first.stop('SIGTERM')
    const shards = await run(first.args, { env: { INTAKE_SHARDS: '3' } })
    expect(shards.code).toBe(1)
    expect(shards.stderr).toContain('vaultmesh: INTAKE_SHARDS: ')
    expect(shards.stderr).toContain('Set it back (INTAKE_SHARDS=1), or start a new home')
    const origin = await run(first.args, { env: { ORIGIN: 'other.example/log' } })
    expect(origin.code).toBe(1)
    expect(origin.stderr).toContain('vaultmesh: ORIGIN: ')
    expect(origin.stderr).toContain('Set it back (ORIGIN=vm-node-01.example/log), or start a new')
    // A refusal leaves nothing behind that would stop the right settings.
    const again = await start(first.args, READY)
    expect(await again.stop('SIGTERM')).toBe(0)
  })

  test('says in one line that its port is taken', async () => {
    const server = createServer()
    const port = await freePort()
    await new Promise<void>((ready) => server.listen(port, '127.0.0.1', ready))
    try {
      const ran = await run([SELFHOST, '--home', join(box.dir, 'port'), '--port', String(port)])
      expect(ran.code).toBe(1)
      expect(ran.stderr).toBe(
        `vaultmesh: Port ${port} on 127.0.0.1 is in use; name another with --port.\n`,
      )
      const ports = ['--port', String(await freePort()), '--tsa-port', String(port)]
      const up = await run([
        resolve(ROOT, 'scripts/up.ts'),
        '--home',
        join(box.dir, 'p2'),
        ...ports,
      ])
      expect(up.code).toBe(1)
      expect(up.stderr).toBe(
        `vaultmesh: Port ${port} on 127.0.0.1 is in use; name another with --tsa-port.\n`,
      )
    } finally {
      server.close()
    }
  })

  test('says that it is open to the network where it is', async () => {
    const running = await node('open', {}, ['--host', '0.0.0.0'])
    await running.stop('SIGTERM')
    expect(running.output()).toContain(
      'vaultmesh: Open to the network: whoever reaches 0.0.0.0 port',
    )
  })

  test.each([
    ['SIGTERM', false],
    ['SIGINT', true],
  ] as const)('stops cleanly on %s (to its whole group: %s)', async (signal, group) => {
    const running = await node(`stop-${signal}`)
    await post(running.url, await anEvent())
    expect(await running.stop(signal, group)).toBe(0)
    expect(existsSync(running.home.lock)).toBe(false)
    expect(existsSync(running.home.socket)).toBe(false)
    expect(running.output()).not.toMatch(/error/i)
  })

  test('opens /admin on its socket alone, and only to its owner', async () => {
    const running = await node('admin')
    try {
      expect(statSync(running.home.socket).mode & 0o777).toBe(0o600)
      expect(statSync(running.home.path).mode & 0o777).toBe(0o700)
      expect((await fetch(`${running.url}/admin/fsck`)).status).toBe(401)
      const ask = (path: string) =>
        execFileSync(
          'python3',
          [
            '-c',
            [
              'import http.client,socket,sys',
              's=socket.socket(socket.AF_UNIX);s.connect(sys.argv[1])',
              'c=http.client.HTTPConnection("node");c.sock=s',
              'c.putrequest("GET",sys.argv[2]);c.endheaders()',
              'print(c.getresponse().status)',
            ].join('\n'),
            running.home.socket,
            path,
          ],
          { encoding: 'utf8' },
        ).trim()
      expect(ask('/admin/fsck')).toBe('200')
      expect(ask('/healthz')).toBe('404')
      expect(ask('/admin/../healthz')).toBe('404')
      expect(ask('http://127.0.0.1:1/admin/fsck')).toBe('404')
    } finally {
      await running.stop('SIGTERM')
    }
  })

  test('has no secret in any file of its home, in a command line, an environment or a log', async () => {
    const running = await node('secrets')
    const key = join(running.home.path, 'client.key.age')
    await makeKey(key, 'ES256K')
    const secrets = [
      await nodeSecret(running.home.path),
      (await readClientKey(key)).secret,
    ].flatMap((text) => forms(text))
    const identity = /AGE-SECRET-KEY-\S+/.exec(
      readFileSync(process.env['VAULTMESH_AGE_KEY_FILE']!, 'utf8'),
    )![0]
    secrets.push(Buffer.from(identity))
    try {
      await post(running.url, await anEvent(), { wait: 20 })
      const lock = JSON.parse(readFileSync(running.home.lock, 'utf8')) as {
        runtime: { pid: number }
      }
      const places = [running.pid, lock.runtime.pid].flatMap((pid) => [
        `/proc/${pid}/cmdline`,
        `/proc/${pid}/environ`,
      ])
      for (const name of readdirSync(running.home.path, { recursive: true, encoding: 'utf8' })) {
        const path = join(running.home.path, name)
        if (statSync(path).isFile()) places.push(path)
      }
      expect(places.length).toBeGreaterThan(8)
      for (const place of places) {
        const bytes = readFileSync(place)
        for (const secret of secrets) expect(bytes.includes(secret), place).toBe(false)
      }
    } finally {
      await running.stop('SIGTERM')
    }
    for (const secret of secrets) expect(Buffer.from(running.output()).includes(secret)).toBe(false)
  })

  /** A secret as text, as hex and as it is. */
  function forms(text: string): Buffer[] {
    const raw = fromBase64Url(text)
    return [Buffer.from(text), Buffer.from(toHex(raw)), Buffer.from(raw)]
  }
})
