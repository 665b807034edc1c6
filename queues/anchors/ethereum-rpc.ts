/**
 * One JSON-RPC endpoint of an EVM chain, asked through viem's http transport.
 *
 * The endpoint is a stranger: an answer counts only with a 2xx status, as JSON, below a size and
 * within a time that the whole body must keep; redirects are not followed and nothing is asked twice
 * (who retries when is the orchestrator's to say). What the endpoint, viem or the platform say in an
 * error may quote the URL with its API key, so none of it is passed on: errors name the host, our own
 * method and an error number.
 */

import type { EIP1193RequestFn } from 'viem'
import { http, HttpRequestError, ResponseBodyTooLargeError, TimeoutError } from 'viem'
import type * as z from 'zod'
import { VaultMeshError } from '#core/errors.ts'

/** Ten seconds is a slow network, not a slow node. */
export const DEFAULT_TIMEOUT_MS = 10_000
/** A transaction or a block without its transactions is a few kilobytes. */
export const MAX_ANSWER_BYTES = 1_048_576
/** A block has at most 10 MiB (EIP-7934), about twice that in JSON. */
export const MAX_BLOCK_ANSWER_BYTES = 25_165_824

/** How the network is reached; tests and Workers bring their own. */
export type Fetch = (url: string, init?: RequestInit) => Promise<Response>

/** A JSON-RPC error object, as the endpoint gave it: for classification, never for display. */
export interface RpcRefusal {
  readonly code: number
  readonly message: string
}

/** An endpoint. `name` is host and port. */
export interface Rpc {
  readonly name: string
  /** The result in its expected shape. Throws `anchor-failed` for anything else. */
  call<T>(question: Question, shape: z.ZodType<T>): Promise<T>
  /** As `call`, but an error that the endpoint states is an answer too. */
  ask<T>(question: Question, shape: z.ZodType<T>): Promise<Answer<T>>
  /** The failure to throw, in our words. */
  failure(fault: string): VaultMeshError
}

export interface Question {
  readonly method: string
  readonly params: readonly unknown[]
  /** A whole block is expected. */
  readonly isLarge?: boolean
}

export type Answer<T> = { readonly result: T } | { readonly refusal: RpcRefusal }

/** The endpoint at `url`; user and password in it travel as Basic authorization. Throws `bad-config`. */
export function ethereumRpc(url: string, fetch: Fetch, timeoutMs = DEFAULT_TIMEOUT_MS): Rpc {
  const parsed = URL.canParse(url) ? new URL(url) : null
  if (parsed === null || (parsed.protocol !== 'https:' && parsed.protocol !== 'http:')) {
    throw new VaultMeshError('bad-config', 'An EVM node must be named by an http or https URL.')
  }
  const name = parsed.host
  const failure = (fault: string) =>
    new VaultMeshError('anchor-failed', `The EVM node ${name} ${fault}.`, {
      extra: { host: name },
    })
  const open = (maxResponseBodySize: number) =>
    http(url, {
      // viem hands on the URL as text, without user and password.
      fetchFn: (input, init) => fetch(input as string, init),
      fetchOptions: { redirect: 'manual' },
      maxResponseBodySize,
      batch: false,
      retryCount: 0,
      timeout: timeoutMs,
      raw: true,
      async onFetchResponse(response) {
        if (response.ok) return
        await response.body?.cancel()
        throw failure(`answered HTTP ${response.status}`)
      },
    })({}).request as EIP1193RequestFn
  const small = open(MAX_ANSWER_BYTES)
  const large = open(MAX_BLOCK_ANSWER_BYTES)

  async function ask<T>(question: Question, shape: z.ZodType<T>): Promise<Answer<T>> {
    const { method, params, isLarge = false } = question
    let answer: unknown
    try {
      answer = await (isLarge ? large : small)({ method, params } as never)
    } catch (error) {
      throw explain(error, isLarge)
    }
    const { error, result } = answer as { error?: unknown; result?: unknown }
    if (error !== undefined && error !== null) return { refusal: refusalOf(error) }
    const parsedResult = shape.safeParse(result)
    if (!parsedResult.success) throw failure(`gave no valid answer to ${method}`)
    return { result: parsedResult.data }
  }

  /** Names a failure by its kind. */
  function explain(error: unknown, isLarge: boolean): VaultMeshError {
    const cause = error instanceof Error ? error.cause : undefined
    if (cause instanceof VaultMeshError) return cause
    if (error instanceof TimeoutError) return failure(`did not answer within ${timeoutMs} ms`)
    if (error instanceof ResponseBodyTooLargeError) {
      const most = isLarge ? MAX_BLOCK_ANSWER_BYTES : MAX_ANSWER_BYTES
      return failure(`answered with more than ${most} bytes`)
    }
    if (cause instanceof SyntaxError) return failure('did not answer with JSON')
    if (!(error instanceof HttpRequestError)) return failure('did not answer with JSON-RPC')
    return failure('could not be reached')
  }

  return {
    name,
    failure,
    ask,
    async call(question, shape) {
      const answer = await ask(question, shape)
      if ('result' in answer) return answer.result
      throw failure(`answered ${question.method} with error ${answer.refusal.code}`)
    },
  }
}

/** An error object of any shape; `0` and no words if it has none. */
function refusalOf(error: unknown): RpcRefusal {
  const { code, message } = Object(error) as { code?: unknown; message?: unknown }
  return {
    code: typeof code === 'number' ? code : 0,
    message: typeof message === 'string' ? message : '',
  }
}
