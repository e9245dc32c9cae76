#!/usr/bin/env python3
"""Known-answer vectors of sealed aggregation, from the protocol's text and nothing of ours.

Plain Python: ChaCha12, HKDF, the ring product (by Kronecker substitution) and Shamir's sharing are
written out here, so agreement with the Rust crates is evidence and not an echo.

    python3 tests/vectors/generate.py        # writes tests/vectors/seal/*.json
"""

import hashlib
import hmac
import json
import struct
from pathlib import Path

Q = 2**64 - 2**32 + 1
N = 4096
HERE = Path(__file__).parent


def chacha12_block(key, stream, counter):
    """64 bytes: ChaCha with 12 rounds, 64-bit counter, 64-bit stream as the nonce (Bernstein 2008)."""
    mask = 0xFFFFFFFF
    start = list(struct.unpack("<4I", b"expand 32-byte k") + struct.unpack("<8I", key))
    start += [counter & mask, counter >> 32, stream & mask, stream >> 32]
    x = start[:]

    def quarter(a, b, c, d):
        for (i, j, k, turn) in ((a, b, d, 16), (c, d, b, 12), (a, b, d, 8), (c, d, b, 7)):
            x[i] = (x[i] + x[j]) & mask
            mixed = x[k] ^ x[i]
            x[k] = ((mixed << turn) | (mixed >> (32 - turn))) & mask

    for _ in range(6):
        for column in range(4):
            quarter(column, 4 + column, 8 + column, 12 + column)
        for diagonal in range(4):
            quarter(diagonal, 4 + (diagonal + 1) % 4, 8 + (diagonal + 2) % 4, 12 + (diagonal + 3) % 4)
    return struct.pack("<16I", *((a + b) & mask for a, b in zip(x, start)))


def words_below_q(key, stream):
    """Endless little-endian 64-bit words, those of q or more skipped."""
    counter = 0
    while True:
        for word in struct.unpack("<8Q", chacha12_block(key, stream, counter)):
            if word < Q:
                yield word
        counter += 1


def take(words, count):
    return [next(words) for _ in range(count)]


def hkdf_sha256(salt, ikm, info):
    """32 bytes (RFC 5869)."""
    prk = hmac.new(salt, ikm, hashlib.sha256).digest()
    return hmac.new(prk, info + b"\x01", hashlib.sha256).digest()


def to_bytes(words):
    return struct.pack(f"<{len(words)}Q", *words)


def sha256(data):
    return hashlib.sha256(data).hexdigest()


def summary(words):
    return {"first": [str(w) for w in words[:8]], "last": str(words[-1]), "sha256": sha256(to_bytes(words))}


def product(a, b):
    """a·b in Z_q[X]/(X^N + 1) by one product of big integers, 160 bits a coefficient."""
    width = 20  # bytes: N·q² < 2^(12 + 128) < 2^160
    pack = lambda p: int.from_bytes(b"".join(c.to_bytes(width, "little") for c in p), "little")
    digits = (pack(a) * pack(b)).to_bytes(2 * N * width, "little")
    full = [int.from_bytes(digits[i * width:(i + 1) * width], "little") for i in range(2 * N)]
    return [(full[i] - full[i + N]) % Q for i in range(N)]


def small(words, magnitude):
    """Test-only small integers: word mod (2·magnitude + 1) − magnitude. NOT Gaussian."""
    return [w % (2 * magnitude + 1) - magnitude for w in words]


def seed(text):
    return hashlib.sha256(text.encode()).digest()


def write(name, content):
    content = {"generated_by": "tests/vectors/generate.py", **content}
    (HERE / "seal" / name).write_text(json.dumps(content, indent=2) + "\n")


def stream_vectors(label, ikm, info, streams):
    key = hkdf_sha256(label.encode(), ikm, info.encode())
    return {
        "label": label,
        "ikm": ikm.hex(),
        "info": info,
        "key": key.hex(),
        "streams": [{"stream": str(s), **summary(take(words_below_q(key, s), N))} for s in streams],
    }


context, roster = seed("a context"), seed("a roster")
write("words.json", {
    "about": "public words: ChaCha12(HKDF-SHA-256(salt = label, ikm, info)), N words a stream",
    "mask": stream_vectors("ciphertune/1/mask", context, "mask", [0, 1, 2**32 + 1]),
    "check": stream_vectors("ciphertune/1/check", roster, "check", [0, 1, 7]),
})

# A body of k·N + 3 values under "ct1-n3-b11-d8-w14-k4".
d, w, k, bound = 8, 14, 4, 2047
length = k * N + 3
key_seed, error_seed, value_seed = seed("a key"), seed("errors"), seed("values")
s = small(take(words_below_q(key_seed, 0), N), 57)
values = small(take(words_below_q(value_seed, 0), length), bound)
mask_key = hkdf_sha256(b"ciphertune/1/mask", context, b"mask")
check_key = hkdf_sha256(b"ciphertune/1/check", roster, b"check")
body, check = [], [0, 0]
for block in range(-(-length // (k * N))):
    a = take(words_below_q(mask_key, block), N)
    e = small(take(words_below_q(error_seed, block), N), 57)
    b = product(a, [c % Q for c in s])
    for i in range(N):
        slots = values[(block * N + i) * k:(block * N + i + 1) * k]
        coefficient = sum(v << (w * j) for j, v in enumerate(slots))
        b[i] = (b[i] + e[i] + (coefficient << d)) % Q
    body += b
    for half in range(2):
        h = take(words_below_q(check_key, 2 * block + half), N)
        check[half] = (check[half] + sum(x * y for x, y in zip(h, b))) % Q
write("body.json", {
    "about": "b = a·s + e + 2^d·m; s, e (block j from stream j) and the values are "
             "word mod (2·magnitude + 1) − magnitude of ChaCha12(seed) words below q",
    "parameters": "ct1-n3-b11-d8-w14-k4",
    "members": 3,
    "value_bound": bound,
    "length": length,
    "context": context.hex(),
    "roster": roster.hex(),
    "key_seed": key_seed.hex(),
    "error_seed": error_seed.hex(),
    "value_seed": value_seed.hex(),
    "small_magnitude": 57,
    "body": summary(body),
    "check_value": [str(c) for c in check],
})

# Shares of s: coefficients c_{t−1}, …, c_1 of N words each from one stream.
threshold, members, share_seed = 3, 5, seed("shares")
stream = words_below_q(share_seed, 0)
coefficients = [take(stream, N) for _ in range(threshold - 1)]  # highest degree first
shares = {}
for point in range(1, members + 1):
    share = [0] * N
    for c in coefficients + [[x % Q for x in s]]:
        share = [(f * point + x) % Q for f, x in zip(share, c)]
    shares[point] = share
subset = [5, 2, 3]
rebuilt = [0] * N
for i in subset:
    weight = 1
    for m in subset:
        if m != i:
            weight = weight * -m * pow(i - m, -1, Q) % Q
    rebuilt = [(r + weight * x) % Q for r, x in zip(rebuilt, shares[i])]
assert rebuilt == [x % Q for x in s]
write("shares.json", {
    "about": "Shamir over Z_q at points 1..=members of the key of body.json",
    "threshold": threshold,
    "members": members,
    "key_seed": key_seed.hex(),
    "small_magnitude": 57,
    "coefficient_seed": share_seed.hex(),
    "shares": [{"point": p, **summary(x)} for p, x in shares.items()],
    "rebuild_from": subset,
    "key": summary(rebuilt),
    "agreement": {
        "label": "ciphertune/1/agree",
        "context": context.hex(),
        "model": seed("a model").hex(),
        "digest": sha256(
            b"ciphertune/1/agree\x00" + context
            + hkdf_sha256(b"ciphertune/1/agree", to_bytes(rebuilt), b"agree")
            + seed("a model")
        ),
    },
})
