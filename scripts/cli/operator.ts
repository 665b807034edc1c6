/**
 * The operator's way to a node: its admin socket, or a remote node with $VAULTMESH_ADMIN_TOKEN.
 */

import { problemFrom } from '../../functions/sdk.ts'
import { askAdmin } from '../admin-socket.ts'
import { homeAt } from '../home.ts'
import { HOME_HELP, text, urlOf, UsageError, type Values } from './command.ts'
import { noAnswer } from './remote.ts'

/** Options of operator commands. */
export const operatorOptions = { home: { type: 'string' }, url: { type: 'string' } } as const
export const OPERATOR_HELP = `${HOME_HELP}
  --url URL       instead, a node elsewhere; its ADMIN_TOKEN in $VAULTMESH_ADMIN_TOKEN`

/**
 * `values`, unless they name a node elsewhere without a token for it: what changes a node must not fall back on the one
 * here.
 */
export function operatorTarget(values: Values): Values {
  if (text(values, 'url') !== undefined && (process.env['VAULTMESH_ADMIN_TOKEN'] ?? '') === '')
    throw new UsageError('--url needs the ADMIN_TOKEN of that node in $VAULTMESH_ADMIN_TOKEN.')
  return values
}

/** Asks /admin of the node that `values` name; `body` goes with a POST. */
export async function operate<T>(
  values: Values,
  method: 'GET' | 'POST',
  path: string,
  body = '',
): Promise<T> {
  const token = process.env['VAULTMESH_ADMIN_TOKEN'] ?? ''
  const answer = await (text(values, 'url') !== undefined && token !== ''
    ? overHttp(urlOf(values), token, { method, path, body })
    : overSocket(homeAt(text(values, 'home')).socket, { method, path, body }))
  const { status } = answer
  const value: unknown = JSON.parse(answer.body === '' ? 'null' : answer.body)
  if (status >= 200 && status < 300) return value as T
  throw problemFrom(status, value)
}

interface Ask {
  readonly method: 'GET' | 'POST'
  readonly path: string
  readonly body: string
}

async function overSocket(socket: string, { method, path, body }: Ask) {
  try {
    return await askAdmin(socket, method, path, 0, body)
  } catch (cause) {
    throw noAnswer(`The node’s admin socket ${socket}`, cause)
  }
}

async function overHttp(url: string, token: string, { method, path, body }: Ask) {
  try {
    const headers = { authorization: `Bearer ${token}` }
    const sent = method === 'GET' ? {} : { body }
    const response = await fetch(`${url}${path}`, { method, headers, ...sent })
    return { status: response.status, body: await response.text() }
  } catch (cause) {
    throw noAnswer(url, cause)
  }
}
