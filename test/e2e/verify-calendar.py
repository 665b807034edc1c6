"""Verifies a calendar's answers with python-opentimestamps alone: what a stranger's client would do.

stdin: {"digest", "stamp", "upgrade", "header"} in hex, stdout: the pending commitment and its URI, and once
`upgrade` is given the height that the header at that height (also given) confirms.
"""

import json
import sys

from bitcoin.core import CBlockHeader
from opentimestamps.core.notary import BitcoinBlockHeaderAttestation, PendingAttestation
from opentimestamps.core.serialize import BytesDeserializationContext
from opentimestamps.core.timestamp import Timestamp

given = {key: bytes.fromhex(value) for key, value in json.load(sys.stdin).items()}


def read(message, tree):
    context = BytesDeserializationContext(tree)
    stamp = Timestamp.deserialize(context, message)
    context.assert_eof()
    return stamp


def only(stamp, kind):
    ((message, attestation),) = stamp.all_attestations()
    assert isinstance(attestation, kind), attestation
    return message, attestation


commitment, pending = only(read(given["digest"], given["stamp"]), PendingAttestation)
said = {"commitment": commitment.hex(), "uri": pending.uri}
if "upgrade" in given:
    root, attestation = only(read(commitment, given["upgrade"]), BitcoinBlockHeaderAttestation)
    said["height"] = attestation.height
    attestation.verify_against_blockheader(root, CBlockHeader.deserialize(given["header"]))
print(json.dumps(said))
