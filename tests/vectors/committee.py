"""Who is drawn into a committee, and how many of it may collude, be missing, and open."""

from math import comb

from primitives import sha256

# A committee with more colluders than are reckoned with is drawn with probability at most 2⁻⁴⁰.
BAD = 40


def draw(size, job, model, members):
    """The first of the members by SHA-256(label ‖ 0x00 ‖ job ‖ model ‖ fingerprint), best first."""
    return sorted(members, key=lambda one: sha256(b"ciphertune/1/committee\x00" + job + model + one))[:size]


def colluders_within(members, colluders, size):
    """c_k: the least with P[X > c_k] ≤ 2⁻⁴⁰, X hypergeometric."""
    worse, within = 0, min(size, colluders)
    while within > 0:
        worse += comb(colluders, within) * comb(members - colluders, size - within)
        if worse << BAD > comb(members, size):
            break
        within -= 1
    return within


def threshold(size, within):
    """The least t with 2t ≥ k + c_k + 1."""
    return (size + within) // 2 + 1


def cases():
    for members, colluders, size in [
        (7, 0, 3), (7, 1, 3), (20, 3, 3), (20, 3, 4), (64, 8, 16), (64, 63, 64), (100, 10, 40), (300, 30, 60),
        (1000, 0, 10), (1000, 10, 20), (1000, 50, 30), (1000, 100, 50), (1000, 100, 100), (1000, 200, 100),
        (1000, 333, 200), (1000, 333, 1000), (1000, 900, 90), (1000, 998, 999),
    ]:
        within = colluders_within(members, colluders, size)
        case = {"members": members, "colluders": colluders, "committee": size}
        if within == size:
            yield {**case, "expect": "refused"}
        else:
            yield {**case, "colluders_within": within, "threshold": threshold(size, within)}


def vectors():
    members = [sha256(b"member %d" % place) for place in range(25)]
    job, model = sha256(b"a job"), sha256(b"a model")
    drawn = draw(10, job, model, members)
    return {
        "about": "a draw: places, from 0, of the first ten of 25 members whose fingerprints are SHA-256 of `member N`; and "
                 "c_k and t of committees, or that one may consist of colluders alone",
        "job": job.hex(),
        "model": model.hex(),
        "members": len(members),
        "drawn": [members.index(one) for one in drawn],
        "thresholds": list(cases()),
    }
