/**
 * The units under a real systemd: `systemd --user` in a cgroup and a namespace of its own, as an unprivileged user.
 * Every service starts, is killed and comes back, is hung and replaced, and stops cleanly; nothing that was accepted is
 * lost. What systemd itself thinks of the files is asked of systemd-analyze.
 */

import { spawnSync } from 'node:child_process'
import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join, resolve } from 'node:path'
import { generateX25519Identity } from 'age-encryption'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { createSigner, post, sign } from '../../functions/sdk.ts'
import { ROOT } from '../../scripts/build.ts'
import { onPath } from '../../scripts/devnet/child.ts'
import { homeAt } from '../../scripts/home.ts'
import { INSTALL, SERVICES, startOpsLab, until, type OpsLab } from '../../scripts/lab/ops-lab.ts'
import type { Seen } from '../../scripts/lab/system-check.ts'
import { boot, nspawnAbsence } from '../../scripts/lab/system-manager.ts'
import { systemdAbsence } from '../../scripts/lab/user-manager.ts'
import { absent } from './devnet-support.ts'
import { blocks } from './doc-blocks.ts'
import { sandbox, vaultmesh } from './support.ts'
import { hiddenFromServices } from '../../scripts/units.ts'

const why = systemdAbsence() ?? (onPath('caddy') === null ? 'caddy is not installed' : null)
const isMissing = absent(why === null ? null : `${why}: the units are not run`)
const noAnalyze = absent(
  onPath('systemd-analyze') === null
    ? 'systemd-analyze is not installed (apt install systemd): the units are not checked'
    : null,
)

// The checkout may be in a folder that no system service sees.
const hidden = hiddenFromServices(ROOT)
const isHidden = absent(
  hidden === null
    ? null
    : `no system service sees ${hidden}: the system units are neither installed nor run`,
)
const noBoot =
  isHidden || absent(why === null ? nspawnAbsence() : `${why}: the system units are not run`)

/** Boots the system units; it goes on beside what waits for watchdogs and timers. */
function bootUnits(): Promise<Seen> {
  return boot<Seen>({
    dir: join(box.dir, 'boot'),
    async prepare(root) {
      const etc = join(root, 'etc/vaultmesh')
      mkdirSync(etc, { recursive: true })
      const dest = join(root, 'etc/systemd/system')
      for (const args of [
        ['units', 'install', '--system', '--dest', dest],
        ['certs', 'init', '--dir', join(etc, 'certs')],
      ])
        expect((await vaultmesh(args)).code).toBe(0)
      // As age-keygen writes it.
      const identity = await generateX25519Identity()
      writeFileSync(join(etc, 'age.key'), `${identity}\n`, { mode: 0o600 })
    },
    program: resolve(ROOT, 'scripts/lab/system-check.ts'),
  })
}

let booted: Promise<Seen> | undefined
let box: Awaited<ReturnType<typeof sandbox>>
let lab: OpsLab
beforeAll(async () => {
  box = await sandbox()
  if (!isMissing) lab = await startOpsLab(box.dir, { SEAL_BATCH_MAX_INTERVAL_MS: '200' })
  if (!noBoot) booted = bootUnits()
  // Its own test tells of a failure.
  booted?.catch(() => undefined)
}, 120_000)
afterAll(async () => {
  await booted?.catch(() => undefined)
  if (!isMissing) await lab?.stop()
  await box.remove()
}, 120_000)

const shown = (service: string, name: string) => lab.manager.property(`${service}.service`, name)
const pidOf = async (service: string) => Number(await shown(service, 'MainPID'))

function signal(pid: number, name: NodeJS.Signals): void {
  // A look-up that failed says 0, which is this process's own group.
  if (!(pid > 1)) throw new Error(`${pid} is no process to signal`)
  process.kill(pid, name)
}

/** Waits until a service has been started again after `before` and runs. */
async function backAfter(service: string, before: number, withinMs = 90_000): Promise<void> {
  await until(
    `${service} is back`,
    async () => [await pidOf(service), await shown(service, 'ActiveState')] as const,
    ([pid, state]) => pid > 1 && pid !== before && state === 'active',
    withinMs,
  ).catch((error: Error) => {
    throw new Error(`${error.message}\n${lab.journal().slice(-4000)}`)
  })
}

async function anEvent() {
  const secret = crypto.getRandomValues(new Uint8Array(32))
  return sign(await createSigner({ alg: 'EdDSA', secret }), { type: 'test.event' })
}

describe.skipIf(isMissing)('under systemd --user', { timeout: 180_000 }, () => {
  test('every service runs, says how, and is healthy by its name over mTLS', async () => {
    for (const service of SERVICES) expect(await shown(service, 'ActiveState')).toBe('active')
    expect(await lab.manager.property('anchor-manager.timer', 'ActiveState')).toBe('active')
    for (const service of ['harbinger', 'sealer', 'anchor-manager'] as const) {
      await until(
        service,
        () => lab.ask(service, '/healthz', 'operator'),
        ({ status }) => status === 200,
      )
      expect((await lab.ask(service, '/healthz', null)).text).toContain('alert')
    }
    expect(await shown('harbinger', 'StatusText')).toBe(`vm-node-01.example/log at ${lab.url}`)
    expect(await shown('sealer', 'StatusText')).toBe('wakes sealing')
    expect((await lab.askPublic('/readyz')).status).toBe(200)
  })

  test('the page for operators installs them as they were installed here, and asks them as it says', async () => {
    const [install, look, ...more] = blocks('docs/self-host.md')
    expect(install).toBe(INSTALL)
    expect(more).toEqual([])
    const { tls, mtls } = lab.ports
    const asked = look!.replace(':8443', `:${tls}`).replace(':9443', `:${mtls}`)
    const { code, out } = await lab.manager.run('sh', '-ec', asked)
    expect(code, out).toBe(0)
    expect(out).toContain('Active: active (running)')
    expect(out).toContain('"ready":true')
    expect(out).toContain('"service":"sealer"')
  })

  test('a node killed with -9 comes back, its runtime too, with all it had accepted', async () => {
    const { eventHash } = await post(lab.url, await anEvent())
    const before = await pidOf('harbinger')
    signal(before, 'SIGKILL')
    await backAfter('harbinger', before)
    await until(
      'its receipt',
      async () => (await fetch(`${lab.url}/receipts/${eventHash}`)).status,
      (status) => status === 200,
    )
    expect(await shown('harbinger', 'NRestarts')).toBe('1')
  })

  test('its wakers and the TLS front killed with -9 come back', async () => {
    const killed = await Promise.all(
      (['sealer', 'anchor-manager', 'vaultmesh-tls'] as const).map(
        async (service) => [service, await pidOf(service)] as const,
      ),
    )
    for (const [, pid] of killed) signal(pid, 'SIGKILL')
    await Promise.all(killed.map(([service, pid]) => backAfter(service, pid)))
  })

  test('a runtime that hangs below a living node, and a waker that hangs, are killed by the watchdog and replaced', async () => {
    const node = await pidOf('harbinger')
    const waker = await pidOf('sealer')
    const { runtime } = JSON.parse(readFileSync(homeAt(lab.home).lock, 'utf8')) as {
      runtime: { pid: number }
    }
    signal(runtime.pid, 'SIGSTOP')
    signal(waker, 'SIGSTOP')
    await Promise.all([backAfter('harbinger', node), backAfter('sealer', waker)])
    expect((await fetch(`${lab.url}/healthz`)).status).toBe(200)
    expect(lab.journal()).toContain('no sign of life for the watchdog')
  })

  test('the timer starts anchor-manager again after systemd gave it up', async () => {
    await until(
      'its start limit',
      async () => {
        const pid = await pidOf('anchor-manager')
        if (pid > 1) signal(pid, 'SIGKILL')
        return shown('anchor-manager', 'ActiveState')
      },
      (state) => state === 'failed',
    )
    await until(
      'the timer',
      () => shown('anchor-manager', 'ActiveState'),
      (state) => state === 'active',
    )
  })

  test('vaultmesh stop stops the node and its wakers cleanly, and they stay down', async () => {
    const pid = await pidOf('harbinger')
    const said = await lab.manager.run(
      resolve(ROOT, 'scripts/vaultmesh'),
      'stop',
      '--home',
      lab.home,
    )
    expect(said).toEqual({ code: 0, out: `stopped process ${pid} and its user units\n` })
    for (const service of ['harbinger', 'sealer', 'anchor-manager']) {
      expect(await shown(service, 'ActiveState')).toBe('inactive')
      expect(await shown(service, 'Result')).toBe('success')
      expect(await shown(service, 'ExecMainStatus')).toBe('0')
    }
    expect(existsSync(homeAt(lab.home).lock)).toBe(false)
    const again = await lab.manager.run(
      resolve(ROOT, 'scripts/vaultmesh'),
      'stop',
      '--home',
      lab.home,
    )
    expect(again).toEqual({ code: 0, out: `No node runs on ${lab.home}.\n` })
  })
})

describe.skipIf(noBoot)('under systemd as PID 1', { timeout: 180_000 }, () => {
  test('the system units run as users of their own without any right, come back after kill -9, and stop cleanly', async () => {
    const { services, health, ...seen } = await booted!
    const says = seen.journal
    for (const [name, service] of Object.entries(services)) {
      const none = '0000000000000000'
      // CAP_NET_BIND_SERVICE alone: port 443.
      const capabilities = name === 'vaultmesh-tls' ? '0000000000000400' : none
      const { uid, ...rest } = service
      const well = { state: 'active', result: 'success', noNewPrivileges: '1', seccomp: '2' }
      expect(rest, `${name}\n${says}`).toEqual({ ...well, capabilities })
      // systemd.exec(5): DynamicUser takes 61184 to 65519.
      expect(uid).toBeGreaterThanOrEqual(61_184)
      expect(uid).toBeLessThanOrEqual(65_519)
    }
    expect(services['sealer']!.uid).toBe(services['harbinger']!.uid)
    expect(services['vaultmesh-tls']!.uid).not.toBe(services['harbinger']!.uid)
    for (const [name, [status, text]] of Object.entries(health))
      expect(status, `${name}: ${text}\n${says}`).toBe(200)
    expect(seen.credential).toMatch(/^4[04]0$/)
    expect(seen.restarts).toBe('1')
    expect(seen.didBefore).toMatch(/^did:key:/)
    expect(seen.didAfter).toBe(seen.didBefore)
    expect(new Set(Object.values(seen.stopped))).toEqual(new Set(['inactive success']))
  })
})

describe.skipIf(noAnalyze)('the unit files', () => {
  const analyze = (...args: string[]) =>
    spawnSync('systemd-analyze', ['--no-pager', ...args], {
      encoding: 'utf8',
      env: { ...process.env, XDG_RUNTIME_DIR: box.dir },
    })

  test.each(isHidden ? (['user'] as const) : (['user', 'system'] as const))(
    'of scope %s are taken by systemd without a word, and installing again changes nothing',
    async (scope) => {
      const dest = join(box.dir, scope)
      const args = ['units', 'install', `--${scope}`, '--dest', dest, '--json']
      const dry = await vaultmesh([...args, '--dry-run'])
      expect(existsSync(dest)).toBe(false)
      const first = await vaultmesh(args)
      const states = (text: string) =>
        (JSON.parse(text) as { units: { state: string }[] }).units.map(({ state }) => state)
      expect(new Set([...states(dry.stdout), ...states(first.stdout)])).toEqual(new Set(['new']))
      expect(new Set(states((await vaultmesh(args)).stdout))).toEqual(new Set(['unchanged']))
      // An upgrade must not lead the node to another home, and so to another log under the same name.
      const elsewhere = [...args, '--home', join(box.dir, 'elsewhere')]
      if (scope === 'user') {
        expect(states((await vaultmesh(elsewhere)).stdout)).toContain('changed')
        expect(new Set(states((await vaultmesh(args)).stdout))).toEqual(new Set(['unchanged']))
      }
      const files = readdirSync(dest).map((name) => join(dest, name))
      expect(files.map((file) => file.slice(dest.length + 1))).toEqual([
        'anchor-manager.service',
        'anchor-manager.timer',
        'harbinger.service',
        'sealer.service',
        'vaultmesh-tls.service',
      ])
      const verified = analyze(`--${scope}`, 'verify', ...files)
      // Debian's caddy may be absent: that alone is no fault of the file.
      const said = verified.stderr.replaceAll(/.*\/usr\/bin\/caddy is not executable.*\n/g, '')
      expect(said).toBe('')
    },
  )

  test.each([
    ['harbinger', 1.5],
    ['sealer', 1.5],
    ['anchor-manager', 1.5],
    ['vaultmesh-tls', 1.7],
  ])('of the system leave %s little of the system (exposure at most %d of 10)', (unit, most) => {
    const file = resolve(ROOT, 'systemd/system', `${unit}.service`)
    const { stdout } = analyze('security', '--offline=true', file)
    const exposure = Number(/exposure level for .*: ([\d.]+)/.exec(stdout)![1])
    expect(exposure).toBeLessThanOrEqual(most)
  })
})
