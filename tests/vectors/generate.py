#!/usr/bin/env python3
"""Known-answer vectors of sealed aggregation, from the protocol's text and nothing of ours.

Plain Python 3.11 without packages: everything, down to ML-KEM and Ed25519, is written out in the modules beside this
one, so agreement with the Rust crates is evidence and not an echo.

    python3 tests/vectors/generate.py            # writes seal/* and signed/* beside this file
    python3 tests/vectors/generate.py FOLDER     # writes them there: a test compares the two, byte by byte
"""

import json
import sys
from pathlib import Path

import committee
from one_round import Round
from primitives import (
    N, check_key, check_value, hkdf_sha256, mask_key, rebuild, seal, sha256, share, small, summary, take, to_bytes,
    words_below_q,
)
from refused import refused_objects, refused_sums

# ct1-n3-b11-d8-w14-k4: three members, |v| ≤ 2047.
PARAMETERS = (8, 14, 4)


def seed(text):
    return sha256(text.encode())


def stream_vectors(label, ikm, info, streams):
    key = hkdf_sha256(label.encode(), ikm, info.encode())
    return {
        "label": label,
        "ikm": ikm.hex(),
        "info": info,
        "key": key.hex(),
        "streams": [{"stream": str(s), **summary(take(words_below_q(key, s), N))} for s in streams],
    }


def words():
    return {
        "about": "public words: ChaCha12(HKDF-SHA-256(salt = label, ikm, info)), N words a stream",
        "mask": stream_vectors("ciphertune/1/mask", seed("a context"), "mask", [0, 1, 2**32 + 1]),
        "check": stream_vectors("ciphertune/1/check", seed("a roster"), "check", [0, 1, 7]),
    }


def body():
    """A body of k·N + 3 values."""
    context, roster = seed("a context"), seed("a roster")
    key_seed, error_seed, value_seed = seed("a key"), seed("errors"), seed("values")
    length = PARAMETERS[2] * N + 3
    values = small(value_seed, 0, length, 2047)
    sealed = seal(PARAMETERS, context, small(key_seed, 0, N, 57), error_seed, 57, values)
    return {
        "about": "b = a·s + e + 2^d·m; s, e (block j from stream j) and the values are "
                 "word mod (2·magnitude + 1) − magnitude of ChaCha12(seed) words below q",
        "parameters": "ct1-n3-b11-d8-w14-k4",
        "members": 3,
        "value_bound": 2047,
        "length": length,
        "context": context.hex(),
        "roster": roster.hex(),
        "key_seed": key_seed.hex(),
        "error_seed": error_seed.hex(),
        "value_seed": value_seed.hex(),
        "small_magnitude": 57,
        "body": summary(sealed),
        "check_value": [str(c) for c in check_value(roster, sealed)],
    }


def shares():
    threshold, members, subset = 3, 5, [5, 2, 3]
    context, model = seed("a context"), seed("a model")
    secret = small(seed("a key"), 0, N, 57)
    points = share(secret, threshold, members, seed("shares"))
    key = rebuild({point: points[point] for point in subset})
    return {
        "about": "Shamir over Z_q at points 1..=members of the key of body.json",
        "threshold": threshold,
        "members": members,
        "key_seed": seed("a key").hex(),
        "small_magnitude": 57,
        "coefficient_seed": seed("shares").hex(),
        "shares": [{"point": point, **summary(x)} for point, x in points.items()],
        "rebuild_from": subset,
        "key": summary(key),
        "agreement": {
            "label": "ciphertune/1/agree",
            "context": context.hex(),
            "model": model.hex(),
            "digest": agreement(context, key, model).hex(),
        },
    }


def agreement(context, key, model):
    keyed = hkdf_sha256(b"ciphertune/1/agree", to_bytes(key), b"agree")
    return sha256(b"ciphertune/1/agree\x00" + context + keyed + model)


def main(folder):
    whole = Round(PARAMETERS, agreement)
    files = {
        "seal/words.json": words(),
        "seal/body.json": body(),
        "seal/shares.json": shares(),
        "seal/round.json": whole.sealed(),
        "seal/refused.json": refused_sums(PARAMETERS),
        "signed/objects.json": whole.signed(),
        "signed/refused.json": refused_objects(whole),
        "signed/committee.json": committee.vectors(),
    }
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        content = {"generated_by": "tests/vectors/generate.py", **content}
        path.write_text(json.dumps(content, indent=2) + "\n")
    # One sealed share whole, to be opened with the second member's one-time key of seal/round.json.
    (folder / "seal/north-to-south.share").write_bytes(whole.sealed_shares["north"][1]["data"])


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent)
