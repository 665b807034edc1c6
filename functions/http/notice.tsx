/**
 * Refusals as pages, for browsers on the dashboard's paths: the same words as the problem, and where to go.
 */

import { codes, type VaultMeshError } from '#core/errors.ts'
import { pageAfterSignIn } from '#core/roles.ts'
import { Notice, type NoticeProps } from '../dashboard/notice.tsx'
import { html } from './html.ts'
import { problemResponse } from './problem.ts'

type Links = NoticeProps['links']

/** The page of a refusal, with the problem's status and headers. */
export async function refusalPage(
  error: VaultMeshError,
  requestId: string,
  pathname: string,
): Promise<Response> {
  const { title, advice } = codes[error.code]
  const problem = problemResponse(error, requestId)
  const headers: Record<string, string> = { 'x-request-id': requestId }
  const wait = problem.headers.get('retry-after')
  if (wait !== null) headers['retry-after'] = wait
  return html(
    <Notice
      title={title}
      lines={[error.message]}
      advice={advice}
      links={linksOf(error, pathname)}
      requestId={requestId}
    />,
    { status: error.status, headers },
  )
}

function linksOf({ code, extra }: VaultMeshError, pathname: string): Links {
  const overview = { href: '/dashboard', text: 'Overview' }
  if (code === 'no-sign-in') return [{ href: '/docs', text: 'Documentation of the API' }]
  if (code === 'sign-in-required')
    return [
      { href: `/login?next=${encodeURIComponent(pageAfterSignIn(pathname))}`, text: 'Sign in' },
    ]
  if (code === 'sign-in-refused' || code === 'provider-failed') {
    const again = { href: '/login', text: 'Sign in again' }
    // Where the provider knows somebody without a role, it would bring the same person back.
    const other = { href: '/login?again=1', text: 'Sign in as somebody else' }
    return extra['person'] === true ? [other] : [again]
  }
  return [overview]
}
