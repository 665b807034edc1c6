#!/usr/bin/python3
"""An OpenTimestamps calendar over a regtest bitcoind, for devnet and tests: a stand-in for the public ones.

The proofs are made by python-opentimestamps alone (Debian: python3-opentimestamps), so that our own reader
and writer of them meet somebody else's work. What a public calendar does differently: it aggregates
requests by the second, replaces its transaction with each block, and waits for mainnet.

    VAULTMESH_CALENDAR_RPC=http://user:pass@127.0.0.1:PORT ots-calendar.py --port N --uri URL --wallet NAME
        --confirmations N --state FILE

  POST /digest           at most 64 bytes in, the tree from them to a pending attestation out
  GET /timestamp/<hex>   the tree from a pending commitment to the block header, 404 with a reason before
  POST /devnet/anchor    ours: commits to all that is pending in a transaction of the node's wallet

The RPC URL holds a password: it comes in the environment, not on the command line. The state file holds what
is promised; a calendar that forgets it has broken its promises.
"""

import argparse
import base64
import binascii
import hashlib
import hmac
import json
import os
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from bitcoin.core import CBlock, x
from opentimestamps.bitcoin import make_timestamp_from_block
from opentimestamps.core.notary import PendingAttestation
from opentimestamps.core.op import OpAppend, OpPrepend, OpSHA256
from opentimestamps.core.serialize import BytesSerializationContext
from opentimestamps.core.timestamp import Timestamp, make_merkle_tree

MAX_DIGEST = 64
# An operation's argument and result have at most 4,096 bytes.
MAX_TX = 3000


class RpcError(Exception):
    pass


class Node:
    """JSON-RPC of the bitcoind at a URL with user and password in it."""

    def __init__(self, url, wallet):
        parts = urllib.parse.urlsplit(url)
        self.url = f"http://{parts.hostname}:{parts.port}/wallet/{wallet}"
        user = f"{parts.username}:{parts.password}".encode()
        self.headers = {"Authorization": "Basic " + base64.b64encode(user).decode()}

    def __call__(self, method, *params):
        body = json.dumps({"id": 1, "method": method, "params": params}).encode()
        request = urllib.request.Request(self.url, body, self.headers)
        try:
            with urllib.request.urlopen(request, timeout=30) as response:
                answer = json.load(response)
        except urllib.error.HTTPError as error:
            # A refusal is HTTP 500 with JSON, or 401 without.
            text = error.read()
            answer = json.loads(text) if text[:1] == b"{" else {"error": f"HTTP {error.code}"}
        if answer.get("error"):
            raise RpcError(f"{method}: {answer['error']}")
        return answer["result"]


class Calendar:
    """The promises: commitments that are pending, and batches that have a transaction."""

    def __init__(self, node, uri, confirmations, path):
        self.node, self.uri, self.confirmations, self.path = node, uri, confirmations, path
        self.lock = threading.Lock()
        self.key, self.pending, self.batches = os.urandom(32), [], []
        if os.path.exists(path):
            with open(path) as file:
                state = json.load(file)
            self.key = bytes.fromhex(state["key"])
            self.pending, self.batches = state["pending"], state["batches"]

    def save(self):
        state = {"key": self.key.hex(), "pending": self.pending, "batches": self.batches}
        part = self.path + ".part"
        with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            json.dump(state, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, self.path)

    def submit(self, digest):
        """The tree from digest to the promise; the promise is on disk when it is given."""
        stamp = Timestamp(digest)
        blinded = stamp.ops.add(OpAppend(os.urandom(16))).ops.add(OpSHA256())
        dated = blinded.ops.add(OpPrepend(int(time.time()).to_bytes(4, "big")))
        mac = hmac.new(self.key, dated.msg, hashlib.sha256).digest()[:8]
        commitment = dated.ops.add(OpAppend(mac))
        commitment.attestations.add(PendingAttestation(self.uri))
        with self.lock:
            self.pending.append(commitment.msg.hex())
            self.save()
        return serialized(stamp)

    def anchor(self):
        """Commits to what is pending in a new transaction; sends those again that a reorg took away."""
        with self.lock:
            for batch in self.batches:
                # Refused if it is known, or displaced for good: neither is ours to mend.
                try:
                    self.node("sendrawtransaction", batch["raw"])
                except RpcError:
                    pass
            if not self.pending:
                return {"txid": None, "commitments": 0}
            root = tree(self.pending)[1].msg
            raw = self.node("createrawtransaction", [], [{"data": root.hex()}])
            funded = self.node("fundrawtransaction", raw, {"changePosition": 0})
            signed = self.node("signrawtransactionwithwallet", funded["hex"])["hex"]
            txid = self.node("sendrawtransaction", signed)
            self.batches.append({"txid": txid, "raw": signed, "commitments": self.pending})
            self.pending = []
            self.save()
            return {"txid": txid, "commitments": len(self.batches[-1]["commitments"])}

    def upgrade(self, commitment):
        """The tree to the block header, or a reason why there is none yet."""
        with self.lock:
            if commitment in self.pending:
                return None, "Pending confirmation in Bitcoin blockchain"
            batch = next((b for b in self.batches if commitment in b["commitments"]), None)
        if batch is None:
            return None, "Not found"
        seen = self.node("getrawtransaction", batch["txid"], 1)
        # The index keeps transactions of stale blocks, with no confirmation.
        missing = self.confirmations - seen.get("confirmations", 0)
        if missing > 0:
            reason = f"Timestamped by transaction {batch['txid']}; waiting for {missing} confirmations"
            return None, reason
        height = self.node("getblockheader", seen["blockhash"])["height"]
        block = CBlock.deserialize(x(self.node("getblock", seen["blockhash"], 0)))
        stamps, tip = tree(batch["commitments"])
        tip.merge(make_timestamp_from_block(tip.msg, block, height, max_tx_size=MAX_TX))
        stamp = next(stamp for stamp in stamps if stamp.msg.hex() == commitment)
        return serialized(stamp), None


def tree(commitments):
    """Stamps of the commitments, and the one of the 32 bytes they all lead to."""
    stamps = [Timestamp(bytes.fromhex(commitment)) for commitment in commitments]
    return stamps, make_merkle_tree([stamp.ops.add(OpSHA256()) for stamp in stamps])


def serialized(stamp):
    context = BytesSerializationContext()
    stamp.serialize(context)
    return context.getbytes()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def answer(self, status, body, kind="text/plain"):
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self):
        try:
            length = int(self.headers.get("Content-Length", "-1"))
        except ValueError:
            length = -1
        if not 0 <= length <= MAX_DIGEST:
            self.close_connection = True
            return self.answer(400, b"a digest has a Content-Length of at most 64 bytes\n")
        body = self.rfile.read(length)
        try:
            if self.path == "/digest" and body:
                stamp = self.server.calendar.submit(body)
                return self.answer(200, stamp, "application/octet-stream")
            if self.path == "/devnet/anchor":
                done = json.dumps(self.server.calendar.anchor()).encode()
                return self.answer(200, done, "application/json")
        except (RpcError, OSError) as error:
            return self.answer(502, f"{error}\n".encode())
        self.answer(404, b"Not found")

    def do_GET(self):
        if self.path == "/":
            return self.answer(200, b"An OpenTimestamps calendar of a devnet\n")
        if not self.path.startswith("/timestamp/"):
            return self.answer(404, b"Not found")
        try:
            commitment = binascii.unhexlify(self.path[len("/timestamp/"):]).hex()
        except (binascii.Error, ValueError):
            return self.answer(400, b"commitment must be hex-encoded bytes")
        try:
            stamp, reason = self.server.calendar.upgrade(commitment)
        except (RpcError, OSError) as error:
            return self.answer(502, f"{error}\n".encode())
        if stamp is None:
            return self.answer(404, reason.encode())
        self.answer(200, stamp, "application/octet-stream")

    def log_message(self, *_):
        pass


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--uri", required=True)
    parser.add_argument("--wallet", required=True)
    parser.add_argument("--confirmations", type=int, required=True)
    parser.add_argument("--state", required=True)
    args = parser.parse_args()
    node = Node(os.environ["VAULTMESH_CALENDAR_RPC"], args.wallet)
    server = ThreadingHTTPServer(("127.0.0.1", args.port), Handler)
    server.daemon_threads = True
    server.calendar = Calendar(node, args.uri, args.confirmations, args.state)
    server.serve_forever()


main()
