/**
 * What each step of a verification means, in words, and which of its values are worth seeing.
 *
 * `{name}` stands for a value of the step. The checks of an anchor's proof have names of their own for each kind
 * of proof; one that is missing here is shown by its name.
 */

import type { StepName } from '#core/receipt-steps.ts'

/** Words, and the values shown under them: label, then the value's name. */
export type Words = readonly [words: string, ...shown: (readonly [label: string, value: string])[]]

/** Steps of the receipt itself, those of an anchor's proof apart. */
export const STEPS: Readonly<Record<Exclude<StepName, 'proof'>, Words>> = {
  'event-hash': [
    'SHA-256 of the event’s {bytes} bytes is the hash that the receipt is about',
    ['computed', 'computed'],
    ['in the receipt', 'expected'],
  ],
  'event-form': ['The bytes are a signed event: header, payload and limits hold'],
  'event-signature': [
    'The {alg} signature of the event’s source holds',
    ['signer', 'signer'],
    ['signed SHA-256', 'signed'],
  ],
  'event-names': ['Its id and source are those that the receipt names', ['id', 'id']],
  note: ['The checkpoint is a signed note'],
  'log-key': ['A pinned key is named like the log', ['signed by', 'signedBy']],
  'log-signature': ['The log’s key signed this checkpoint', ['key', 'key']],
  'tree-head': [
    'What it signed is a tree of {treeSize} leaves and the root that the receipt names',
    ['signed root', 'root'],
    ['in the receipt', 'claimedRoot'],
  ],
  'leaf-hash': [
    'Leaf: SHA-256 of 0x00 and the event’s hash',
    ['event', 'eventHash'],
    ['leaf', 'leafHash'],
  ],
  path: ['Leaf {leafIndex} of {treeSize}: the path has as many hashes as it must have, {hashes}'],
  'node-hash': [
    'Level {level}: SHA-256 of 0x01, left and right',
    ['left', 'left'],
    ['right', 'right'],
    ['above', 'result'],
  ],
  root: [
    'The path ends at the root that the log signed',
    ['computed', 'computed'],
    ['signed root', 'expected'],
  ],
  'anchored-root': [
    'The anchor’s receipt names this very root',
    ['signed root', 'root'],
    ['named', 'anchored'],
  ],
  consistency: [
    'The tree of {to} leaves that the anchor’s receipt names begins with this one of {from}: {hashes} hashes lead to both roots',
    ['signed root', 'root'],
    ['named', 'anchored'],
  ],
  'outside-time': ['So the root existed at {anchorTs}, as the proof’s clock says'],
}

const BLOCK: Readonly<Record<string, Words>> = {
  link: ['Each header that follows names the one before it'],
  height: ['The height is one that a block can have'],
  bits: ['The difficulty follows the rules of the network'],
  checkpoint: ['The difficulty is that of its epoch, as this code knows it'],
  work: ['Each header has the work that it claims'],
  depth: ['Enough blocks were built on top'],
  fields: ['Every field of the receipt is what the proof’s bytes say'],
}

/** Checks of a proof, by its kind. */
export const PROOFS: Readonly<Record<string, Readonly<Record<string, Words>>>> = {
  'bitcoin-tx': {
    transaction: ['The transaction’s bytes are one transaction', ['transaction', 'txHash']],
    commitment: ['One of its outputs is the root and nothing else', ['root', 'root']],
    branch: [
      'Its Merkle branch leads to the block’s header',
      ['transaction', 'txHash'],
      ['block', 'blockHash'],
    ],
    ...BLOCK,
  },
  opentimestamps: {
    ots: ['The OpenTimestamps file is well formed'],
    commitment: ['It is about this root', ['root', 'root']],
    branch: ['One of its paths leads to the block’s header', ['block', 'blockHash']],
    ...BLOCK,
  },
  'evm-tx': {
    shape: ['The proof has the form of one'],
    header: ['The block’s header is well formed', ['block', 'blockHash']],
    transaction: ['The transaction’s bytes are one transaction', ['transaction', 'txHash']],
    calldata: ['Its calldata is the root and nothing else', ['root', 'root']],
    value: ['It moves no money'],
    'chain-id': ['It was signed for this chain'],
    inclusion: ['The block’s trie of transactions leads to it', ['transaction', 'txHash']],
    signature: ['Its signature names its sender'],
    recipient: ['It was sent to its sender'],
    witness: ['Somebody you trust says that the block is final'],
    network: ['The chain is the one that the receipt names'],
    block: ['The chain has this block at its height'],
    fields: ['Every field of the receipt is what the proof’s bytes say'],
  },
  rfc3161: {
    size: ['The token is small enough to be one'],
    certificates: ['It carries certificates'],
    signer: ['Exactly one signer signed it'],
    digest: ['It names the one digest that it uses'],
    imprint: ['What it stamps is the SHA-256 of the root', ['root', 'root']],
    nonce: ['It answers the request with this nonce'],
    'not-ca': ['Its signer is no certificate authority'],
    'extended-key-usage': ['The signer’s certificate is for time-stamping and nothing else'],
    'key-usage': ['Its key may sign'],
    attributes: ['The signed attributes are about a time-stamp'],
    'message-digest': ['They hold the digest of the time-stamp'],
    'ess-cert-id': ['They name the signer’s certificate'],
    signature: ['The signature holds'],
    chain: ['The certificates lead to a root that you trust, at the time stamped'],
    fields: ['Every field of the receipt is what the token says', ['token SHA-256', 'txHash']],
  },
}
