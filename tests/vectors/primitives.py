"""The arithmetic of sealed aggregation: ChaCha, words below q, HKDF, the ring, sharing, packing."""

import hashlib
import hmac
import struct

Q = 2**64 - 2**32 + 1
N = 4096
MASK = 0xFFFFFFFF


def chacha_block(key, rounds, tail):
    """64 bytes: ChaCha (Bernstein 2008) with words 12 to 15 of its state as given."""
    start = list(struct.unpack("<4I", b"expand 32-byte k") + struct.unpack("<8I", key)) + tail
    x = start[:]
    columns = [(i, 4 + i, 8 + i, 12 + i) for i in range(4)]
    diagonals = [(i, 4 + (i + 1) % 4, 8 + (i + 2) % 4, 12 + (i + 3) % 4) for i in range(4)]
    for _ in range(rounds // 2):
        for i, j, k, m in columns + diagonals:
            a, b, c, d = x[i], x[j], x[k], x[m]
            a = (a + b) & MASK
            d ^= a
            d = ((d << 16) | (d >> 16)) & MASK
            c = (c + d) & MASK
            b ^= c
            b = ((b << 12) | (b >> 20)) & MASK
            a = (a + b) & MASK
            d ^= a
            d = ((d << 8) | (d >> 24)) & MASK
            c = (c + d) & MASK
            b ^= c
            b = ((b << 7) | (b >> 25)) & MASK
            x[i], x[j], x[k], x[m] = a, b, c, d
    return struct.pack("<16I", *((a + b) & MASK for a, b in zip(x, start)))


def words_below_q(key, stream):
    """Endless little-endian 64-bit words of ChaCha12, those of q or more skipped.

    The block counter is 64 bits and starts at 0; the stream's number stands where a nonce would.
    """
    counter = 0
    while True:
        tail = [counter & MASK, counter >> 32, stream & MASK, stream >> 32]
        for word in struct.unpack("<8Q", chacha_block(key, 12, tail)):
            if word < Q:
                yield word
        counter += 1


def take(words, count):
    return [next(words) for _ in range(count)]


def hkdf_extract(salt, ikm):
    return hmac.new(salt, ikm, hashlib.sha256).digest()


def hkdf_expand(prk, info, length=32):
    """RFC 5869; at most 32 bytes are ever wanted here."""
    return hmac.new(prk, info + b"\x01", hashlib.sha256).digest()[:length]


def hkdf_sha256(salt, ikm, info):
    return hkdf_expand(hkdf_extract(salt, ikm), info)


def product(a, b):
    """a·b in Z_q[X]/(X^N + 1) by one product of big integers (Kronecker), 160 bits a coefficient."""
    width = 20  # bytes: N·q² < 2^(12 + 128) < 2^160

    def pack(p):
        return int.from_bytes(b"".join(c.to_bytes(width, "little") for c in p), "little")

    digits = (pack(a) * pack(b)).to_bytes(2 * N * width, "little")
    full = [int.from_bytes(digits[i * width:(i + 1) * width], "little") for i in range(2 * N)]
    return [(full[i] - full[i + N]) % Q for i in range(N)]


def small(seed, stream, count, magnitude):
    """Test-only small integers: word mod (2·magnitude + 1) − magnitude. NOT Gaussian."""
    return [w % (2 * magnitude + 1) - magnitude for w in take(words_below_q(seed, stream), count)]


def mask_key(context):
    return hkdf_sha256(b"ciphertune/1/mask", context, b"mask")


def check_key(roster):
    return hkdf_sha256(b"ciphertune/1/check", roster, b"check")


def seal(parameters, context, key, error_seed, magnitude, values):
    """The body of `values`: a_j·s + e_j + 2^d·m_j for every block j, e_j small from stream j of the seed."""
    d, w, k = parameters
    body = []
    for block in range(-(-len(values) // (k * N))):
        b = product(take(words_below_q(mask_key(context), block), N), [c % Q for c in key])
        e = small(error_seed, block, N, magnitude)
        for i in range(N):
            slots = values[(block * N + i) * k:(block * N + i + 1) * k]
            coefficient = sum(v << (w * j) for j, v in enumerate(slots))
            b[i] = (b[i] + e[i] + (coefficient << d)) % Q
        body += b
    return body


def open_sum(parameters, context, key, body, length):
    """The values of a body under `key`, and the largest residual error."""
    d, w, k = parameters
    values, residual = [], 0
    for block in range(len(body) // N):
        masked = product(take(words_below_q(mask_key(context), block), N), key)
        for b, a in zip(body[block * N:(block + 1) * N], masked):
            c = (b - a) % Q
            c -= Q if c > Q // 2 else 0
            message = (c + (1 << (d - 1))) >> d
            residual = max(residual, abs(c - (message << d)))
            for _ in range(k):
                v = message % (1 << w)
                v -= (1 << w) if v >> (w - 1) else 0
                values.append(v)
                message = (message - v) >> w
            assert message == 0
    assert not any(values[length:])
    return values[:length], residual


def check_value(roster, body):
    """c_i = Σ_b r_(i,b)·⟨h_i, x_b⟩ over blocks x_b: h_i is stream i − 1, r_(i,b) the first word of stream 2·(b + 1) + i − 1."""
    value = [0, 0]
    for half in range(2):
        h = take(words_below_q(check_key(roster), half), N)
        for block in range(len(body) // N):
            [r] = take(words_below_q(check_key(roster), 2 * (block + 1) + half), 1)
            value[half] = (value[half] + r * sum(x * y for x, y in zip(h, body[block * N:(block + 1) * N]))) % Q
    return value


def share(secret, threshold, members, seed):
    """Shamir over Z_q at 1..=members: coefficients c_{t−1}, …, c_1, N words each, from one stream."""
    stream = words_below_q(seed, 0)
    coefficients = [take(stream, N) for _ in range(threshold - 1)]  # highest degree first
    shares = {}
    for point in range(1, members + 1):
        value = [0] * N
        for c in coefficients + [[x % Q for x in secret]]:
            value = [(f * point + x) % Q for f, x in zip(value, c)]
        shares[point] = value
    return shares


def rebuild(shares):
    """The secret of {point: words}, by Lagrange at 0."""
    secret = [0] * N
    for i, words in shares.items():
        weight = 1
        for m in shares:
            if m != i:
                weight = weight * -m * pow(i - m, -1, Q) % Q
        secret = [(r + weight * x) % Q for r, x in zip(secret, words)]
    return secret


def add(*vectors):
    return [sum(words) % Q for words in zip(*vectors)]


def to_bytes(words):
    return struct.pack(f"<{len(words)}Q", *words)


def sha256(data):
    return hashlib.sha256(data).digest()


def summary(words):
    """First eight, last and SHA-256 of words as they travel."""
    return {"first": [str(w) for w in words[:8]], "last": str(words[-1]), "sha256": sha256(to_bytes(words)).hex()}


def summary_signed(values):
    """The same of plain integers, as little-endian i64."""
    data = struct.pack(f"<{len(values)}q", *values)
    return {"first": [str(v) for v in values[:8]], "last": str(values[-1]), "sha256": sha256(data).hex()}
