/**
 * The operator's way to a node: its admin socket, or a remote node with $VAULTMESH_ADMIN_TOKEN.
 */

import { problemFrom } from '../../functions/sdk.ts'
import { askAdmin } from '../admin-socket.ts'
import { homeAt } from '../home.ts'
import { HOME_HELP, text, urlOf, type Values } from './command.ts'
import { noAnswer } from './remote.ts'

/** Options of operator commands. */
export const operatorOptions = { home: { type: 'string' }, url: { type: 'string' } } as const
export const OPERATOR_HELP = `${HOME_HELP}
  --url URL       instead, a node elsewhere; its ADMIN_TOKEN in $VAULTMESH_ADMIN_TOKEN`

/** Asks /admin of the node that `values` name. */
export async function operate<T>(values: Values, method: 'GET' | 'POST', path: string): Promise<T> {
  const token = process.env['VAULTMESH_ADMIN_TOKEN'] ?? ''
  const { status, body } = await (text(values, 'url') !== undefined && token !== ''
    ? overHttp(urlOf(values), token, { method, path })
    : overSocket(homeAt(text(values, 'home')).socket, { method, path }))
  const value: unknown = JSON.parse(body === '' ? 'null' : body)
  if (status >= 200 && status < 300) return value as T
  throw problemFrom(status, value)
}

interface Ask {
  readonly method: 'GET' | 'POST'
  readonly path: string
}

async function overSocket(socket: string, { method, path }: Ask) {
  try {
    return await askAdmin(socket, method, path)
  } catch (cause) {
    throw noAnswer(`The node’s admin socket ${socket}`, cause)
  }
}

async function overHttp(url: string, token: string, { method, path }: Ask) {
  try {
    const headers = { authorization: `Bearer ${token}` }
    const response = await fetch(`${url}${path}`, { method, headers })
    return { status: response.status, body: await response.text() }
  } catch (cause) {
    throw noAnswer(url, cause)
  }
}
