"""One whole round of three members with threshold 2, from seeds: what is signed and what is sealed, in order."""

import json

import committee
import xwing
from primitives import (
    N, add, check_value, open_sum, rebuild, seal, sha256, share, small, summary, summary_signed, to_bytes,
)
from signing import Key, envelope, labelled, message, varint

MEMBERS, THRESHOLD, BOUND = 3, 2, 2047
# Of keys and errors alike: three of them add up to 99 = ⌊9·σ·√3⌋ at most, the largest sum that opens.
MAGNITUDE = 33
FEDERATION = "vectors"
POLICY = """schema = 1
name = "vectors"
[privacy]
unit = "none"
clip_norm = "1.50"
rounds = 2
[aggregation]
min_contributors = 3
colluders = 0
[model]
backbones = ["any"]
encoders = ["mlp", "embedding"]
tasks = ["classification"]
[releases]
metrics = []
"""
# The policy as its digest sees it: JSON, keys sorted, no white space, every number a string.
EFFECTIVE = {
    "aggregation": {"colluders": "0", "min_cohort": "3", "min_contributors": "3"},
    "model": {"backbones": ["any"], "encoders": ["embedding", "mlp"], "tasks": ["classification"]},
    "names": ["vectors"],
    "privacy": {"clip_norm": "1.5", "rounds": "2", "unit": "none"},
    "releases": {"metrics": []},
    "schema": "1",
}


def seed(text):
    return sha256(b"one round: " + text.encode())


def canonical(value):
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


class Said:
    """A signed object: label, payload, and the envelope that travels."""

    def __init__(self, label, payload, signer):
        self.label, self.payload, self.signer = f"ciphertune/1/{label}", payload, signer
        self.envelope = envelope(self.label, payload, signer)
        self.digest = sha256(labelled(self.label, payload))


class Round:
    def __init__(self, parameters, agreement):
        self.parameters = parameters
        self.length = parameters[2] * N + 3
        self.authority = Key(seed("authority"))
        roles = [("hub", 2), ("olga", 3), ("rosa", 4), ("north", 1), ("south", 1), ("west", 1)]
        self.parties = {name: (role, Key(seed(name))) for name, role in roles}
        self.members = [name for name, role in roles if role == 1]
        self.objects = {}
        self.invite()
        self.contribute()
        self.release()
        self.agree(agreement)

    def key(self, name):
        return self.parties[name][1]

    def say(self, name, label, payload, signer):
        self.objects[name] = Said(label, payload, signer)
        return self.objects[name]

    def job_fields(self, mechanism):
        return [
            (1, FEDERATION), (2, "a round to compare with"), (3, seed("backbone")), (4, "{}"), (5, mechanism),
            (6, self.length), (7, BOUND), (8, 2), (9, 1), (10, 3), (13, 60), (14, 30), (15, 30),
            (16, seed("initial model")), (17, MEMBERS), (18, seed("job nonce")), (19, "classification"),
            (20, "embedding")]

    # Number and digest of the revocation list in force.
    list_fields = [(20, 3), (21, seed("revocation list"))]
    list_in_force = message(*list_fields)

    def plan_fields(self, manifest, job, policy, seats, drawn=()):
        return [
            (1, 1), (2, FEDERATION), (3, manifest.digest), (4, job.digest), (5, 1), (6, 1), (7, seed("initial model")),
            (8, sha256(canonical(EFFECTIVE))), (9, [policy.envelope]), (10, seats), (11, THRESHOLD), (12, 3), (13, 0),
            (14, "ct1-n3-b11-d8-w14-k4"), (15, self.length), (16, BOUND), (17, seed("plan nonce")),
            *drawn, *self.list_fields]

    def invite(self):
        """Manifest, policy, job, admissions, one-time keys, plan."""
        parties = [message((1, name), (2, role), (3, key.public)) for name, (role, key) in self.parties.items()]
        manifest = self.say("manifest", "manifest", message(
            (1, FEDERATION), (2, 7), (3, 1_800_000_000), (4, parties), (5, "hub.example:4711")), self.authority)
        policy = self.say("policy", "policy", message((1, FEDERATION), (2, POLICY)), self.key("olga"))
        mechanism = message((1, "none"), (2, "zero-out"), (3, "distributed"), (4, "1.5"), (5, "0"), (8, 12), (9, 1))
        job = self.say("job", "job", message(*self.job_fields(mechanism)), self.key("rosa"))
        for name in self.members:
            self.say(f"admission of {name}", "admission", message(
                (1, job.digest), (2, 1), (4, policy.digest)), self.key(name))
        self.say("refusal of west", "admission", message(
            (1, job.digest), (3, "our data is away"), (4, policy.digest), (5, policy.envelope)), self.key("west"))
        self.one_time = {name: seed(f"one-time key of {name}") for name in self.members}
        self.public = {name: xwing.public_key(private) for name, private in self.one_time.items()}
        offers = [self.say(f"one-time key of {name}", "one-time-key", message(
            (1, self.key(name).fingerprint), (2, 40 + place), (3, self.public[name])), self.key(name))
            for place, name in enumerate(self.members)]
        seats = [message((1, self.key(name).fingerprint), (2, offer.envelope))
                 for name, offer in zip(self.members, offers)]
        fields = self.plan_fields(manifest, job, policy, seats)
        plan = self.say("plan", "plan", message(*fields), self.key("hub"))
        self.context = sha256(labelled("ciphertune/1/context", plan.payload))
        # The same with two of the three drawn to hold the shares: t = 2.
        drawing = self.say("job with a committee", "job", message(
            *self.job_fields(mechanism), (21, 2)), self.key("rosa"))
        members = [self.key(name).fingerprint for name in self.members]
        drawn = committee.draw(2, drawing.digest, seed("initial model"), members)
        holders = b"".join(varint(place) for place, one in enumerate(members, 1) if one in drawn)
        self.say("plan with a committee", "plan", message(
            *self.plan_fields(manifest, drawing, policy, seats, [(18, 2), (19, holders)])), self.key("hub"))

    def contribute(self):
        """Bodies, sealed key shares, headers, the sum, the roster, echoes."""
        self.keys, self.values, self.bodies, self.shares, self.sealed_shares = {}, {}, {}, {}, {}
        for place, name in enumerate(self.members, 1):
            self.keys[name] = small(seed(f"key of {name}"), 0, N, MAGNITUDE)
            self.values[name] = small(seed(f"values of {name}"), 0, self.length, BOUND)
            self.bodies[name] = seal(
                self.parameters, self.context, self.keys[name], seed(f"errors of {name}"), MAGNITUDE,
                self.values[name])
            self.shares[name] = share(self.keys[name], THRESHOLD, MEMBERS, seed(f"coefficients of {name}"))
            self.sealed_shares[name] = self.seal_to_all("seal-share", b"", place, name, self.shares[name])
        headers = [self.say(f"header of {name}", "header", message(
            (1, self.context), (2, sha256(to_bytes(self.bodies[name]))),
            (3, [s["sha256"] for s in self.sealed_shares[name]])), self.key(name)) for name in self.members]
        self.sum = add(*self.bodies.values())
        roster = self.say("roster", "roster", message(
            (1, self.context), (2, [h.envelope for h in headers]), (3, sha256(to_bytes(self.sum)))), self.key("hub"))
        self.roster = roster.digest
        for name in self.members:
            self.say(f"echo of {name}", "echo", message((1, self.context), (2, self.roster)), self.key(name))

    def seal_to_all(self, label, roster, sender, name, blocks):
        """HPKE: info = the label, associated data = context ‖ [roster ‖] sender ‖ recipient as u16 little-endian."""
        sealed = []
        for recipient, to in enumerate(self.members, 1):
            randomness = b"".join(seed(f"{label} from {name} to {to}, {half}") for half in ("ML-KEM", "X25519"))
            associated = self.context + roster + sender.to_bytes(2, "little") + recipient.to_bytes(2, "little")
            data = xwing.seal_to(self.public[to], randomness, f"ciphertune/1/{label}".encode(), associated,
                                 to_bytes(blocks[recipient]))
            sealed.append({"to": recipient, "randomness": randomness, "sha256": sha256(data), "data": data})
        return sealed

    def release(self):
        """Shares of the key sum, check values, releases."""
        self.sums = {place: add(*(s[place] for s in self.shares.values())) for place in range(1, MEMBERS + 1)}
        self.checks, self.sealed_sums = {}, {}
        for place, name in enumerate(self.members, 1):
            self.checks[name] = check_value(self.roster, self.bodies[name])
            blocks = {to: self.sums[place] for to in range(1, MEMBERS + 1)}
            self.sealed_sums[name] = self.seal_to_all("seal-key-sum", self.roster, place, name, blocks)
            self.say(f"release of {name}", "release", message(
                (1, self.context), (2, self.roster), (3, [s["sha256"] for s in self.sealed_sums[name]]),
                (4, to_bytes(self.checks[name])), (5, seed(f"ledger of {name}"))), self.key(name))

    def agree(self, agreement):
        """The key sum from the last two members, the opened sum, agreements; and how else things may end."""
        self.key_sum = rebuild({place: self.sums[place] for place in (2, 3)})
        assert self.key_sum == add(*([c % (2**64 - 2**32 + 1) for c in key] for key in self.keys.values()))
        self.opened, self.residual = open_sum(self.parameters, self.context, self.key_sum, self.sum, self.length)
        assert self.opened == [sum(values) for values in zip(*self.values.values())]
        self.model = seed("new model")
        self.keyed_model = agreement(self.context, self.key_sum, self.model)
        for name in self.members:
            self.say(f"agreement of {name}", "agreement", message(
                (1, self.context), (2, self.keyed_model), (3, seed(f"log of {name}")), (4, b"a checkpoint")),
                self.key(name))
        asked = self.say("parcel request of west", "parcel-request", message(
            (1, self.key("west").fingerprint), (2, self.context), (3, self.keyed_model), (4, self.public["west"])),
            self.key("west"))
        self.say("parcel call", "parcel-call", message(
            (1, asked.envelope), (2, self.key("north").fingerprint)), self.key("hub"))
        self.say("parcel of north", "parcel", message(
            (1, self.context), (2, asked.digest), (3, seed("sealed parcel"))), self.key("north"))
        job = self.objects["job"].digest
        self.say("void", "void", message((1, self.context), (2, "too few echoes")), self.key("hub"))
        self.say("ended", "ended", message((1, job), (2, 1), (3, 2), (4, "every round is done")), self.key("hub"))
        self.say("abort", "abort", message((1, job), (2, "a wrong label")), self.key("rosa"))

    def sealed(self):
        def listed(sealed):
            return [{"to": s["to"], "randomness": s["randomness"].hex(), "sha256": s["sha256"].hex()} for s in sealed]

        contributors = [{
            "seat": place,
            "one_time_key": self.one_time[name].hex(),
            "public_key_sha256": sha256(self.public[name]).hex(),
            "key_seed": seed(f"key of {name}").hex(),
            "error_seed": seed(f"errors of {name}").hex(),
            "value_seed": seed(f"values of {name}").hex(),
            "coefficient_seed": seed(f"coefficients of {name}").hex(),
            "values": summary_signed(self.values[name]),
            "body": summary(self.bodies[name]),
            "shares": listed(self.sealed_shares[name]),
            "check_value": [str(c) for c in self.checks[name]],
            "key_sum_share": summary(self.sums[place]),
            "key_sum_shares": listed(self.sealed_sums[name]),
        } for place, name in enumerate(self.members, 1)]
        return {
            "about": "a round of three: seeds as in body.json and shares.json (small_magnitude for keys and errors, "
                     "value_bound for values); shares are sealed with HPKE, X-Wing's randomness as given; "
                     "context and roster are those of signed/objects.json",
            "parameters": "ct1-n3-b11-d8-w14-k4",
            "members": MEMBERS,
            "threshold": THRESHOLD,
            "value_bound": BOUND,
            "length": self.length,
            "small_magnitude": MAGNITUDE,
            "context": self.context.hex(),
            "roster": self.roster.hex(),
            "contributors": contributors,
            "sum": summary(self.sum),
            "key_sum": summary(self.key_sum),
            "opened": summary_signed(self.opened),
            "largest_residual": self.residual,
            "model": self.model.hex(),
            "agreement": self.keyed_model.hex(),
        }

    def signed(self):
        keys = {"authority": (None, self.authority), **self.parties}
        names = {key.fingerprint: name for name, (_, key) in keys.items()}
        return {
            "about": "every signed object of the round of seal/round.json: digest and signature are over "
                     "label ‖ 0x00 ‖ payload; an envelope is payload, signer and signature as protobuf",
            "parties": [{"name": name, "seed": key.seed.hex(), "public_key": key.public.hex(),
                         "fingerprint": key.fingerprint.hex()} for name, (_, key) in keys.items()],
            "objects": [{
                "name": name,
                "label": said.label,
                "signer": names[said.signer.fingerprint],
                "payload": said.payload.hex(),
                "digest": said.digest.hex(),
                "envelope_sha256": sha256(said.envelope).hex(),
            } for name, said in self.objects.items()],
            "context": self.context.hex(),
            "canonical_policy": canonical(EFFECTIVE).decode(),
        }
