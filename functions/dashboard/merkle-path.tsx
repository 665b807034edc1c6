/**
 * The way of a leaf to the root, drawn: at each level the hash from below and its sibling of the proof make the next.
 *
 * The drawing lies down: a level is a row, the leaf at the bottom and the root on top, as trees are drawn. Each row has
 * `data-level`, so that the check in the browser can mark what it has proven. A table says the same in words.
 */

import { toHex } from '#core/bytes.ts'
import type { Level } from '#core/inclusion-proof.ts'
import { Twin } from './chart.tsx'

/** What is drawn. */
export interface MerklePathProps {
  /** 64 hex digits. */
  readonly leafHash: string
  readonly leafIndex: number
  readonly treeSize: number
  readonly levels: readonly Level[]
}

const ROW = 46
const WIDTH = 460
const BOX = { width: 136, height: 26 }
const CENTER = WIDTH / 2
/** Where a sibling stands, and where the path itself does on that level. */
const SIDE = { left: 78, right: WIDTH - 78 }

/** The drawing and its table. */
export function MerklePath({ leafHash, leafIndex, treeSize, levels }: MerklePathProps) {
  const height = levels.length * ROW + BOX.height + 4
  const y = (level: number): number => height - 2 - BOX.height - level * ROW
  const root = levels.length === 0 ? leafHash : toHex(levels.at(-1)!.hash)
  const way = [leafHash, ...levels.map(({ hash }) => toHex(hash))]
  // A node stands in the middle, but below a parent it shares the row with its sibling.
  const x = (level: number): number => {
    const parent = levels[level]
    if (parent === undefined) return CENTER
    return parent.sibling === 'left' ? SIDE.right : SIDE.left
  }
  const said =
    levels.length === 0
      ? `Leaf ${leafIndex} is the only one, its hash is the root`
      : `Leaf ${leafIndex} leads by ${levels.length} sibling hashes to the root ${root.slice(0, 16)} of ${treeSize} leaves`
  return (
    <>
      <svg class="path" viewBox={`0 0 ${WIDTH} ${height}`} role="img" aria-label={said}>
        {levels.map(({ sibling }, i) => (
          <>
            <path class="edge way" d={edge(x(i), y(i), x(i + 1), y(i + 1))} />
            <path
              class="edge"
              d={edge(sibling === 'left' ? SIDE.left : SIDE.right, y(i), x(i + 1), y(i + 1))}
            />
          </>
        ))}
        {levels.map((level, i) => (
          <Node
            kind="sibling"
            level={i}
            x={level.sibling === 'left' ? SIDE.left : SIDE.right}
            y={y(i)}
            text={head(toHex(level.sibling === 'left' ? level.left : level.right))}
          />
        ))}
        {way.map((hash, i) => (
          <Node
            kind={i === levels.length ? 'way root' : 'way'}
            level={i}
            x={x(i)}
            y={y(i)}
            text={`${i === levels.length ? 'root ' : i === 0 ? 'leaf ' : ''}${head(hash, i === levels.length || i === 0 ? 8 : 12)}`}
          />
        ))}
      </svg>
      <Twin
        caption="The path, from the leaf to the root"
        columns={[{ head: 'Level' }, { head: 'Left' }, { head: 'Right' }, { head: 'Hash of both' }]}
        rows={levels.map(({ left, right, hash, sibling }, i) => [
          String(i + 1),
          `${toHex(left)}${sibling === 'left' ? ' (from the proof)' : ''}`,
          `${toHex(right)}${sibling === 'right' ? ' (from the proof)' : ''}`,
          toHex(hash),
        ])}
      />
    </>
  )
}

function head(hash: string, digits = 12): string {
  return `${hash.slice(0, digits)}…`
}

/** From the top of a node to the bottom of its parent. */
function edge(x: number, y: number, parentX: number, parentY: number): string {
  const from = parentY + BOX.height
  const middle = (y + from) / 2
  return `M${x} ${y}V${middle}H${parentX}V${from}`
}

function Node({
  kind,
  level,
  x,
  y,
  text,
}: {
  readonly kind: string
  readonly level: number
  readonly x: number
  readonly y: number
  readonly text: string
}) {
  return (
    <g class={kind} data-level={level}>
      <rect x={x - BOX.width / 2} y={y} width={BOX.width} height={BOX.height} rx="5" />
      <text x={x} y={y + 17.5} text-anchor="middle">
        {text}
      </text>
    </g>
  )
}
