#!/usr/bin/env python3
"""Psi of a trace, computed again from docs/psi.md alone (Python 3, no packages).

usage: psi.py trace.json    {"names": [...], "expect": {...}, "samples": [{"at": ms, "values": [...]}]}
Prints one line of JSON a sample: psi, s, M, C, U, Phi, H, PE.
"""

import json
import math
import sys

SUBSYSTEM = {
    "intake_rate": 0, "reject_ratio": 0, "queue_backlog": 0, "dead_letters": 0,
    "seal_latency_p50_s": 1, "seal_latency_p95_s": 1, "seal_retry_ratio": 1, "checkpoint_age_s": 1,
    "anchor_lag_btc_s": 2, "anchor_lag_evm_s": 2, "anchor_lag_tsa_s": 2, "anchor_failure_ratio": 2,
    "peer_agreement": 3, "peer_lag": 3,
}  # fmt: skip
# none, full, share, limit
RATIOS = {
    "reject_ratio": (0, 1 / 2, 0.3, 0.3),
    "seal_retry_ratio": (0, 1 / 3, 0.3, 0.3),
    "anchor_failure_ratio": (0, 1 / 3, 0.3, 0.3),
    "peer_agreement": (1, 1 / 2, 0.5, 0.5),
}


def limit(name, expect):
    seal = expect["seal_s"]
    if name in RATIOS:
        return RATIOS[name][3]
    if name.startswith("anchor_lag_"):
        return 1.5 * expect[name.replace("_lag", "")] + 5
    return {
        "intake_rate": expect["backlog"] / seal,
        "queue_backlog": expect["backlog"] / 2,
        "dead_letters": 10,
        "seal_latency_p50_s": 3 * seal + 1,
        "seal_latency_p95_s": 3 * seal + 1,
        "checkpoint_age_s": 2 * seal + 1,
        "peer_lag": 5 + 30 / seal,
    }[name]


def held_ms(name, load):
    if name in ("seal_retry_ratio", "anchor_failure_ratio"):
        return 1_800_000
    return load * 1000 if name.startswith("seal_latency") else -1


def depth(d):
    total = sum(math.exp(6 * v) - 1 for v in d if v is not None)
    return min(1, math.log(1 + total) / 6)


def kept(d):
    return max(0, 1 - 2 * depth(d))


def beyond(x):
    return [None if v is None else max(0, v) for v in x]


def clamp(value, most):
    return max(-most, min(most, value))


def main():
    trace = json.load(open(sys.argv[1]))
    names, expect = trace["names"], trace["expect"]
    n = len(names)
    weights = [[1.0 if i == j else 0.0 for j in range(n + 1)] for i in range(n)]
    loads, window, last = {}, [], None

    def expectation(x):
        z = [v or 0 for v in x] + [1]
        return [
            None if x[i] is None else clamp(sum(w * v for w, v in zip(weights[i], z)), 1) for i in range(n)
        ]

    for sample in trace["samples"]:
        x = []
        for name, value in zip(names, sample["values"]):
            load, at = loads.get(name, (0, None))
            if value is None:
                if at is None or sample["at"] - at > held_ms(name, load):
                    loads.pop(name, None)
                    x.append(None)
                    continue
            else:
                at = sample["at"]
                if name in RATIOS:
                    none, full, share, _ = RATIOS[name]
                    e = max(0, min(1, (value - none) / (full - none)))
                    load += share * (e - load)
                else:
                    load = value
                loads[name] = (load, at)
            r2 = (load / limit(name, expect)) ** 2
            bad = (r2 - 1) / (r2 + 1)
            x.append(min(0, bad) if name == "intake_rate" else bad)

        errors = [0.0] * n
        if last is not None:
            z = [v or 0 for v in last] + [1]
            norm = sum(v * v for v in z) + 1e-6
            for i, expected in enumerate(expectation(last)):
                if expected is None or x[i] is None:
                    continue
                errors[i] = x[i] - expected
                weights[i] = [clamp(w + 0.05 * errors[i] * v / norm, 2) for w, v in zip(weights[i], z)]
        last = x

        d = beyond(x)
        past = [depth(v) for v in window]
        M = 2 * (1 - depth(d)) if not past else 1 - depth(d) + sum(1 - p for p in past) / len(past)
        phi = []
        for i in range(n):
            seen = [v[i] for v in window if v[i] is not None]
            mean = sum(seen) / len(seen) if seen else d[i]
            phi.append(None if d[i] is None else (d[i] + mean / 2) / 1.5)
        parts = [[v if SUBSYSTEM[name] == k else None for name, v in zip(names, d)] for k in range(4)]
        angles = [math.cos(math.pi * depth(p)) for p in parts if any(v is not None for v in p)]
        bins = [min(31, math.floor(32 * p)) for p in [*past, depth(d)]]
        H = -sum(q * math.log(q) for q in (bins.count(b) / len(bins) for b in set(bins)))
        PE = math.sqrt(sum(max(0, e) ** 2 for e in errors))
        C, U = kept(phi), kept(beyond(expectation(x)))
        Phi = max(0, sum(angles) / len(angles)) if angles else 1
        s = M / 2 + 0.8 * C + 0.6 * U + 0.6 * Phi - 0.7 * H / math.log(32) - 0.7 * PE / (1 + PE)
        psi = 1 / (1 + math.exp(-3 * (s - 1.5)))
        values = {"psi": psi, "s": s, "M": M, "C": C, "U": U, "Phi": Phi, "H": H, "PE": PE}
        print(json.dumps({k: round(v, 9) + 0.0 for k, v in values.items()}))
        window = [*window, d][-15:]


if __name__ == "__main__":
    main()
