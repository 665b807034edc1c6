/**
 * Cron: one table of jobs. Each derives its work from storage, never from the tick, so that a missed or
 * doubled tick changes nothing but the moment. Features add rows.
 */

/** A job and the expression under which the platform fires it. */
export interface Job {
  readonly cron: string
  readonly name: string
  run(env: Env, nowAt: number): Promise<void>
}

/** Runs every job of an expression; one that fails does not keep the others from running. */
export async function runCron(
  jobs: readonly Job[],
  cron: string,
  env: Env,
  nowAt: number,
): Promise<void> {
  const failures: string[] = []
  for (const job of jobs.filter((j) => j.cron === cron)) {
    try {
      await job.run(env, nowAt)
    } catch (error) {
      failures.push(job.name)
      console.error(
        JSON.stringify({
          level: 'error',
          msg: 'cron job failed',
          job: job.name,
          error: String(error),
        }),
      )
    }
  }
  if (failures.length > 0) throw new Error(`cron jobs failed: ${failures.join(', ')}`)
}
