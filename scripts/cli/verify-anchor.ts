/**
 * verify-anchor: is this root anchored, verified and final on the chains you name? Offline, from receipt
 * files; --online also asks the chains. The plan's `verify_anchor --root`.
 *
 * A chain is OK if one receipt of it verifies and was not revoked. Nothing in a file is believed: the root,
 * transaction, block and time are derived from the proof's bytes, and trust comes from the caller.
 */

import {
  closeSync,
  constants,
  existsSync,
  fstatSync,
  openSync,
  readdirSync,
  readFileSync,
} from 'node:fs'
import { join } from 'node:path'
import {
  anchorReceiptSchema,
  isDevChain,
  isDevNetwork,
  type AnchorReceipt,
  type AnchorVerdict,
  type Chain,
} from '#core/anchor-receipt.ts'
import { verifyAnchorReceipt } from '#core/anchor-verify.ts'
import { VaultMeshError } from '#core/errors.ts'
import { parseStrictJson } from '#core/strict-json.ts'
import { RECEIPTS_DIR } from '../receipt-files.ts'
import { askChain } from './chain.ts'
import {
  arity,
  Exit,
  text,
  UsageError,
  type Command,
  type ExitCode,
  type Terminal,
  type Values,
} from './command.ts'
import { pinsOf, trustOptions, TRUST_HELP, type Pins } from './trust.ts'

/** A receipt's proof has at most 100 kB of transaction and a header's worth of trie, in hex, or 90 kB of token. */
const MAX_BYTES = 1_048_576

const CHAINS = { btc: 'BTC', evm: 'EVM', tsa: 'TSA' } as const

/** How it stands with one chain; the first receipt that is OK decides, else the gravest finding. */
interface Finding {
  readonly chain: Chain
  readonly exit: ExitCode
  readonly detail: string
  readonly file?: string
  readonly receipt?: AnchorReceipt
}

export const verifyAnchor: Command = {
  name: 'verify-anchor',
  summary: 'Verify that a root is anchored, offline or by asking the chains',
  usage: '--root 0x… [--btc] [--evm] [--tsa] [--online]',
  help: `  --root 0x…      the log root: 0x and 64 hex digits
  --btc --evm --tsa  the chains that must hold it; without any: every chain there is a receipt of
  --online        also ask: the block of each receipt must be on the chain ($BTC_URLS, $EVM_URLS or --secrets)
  --secrets DIR   SOPS files with BTC_URLS and EVM_URLS (default secrets, if it is there)
  --receipts DIR  where the receipts are (default ${RECEIPTS_DIR})
${TRUST_HELP}
  prints OK for each chain; exit 0 if all are verified and final, 1 refuted, 3 no receipt yet,
  4 a chain could not be asked, 5 vouched for by nobody you trust, or on a dev chain though your trust
  file does not say that the log is of a dev network`,
  options: {
    ...trustOptions,
    root: { type: 'string' },
    btc: { type: 'boolean', default: false },
    evm: { type: 'boolean', default: false },
    tsa: { type: 'boolean', default: false },
    online: { type: 'boolean', default: false },
    secrets: { type: 'string' },
    receipts: { type: 'string' },
  },
  async run(args, values, terminal) {
    arity(args, 0, 0)
    const root = text(values, 'root')?.toLowerCase()
    if (root === undefined || !/^0x[0-9a-f]{64}$/.test(root)) {
      throw new UsageError('--root is 0x and 64 hex digits.')
    }
    const trust = await pinsOf(values)
    const dir = text(values, 'receipts') ?? RECEIPTS_DIR
    const files = filesOf(dir, root)
    const chains = chainsAsked(values, files)
    const findings: Finding[] = []
    for (const chain of chains)
      findings.push(await judge({ chain, dir, files, root, trust }, values))
    const first = ORDER.find((exit) => findings.some((finding) => finding.exit === exit))
    const exit = findings.length === 0 ? Exit.pending : (first ?? Exit.ok)
    const none = `–  no receipt of ${root} in ${dir}: fetch them with vaultmesh receipts export`
    return {
      exit,
      value: { root, exit, chains: findings },
      lines: findings.length === 0 ? [none] : findings.map((finding) => lineOf(finding, terminal)),
    }
  },
}

/** Gravest first. */
const ORDER: readonly ExitCode[] = [Exit.refuted, Exit.untrusted, Exit.unreachable, Exit.pending]

function filesOf(dir: string, root: string): readonly string[] {
  if (!existsSync(dir)) return []
  return readdirSync(dir)
    .filter((name) => name.startsWith(`${root}.`) && name.endsWith('.json'))
    .sort()
}

function chainsAsked(values: Values, files: readonly string[]): readonly Chain[] {
  const named = Object.entries(CHAINS).filter(([option]) => values[option] === true)
  if (named.length > 0) return named.map(([, chain]) => chain)
  return Object.values(CHAINS).filter((chain) => files.some((name) => chainOf(name) === chain))
}

function chainOf(file: string): string {
  return file.split('.')[1] ?? ''
}

async function judge(
  {
    chain,
    dir,
    files,
    root,
    trust,
  }: {
    readonly chain: Chain
    readonly dir: string
    readonly files: readonly string[]
    readonly root: string
    readonly trust: Pins
  },
  values: Values,
): Promise<Finding> {
  const findings: Finding[] = []
  const own = files.filter((name) => chainOf(name) === chain && !name.endsWith('.revoked.json'))
  for (const file of own) {
    const finding = await judgeFile({ chain, root, trust, path: join(dir, file) }, values)
    const isRevoked = files.includes(file.replace(/\.json$/, '.revoked.json'))
    const judged = isRevoked
      ? { chain, exit: Exit.refuted, detail: 'the receipt was revoked' }
      : finding
    findings.push({ ...judged, file: join(dir, file) })
    if (judged.exit === Exit.ok) return findings.at(-1)!
  }
  const gravest = ORDER.map((exit) => findings.find((finding) => finding.exit === exit))
  return (
    gravest.find((finding) => finding !== undefined) ?? {
      chain,
      exit: Exit.pending,
      detail: `no receipt in ${dir}`,
    }
  )
}

async function judgeFile(
  {
    chain,
    root,
    trust,
    path,
  }: {
    readonly chain: Chain
    readonly root: string
    readonly trust: Pins
    readonly path: string
  },
  values: Values,
): Promise<Finding> {
  let value: unknown
  try {
    value = parseStrictJson(readSmall(path), { code: 'bad-receipt', name: 'The file' })
  } catch (error) {
    // What a system says of a file is for people; nothing of its content is quoted.
    const detail = error instanceof Error ? error.message : 'unreadable'
    return { chain, exit: Exit.refuted, detail: `${path}: ${detail}` }
  }
  const parsed = anchorReceiptSchema.safeParse(value)
  if (!parsed.success || parsed.data.root !== root || parsed.data.chain !== chain) {
    const detail = `${path}: it is no receipt of this root and chain`
    return { chain, exit: Exit.refuted, detail }
  }
  const receipt = parsed.data
  const verdict = await verifyAnchorReceipt(receipt, trust)
  // What refutes itself needs nobody's word, and no chain answers for a token.
  if (values['online'] !== true || chain === 'TSA' || verdict.outcome === 'refuted') {
    return { chain, receipt, ...said(verdict, { receipt, trust, asked: '' }) }
  }
  const answer = await askChain(receipt, { secrets: text(values, 'secrets') })
  if (answer.outcome !== 'confirmed') {
    const exit = answer.outcome === 'refuted' ? Exit.refuted : Exit.unreachable
    return { chain, exit, detail: answer.reason, receipt }
  }
  const known = answer.evmBlock === null ? trust : { ...trust, evmBlocks: [answer.evmBlock] }
  const online = await verifyAnchorReceipt(receipt, known)
  return { chain, receipt, ...said(online, { receipt, trust, asked: ` ${answer.detail}.` }) }
}

/** Text of a file of sane size; whatever else lies there (a pipe, a device) is not waited for. */
function readSmall(path: string): string {
  const file = openSync(path, constants.O_RDONLY | constants.O_NONBLOCK)
  try {
    const stat = fstatSync(file)
    if (!stat.isFile()) throw new VaultMeshError('bad-receipt', 'It is no regular file.')
    if (stat.size > MAX_BYTES) {
      throw new VaultMeshError('bad-receipt', `It has more than ${MAX_BYTES} bytes.`)
    }
    return readFileSync(file, 'utf8')
  } finally {
    closeSync(file)
  }
}

function said(
  verdict: AnchorVerdict,
  { receipt, trust, asked }: { receipt: AnchorReceipt; trust: Pins; asked: string },
): { readonly exit: ExitCode; readonly detail: string } {
  if (verdict.outcome === 'refuted') {
    return { exit: Exit.refuted, detail: `${verdict.check}: ${verdict.reason}` }
  }
  if (verdict.outcome !== 'verified') return { exit: Exit.untrusted, detail: verdict.reason }
  const { chain, network, txHash, blockNumber, anchorTs } = receipt
  if (isDevChain(chain, network) && !trust.isDev) {
    const detail = `${network}: a dev network, and no trust file of yours says that the log is of one`
    return { exit: Exit.untrusted, detail }
  }
  const block = blockNumber === null ? '' : `, block ${blockNumber}`
  // Of chains the verdict says it.
  const dev = chain === 'TSA' && isDevNetwork(chain, network) ? ' (a dev network)' : ''
  const detail = `${network}${dev}: ${txHash}${block}, before ${anchorTs}. ${verdict.trust}${asked}`
  return { exit: Exit.ok, detail }
}

function lineOf({ chain, exit, detail }: Finding, terminal: Terminal): string {
  if (exit === Exit.ok) return `${terminal.paint('green', 'OK')}  ${chain} ${detail}`
  const word = {
    [Exit.refuted]: 'REFUTED',
    [Exit.untrusted]: 'UNTRUSTED',
    [Exit.unreachable]: 'UNREACHABLE',
    [Exit.pending]: 'PENDING',
    [Exit.usage]: 'USAGE',
  }[exit]
  return `${terminal.paint(exit === Exit.refuted ? 'red' : 'yellow', word)}  ${chain} ${detail}`
}
