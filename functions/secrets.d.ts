/** Bindings that are secrets, so that wrangler.toml cannot name their values. */
interface Env {
  /** 32 bytes as base64url: every key of the node derives from it. */
  NODE_SECRET: string
  /** Opens /admin when set. */
  ADMIN_TOKEN?: string
  /** PEM certificates that timestamp chains must end in. */
  TSA_ROOTS?: string
}
