"""Signed objects: Ed25519 (RFC 8032), protobuf fields, envelopes."""

import hashlib

from primitives import sha256

P = 2**255 - 19
ORDER = 2**252 + 27742317777372353535851937790883648493
D = -121665 * pow(121666, -1, P) % P
SQRT_M1 = pow(2, (P - 1) // 4, P)


def base_point():
    y = 4 * pow(5, -1, P) % P
    x = pow((y * y - 1) * pow(D * y * y + 1, -1, P), (P + 3) // 8, P)
    if (x * x * (D * y * y + 1) - (y * y - 1)) % P:
        x = x * SQRT_M1 % P
    return (P - x if x % 2 else x, y)


def add_points(a, b):
    (x1, y1), (x2, y2) = a, b
    t = D * x1 * x2 * y1 * y2
    x = (x1 * y2 + x2 * y1) * pow(1 + t, -1, P)
    y = (y1 * y2 + x1 * x2) * pow(1 - t, -1, P)
    return x % P, y % P


def times(scalar, point):
    result = (0, 1)
    while scalar:
        if scalar & 1:
            result = add_points(result, point)
        point = add_points(point, point)
        scalar >>= 1
    return result


def compressed(point):
    return (point[1] | (point[0] & 1) << 255).to_bytes(32, "little")


BASE = base_point()


class Key:
    """An Ed25519 key pair from its 32-byte seed."""

    def __init__(self, seed):
        self.seed = seed
        digest = hashlib.sha512(seed).digest()
        self.scalar = int.from_bytes(digest[:32], "little") & ~7 & (1 << 255) - 1 | 1 << 254
        self.prefix = digest[32:]
        self.public = compressed(times(self.scalar, BASE))
        self.fingerprint = sha256(self.public)

    def sign(self, message):
        r = int.from_bytes(hashlib.sha512(self.prefix + message).digest(), "little") % ORDER
        point = compressed(times(r, BASE))
        h = int.from_bytes(hashlib.sha512(point + self.public + message).digest(), "little")
        return point + ((r + h * self.scalar) % ORDER).to_bytes(32, "little")


def varint(value):
    out = b""
    while value > 127:
        out += bytes([value & 127 | 128])
        value >>= 7
    return out + bytes([value])


def message(*fields):
    """A protobuf message of (number, value) pairs: integers, bytes, text, or lists of bytes (repeated fields).

    As proto3 writes it: an integer 0 and an empty byte string are left out, the elements of a list are not.
    """
    out = b""
    for number, value in fields:
        if isinstance(value, int):
            out += varint(number << 3) + varint(int(value)) if value else b""
            continue
        for item in value if isinstance(value, list) else [value] if value else []:
            item = item.encode() if isinstance(item, str) else item
            out += varint(number << 3 | 2) + varint(len(item)) + item
    return out


def labelled(label, payload):
    return label.encode() + b"\x00" + payload


def envelope(label, payload, key):
    return message((1, payload), (2, key.fingerprint), (3, key.sign(labelled(label, payload))))
