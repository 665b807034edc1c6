/** Bindings that wrangler.toml cannot name: secrets, and what only a self-hosted node has. */
interface Env {
  /** 32 bytes as base64url: every key of the node derives from it. */
  NODE_SECRET: string
  /** Opens /admin when set. */
  ADMIN_TOKEN?: string
  /** Pays for anchors in Bitcoin: 64 hex digits or WIF. */
  BTC_PRIVATE_KEY?: string
  /** Providers of Bitcoin blocks; URLs may hold passwords. */
  BTC_URLS?: string
  /** Pays for anchors in the EVM chain: 0x and 64 hex digits. */
  EVM_PRIVATE_KEY?: string
  /** RPCs of the EVM chain; URLs may hold keys. */
  EVM_URLS?: string
  /** Proves to the identity provider that this node asks; absent for a public client. */
  OIDC_CLIENT_SECRET?: string
  /** PEM certificates that timestamp chains must end in. */
  TSA_ROOTS?: string
  /** Guards /metrics and the Guardian when set. */
  METRICS_TOKEN?: string
  /** An Alertmanager that the node tells of its alerts; may hold a password. */
  ALERTMANAGER_URL?: string
  /** A receiver of Standard Webhooks that the node tells of its alerts; may be a secret. */
  ALERT_WEBHOOK_URL?: string
  /** Self-hosted: 1 where a file says who the peers are; until it was applied, none are heard. */
  FEDERATION_FILE?: string
  /** Self-hosted: 1 where a file has the rules of intake; until it was applied, nobody may post. */
  INTAKE_FILE?: string
  /** Self-hosted: 1 where a process writes the operator's commands down before they get here. */
  AUDIT_FILES?: string
  /** Self-hosted: a way out that refuses to connect to addresses that are not public. */
  EGRESS?: Fetcher
  /** Self-hosted: names the backup that this home was put back from; its wallets wait for the operator. */
  RESTORED?: string
  /** The instance that keeps the log before this one; bound where LOG_NUMBER is above 1. */
  PREVIOUS?: Fetcher
}
