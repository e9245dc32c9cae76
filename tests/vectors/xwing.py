"""Sealing to a one-time key: HPKE (RFC 9180) in base mode with X-Wing, HKDF-SHA-256 and ChaCha20-Poly1305.

X-Wing is draft-connolly-cfrg-xwing-kem: ML-KEM-768 (FIPS 203) beside X25519 (RFC 7748). Written for vectors alone:
nothing here runs in constant time.
"""

import hashlib
import struct

from primitives import chacha_block, hkdf_expand, hkdf_extract

P = 3329
RANK = 3


def sha3_256(data):
    return hashlib.sha3_256(data).digest()


# ML-KEM-768, FIPS 203 by its own names.

def reversed_bits(i):
    return int(f"{i:07b}"[::-1], 2)


ZETAS = [pow(17, reversed_bits(i), P) for i in range(128)]
GAMMAS = [pow(17, 2 * reversed_bits(i) + 1, P) for i in range(128)]


def ntt(f):
    f, i, length = f[:], 1, 128
    while length >= 2:
        for start in range(0, 256, 2 * length):
            for j in range(start, start + length):
                t = ZETAS[i] * f[j + length]
                f[j], f[j + length] = (f[j] + t) % P, (f[j] - t) % P
            i += 1
        length //= 2
    return f


def inverse_ntt(f):
    f, i, length = f[:], 127, 2
    while length <= 128:
        for start in range(0, 256, 2 * length):
            for j in range(start, start + length):
                t = f[j]
                f[j], f[j + length] = (t + f[j + length]) % P, ZETAS[i] * (f[j + length] - t) % P
            i -= 1
        length *= 2
    return [x * 3303 % P for x in f]


def multiply(f, g):
    h = []
    for i in range(128):
        a0, a1, b0, b1 = f[2 * i], f[2 * i + 1], g[2 * i], g[2 * i + 1]
        h += [(a0 * b0 + a1 * b1 * GAMMAS[i]) % P, (a0 * b1 + a1 * b0) % P]
    return h


def dot(a, b):
    total = [0] * 256
    for f, g in zip(a, b):
        total = [(x + y) % P for x, y in zip(total, multiply(f, g))]
    return total


def sample_ntt(rho, j, i):
    stream, out, at = hashlib.shake_128(rho + bytes([j, i])).digest(3 * 672), [], 0
    while len(out) < 256:
        c0, c1, c2 = stream[at:at + 3]
        out += [d for d in (c0 + 256 * (c1 % 16), c1 // 16 + 16 * c2) if d < P]
        at += 3
    return out[:256]


def sample_cbd(seed, counter):
    """η = 2, for secrets and errors alike."""
    bits = int.from_bytes(hashlib.shake_256(seed + bytes([counter])).digest(128), "little")
    return [((bits >> 4 * i & 1) + (bits >> 4 * i + 1 & 1) - (bits >> 4 * i + 2 & 1) - (bits >> 4 * i + 3 & 1)) % P
            for i in range(256)]


def encode(f, d):
    return sum(x << d * i for i, x in enumerate(f)).to_bytes(32 * d, "little")


def decode(data, d):
    bits = int.from_bytes(data, "little")
    return [bits >> d * i & (1 << d) - 1 for i in range(256)]


def compress(f, d):
    return [((x << d) + P // 2) // P % (1 << d) for x in f]


def matrix(rho):
    return [[sample_ntt(rho, j, i) for j in range(RANK)] for i in range(RANK)]


def ml_kem_public(d):
    """The encapsulation key of a key pair made from the seed d."""
    seeds = hashlib.sha3_512(d + bytes([RANK])).digest()
    rho, sigma = seeds[:32], seeds[32:]
    s = [ntt(sample_cbd(sigma, i)) for i in range(RANK)]
    e = [ntt(sample_cbd(sigma, RANK + i)) for i in range(RANK)]
    t = [[(x + y) % P for x, y in zip(dot(row, s), e[i])] for i, row in enumerate(matrix(rho))]
    return b"".join(encode(f, 12) for f in t) + rho


def ml_kem_encapsulate(public, m):
    """(shared secret, ciphertext) from the 32 random bytes m."""
    seeds = hashlib.sha3_512(m + sha3_256(public)).digest()
    secret, r = seeds[:32], seeds[32:]
    t = [decode(public[384 * i:384 * (i + 1)], 12) for i in range(RANK)]
    a = matrix(public[384 * RANK:])
    y = [ntt(sample_cbd(r, i)) for i in range(RANK)]
    ciphertext = b""
    for i in range(RANK):
        u = inverse_ntt(dot([a[j][i] for j in range(RANK)], y))
        ciphertext += encode(compress([(x + e) % P for x, e in zip(u, sample_cbd(r, RANK + i))], 10), 10)
    message = [(bit * P + 1) // 2 for bit in decode(m, 1)]
    v = zip(inverse_ntt(dot(t, y)), sample_cbd(r, 2 * RANK), message)
    return secret, ciphertext + encode(compress([sum(terms) % P for terms in v], 4), 4)


# X25519, RFC 7748.

FIELD = 2**255 - 19
BASE = (9).to_bytes(32, "little")


def x25519(scalar, point):
    k = int.from_bytes(scalar, "little") & ~7 & (1 << 255) - 1 | 1 << 254
    u = int.from_bytes(point, "little") & (1 << 255) - 1
    x2, z2, x3, z3 = 1, 0, u, 1
    for bit in range(254, -1, -1):
        if k >> bit & 1:
            x2, x3, z2, z3 = x3, x2, z3, z2
        a, b, c, d = x2 + z2, x2 - z2, x3 + z3, x3 - z3
        aa, bb, da, cb = a * a % FIELD, b * b % FIELD, d * a, c * b
        e = aa - bb
        x3, z3 = (da + cb) ** 2 % FIELD, u * (da - cb) ** 2 % FIELD
        x2, z2 = aa * bb % FIELD, e * (aa + 121665 * e) % FIELD
        if k >> bit & 1:
            x2, x3, z2, z3 = x3, x2, z3, z2
    return (x2 * pow(z2, FIELD - 2, FIELD) % FIELD).to_bytes(32, "little")


# X-Wing.

def public_key(seed):
    """1,216 bytes, from the 32 bytes that a member keeps."""
    expanded = hashlib.shake_256(seed).digest(96)
    return ml_kem_public(expanded[:32]) + x25519(expanded[64:], BASE)


def encapsulate(public, randomness):
    """(shared secret, encapsulated key) from 64 random bytes: 32 for ML-KEM, 32 for X25519."""
    pk_m, pk_x = public[:1184], public[1184:]
    ss_m, ct_m = ml_kem_encapsulate(pk_m, randomness[:32])
    ct_x, ss_x = x25519(randomness[32:], BASE), x25519(randomness[32:], pk_x)
    return sha3_256(ss_m + ss_x + ct_x + pk_x + rb"\.//^" + b"\\"), ct_m + ct_x


# HPKE with KEM 0x647a, KDF 0x0001, AEAD 0x0003.

SUITE = b"HPKE" + struct.pack(">3H", 0x647A, 0x0001, 0x0003)


def extract(salt, label, ikm):
    return hkdf_extract(salt, b"HPKE-v1" + SUITE + label + ikm)


def expand(prk, label, info, length):
    return hkdf_expand(prk, struct.pack(">H", length) + b"HPKE-v1" + SUITE + label + info, length)


def key_and_nonce(shared_secret, info):
    """The key schedule of base mode (RFC 9180 §5.1); the first message's nonce is the base nonce."""
    context = b"\x00" + extract(b"", b"psk_id_hash", b"") + extract(b"", b"info_hash", info)
    secret = extract(shared_secret, b"secret", b"")
    return expand(secret, b"key", context, 32), expand(secret, b"base_nonce", context, 12)


def chacha20_poly1305(key, nonce, associated, plain):
    """RFC 8439: ciphertext and tag."""
    tail = list(struct.unpack("<3I", nonce))
    stream = b"".join(chacha_block(key, 20, [1 + i] + tail) for i in range(-(-len(plain) // 64)))
    length = len(plain)
    cipher = (int.from_bytes(plain, "little") ^ int.from_bytes(stream[:length], "little")).to_bytes(length, "little")
    one_time = chacha_block(key, 20, [0] + tail)[:32]
    r = int.from_bytes(one_time[:16], "little") & 0x0FFFFFFC0FFFFFFC0FFFFFFC0FFFFFFF
    padded = b"".join(part + bytes(-len(part) % 16) for part in (associated, cipher))
    message = padded + struct.pack("<2Q", len(associated), length)
    tag = 0
    for at in range(0, len(message), 16):
        tag = (tag + int.from_bytes(message[at:at + 16] + b"\x01", "little")) * r % (2**130 - 5)
    tag = (tag + int.from_bytes(one_time[16:], "little")) % 2**128
    return cipher + tag.to_bytes(16, "little")


def seal_to(public, randomness, label, associated, plain):
    """Encapsulated key ‖ ciphertext ‖ tag."""
    secret, encapsulated = encapsulate(public, randomness)
    key, nonce = key_and_nonce(secret, label)
    return encapsulated + chacha20_poly1305(key, nonce, associated, plain)
