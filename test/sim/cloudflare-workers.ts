/** What `cloudflare:workers` gives a Durable Object, for classes that run in the simulation. */
export class DurableObject {
  protected readonly ctx: unknown
  protected readonly env: unknown

  constructor(ctx: unknown, env: unknown) {
    this.ctx = ctx
    this.env = env
  }
}
