/**
 * The platform's limit on connections, where the Worker says `fetch` (scripts/build.ts, `inject`): at most six may
 * wait for the headers of their answers (Workers, "Simultaneous open connections").
 *
 * The platform lets a seventh wait behind the others; here it fails, so that a test sees it. Counted over
 * the whole isolate, which is stricter than by invocation. Each new maximum, and each fetch that is one too
 * many, is logged as `{"shim":"six-connections","waiting":n}`.
 */

const LIMIT = 6

let waiting = 0
let most = 0

const sixFetch: typeof fetch = async (input, init) => {
  const isOver = waiting >= LIMIT
  if (isOver || waiting >= most) {
    most = Math.max(most, waiting + 1)
    console.log(JSON.stringify({ shim: 'six-connections', waiting: waiting + 1 }))
  }
  if (isOver) throw new Error('a seventh connection at once')
  waiting++
  try {
    return await fetch(input, init)
  } finally {
    waiting--
  }
}

// Within this file the name means the platform's own.
export { sixFetch as fetch }
