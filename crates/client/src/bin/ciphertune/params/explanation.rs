//! Everything that follows from a cohort and a value bound, as figures for scripts and as words.

use std::fmt;

use ciphertune_round::Roster;
use ciphertune_seal::SEALED_SHARE_BYTES;
use ciphertune_sum::{
    N, Parameters, SIGMA_SQUARED,
    security::{Leak, Lwe, MODULUS_BITS, STANDARD_ROWS, STANDARD_SIGMA, Sieve},
};
use ciphertune_wire::limits::{MESSAGE_BYTES, roster_fits};
use serde::Serialize;

use super::committee::Committee;

/// A parameter set, the proof that nothing overflows, how hard it is to break, how often it fails, what it costs.
///
/// Integers that may pass 2⁵³ are strings in JSON.
#[derive(Serialize)]
pub struct Explanation {
    name: String,
    members: usize,
    value_bound: u64,
    value_bits: u32,
    ring_degree: usize,
    modulus: String,
    modulus_bits: u32,
    error_variance: String,
    error_sigma: f64,
    delta_log2: u32,
    slot_bits: u32,
    values_per_coefficient: usize,
    overflow: Overflow,
    security: Security,
    decoding: Decoding,
    bytes_per_parameter: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    committee: Option<Committee>,
    shares: Shares,
    #[serde(skip_serializing_if = "Option::is_none")]
    round: Option<Round>,
}

/// Both sides of the two inequalities.
#[derive(Serialize)]
struct Overflow {
    largest_sum: String,
    slot_limit: String,
    largest_word: String,
    word_limit: String,
}

#[derive(Serialize)]
struct Security {
    standard: Vec<Standard>,
    standard_sigma: f64,
    core_svp: Vec<CoreSvp>,
}

/// Where q stands in one row of the Homomorphic Encryption Standard.
#[derive(Serialize)]
struct Standard {
    secret: &'static str,
    classical_bits: u32,
    classical_largest_modulus_bits: u32,
    quantum_bits: u32,
    quantum_largest_modulus_bits: u32,
}

/// The estimates for one width of what is secret, in bits rounded down.
#[derive(Serialize)]
struct CoreSvp {
    knowing: &'static str,
    sigma: f64,
    primal: Attack,
    dual: Attack,
}

#[derive(Serialize)]
struct Attack {
    block_size: u32,
    samples: u32,
    classical_bits: f64,
    quantum_bits: f64,
}

/// log₂ of upper bounds, rounded up.
#[derive(Serialize)]
struct Decoding {
    error_deviation: f64,
    tolerated_error: u64,
    rounding_at: u64,
    rounding_deviations: f64,
    coefficient_log2: f64,
    coefficient_if_normal_log2: f64,
    block_log2: f64,
}

/// Sealed shares: of the key with the contribution, and of the sum of the keys with the release.
#[derive(Serialize)]
struct Shares {
    bytes_each: usize,
    words_each: usize,
    seats: usize,
    holders: usize,
    /// A member that holds shares; another one's are those of the holders alone.
    bytes_each_way: u64,
    bytes_each_way_of_others: u64,
    others: usize,
    seals: u64,
    roster_bytes: usize,
    message_bytes: usize,
}

/// One round of one member that contributes and opens.
#[derive(Serialize)]
struct Round {
    parameters: u32,
    blocks: usize,
    body_bytes: u64,
    up_bytes: u64,
    down_bytes: u64,
    failure_log2: f64,
}

impl Explanation {
    /// All of it, with the bytes and odds of a round when one contribution carries `length` parameters.
    pub fn of(parameters: Parameters, length: Option<u32>, committee: Option<Committee>) -> Self {
        let size = committee.as_ref().map(Committee::size);
        let (variance, over) = SIGMA_SQUARED;
        Self {
            name: parameters.name(),
            members: parameters.members(),
            value_bound: parameters.value_bound(),
            value_bits: parameters.value_bound().ilog2() + 1,
            ring_degree: N,
            modulus: ciphertune_sum::Q.to_string(),
            modulus_bits: MODULUS_BITS,
            error_variance: format!("{variance}/{over}"),
            error_sigma: Leak::None.sigma(),
            delta_log2: parameters.delta_log2(),
            slot_bits: parameters.slot_bits(),
            values_per_coefficient: parameters.slots(),
            overflow: Overflow::of(&parameters),
            security: Security::of_bodies(),
            decoding: Decoding::of(&parameters),
            bytes_per_parameter: parameters.bytes_per_parameter(),
            shares: Shares::among(parameters.members(), size),
            round: length.map(|length| Round::of(&parameters, length, size)),
            committee,
        }
    }
}

impl Overflow {
    fn of(parameters: &Parameters) -> Self {
        let proof = parameters.overflow();
        Self {
            largest_sum: proof.largest_sum.to_string(),
            slot_limit: proof.slot_limit.to_string(),
            largest_word: proof.largest_word.to_string(),
            word_limit: proof.word_limit.to_string(),
        }
    }
}

impl Security {
    fn of_bodies() -> Self {
        let standard = STANDARD_ROWS.iter().filter_map(|row| {
            let (classical, classical_largest) = row.classical_level(MODULUS_BITS)?;
            let (quantum, quantum_largest) = row.quantum_level(MODULUS_BITS)?;
            Some(Standard {
                secret: row.secret,
                classical_bits: classical,
                classical_largest_modulus_bits: classical_largest,
                quantum_bits: quantum,
                quantum_largest_modulus_bits: quantum_largest,
            })
        });
        Self {
            standard: standard.collect(),
            standard_sigma: two_places(STANDARD_SIGMA),
            core_svp: Leak::ALL.map(CoreSvp::of).into(),
        }
    }
}

impl CoreSvp {
    fn of(leak: Leak) -> Self {
        let problem = Lwe::of_bodies(leak);
        let attack = |of: &dyn Fn(Sieve) -> ciphertune_sum::security::CoreSvp| {
            let (classical, quantum) = (of(Sieve::Classical), of(Sieve::Quantum));
            Attack {
                block_size: classical.block_size,
                samples: classical.samples,
                classical_bits: rounded_down(classical.bits),
                quantum_bits: rounded_down(quantum.bits),
            }
        };
        Self {
            knowing: match leak {
                Leak::None => "one body alone",
                Leak::SumOfTwo => "the sum of two honest members' keys too",
                Leak::SumOfTwoByTheorem => "that sum, by the Hint-MLWE theorem",
            },
            sigma: two_places(leak.sigma()),
            primal: attack(&|sieve| problem.primal(sieve)),
            dual: attack(&|sieve| problem.dual(sieve)),
        }
    }
}

impl Decoding {
    fn of(parameters: &Parameters) -> Self {
        let odds = parameters.decoding_failure();
        Self {
            error_deviation: two_places(odds.deviation),
            tolerated_error: odds.tolerated,
            rounding_at: 1 << (parameters.delta_log2() - 1),
            rounding_deviations: two_places(odds.rounding_deviations),
            coefficient_log2: rounded_up(odds.coefficient_log2),
            coefficient_if_normal_log2: rounded_up(odds.normal_coefficient_log2),
            block_log2: rounded_up(odds.block_log2),
        }
    }
}

impl Shares {
    fn among(members: usize, committee: Option<usize>) -> Self {
        let holders = committee.map_or(members, |size| size.min(members));
        let bytes = |shares: usize| shares as u64 * SEALED_SHARE_BYTES as u64;
        Self {
            bytes_each: SEALED_SHARE_BYTES,
            words_each: N,
            seats: members,
            holders,
            bytes_each_way: bytes(holders + members),
            bytes_each_way_of_others: bytes(holders),
            others: members - holders,
            seals: 2 * members as u64 * holders as u64,
            roster_bytes: Roster::most_bytes(members, holders),
            message_bytes: MESSAGE_BYTES,
        }
    }
}

impl Round {
    /// Of a member that holds shares. Up: a body and two rounds of shares. Down: the sum, one foreign body for the spot check, and two rounds of
    /// shares. Signed messages, some kilobytes, and a lost member's body are not counted.
    fn of(parameters: &Parameters, length: u32, committee: Option<usize>) -> Self {
        let length_here = length as usize;
        let body_bytes = parameters.body_bytes(length_here);
        let blocks = parameters.blocks(length_here);
        let shares = Shares::among(parameters.members(), committee).bytes_each_way;
        Self {
            parameters: length,
            blocks,
            body_bytes,
            up_bytes: body_bytes + shares,
            down_bytes: 2 * body_bytes + shares,
            failure_log2: rounded_up(parameters.decoding_failure().opening_log2(blocks)),
        }
    }
}

/// To a tenth of a bit: security never rounds up, odds never down.
fn rounded_down(bits: f64) -> f64 {
    (bits * 10.0).floor() / 10.0
}

fn rounded_up(log2: f64) -> f64 {
    (log2 * 10.0).ceil() / 10.0
}

fn two_places(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{}\n  members      n = {}, integers of magnitude up to B = 2^{} - 1 = {}\n  \
             ring         Z_q[X]/(X^{} + 1), q = 2^64 - 2^32 + 1 = {}\n  \
             errors       discrete Gaussian of variance {} (sigma = {}), keys and errors alike\n  \
             scale        Delta = 2^d, d = {}\n  \
             packing      k = {} values of w = {} bits in one coefficient",
            self.name,
            self.members,
            self.value_bits,
            self.value_bound,
            self.ring_degree,
            self.modulus,
            self.error_variance,
            self.error_sigma,
            self.delta_log2,
            self.values_per_coefficient,
            self.slot_bits,
        )?;
        self.overflow.fmt(f)?;
        writeln!(f, "security, estimated")?;
        self.security
            .write(f, self.ring_degree, self.modulus_bits)?;
        self.decoding.fmt(f)?;
        self.committee.iter().try_for_each(|drawn| drawn.fmt(f))?;
        writeln!(f, "bytes")?;
        writeln!(
            f,
            "  up           {:.2} a parameter (8/k)",
            self.bytes_per_parameter
        )?;
        self.shares.fmt(f)?;
        self.round.iter().try_for_each(|round| round.fmt(f))
    }
}

impl fmt::Display for Overflow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "no overflow\n  in a slot    n*B = {} <= 2^(w-1) - 1 = {}\n  \
             modulo q     2^d*n*B*(2^(k*w) - 1)/(2^w - 1) + 2^(d-1) = {} < q/2, at most {}",
            self.largest_sum, self.slot_limit, self.largest_word, self.word_limit,
        )
    }
}

impl Security {
    fn write(&self, f: &mut fmt::Formatter<'_>, degree: usize, bits: u32) -> fmt::Result {
        for row in &self.standard {
            writeln!(
                f,
                "  standard     {} bits classical (log q = {bits} <= {}), {} quantum (<= {}): Homomorphic Encryption \
                 Standard 2018, n = {degree}, sigma = {}, secret {}",
                row.classical_bits,
                row.classical_largest_modulus_bits,
                row.quantum_bits,
                row.quantum_largest_modulus_bits,
                self.standard_sigma,
                row.secret,
            )?;
        }
        for estimate in &self.core_svp {
            writeln!(
                f,
                "  core-SVP     knowing {}, sigma = {:.2}:",
                estimate.knowing, estimate.sigma
            )?;
            for (name, attack) in [("primal", &estimate.primal), ("dual", &estimate.dual)] {
                writeln!(
                    f,
                    "    {name:<10} {:.1} bits classical, {:.1} quantum (block size {}, {} samples)",
                    attack.classical_bits, attack.quantum_bits, attack.block_size, attack.samples
                )?;
            }
        }
        Ok(())
    }
}

impl fmt::Display for Decoding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "an honest sum does not open\n  \
             errors       standard deviation sigma*sqrt(n) = {:.2}; more than 9 of them ({}) void the attempt, rounding \
             errs at {} ({:.2} of them)\n  \
             coefficient  with probability at most 2^{:.1} (2*e^(-81/2), subgaussian); 2^{:.1} if the sum were normal\n  \
             block        at most 2^{:.1}",
            self.error_deviation,
            self.tolerated_error,
            self.rounding_at,
            self.rounding_deviations,
            self.coefficient_log2,
            self.coefficient_if_normal_log2,
            self.block_log2,
        )
    }
}

impl fmt::Display for Shares {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            words_each,
            holders,
            ..
        } = self;
        writeln!(
            f,
            "  shares       {} up and as many down, whatever the parameters: {holders} shares of a key and {} of the sum of keys, \
             of {words_each} words, {} sealed",
            self.bytes_each_way, self.seats, self.bytes_each,
        )?;
        if self.others > 0 {
            writeln!(
                f,
                "               {} up and as many down for the {} members outside the committee",
                self.bytes_each_way_of_others, self.others,
            )?;
        }
        writeln!(
            f,
            "  seals        {} in the whole round: n*k of keys, k*n of their sum",
            self.seals
        )?;
        if !roster_fits(self.seats, *holders) {
            writeln!(
                f,
                "  note         a roster of {} bytes does not fit a message of {}: such a round is refused; a smaller committee does",
                self.roster_bytes, self.message_bytes
            )?;
        }
        Ok(())
    }
}

impl fmt::Display for Round {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "a round of {} parameters\n  body         {} bytes, {} blocks\n  \
             up           {} bytes: body, shares\n  down         {} bytes: sum, one spot-checked body, shares\n  \
             void         with probability at most 2^{:.1} by errors alone",
            self.parameters,
            self.body_bytes,
            self.blocks,
            self.up_bytes,
            self.down_bytes,
            self.failure_log2,
        )
    }
}
