//! One round of sealed aggregation, every phase timed.

use std::{num::NonZeroUsize, time::Duration};

use ciphertune_gauss::Entropy;
use ciphertune_round::{Context, Digest, ShareIndex};
use ciphertune_seal::{
    CheckValue, KeySum, KeySumShare, OneTimeKey, SEALED_SHARE_BYTES, SealedContribution,
    SealingKey, check_value, contribute_on, every_seat, open_on, sum_shares,
};
use ciphertune_sum::add_bodies;
use rand_core::Rng as _;

use super::{
    options::{SealOptions, Shape},
    samples::{Effort, Samples, timed},
    values::{plain_sum, values},
};
use crate::{Error, Result};

/// What a round took.
#[derive(Clone, Debug)]
pub struct Timed {
    /// One member's whole contribution.
    pub seal: Samples,
    /// The sum of all bodies.
    pub add: Samples,
    /// One body's check value.
    pub check: Samples,
    /// Opening the sum, with all that it is held to, in memory that held a vector before, as the client does.
    pub open: Samples,
    /// Opening it in memory that the system hands out for it.
    pub open_fresh: Samples,
    /// Opening and adding the shares of the keys, sealing the result, opening enough of those and rebuilding the key.
    pub key_sum: f64,
    /// A member sends its body and two rounds of sealed shares.
    pub bytes_up: u64,
    /// A member fetches the sum and two rounds of sealed shares.
    pub bytes_down: u64,
    /// And one foreign body, for the spot check.
    pub bytes_spot_check: u64,
}

/// A cohort, and what each of its members holds in one context.
struct Cohort<'a> {
    shape: &'a Shape,
    threads: NonZeroUsize,
    keys: Vec<OneTimeKey>,
    seats: Vec<SealingKey>,
    holders: Vec<(ShareIndex, SealingKey)>,
    context: Context,
    roster: Digest,
}

/// Runs the round; fails unless the opened sum is the plain one.
pub fn measure(options: &SealOptions, shape: &Shape) -> Result<Timed> {
    let effort = Effort {
        repeats: options.repeats,
        seconds: options.seconds,
    };
    let (length, parameters) = (shape.length, &shape.parameters);
    let threads = NonZeroUsize::from(options.threads);
    let cohort = Cohort::new(shape, threads)?;
    let body_bytes = parameters.body_bytes(length) as usize;

    // The members contribute, and the first one is measured again under contexts of its own.
    let mut bodies: Vec<Vec<u8>> = Vec::new();
    let mut sealed = Vec::new();
    let mut seconds = Vec::new();
    for member in 0..shape.members() {
        let mine: Vec<i64> = values(member, length, parameters.value_bound()).collect();
        let mut body = touched(body_bytes);
        let (contribution, taken) = cohort.seal(member, &cohort.context, &mine, &mut body)?;
        seconds.push(taken.as_secs_f64());
        sealed.push(contribution);
        bodies.push(body);
    }
    let mine: Vec<i64> = values(0, length, parameters.value_bound()).collect();
    let mut scratch = touched(body_bytes);
    let more = Effort {
        repeats: options.repeats.saturating_sub(shape.members() as u32),
        ..effort
    };
    let more = more.sample(|_| {
        scratch.clear();
        let another = fresh_context()?;
        Ok::<_, Error>(cohort.seal(0, &another, &mine, &mut scratch)?.1)
    })?;
    seconds.extend(more.samples);
    drop((mine, scratch));

    let mut sum = touched(body_bytes);
    let add = effort.sample(|_| {
        sum.clear();
        let mut readers: Vec<&[u8]> = bodies.iter().map(Vec::as_slice).collect();
        let (added, taken) = timed(|| add_bodies(parameters, length, &mut readers, &mut sum));
        added.map_err(|error| Error::fault("adding", error))?;
        Ok::<_, Error>(taken)
    })?;

    let mut checks = Vec::new();
    for body in &bodies {
        checks.push(cohort.check(body)?.0);
    }
    let check =
        effort.sample(|run| Ok::<_, Error>(cohort.check(&bodies[run % bodies.len()])?.1))?;

    let (key, key_sum) = timed(|| cohort.key(&sealed));
    let key = key?;
    let expected = plain_sum(shape.members(), length, parameters.value_bound());
    let digest = Digest::sha256(&sum);
    let open_in = |into: Vec<i64>| {
        let (context, roster, members) = (&cohort.context, &cohort.roster, shape.members());
        let (opened, taken) = timed(|| {
            let sum = sum.as_slice();
            open_on(
                threads, parameters, length, context, roster, &key, members, &checks, &digest, sum,
                into,
            )
        });
        let (opened, _) = opened.map_err(|error| Error::fault("opening", error))?;
        let opened = opened.into_values();
        if opened == expected {
            Ok((opened, taken))
        } else {
            Err(Error::Refused("the opened sum is not the plain sum".into()))
        }
    };
    let mut vector = vec![1; length];
    let open = effort.sample(|_| {
        let (opened, taken) = open_in(std::mem::take(&mut vector))?;
        vector = opened;
        Ok::<_, Error>(taken)
    })?;
    drop(vector);
    let open_fresh = effort.sample(|_| Ok::<_, Error>(open_in(Vec::new())?.1))?;

    let shares = 2 * (shape.members() * SEALED_SHARE_BYTES) as u64;
    Ok(Timed {
        seal: Samples::of(seconds),
        add,
        check,
        open,
        open_fresh,
        key_sum: key_sum.as_secs_f64(),
        bytes_up: bodies[0].len() as u64 + shares,
        bytes_down: sum.len() as u64 + shares,
        bytes_spot_check: bodies[0].len() as u64,
    })
}

impl<'a> Cohort<'a> {
    fn new(shape: &'a Shape, threads: NonZeroUsize) -> Result<Self> {
        let (keys, seats) = one_time_keys(shape.members())?;
        Ok(Self {
            shape,
            threads,
            keys,
            holders: every_seat(&seats)
                .map_err(|error| Error::fault("the holders of shares", error))?,
            seats,
            context: fresh_context()?,
            roster: Digest::sha256(b"the roster of a benchmark"),
        })
    }

    fn seal(
        &self,
        member: usize,
        context: &Context,
        values: &[i64],
        body: &mut Vec<u8>,
    ) -> Result<(SealedContribution, Duration)> {
        let (parameters, threshold) = (&self.shape.parameters, self.shape.threshold());
        let seat = seat(member)?;
        let (sealed, taken) = timed(|| {
            contribute_on(
                self.threads,
                parameters,
                context,
                seat,
                threshold,
                &self.holders,
                values,
                body,
            )
        });
        Ok((
            sealed.map_err(|error| Error::fault("sealing", error))?,
            taken,
        ))
    }

    fn check(&self, body: &[u8]) -> Result<(CheckValue, Duration)> {
        let (parameters, length) = (&self.shape.parameters, self.shape.length);
        let (value, taken) = timed(|| check_value(parameters, length, &self.roster, body));
        Ok((
            value.map_err(|error| Error::fault("checking", error))?,
            taken,
        ))
    }

    /// S, as the first member rebuilds it from the releases of the first t.
    fn key(&self, sealed: &[SealedContribution]) -> Result<KeySum> {
        let released = |from: usize| -> Result<(ShareIndex, KeySumShare), ciphertune_seal::Error> {
            let sealed: Vec<(ShareIndex, Vec<u8>)> = (1..)
                .filter_map(|point| ShareIndex::new(point).ok())
                .zip(sealed)
                .map(|(sender, sealed)| (sender, sealed.sealed_shares[from].clone()))
                .collect();
            let (key, mine) = (&self.keys[from], sealed[from].0);
            let share = sum_shares(key, &self.context, mine, &sealed)?;
            let to_all = share.seal_to(&self.context, &self.roster, mine, &self.seats)?;
            let first = sealed[0].0;
            KeySumShare::open(
                &self.keys[0],
                &self.context,
                &self.roster,
                mine,
                first,
                &to_all[0],
            )
        };
        let (parameters, t) = (&self.shape.parameters, self.shape.threshold());
        let rebuild = || {
            let shares = (0..t).map(released).collect::<Result<_, _>>()?;
            KeySum::rebuild(parameters, shares, t, self.shape.members())
        };
        rebuild().map_err(|error: ciphertune_seal::Error| Error::fault("rebuilding the key", error))
    }
}

/// A key for each member.
pub fn one_time_keys(members: usize) -> Result<(Vec<OneTimeKey>, Vec<SealingKey>)> {
    let make = || {
        let mut entropy = Entropy::from_os()?;
        let keys: Vec<OneTimeKey> = (0..members)
            .map(|_| OneTimeKey::generate(&mut entropy))
            .collect::<Result<_, _>>()?;
        let seats = keys
            .iter()
            .map(|key| SealingKey::parse(&key.public()))
            .collect::<Result<_, _>>()?;
        Ok((keys, seats))
    };
    make().map_err(|error: ciphertune_seal::Error| Error::fault("one-time keys", error))
}

/// A context that nothing was ever sealed in.
pub fn fresh_context() -> Result<Context> {
    let mut plan = [0; 32];
    Entropy::from_os()
        .map_err(|error| Error::fault("entropy", error))?
        .fill_bytes(&mut plan);
    Ok(Context::of_plan(&plan))
}

/// The seat at a position.
pub fn seat(position: usize) -> Result<ShareIndex> {
    ShareIndex::at(position).map_err(|error| Error::fault("a seat", error))
}

/// An empty vector whose memory the system has handed out already.
fn touched(bytes: usize) -> Vec<u8> {
    let mut vector = vec![1; bytes];
    vector.clear();
    vector
}
