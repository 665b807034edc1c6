/**
 * Sessions: who is signed in, and which machines hold tokens. For admins.
 */

import type { ApiToken } from '#store/api-tokens.ts'
import type { Session } from '#store/sessions.ts'
import { Act, type Actor } from './act.tsx'
import { Badge, Card, Pager, Table } from './parts.tsx'
import { Code, Said, Time } from './text.tsx'

/** What the page shows. */
export interface SessionsProps {
  readonly nowAt: number
  readonly viewer: Actor & { readonly sessionId: string }
  readonly sessions: readonly Session[]
  readonly tokens: readonly ApiToken[]
  /** Ids below which the next pages begin; null at the end. */
  readonly olderSessions: number | null
  readonly olderTokens: number | null
}

/** The page's content. */
export function Sessions({
  nowAt,
  viewer,
  sessions,
  tokens,
  olderSessions,
  olderTokens,
}: SessionsProps) {
  return (
    <>
      <Card title="Signed in" id="sessions" wide live>
        <Table
          caption="Sessions that live, newest first"
          columns={[
            { head: 'Person' },
            { head: 'Role' },
            { head: 'Since' },
            { head: 'Last seen', kind: 'extra' },
            { head: 'Subject', kind: 'extra' },
            { head: 'Action' },
          ]}
          rows={sessions.map((session) => [
            <>
              <Said text={session.name} max={60} />{' '}
              {String(session.id) === viewer.sessionId ? (
                <Badge tone="good" word="you" icon="person" />
              ) : null}
            </>,
            session.role,
            <Time at={session.createdAt} nowAt={nowAt} />,
            <Time at={session.seenAt} nowAt={nowAt} />,
            <Code value={session.sub} short />,
            <Act
              viewer={viewer}
              action="session-revoke"
              name="Revoke"
              fields={{ id: session.id }}
            />,
          ])}
          empty="Nobody is signed in."
        />
        <Pager
          older={olderSessions === null ? undefined : `/dashboard/sessions?below=${olderSessions}`}
        />
      </Card>
      <Card
        title="API tokens"
        id="tokens"
        wide
        aside={<Act viewer={viewer} action="token-create" name="Make a token" />}
      >
        <Table
          caption="API tokens, newest first, those that are over too"
          columns={[
            { head: 'Name' },
            { head: 'State' },
            { head: 'May' },
            { head: 'Ends' },
            { head: 'Last used', kind: 'extra' },
            { head: 'Made by', kind: 'extra' },
            { head: 'Action' },
          ]}
          rows={tokens.map((token) => {
            const isOver = token.endedAt !== null || token.expiresAt <= nowAt
            return [
              <Said text={token.name} max={60} />,
              token.endedAt !== null ? (
                <Badge tone="bad" word="revoked" />
              ) : isOver ? (
                <Badge tone="warn" word="expired" icon="clock" />
              ) : (
                <Badge tone="good" word="in force" />
              ),
              token.scopes.join(', '),
              <Time at={token.endedAt ?? token.expiresAt} nowAt={nowAt} />,
              token.usedAt === null ? 'never' : <Time at={token.usedAt} nowAt={nowAt} />,
              <Code value={token.createdBy} short />,
              isOver ? (
                ''
              ) : (
                <Act
                  viewer={viewer}
                  action="token-revoke"
                  name="Revoke"
                  fields={{ id: token.id }}
                />
              ),
            ]
          })}
          empty="No token was made yet. Machines need one to read the dashboard or to act."
        />
        <Pager
          older={olderTokens === null ? undefined : `/dashboard/sessions?tokens=${olderTokens}`}
        />
      </Card>
    </>
  )
}
