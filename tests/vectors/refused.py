"""What must be refused, and why: the edges of every check, one step inside and one step outside."""

from primitives import N, Q, sha256
from signing import message


def refused_sums(parameters):
    """Changes to the sum of one contributor whose key, errors and values are all zero: a·0 + 0 + 0, so every word of
    it is 0 and each case says what is put there. 9·σ·√1 = 57.6: an error of 57 passes, one of 58 does not."""
    d, w, k = parameters
    top = N - 1

    def case(what, expect, words=(), **more):
        return {"what": what, "expect": expect, "words": [[i, str(v % Q)] for i, v in words], **more}

    return {
        "about": "sums of one block with `length` values under the zero key, all words 0 but those listed (place, "
                 "word); `bytes` is by how many bytes the end is longer or shorter; expect: opens, malformed, "
                 "residual, value-bound",
        "parameters": "ct1-n3-b11-d8-w14-k4",
        "members": 3,
        "value_bound": 2047,
        "length": 10,
        "cases": [
            case("all zero", "opens"),
            case("the largest error", "opens", [(0, 57), (top, -57)]),
            case("an error one too large", "residual", [(5, 58)]),
            case("an error one too small", "residual", [(top, -58)]),
            case("the largest value of one", "opens", [(0, 2047 << d)]),
            case("the smallest value of one", "opens", [(0, -2047 << d)]),
            case("a value one too large", "value-bound", [(0, 2048 << d)]),
            case("a value one too small", "value-bound", [(0, -2048 << d)]),
            case("a value in the last slot", "opens", [(1, 2047 << d + w * (k - 1))]),
            case("a value where the padding begins", "value-bound", [(2, 1 << d + 2 * w)]),
            case("a value in a coefficient of padding", "value-bound", [(top, 1 << d)]),
            case("beyond the last slot", "value-bound", [(0, 1 << d + w * k - 1)]),
            case("a word that is q", "malformed", unreduced=[[3, str(Q)]]),
            case("the largest word of 64 bits", "malformed", unreduced=[[top, str(2**64 - 1)]]),
            case("the last byte missing", "malformed", bytes=-1),
            case("the last word missing", "malformed", bytes=-8),
            case("one byte more", "malformed", bytes=1),
            case("nothing at all", "malformed", bytes=-8 * N),
        ],
    }


def refused_objects(whole):
    """Payloads of signed objects that no parser may take."""
    context, roster = whole.context, whole.roster
    digest, word = sha256(b""), (Q - 1).to_bytes(8, "little")
    plan, header = whole.objects["plan"].payload, whole.objects["header of north"].payload

    def case(object, what, payload, expect="malformed"):
        return {"object": object, "what": what, "payload": payload.hex(), "expect": expect}

    def release(check):
        return message((1, context), (2, roster), (3, [digest]), (4, check), (5, digest))

    def with_committee(size, holders):
        # Fields go in the order of their numbers, or a plan would not be the same again.
        before, rest = plan[:-len(whole.list_in_force)], whole.list_in_force
        return before + message((18, size), (19, bytes(holders))) + rest

    seat_twice = message(*[(10, [message((1, digest), (2, whole.objects["one-time key of north"].envelope))])] * 2)
    return {
        "about": "expect: parses, or malformed (the author's bytes are wrong), or refused (well-formed, not allowed)",
        "cases": [
            case("release", "check words of q − 1", release(word + word), "parses"),
            case("release", "a member outside the roster", release(b""), "parses"),
            case("release", "a check word that is q", release(word + Q.to_bytes(8, "little"))),
            case("release", "one check word", release(word)),
            case("header", "a digest of 31 bytes", message((1, context), (2, digest[:31]))),
            case("header", "the last byte missing", header[:-1]),
            case("header", "a length that lies", b"\x0a\x7f" + context),
            case("echo", "no roster", message((1, context))),
            case("admission", "accepted with a reason", message((1, digest), (2, 1), (3, "but"), (4, digest))),
            case("admission", "refused without a reason", message((1, digest), (4, digest))),
            case("void", "a control character", message((1, context), (2, "a\x1bb"))),
            case("one-time-key", "a key of 32 bytes", message((1, digest), (2, 1), (3, digest))),
            case("parcel-request", "a key of 32 bytes", message((1, digest), (2, context), (3, digest), (4, digest))),
            case("plan", "another version", b"\x08\x02" + plan[2:], "refused"),
            case("plan", "a member with two seats", message((1, 1), (5, 1), (6, 1)) + seat_twice
                 + message((15, 1)) + message((9, [whole.objects["policy"].envelope]))),
            case("plan", "no seats", message((1, 1), (5, 1), (6, 1), (15, 1))),
            case("plan", "a committee of two with its seats", with_committee(2, [1, 3]), "parses"),
            case("plan", "a committee none of whom has a seat", with_committee(2, []), "parses"),
            case("plan", "holders out of order", with_committee(2, [3, 1])),
            case("plan", "a holder twice", with_committee(2, [1, 1])),
            case("plan", "a holder beyond the seats", with_committee(2, [1, 4])),
            case("plan", "a holder at seat 0", with_committee(2, [0, 1])),
            case("plan", "more holders than were drawn", with_committee(2, [1, 2, 3])),
            case("plan", "holders without a committee", plan + message((19, bytes([1, 2])))),
            case("plan", "a committee of 1,001", with_committee(1001, [1, 2])),
            case("job", "a committee of 1,001", whole.objects["job"].payload + message((21, 1001))),
            case("agreement", "a checkpoint of 1,025 bytes", message(
                (1, context), (2, digest), (3, digest), (4, bytes(1025)))),
        ],
    }
