"""Judges a detached .ots file with python-opentimestamps alone, as the stock client does behind its node.

stdin: {"ots": hex, "file": hex or null, "digest": hex, "headers": {height: hex}, "foreign": hex}. The file, if there is
one, is hashed as `ots verify FILE` would; without it the digest is taken. Every attestation of a block must hold
against its header, and against the foreign one none may.
stdout: {"heights", "pending", "same": whether the library writes the very same bytes again}
"""

import hashlib
import io
import json
import sys

from bitcoin.core import CBlockHeader
from opentimestamps.core.notary import (
    BitcoinBlockHeaderAttestation,
    PendingAttestation,
    VerificationError,
)
from opentimestamps.core.serialize import (
    BytesSerializationContext,
    StreamDeserializationContext,
)
from opentimestamps.core.timestamp import DetachedTimestampFile

given = json.load(sys.stdin)
data = bytes.fromhex(given["ots"])
detached = DetachedTimestampFile.deserialize(StreamDeserializationContext(io.BytesIO(data)))
digest = bytes.fromhex(given["digest"])
if given["file"] is not None:
    digest = hashlib.sha256(bytes.fromhex(given["file"])).digest()
assert detached.file_hash_op.TAG_NAME == "sha256"
assert detached.file_digest == digest, "the file is about another digest"

foreign = CBlockHeader.deserialize(bytes.fromhex(given["foreign"]))
heights, pending = [], []
for message, attestation in detached.timestamp.all_attestations():
    if isinstance(attestation, PendingAttestation):
        pending.append(attestation.uri)
        continue
    assert isinstance(attestation, BitcoinBlockHeaderAttestation), attestation
    header = CBlockHeader.deserialize(bytes.fromhex(given["headers"][str(attestation.height)]))
    assert attestation.verify_against_blockheader(message, header) == header.nTime
    try:
        attestation.verify_against_blockheader(message, foreign)
        raise AssertionError("a foreign header was taken")
    except VerificationError:
        heights.append(attestation.height)

context = BytesSerializationContext()
detached.serialize(context)
print(
    json.dumps(
        {
            "heights": sorted(heights),
            "pending": sorted(pending),
            "same": context.getbytes() == data,
        }
    )
)
