#!/usr/bin/env python3
"""Verifies that a root stands in Bitcoin, from a receipt file alone.

Written from the formats alone, with Python's standard library alone:
  transactions and block headers   https://developer.bitcoin.org/reference (serialization, merkle trees, nBits)
  BIP 141 (a txid leaves the witness out), BIP 34 (nothing here needs it)

    read_bitcoin_anchor.py FILE [--root HEX] [--chain-tip HASH]

FILE is an anchor receipt with a proof of type "bitcoin-tx", or the receipt of an event, whose anchors of that
type are then all verified (that the event's tree leads to their root is read_log.py's to say). --root names
the root that must be in it; --chain-tip a block hash that the last header must have.

Each transaction is parsed, its one OP_RETURN must push the root and nothing else, its txid climbs the
branch to the header's Merkle root, each header names the one before and meets its own target, and the six
on top are as hard as the first. What this cannot know is which chain is the longest: that takes a node.

One line for each check. Exit status: 0 all hold, 1 one does not, 2 usage.
"""

import argparse
import hashlib
import json
from datetime import datetime, timezone

HEADER = 80
# Above the easiest target that each network allows nothing counts as work.
LIMITS = {
    "mainnet": 0xFFFF << 208,
    "signet": 0x0377AE << 216,
    "regtest": 0x7FFFFF << 232,
}
OP_RETURN_32 = b"\x6a\x20"


class Refused(Exception):
    """A check that does not hold."""


def hash256(data):
    return hashlib.sha256(hashlib.sha256(data).digest()).digest()


def unhex(text, what):
    if not isinstance(text, str) or text != text.lower():
        raise Refused(f"{what} is not lowercase hex")
    try:
        return bytes.fromhex(text)
    except ValueError:
        raise Refused(f"{what} is not hex") from None


class Reader:
    """Takes bytes off the front, and refuses to run past the end."""

    def __init__(self, data):
        self.data, self.at = data, 0

    def take(self, n):
        if n > len(self.data) - self.at:
            raise Refused("transaction: it ends early")
        self.at += n
        return self.data[self.at - n : self.at]

    def number(self, n):
        return int.from_bytes(self.take(n), "little")

    def size(self):
        first = self.number(1)
        if first < 0xFD:
            return first
        width, least = {0xFD: (2, 0xFD), 0xFE: (4, 1 << 16), 0xFF: (8, 1 << 32)}[first]
        n = self.number(width)
        if n < least:
            raise Refused("transaction: a length is not written in its shortest form")
        return n


def read_transaction(data):
    """Serialized without witness -> (txid, output scripts)."""
    # 64 bytes could be two hashes of the tree instead.
    if len(data) == 64:
        raise Refused("transaction: 64 bytes may be an inner node of the tree")
    r = Reader(data)
    r.take(4)
    inputs = r.size()
    if inputs == 0:
        raise Refused("transaction: it has no input, or carries its witness")
    for _ in range(inputs):
        r.take(36)
        r.take(r.size())
        r.take(4)
    scripts = []
    for _ in range(r.size()):
        r.take(8)
        scripts.append(r.take(r.size()))
    r.take(4)
    if r.at != len(data):
        raise Refused("transaction: bytes follow it")
    return hash256(data), scripts


def climb(txid, branch, position):
    """The Merkle root above a transaction."""
    node = txid
    for sibling in branch:
        if len(sibling) != 32:
            raise Refused("branch: a sibling is not 32 bytes")
        # A right child equal to its left one is how CVE-2012-2459 doubles transactions.
        if position & 1 and sibling == node:
            raise Refused("branch: a sibling is its own pair")
        node = hash256(sibling + node if position & 1 else node + sibling)
        position >>= 1
    if position != 0:
        raise Refused("branch: the position lies outside the tree")
    return node


def target_of(bits):
    exponent, mantissa = bits >> 24, bits & 0x7FFFFF
    if bits & 0x800000 or mantissa == 0:
        raise Refused("headers: the target is negative or zero")
    return mantissa << 8 * (exponent - 3) if exponent > 3 else mantissa >> 8 * (3 - exponent)


def climb_headers(headers, network):
    """Hash of the last header; each must name the one before it and be worth its target."""
    if network not in LIMITS:
        raise Refused(f"network: {network} is none that this program knows")
    before, bits = None, headers[0][72:76]
    for header in headers:
        if len(header) != HEADER:
            raise Refused("headers: one is not 80 bytes")
        if before is not None and header[4:36] != before:
            raise Refused("headers: one does not follow the one before it")
        before = hash256(header)
        # Within so few blocks the difficulty changes at most once, by a factor of four at most.
        target = target_of(int.from_bytes(header[72:76], "little"))
        first = target_of(int.from_bytes(bits, "little"))
        if target > LIMITS[network] or target > 4 * first:
            raise Refused("headers: a target is too easy")
        if int.from_bytes(before, "little") > target:
            raise Refused("headers: one does not meet its target")
    return before


def verify(anchor, root):
    """Raises Refused, or returns (txid, header time, confirmations, hash of the last header)."""
    proof = anchor["proof"]
    named = unhex(anchor["root"][2:], "root")
    if len(named) != 32 or not anchor["root"].startswith("0x"):
        raise Refused("root: it is not 32 bytes")
    if root is not None and named != root:
        raise Refused("root: the receipt is about another one")
    txid, scripts = read_transaction(unhex(proof["rawTx"], "rawTx"))
    returns = [script for script in scripts if script[:1] == OP_RETURN_32[:1]]
    if returns != [OP_RETURN_32 + named]:
        raise Refused("commitment: the transaction's OP_RETURN is not the root")
    if anchor["txHash"] != txid[::-1].hex() or anchor["txHash"] not in anchor["group"]:
        raise Refused("txHash: it is not that of the transaction")
    texts = [proof["header"], *proof["following"]]
    headers = [unhex(text, "header") for text in texts]
    last = climb_headers(headers, anchor["network"])
    branch = [unhex(text, "branch") for text in proof["branch"]]
    if climb(txid, branch, proof["position"]) != headers[0][36:68]:
        raise Refused("branch: it does not lead to the header's Merkle root")
    depth = len(headers)
    finality = anchor["finality"]
    if depth < max(7, finality["requiredDepth"]) or depth != finality["observedDepth"]:
        raise Refused(f"finality: {depth} confirmations are in the proof")
    seconds = int.from_bytes(headers[0][68:72], "little")
    time = datetime.fromtimestamp(seconds, timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.000Z")
    if time != anchor["anchorTs"]:
        raise Refused("anchorTs: it is not the header's time")
    return anchor["txHash"], time, depth, last[::-1].hex()


def anchors_in(receipt):
    """The Bitcoin anchors of a file: itself, or those it lists."""
    listed = receipt["anchors"] if "anchors" in receipt else [receipt]
    return [a for a in listed if a.get("proof", {}).get("type") == "bitcoin-tx"]


def main():
    usage = argparse.ArgumentParser(description="Verify a Bitcoin anchor from its receipt.")
    usage.add_argument("file")
    usage.add_argument("--root")
    usage.add_argument("--chain-tip")
    given = usage.parse_args()
    try:
        with open(given.file, encoding="utf-8") as file:
            receipt = json.load(file)
        root = None if given.root is None else bytes.fromhex(given.root.removeprefix("0x"))
    except (OSError, ValueError) as error:
        usage.error(str(error))
    try:
        anchors = anchors_in(receipt)
        if not anchors:
            raise Refused("there is no Bitcoin transaction in this receipt")
        for anchor in anchors:
            txid, time, depth, last = verify(anchor, root)
            print(f"transaction: {txid} holds {anchor['root']}")
            print(f"block: before {time}, {depth} confirmations in the file, up to {last}")
            if given.chain_tip is not None and given.chain_tip != last:
                raise Refused("chain tip: the last header is another")
    except (Refused, KeyError, TypeError, AttributeError, IndexError) as error:
        what = error if isinstance(error, Refused) else f"the receipt is malformed ({error!r})"
        print(f"refused: {what}")
        return 1
    dev = "" if anchors[0]["network"] == "mainnet" else f" on {anchors[0]['network']}, a dev network"
    print(f"verified: the root stands in Bitcoin{dev}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
