/**
 * Wallet: the one hand that signs with a key. One for each (chain, network, address), which is its name.
 *
 * Stored (SQLite), never deleted:
 *   spends    one row for each root and generation: state, and what every variant of it spends
 *   variants  every transaction that was ever signed, whole, before anybody sees it
 *   restores  backups that this wallet was put back from and an operator has released it after
 *   marked    backups that it was told it was put back from: a marker that is lost later changes nothing
 *
 * Invariants (store/wallet-api.ts has the law): at most one spend is open; variants of a spend share its inputs or
 * nonce, so a chain can hold one of them; a new spend never touches what an earlier one spent; a root
 * gets a second generation only after the first is `dead`, which its rail says when the operator lets it and a
 * foreign transaction has spent the same at final depth, or what it spends is nowhere. So nobody pays twice for one root.
 *
 * RPCs: find, history, sign, replace, settle. Gate: signing awaits no I/O, and the transaction that stores checks
 * the invariants again; an answer leaves only after it is on disk (output gate).
 */

import { DurableObject } from 'cloudflare:workers'
import { fromHex } from '#core/bytes.ts'
import { VaultMeshError } from '#core/errors.ts'
import { nodeOf } from '#store/node.ts'
import type {
  NumberedSpend,
  Price,
  SignAnswer,
  SignRequest,
  Spend,
  Variant,
  WalletApi,
} from '#store/wallet-api.ts'
import { signerOf, type Inputs, type Signer } from '../queues/anchors/wallet-signer.ts'

const SCHEMA = `
CREATE TABLE IF NOT EXISTS spends (id INTEGER PRIMARY KEY, root TEXT NOT NULL, state TEXT NOT NULL, inputs TEXT NOT NULL,
  winner TEXT, opened_at INTEGER NOT NULL, settled_at INTEGER);
CREATE INDEX IF NOT EXISTS spends_root ON spends (root);
CREATE UNIQUE INDEX IF NOT EXISTS spends_open ON spends (state) WHERE state = 'open';
CREATE TABLE IF NOT EXISTS restores (id TEXT PRIMARY KEY, released_at INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS marked (id TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS spent (what TEXT PRIMARY KEY, spend INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS variants (spend INTEGER NOT NULL, n INTEGER NOT NULL, tx_hash TEXT NOT NULL, raw TEXT NOT NULL,
  price TEXT NOT NULL, fee TEXT NOT NULL, signed_at INTEGER NOT NULL, PRIMARY KEY (spend, n)) WITHOUT ROWID;`

interface SpendRow extends Record<string, SqlStorageValue> {
  readonly id: number
  readonly root: string
  readonly state: Spend['state']
  /** JSON: coins, or a nonce. */
  readonly inputs: string
  readonly winner: string | null
}

export class Wallet extends DurableObject<Env> implements WalletApi {
  readonly #sql: SqlStorage
  #signer: Promise<Signer> | null = null

  constructor(ctx: DurableObjectState, env: Env) {
    super(ctx, env)
    this.#sql = ctx.storage.sql
    this.#sql.exec(SCHEMA)
    const restored = env.RESTORED ?? ''
    if (restored !== '') this.#sql.exec('INSERT OR IGNORE INTO marked (id) VALUES (?)', restored)
  }

  async find(root: string): Promise<Spend | null> {
    const row = this.#newest(root)
    return row === null || row.state === 'dead' ? null : this.#spendOf(row)
  }

  async history(after: number, limit: number): Promise<readonly NumberedSpend[]> {
    return this.#sql
      .exec<SpendRow>('SELECT * FROM spends WHERE id > ? ORDER BY id LIMIT ?', after, limit)
      .toArray()
      .map((row) => ({ id: row.id, ...this.#spendOf(row) }))
  }

  async sign(request: SignRequest): Promise<SignAnswer> {
    const signer = await this.#load()
    const known = this.#newest(request.root)
    if (known !== null && known.state !== 'dead') return { spend: this.#spendOf(known) }
    const open = this.#open()
    if (open !== null) return { busy: open.root }
    if (this.#isRestored(request.isRestoreReleased === true)) return { held: 'restored' }
    const prepared = signer.prepare(request, (what) => this.#isSpent(what), this.#nextNonce())
    if ('held' in prepared) return prepared
    const signed = await signer.sign(fromHex(request.root), prepared.inputs, request.price)
    if ('held' in signed) return signed
    return this.ctx.storage.transactionSync(() => {
      // Two requests for one root at once: the first one stands.
      const stored = this.#newest(request.root)
      if (stored !== null && stored.state !== 'dead') return { spend: this.#spendOf(stored) }
      const other = this.#open()
      if (other !== null) return { busy: other.root }
      const whats = namesOf(prepared.inputs)
      if (whats.some((what) => this.#isSpent(what))) {
        throw new VaultMeshError('bad-state', 'The wallet was asked to spend what it has spent.')
      }
      const { id } = this.#sql
        .exec<{ id: number }>(
          "INSERT INTO spends (root, state, inputs, opened_at) VALUES (?, 'open', ?, ?) RETURNING id",
          request.root,
          JSON.stringify(prepared.inputs),
          Date.now(),
        )
        .one()
      for (const what of whats) {
        this.#sql.exec('INSERT INTO spent (what, spend) VALUES (?, ?)', what, id)
      }
      this.#keep(id, 0, signed)
      return { spend: this.#spendOf(this.#newest(request.root)!) }
    })
  }

  async replace(root: string, price: Price): Promise<SignAnswer> {
    const signer = await this.#load()
    const row = this.#newest(root)
    if (row === null || row.state === 'dead') {
      throw new VaultMeshError('bad-state', 'The wallet has signed nothing for this root.')
    }
    const spend = this.#spendOf(row)
    if (row.state !== 'open' || !isHigher(price, spend.variants.at(-1)!.price)) return { spend }
    const inputs = JSON.parse(row.inputs) as Inputs
    const signed = await signer.sign(fromHex(root), inputs, price)
    if ('held' in signed) return signed
    return this.ctx.storage.transactionSync(() => {
      const now = this.#newest(root)!
      // Two replacements at once: the first one stands.
      if (now.id === row.id && now.state === 'open') {
        const n = this.#count(row.id)
        if (n === spend.variants.length) this.#keep(row.id, n, signed)
      }
      return { spend: this.#spendOf(this.#newest(root)!) }
    })
  }

  async settle(root: string, winner: string | null): Promise<void> {
    this.ctx.storage.transactionSync(() => {
      const row = this.#newest(root)
      if (row === null || row.state === 'dead') return
      // A final spend whose coins a deep reorganisation gave to somebody else is as dead as an open one.
      if (row.state === 'final' && winner !== null) return
      if (winner !== null && !this.#variants(row.id).some(({ txHash }) => txHash === winner)) {
        throw new VaultMeshError('bad-state', 'The wallet never signed the transaction that won.')
      }
      this.#sql.exec(
        'UPDATE spends SET state = ?, winner = ?, settled_at = ? WHERE id = ?',
        winner === null ? 'dead' : 'final',
        winner,
        Date.now(),
        row.id,
      )
    })
  }

  /** The key, read once; throws `bad-config` if this Wallet is not that key's. */
  #load(): Promise<Signer> {
    this.#signer ??= nodeOf(this.env)
      .then(({ config }) => signerOf(config, this.ctx.id.name ?? ''))
      .catch((error: unknown) => {
        this.#signer = null
        throw error
      })
    return this.#signer
  }

  /** True while this wallet may have forgotten what it signed: until the operator who was told of it has looked. */
  #isRestored(isReleased: boolean): boolean {
    if (isReleased) {
      this.#sql.exec(
        'INSERT INTO restores (id, released_at) SELECT id, ? FROM marked WHERE true ON CONFLICT DO NOTHING',
        Date.now(),
      )
    }
    const held = 'SELECT 1 FROM marked WHERE id NOT IN (SELECT id FROM restores) LIMIT 1'
    return this.#sql.exec(held).toArray().length > 0
  }

  #newest(root: string): SpendRow | null {
    return (
      this.#sql
        .exec<SpendRow>('SELECT * FROM spends WHERE root = ? ORDER BY id DESC LIMIT 1', root)
        .toArray()[0] ?? null
    )
  }

  #open(): SpendRow | null {
    return (
      this.#sql.exec<SpendRow>("SELECT * FROM spends WHERE state = 'open'").toArray()[0] ?? null
    )
  }

  #isSpent(what: string): boolean {
    return this.#sql.exec('SELECT 1 FROM spent WHERE what = ?', what).toArray().length > 0
  }

  /** One above every nonce that was ever signed: a provider that lags must not lead back. */
  #nextNonce(): number {
    const { next } = this.#sql
      .exec<{
        next: number | null
      }>(
        "SELECT max(CAST(substr(what, 7) AS INTEGER)) + 1 AS next FROM spent WHERE what LIKE 'nonce:%'",
      )
      .one()
    return next ?? 0
  }

  #count(spend: number): number {
    return this.#sql
      .exec<{ n: number }>('SELECT count(*) AS n FROM variants WHERE spend = ?', spend)
      .one().n
  }

  #keep(spend: number, n: number, variant: Omit<Variant, 'signedAt'>): void {
    this.#sql.exec(
      'INSERT INTO variants (spend, n, tx_hash, raw, price, fee, signed_at) VALUES (?, ?, ?, ?, ?, ?, ?)',
      spend,
      n,
      variant.txHash,
      variant.raw,
      JSON.stringify(variant.price),
      variant.fee,
      Date.now(),
    )
  }

  #variants(spend: number): Variant[] {
    return this.#sql
      .exec<{
        tx_hash: string
        raw: string
        price: string
        fee: string
        signed_at: number
      }>(
        'SELECT tx_hash, raw, price, fee, signed_at FROM variants WHERE spend = ? ORDER BY n',
        spend,
      )
      .toArray()
      .map((v) => ({
        txHash: v.tx_hash,
        raw: v.raw,
        price: JSON.parse(v.price) as Price,
        fee: v.fee,
        signedAt: v.signed_at,
      }))
  }

  #spendOf(row: SpendRow): Spend {
    const { id, root, state } = row
    const inputs = JSON.parse(row.inputs) as Inputs
    return { root, state, spends: namesOf(inputs), variants: this.#variants(id) }
  }
}

/** Names of what is spent, as `Spend.spends` has them. */
function namesOf(inputs: Inputs): string[] {
  if ('nonce' in inputs) return [`nonce:${inputs.nonce}`]
  return inputs.coins.map(({ txid, vout }) => `${txid}:${vout}`)
}

/** Would miners prefer it? EVM clients want both fees higher. */
function isHigher(next: Price, last: Price): boolean {
  if (next.chain === 'BTC' && last.chain === 'BTC') return next.feerate > last.feerate
  if (next.chain !== 'EVM' || last.chain !== 'EVM') return false
  return (
    BigInt(next.maxFeePerGas) > BigInt(last.maxFeePerGas) &&
    BigInt(next.maxPriorityFeePerGas) > BigInt(last.maxPriorityFeePerGas)
  )
}
