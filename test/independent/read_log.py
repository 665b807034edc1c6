#!/usr/bin/env python3
"""Reads a whole transparency log and believes nothing of it.

Written from the specifications alone, with Python's standard library alone:
  C2SP signed-note, tlog-checkpoint, tlog-tiles, tlog-proof   https://c2sp.org
  RFC 6962 section 2.1 (tree hash), RFC 9162 section 2.1.3.2 (inclusion), RFC 8032 (Ed25519)

    read_log.py URL VKEY [--proof FILE] [--receipt FILE] [--event FILE]

URL is the log's prefix (http://127.0.0.1:7077/log), VKEY its key as signed-note writes it. The program
fetches the checkpoint and verifies the note; fetches every entry bundle and every hash tile of that tree
size, partial ones too; recomputes each tile and the root over all entries. With --proof or --receipt it
verifies that file as well: its own checkpoint, its inclusion proof, and that its tree is a prefix of the
log that was read. --event is the file's event; without it the log's entry at the proof's index is taken.

One line for each check. Exit status: 0 all hold, 1 one does not, 2 usage.
"""

import argparse
import base64
import binascii
import hashlib
import http.client
import json
import threading
import urllib.parse
from concurrent.futures import ThreadPoolExecutor

TILE = 256
THREADS = 6


class Refused(Exception):
    """A check that does not hold."""


# --- Ed25519, RFC 8032 section 5.1 -------------------------------------------------------------

P = 2**255 - 19
L = 2**252 + 27742317777372353535851937790883648493
D = -121665 * pow(121666, P - 2, P) % P
SQRT_M1 = pow(2, (P - 1) // 4, P)


def decode_point(data):
    """Section 5.1.3. Extended coordinates (X, Y, Z, T) of 32 bytes."""
    y = int.from_bytes(data, "little")
    sign, y = y >> 255, y & ((1 << 255) - 1)
    if y >= P:
        raise Refused("a point is not canonical")
    x2 = (y * y - 1) * pow(D * y * y + 1, P - 2, P) % P
    x = pow(x2, (P + 3) // 8, P)
    if (x * x - x2) % P:
        x = x * SQRT_M1 % P
    if (x * x - x2) % P or (x == 0 and sign):
        raise Refused("32 bytes are no point of the curve")
    if x & 1 != sign:
        x = P - x
    return x, y, 1, x * y % P


def add(p, q):
    """Section 5.1.4."""
    a = (p[1] - p[0]) * (q[1] - q[0]) % P
    b = (p[1] + p[0]) * (q[1] + q[0]) % P
    c = 2 * p[3] * q[3] * D % P
    d = 2 * p[2] * q[2] % P
    e, f, g, h = b - a, d - c, d + c, b + a
    return e * f % P, g * h % P, f * g % P, e * h % P


def multiply(n, p):
    q = (0, 1, 1, 0)
    while n > 0:
        if n & 1:
            q = add(q, p)
        p = add(p, p)
        n >>= 1
    return q


def base_point():
    y = 4 * pow(5, P - 2, P) % P
    return decode_point(y.to_bytes(32, "little"))


def verify_ed25519(public_key, message, signature):
    """Section 5.1.7, the equation without cofactor: [S]B = R + [k]A."""
    if len(public_key) != 32 or len(signature) != 64:
        return False
    try:
        a, r = decode_point(public_key), decode_point(signature[:32])
    except Refused:
        return False
    s = int.from_bytes(signature[32:], "little")
    if s >= L:
        return False
    k = int.from_bytes(hashlib.sha512(signature[:32] + public_key + message).digest(), "little")
    left, right = multiply(s, base_point()), add(r, multiply(k % L, a))
    return (left[0] * right[2] - right[0] * left[2]) % P == 0 and (
        left[1] * right[2] - right[1] * left[2]
    ) % P == 0


# --- C2SP signed-note and tlog-checkpoint ------------------------------------------------------


def unbase64(text, what):
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise Refused(f"{what} is not base64") from None
    if base64.b64encode(data).decode() != text:
        raise Refused(f"{what} is not canonical base64")
    return data


def parse_vkey(vkey):
    """<name>+<hex key ID>+<base64 of type byte and key> -> (name, key ID, public key)."""
    parts = vkey.split("+", 2)
    if len(parts) != 3:
        raise Refused("the vkey does not have three parts")
    name, key_id, material = parts[0], bytes.fromhex(parts[1]), unbase64(parts[2], "the vkey")
    if len(material) != 33 or material[0] != 0x01:
        raise Refused("the vkey is not of an Ed25519 key")
    if hashlib.sha256(name.encode() + b"\n" + material).digest()[:4] != key_id:
        raise Refused("the vkey's key ID is not of its key")
    return name, key_id, material[1:]


def verify_checkpoint(note, key):
    """The note's signature by `key`, then the checkpoint in it -> (size, root)."""
    name, key_id, public_key = key
    text, separator, signatures = note.decode("utf-8").rpartition("\n\n")
    text += "\n"
    if not separator or not signatures.endswith("\n"):
        raise Refused("this is not a signed note")
    verified = False
    for line in signatures[:-1].split("\n"):
        dash, _, rest = line.partition(" ")
        signer, _, encoded = rest.partition(" ")
        if dash != "\u2014" or not signer or not encoded:
            raise Refused("a signature line is malformed")
        signature = unbase64(encoded, "a signature")
        if signer != name or signature[:4] != key_id:
            continue  # of somebody we do not know: "clients MUST ignore"
        if not verify_ed25519(public_key, text.encode(), signature[4:]):
            raise Refused(f"the signature of {name} does not verify")
        verified = True
    if not verified:
        raise Refused(f"no signature of {name} under the key given")
    lines = text[:-1].split("\n")
    if len(lines) < 3 or "" in lines:
        raise Refused("the checkpoint lacks a line")
    origin, size, root = lines[0], lines[1], unbase64(lines[2], "the root")
    if origin != name:
        raise Refused(f"the checkpoint is of {origin}, not of {name}")
    if not size.isascii() or not size.isdigit() or str(int(size)) != size:
        raise Refused("the tree size is not a decimal")
    if len(root) != 32:
        raise Refused("the root is not 32 bytes")
    return int(size), root


# --- RFC 6962 section 2.1, RFC 9162 section 2.1.3.2 --------------------------------------------


def hash_leaf(entry):
    return hashlib.sha256(b"\x00" + entry).digest()


def hash_node(left, right):
    return hashlib.sha256(b"\x01" + left + right).digest()


def tree_hash(hashes):
    """MTH over leaf hashes: equal neighbours merge as they come, the rest from the right."""
    stack = []  # (number of leaves below, hash)
    for leaf in hashes:
        width = 1
        while stack and stack[-1][0] == width:
            leaf = hash_node(stack.pop()[1], leaf)
            width *= 2
        stack.append((width, leaf))
    if not stack:
        return hashlib.sha256(b"").digest()
    root = stack.pop()[1]
    while stack:
        root = hash_node(stack.pop()[1], root)
    return root


def verify_inclusion(leaf, index, size, proof, root):
    if any(len(h) != 32 for h in (leaf, root, *proof)):
        raise Refused("a hash of the inclusion proof is not 32 bytes")
    if index >= size:
        raise Refused("the leaf index is not below the tree size")
    fn, sn, r = index, size - 1, leaf
    for p in proof:
        if sn == 0:
            raise Refused("the inclusion proof is too long")
        if fn & 1 or fn == sn:
            r = hash_node(p, r)
            while not fn & 1 and fn != 0:
                fn, sn = fn >> 1, sn >> 1
        else:
            r = hash_node(r, p)
        fn, sn = fn >> 1, sn >> 1
    if sn != 0 or r != root:
        raise Refused("the inclusion proof does not lead to the root")


# --- C2SP tlog-tiles ---------------------------------------------------------------------------


class Log:
    """GET below a prefix, one kept-alive connection for each thread."""

    def __init__(self, prefix):
        url = urllib.parse.urlsplit(prefix)
        if url.scheme not in ("http", "https") or not url.netloc:
            raise Refused(f"{prefix} is not an http or https URL")
        self.kind = http.client.HTTPSConnection if url.scheme == "https" else http.client.HTTPConnection
        self.netloc, self.path = url.netloc, url.path.rstrip("/")
        self.local = threading.local()

    def get(self, name):
        for attempt in (0, 1):
            connection = getattr(self.local, "connection", None)
            if connection is None:
                connection = self.local.connection = self.kind(self.netloc, timeout=30)
            try:
                connection.request("GET", f"{self.path}/{name}")
                response = connection.getresponse()
                body = response.read()
            except (http.client.HTTPException, OSError) as error:
                connection.close()
                self.local.connection = None
                if attempt:  # a server may close an idle connection: once is no failure
                    raise Refused(f"GET {name}: {error}") from None
                continue
            if response.status != 200:
                raise Refused(f"GET {name}: HTTP {response.status}")
            return body


def tile_path(level, index, width):
    groups = f"{index % 1000:03d}"
    while index >= 1000:
        index //= 1000
        groups = f"x{index % 1000:03d}/{groups}"
    return f"tile/{level}/{groups}" + ("" if width == TILE else f".p/{width}")


def tiles_at(level, size):
    """(index, width) of each tile of a level, for a tree of `size` leaves."""
    hashes = size // TILE**level
    for index in range(hashes // TILE):
        yield index, TILE
    if hashes % TILE:
        yield hashes // TILE, hashes % TILE


def parse_bundle(data, width, name):
    entries, at = [], 0
    while at < len(data):
        end = at + 2 + int.from_bytes(data[at : at + 2], "big")
        if at + 2 > len(data) or end > len(data):
            raise Refused(f"{name}: an entry is cut short")
        entries.append(data[at + 2 : end])
        at = end
    if len(entries) != width:
        raise Refused(f"{name}: {len(entries)} entries, not {width}")
    return entries


def read_entries(log, size, pool):
    names = [(tile_path("entries", index, width), width) for index, width in tiles_at(0, size)]
    bundles = pool.map(lambda n: parse_bundle(log.get(n[0]), n[1], n[0]), names)
    return [entry for bundle in bundles for entry in bundle], len(names)


def check_tiles(log, size, leaves, pool):
    """Every hash tile of every level against what the level below gives."""
    count, level, hashes = 0, 0, leaves
    while hashes:
        names = [(tile_path(level, index, width), index, width) for index, width in tiles_at(level, size)]
        for (name, index, width), data in zip(names, pool.map(lambda n: log.get(n[0]), names)):
            if data != b"".join(hashes[index * TILE : index * TILE + width]):
                raise Refused(f"{name}: not the hashes of the level below")
        count += len(names)
        full = range(0, len(hashes) - TILE + 1, TILE)
        hashes = [tree_hash(hashes[at : at + TILE]) for at in full]
        level += 1
    return count, level


# --- Files -------------------------------------------------------------------------------------


def parse_proof_file(text):
    """C2SP tlog-proof -> (index, proof, checkpoint note). `extra` is skipped: nobody signed it."""
    head, separator, checkpoint = text.decode("utf-8").partition("\n\n")
    lines = head.split("\n")
    if not separator or lines.pop(0) != "c2sp.org/tlog-proof@v1":
        raise Refused("this is not a tlog-proof file")
    if lines and lines[0].startswith("extra "):
        unbase64(lines.pop(0)[6:], "extra")
    if not lines or not lines[0].startswith("index "):
        raise Refused("the proof file has no index")
    index = lines.pop(0)[6:]
    if not index.isascii() or not index.isdigit() or str(int(index)) != index:
        raise Refused("the index is not a decimal")
    proof = [unbase64(line, "a proof hash") for line in lines]
    return int(index), proof, checkpoint.encode()


def check_evidence(kind, found, key, entries, leaves, event):
    """A proof from a file: its checkpoint, its inclusion, and that its tree is a prefix of the log."""
    index, proof, note, claimed = found
    size, root = verify_checkpoint(note, key)
    say(f"{kind} checkpoint", f"size {size}")
    if event is not None:
        entry = hashlib.sha256(event).digest()
    elif index < len(entries):
        entry = entries[index]
    else:
        raise Refused(f"{kind}: its leaf is not in the log that was read")
    if claimed is not None and claimed != entry:
        raise Refused(f"{kind}: its eventHash is of another event")
    verify_inclusion(hash_leaf(entry), index, size, proof, root)
    say(f"{kind} inclusion", f"leaf {index} of {size}, {len(proof)} hashes")
    if size > len(leaves) or tree_hash(leaves[:size]) != root:
        raise Refused(f"{kind}: its tree is not a prefix of the log that was read")
    say(f"{kind} prefix", f"the first {size} entries have its root")


def receipt_evidence(text, key):
    receipt = json.loads(text)
    note = receipt["checkpoint"].encode()
    size, root = verify_checkpoint(note, key)
    if receipt["origin"] != key[0] or receipt["treeSize"] != size or receipt["root"] != f"sha256:{root.hex()}":
        raise Refused("receipt: it names another tree than its checkpoint")
    proof = [bytes.fromhex(h) for h in receipt["inclusionProof"]]
    return receipt["leafIndex"], proof, note, bytes.fromhex(receipt["eventHash"].removeprefix("sha256:"))


def read(path):
    with open(path, "rb") as file:
        return file.read()


def say(check, detail):
    print(f"ok    {check}: {detail}", flush=True)


def run(arguments):
    key = parse_vkey(arguments.vkey)
    log = Log(arguments.url)
    size, root = verify_checkpoint(log.get("checkpoint"), key)
    say("checkpoint", f"{key[0]} signed size {size}, root {root.hex()}")
    with ThreadPoolExecutor(THREADS) as pool:
        entries, bundles = read_entries(log, size, pool)
        say("entries", f"{len(entries)} in {bundles} bundles")
        leaves = [hash_leaf(entry) for entry in entries]
        tiles, levels = check_tiles(log, size, leaves, pool)
        say("tiles", f"{tiles} on {levels} levels recomputed")
    computed = tree_hash(leaves)
    if computed != root:
        raise Refused(f"the entries have root {computed.hex()}, the checkpoint says {root.hex()}")
    say("root", f"{computed.hex()} recomputed over {len(entries)} entries")
    event = None if arguments.event is None else read(arguments.event)
    if arguments.proof is not None:
        found = (*parse_proof_file(read(arguments.proof)), None)
        check_evidence("proof", found, key, entries, leaves, event)
    if arguments.receipt is not None:
        found = receipt_evidence(read(arguments.receipt), key)
        check_evidence("receipt", found, key, entries, leaves, event)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("url", help="prefix of the log, such as http://127.0.0.1:7077/log")
    parser.add_argument("vkey", help="the log's verifier key")
    parser.add_argument("--proof", help="a .tlog-proof file to verify")
    parser.add_argument("--receipt", help="a receipt (JSON) to verify")
    parser.add_argument("--event", help="the event (compact JWS) that the proof or receipt is of")
    try:
        run(parser.parse_args())
    except Refused as refused:
        print(f"FAIL  {refused}", flush=True)
        return 1
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        # Malformed input of any kind is a check that does not hold.
        print(f"FAIL  malformed: {type(error).__name__}: {error}", flush=True)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
