/**
 * What a queue is called, and which of the node's queues that is.
 *
 * wrangler.toml names them plainly. An environment on Cloudflare has its Worker's name in front (an account's queues
 * share one namespace: vaultmesh-production-seal), and log n > 1 of a node has its number behind (seal-2).
 */

/** The queues of a node, as wrangler.toml names them. None ends in `-` and another, so that a suffix names one. */
export const QUEUES = [
  'events-intake',
  'events-validated',
  'seal',
  'sealer-dlq',
  'anchor',
  'anchor-btc',
  'anchor-evm',
  'anchor-dlq',
  'webhooks',
  'alerts',
] as const
export type QueueName = (typeof QUEUES)[number]

/** Which queue `name` is, without its environment and its log's number; null if it is none of ours. */
export function queueName(name: string): QueueName | null {
  const plain = name.replace(/-\d+$/, '')
  return QUEUES.find((queue) => plain === queue || plain.endsWith(`-${queue}`)) ?? null
}
