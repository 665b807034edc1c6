import { createServer, type Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest'
import { startFaultProxy, type FaultProxy } from '../../scripts/devnet/fault-proxy.ts'

describe('the fault proxy', () => {
  let target: Server
  let proxy: FaultProxy
  let reached: string[] = []
  beforeAll(async () => {
    target = createServer((request, response) => {
      let body = ''
      request.on('data', (chunk: Buffer) => (body += chunk.toString()))
      request.on('end', () => {
        reached.push(
          [request.method, request.url, request.headers.authorization ?? '-', body].join(' '),
        )
        response.writeHead(201, { 'content-type': 'text/plain', 'x-said': 'yes' })
        response.end('a reply of some length')
      })
    })
    await new Promise<void>((ready) => target.listen(0, '127.0.0.1', ready))
    const { port } = target.address() as AddressInfo
    proxy = await startFaultProxy({ target: `http://user:pass@127.0.0.1:${port}` })
  })
  afterEach(async () => {
    await proxy.setFault('ok')
    reached = []
  })
  afterAll(async () => {
    await proxy.stop()
    target.closeAllConnections()
    target.close()
  })

  const ask = (path = '/', body?: string): Promise<Response> =>
    fetch(`http://127.0.0.1:${proxy.port}${path}`, {
      ...(body === undefined ? {} : { method: 'POST', body }),
      headers: { authorization: 'Basic abc' },
      signal: AbortSignal.timeout(5000),
    })
  const failure = async (asked: Promise<Response>): Promise<string> => {
    const error = (await asked.then(
      (response) => new Error(`answered ${response.status}`),
      (e: unknown) => e,
    )) as Error & { cause?: { code?: string } }
    return error.cause?.code ?? error.message
  }

  test('passes everything on as it came, and counts', async () => {
    const before = proxy.requests
    const response = await ask('/a/b?c=d', '{"method":"m"}')
    expect([response.status, response.headers.get('x-said'), await response.text()]).toEqual([
      201,
      'yes',
      'a reply of some length',
    ])
    expect(reached).toEqual(['POST /a/b?c=d Basic abc {"method":"m"}'])
    expect(proxy.requests).toBe(before + 1)
    expect(new URL(proxy.url)).toMatchObject({ username: 'user', password: 'pass' })
  })

  test.each([
    ['html', 200, 'text/html', /log in/],
    ['limited', 429, 'application/json', /^\{"error":"rate limit/],
    ['error500', 500, 'text/plain', /internal/],
  ] as const)('answers %s itself', async (fault, status, type, body) => {
    await proxy.setFault(fault)
    const response = await ask()
    expect(response.status).toBe(status)
    expect(response.headers.get('content-type')).toBe(type)
    expect(await response.text()).toMatch(body)
    expect(reached).toEqual([])
  })

  test('refuses connections while down, and listens on the same port after', async () => {
    await proxy.setFault('down')
    expect(await failure(ask())).toBe('ECONNREFUSED')
    await proxy.setFault('ok')
    expect((await ask()).status).toBe(201)
  })

  test('resets before the target sees anything', async () => {
    await proxy.setFault('reset')
    expect(await failure(ask())).toMatch(/ECONNRESET|UND_ERR_SOCKET/)
    expect(reached).toEqual([])
  })

  test('hangs until the fault is over', async () => {
    await proxy.setFault('hang')
    const asked = failure(ask())
    await expect.poll(() => proxy.requests).toBeGreaterThan(0)
    expect(await Promise.race([asked, sleep(200, 'still hanging')])).toBe('still hanging')
    await proxy.setFault('ok')
    expect(await asked).toMatch(/ECONNRESET|UND_ERR_SOCKET/)
    expect(reached).toEqual([])
  })

  test('is slow as told, and carries out what nobody waits for any more', async () => {
    await proxy.setFault('slow:400')
    const asked = fetch(`http://127.0.0.1:${proxy.port}/`, { signal: AbortSignal.timeout(100) })
    await expect(asked).rejects.toThrow(/timeout/)
    expect(reached).toEqual([])
    await expect.poll(() => reached.length).toBe(1)
    expect((await ask()).status).toBe(201)
  })

  test('cuts the body off below its promised length', async () => {
    await proxy.setFault('cut')
    const response = await ask()
    expect(response.headers.get('content-length')).toBe('22')
    await expect(response.text()).rejects.toThrow(/terminated/)
  })

  test('loses the reply to what the target has done, for one method if told so', async () => {
    await proxy.setFault('lose-reply')
    expect(await failure(ask('/tx', 'abc'))).toMatch(/ECONNRESET|UND_ERR_SOCKET/)
    expect(reached).toEqual(['POST /tx Basic abc abc'])
    await proxy.setFault('lose-reply:sendrawtransaction')
    expect((await ask('/', '{"method":"getblockcount"}')).status).toBe(201)
    expect(await failure(ask('/', '{"method":"sendrawtransaction"}'))).toMatch(/ECONNRESET|UND/)
    expect((await ask('/', '{"method":"x","params":["sendrawtransaction"]}')).status).toBe(201)
    await proxy.setFault('lose-reply:/tx')
    expect(await failure(ask('/tx', 'abc'))).toMatch(/ECONNRESET|UND_ERR_SOCKET/)
    expect(proxy.lost).toBe(3)
    expect(reached).toHaveLength(5)
  })
})
