/**
 * What the Federation Durable Object tells others, and takes from them.
 */

import type { Conflict } from '#core/fork-choice.ts'
import { VaultMeshError, type Code, type Extra } from '#core/errors.ts'
import type { FeedItem } from '../remembrancer.ts'

/** Errors do not cross an RPC with their codes; refusals do. */
export interface Refused {
  readonly refusal: { readonly code: Code; readonly detail: string; readonly extra: Extra }
}

/** A refusal as a value. Throws whatever is none. */
export function refusalOf(error: unknown): Refused {
  if (!(error instanceof VaultMeshError)) throw error
  return { refusal: { code: error.code, detail: error.message, extra: error.extra } }
}

/** An envelope that answers one. */
export type GossipAnswer = { readonly envelope: string } | Refused

/** Who may speak, for those who refuse others before they reach the object. */
export interface Admission {
  readonly nodeDid: string
  readonly lawHash: string
  readonly peers: readonly {
    readonly did: string
    readonly statements: readonly string[]
    /** The epoch that it signed two keys for: it speaks no more until that is settled. */
    readonly frozenEpoch: number | null
  }[]
}

/** A peer as GET /federation/peers shows it. */
export interface PeerView {
  readonly did: string
  readonly node_id: string | null
  readonly url: string | null
  readonly origin: string | null
  readonly vkey: string | null
  readonly keys: readonly {
    readonly epoch: number
    readonly did: string
    readonly nbf: string | null
    readonly end: string | null
  }[]
  readonly state: 'no-address' | 'unseen' | 'ok' | 'failing' | 'law-mismatch' | 'key-conflict'
  readonly lastSeen: string | null
  readonly tip: { readonly height: number; readonly treeSize: number; readonly root: string } | null
  /** Batches of the peer's own log that are known and not verified here yet. */
  readonly lag: number | null
  /** Where the peer says that it stands on each log: hearsay. */
  readonly tips: readonly {
    readonly origin: string
    readonly height: number
    readonly treeSize: number
    readonly root: string
  }[]
  readonly failures: number
  readonly nextVisit: string | null
  readonly error: string | null
  readonly faults: number
  readonly lawHash: string | null
  readonly keyConflict: { readonly epoch: number; readonly a: string; readonly b: string } | null
}

export interface PeersView {
  readonly node_did: string
  readonly lawHash: string
  readonly peers: readonly PeerView[]
  /** Refused envelopes, by code. */
  readonly refusals: Readonly<Record<string, number>>
}

/** A peer as its operator sees it. */
export interface OperatedPeer extends PeerView {
  /** Size of its newest checkpoint that this node cosigned; null for none. */
  readonly cosignedSize: number | null
  /** Whether it cosigned this node's newest checkpoint; null where its origin is not known. */
  readonly cosignsUs: boolean | null
}

export interface OperatedPeers extends Omit<PeersView, 'peers'> {
  /** The list is that of a file: what is changed elsewhere would be undone by it. */
  readonly followsFile: boolean
  readonly peers: readonly OperatedPeer[]
}

/** What /metrics shows of the federation. */
export interface FederationFigures {
  /** How many peers are in each state. */
  readonly peers: Readonly<Record<PeerView['state'], number>>
  /** Logs of which two histories are known. */
  readonly conflicts: number
  readonly quarantined: number
  /** Refused envelopes, by code; they never fall. */
  readonly refusals: Readonly<Record<string, number>>
}

/** A log as GET /federation/tips shows it. */
export interface TipView {
  readonly origin: string
  readonly did: string
  readonly own: boolean
  readonly state: 'clear' | 'decided' | 'undecided'
  readonly height: number
  readonly treeSize: number
  readonly root: string
  readonly tipAt: string | null
  /** Size up to which tiles are served here. */
  readonly mirrored: number
  readonly pending: number
}

/** A conflict with its evidence, as GET /federation/conflicts shows it. */
export interface ConflictView extends Omit<Conflict, 'candidates'> {
  readonly origin: string
  readonly candidates: readonly {
    readonly root: string
    readonly treeSize: number
    readonly proofs: readonly {
      readonly chain: string
      readonly network: string
      readonly txHash: string
      readonly anchorTs: string | null
    }[]
    readonly manifest: string
    readonly checkpoint: string
  }[]
}

/** A held root. */
export interface QuarantineView {
  readonly origin: string
  readonly height: number
  readonly root: string
  readonly treeSize: number
  readonly reason: string
  readonly until: string
  readonly manifest: string
  readonly checkpoint: string
}

export interface ConflictsView {
  readonly lawHash: string
  readonly law: object
  readonly conflicts: readonly ConflictView[]
  readonly quarantine: readonly QuarantineView[]
  /** Two roots of one size that a log signed, as witnessed here. */
  readonly rivals: readonly {
    readonly origin: string
    readonly size: number
    readonly notes: readonly [string, string]
  }[]
}

export interface MeshView {
  readonly meshRoot: string
  readonly entries: readonly {
    readonly origin: string
    readonly height: number
    readonly treeSize: number
    readonly root: string
  }[]
  /** The same query again, for another node. */
  readonly query: string
}

export interface FeedAnswer {
  readonly feedId: string
  readonly items: readonly FeedItem[]
  readonly more: boolean
}

/** A batch of a log that this node knows, as the Remembrancer serves it. */
export interface RememberedBatch {
  readonly height: number
  readonly root: string
  readonly treeSize: number
  readonly manifest: string
  readonly checkpoint: string
}

/** What the Sequencer asks before it seals. */
export interface Clearance {
  readonly ok: boolean
  readonly reason: string
}

/** Batches of a forked log, as its successor asks for them. */
export interface Branches {
  /** False while the law has not spoken on every fork of it: then there are no orphans yet. */
  readonly decided: boolean
  /** Verified batches of the histories that lost, lowest first. */
  readonly orphaned: readonly BranchBatch[]
  /** Those of the canonical history from the first fork on. */
  readonly canonical: readonly BranchBatch[]
}

export interface BranchBatch {
  readonly height: number
  /** 64 hex digits. */
  readonly root: string
  readonly batchRoot: string
  readonly count: number
}
