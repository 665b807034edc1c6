import * as fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import {
  alertId,
  alertKinds,
  alertmanagerBody,
  alertMessageId,
  alertUrl,
  alertWebhookBody,
  alertWebhookSchema,
  runbookOf,
  type AlertFacts,
  type AlertKind,
} from '#core/alert.ts'
import { parseConfig } from '#core/config.ts'

const source = {
  nodeDid: 'did:key:z6MkA',
  nodeId: 'vm-a',
  origin: 'log.example.org/log',
  logNumber: 1,
  publicUrl: 'https://log.example.org',
}
const open: AlertFacts = {
  id: 'al_AAAAAAAAAAAAAAAAAAAAAA',
  kind: 'anchor_stalled',
  key: 'BTC/mainnet',
  severity: 'critical',
  detail: 'node.example could not be reached.',
  link: '/batches/7',
  openedAt: Date.UTC(2026, 10, 23, 7),
  clearedAt: null,
}
const over = { ...open, clearedAt: open.openedAt + 90_000 }
const at = { nowAt: open.openedAt + 60_000, validMs: 300_000 }

const moment = fc.integer({ min: 0, max: 4_000_000_000_000 })
const kind = fc.constantFrom(...(Object.keys(alertKinds) as AlertKind[]))

describe('an id', () => {
  // By Python: base64url of sha256('\n'.join(parts))[:16].
  test('stays the same from version to version', () => {
    const of = { origin: source.origin, kind: open.kind, key: open.key, openedAt: open.openedAt }
    expect(alertId(of)).toBe('al_Oir7wWSIPX8DlJEH_XONGw')
    expect(alertMessageId(open, 'opened')).toBe('msg_O3TfW496ZGJMv_F1Osb8Rg')
    expect(alertMessageId(open, 'resolved')).toBe('msg_Jpgp1uqBmC99f2OD66xqwQ')
  })

  test('is another one as soon as anything differs that makes the alert what it is', () => {
    const text = fc.stringMatching(/^[a-z/0-9.-]{1,20}$/)
    const facts = fc.record({ origin: text, kind, key: text, openedAt: moment })
    fc.assert(
      fc.property(facts, facts, (a, b) => {
        const isSame = JSON.stringify(Object.values(a)) === JSON.stringify(Object.values(b))
        expect(alertId(a) === alertId(b)).toBe(isSame)
        expect(alertId(a)).toMatch(/^al_[\w-]{22}$/)
      }),
    )
  })
})

describe('an address', () => {
  test('of a page of the log names the log, so that it outlives a fork; of the node it does not', () => {
    expect(alertUrl(source, '/batches/7')).toBe('https://log.example.org/log/1/batches/7')
    expect(alertUrl({ ...source, logNumber: 2 }, '/anchors/status')).toBe(
      'https://log.example.org/log/2/anchors/status',
    )
    expect(alertUrl(source, '/batches')).toBe('https://log.example.org/log/1/batches')
    expect(alertUrl(source, '/federation/peers')).toBe('https://log.example.org/federation/peers')
    expect(alertUrl(source, '/batchesque')).toBe('https://log.example.org/batchesque')
  })

  test('is not made up where the node does not say where it is', () => {
    expect(alertUrl({ ...source, publicUrl: '' }, '/batches/7')).toBeNull()
  })
})

describe('a webhook', () => {
  test('is of its schema, in both states and for every kind', () => {
    fc.assert(
      fc.property(kind, fc.boolean(), (k, isOver) => {
        const body = alertWebhookBody(source, { ...over, kind: k }, isOver ? 'resolved' : 'opened')
        const { type, timestamp, data } = alertWebhookSchema.parse(JSON.parse(body))
        expect(type).toBe(isOver ? 'alert.resolved' : 'alert.opened')
        expect(timestamp).toBe(isOver ? data.clearedAt : data.openedAt)
        expect(data.runbook).toBe(runbookOf(k))
      }),
    )
  })

  test('of an opening says the same before and after the alert was cleared', () => {
    expect(alertWebhookBody(source, over, 'opened')).toBe(alertWebhookBody(source, open, 'opened'))
  })
})

describe('what Alertmanager is told', () => {
  const told = (alert: AlertFacts, from = source) =>
    (JSON.parse(alertmanagerBody(from, [alert], at)) as Record<string, unknown>[])[0]!

  test('labels are those of the facts that do not change while it is open', () => {
    const later = { ...open, detail: 'another reason', link: '/batches/8' }
    expect(told(later)['labels']).toEqual(told(open)['labels'])
    expect(told(over)['labels']).toEqual(told(open)['labels'])
    expect(told(later)['annotations']).not.toEqual(told(open)['annotations'])
  })

  test('an open one ends some time from now, one that is over when it was cleared, none before it began', () => {
    expect(told(open)['endsAt']).toBe(new Date(at.nowAt + at.validMs).toISOString())
    expect(told(over)['endsAt']).toBe(new Date(over.clearedAt).toISOString())
    fc.assert(
      fc.property(moment, fc.option(moment), moment, (openedAt, clearedAt, nowAt) => {
        const alert = { ...open, openedAt, clearedAt }
        const [one] = JSON.parse(
          alertmanagerBody(source, [alert], { nowAt, validMs: 300_000 }),
        ) as { startsAt: string; endsAt: string }[]
        expect(Date.parse(one!.endsAt)).toBeGreaterThanOrEqual(Date.parse(one!.startsAt))
      }),
    )
  })

  test('without an address the link is a path and nothing is said of where it comes from', () => {
    const alert = told(open, { ...source, publicUrl: '' })
    expect(alert).not.toHaveProperty('generatorURL')
    expect(alert['annotations']).toMatchObject({ drilldown: '/batches/7' })
  })
})

test('names are as Prometheus writes them, and each is of one kind', () => {
  const names = Object.values(alertKinds).map(({ name }) => name)
  for (const name of names) expect(name).toMatch(/^[A-Z][A-Za-z]+$/)
  expect(new Set(names).size).toBe(names.length)
})

describe('where alerts are pushed to', () => {
  const config = (key: string, value: string) =>
    parseConfig({ ORIGIN: 'a.example/log', [key]: value })

  test.each([
    ['ALERTMANAGER_URL', 'http://127.0.0.1:9093'],
    ['ALERTMANAGER_URL', 'https://user:p%40ss@am.internal/prefix'],
    ['ALERT_WEBHOOK_URL', 'http://10.0.0.7/told?key=s3cr3t'],
  ])('%s may be %s: private addresses are the operator’s own', (key, value) => {
    const { alertmanagerUrl, alertWebhookUrl } = config(key, value)
    expect(alertmanagerUrl + alertWebhookUrl).toBe(value)
  })

  test.each([
    ['ALERTMANAGER_URL', 'am.internal:9093'],
    ['ALERTMANAGER_URL', 'ftp://s3cr3t@am.internal'],
    ['ALERTMANAGER_URL', 'http://am.internal/?s3cr3t'],
    ['ALERTMANAGER_URL', 'http://am.internal/#s3cr3t'],
    ['ALERTMANAGER_URL', 'http://user:s3cr3t%zz@am.internal'],
    ['ALERT_WEBHOOK_URL', 's3cr3t'],
    ['ALERT_WEBHOOK_URL', 'https://user:s3cr3t@hooks.example/told'],
  ])('%s may not be %s, and the refusal does not quote it', (key, value) => {
    let said = ''
    try {
      config(key, value)
    } catch (error) {
      said = String(error)
    }
    expect(said).toContain(`${key}: must be`)
    expect(said).not.toMatch(/s3cr3t|am\.internal/)
  })
})
