//! Train, clip, quantise, add noise, charge, seal, make durable, send: in this order, and no other compiles.

use std::{
    fs::File,
    io::{BufWriter, Write},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Instant, SystemTime},
};

use ciphertune_dp::{
    ClipReport, Clipped, ExampleSum, Mechanism, Noised, PoissonBatch, SamplingRate,
};
use ciphertune_gauss::Entropy;
use ciphertune_ledger::Charged;
use ciphertune_policy::Unit;
use ciphertune_round::{Context, Digest, Header, Signed};
use ciphertune_seal::SealedContribution;
use ciphertune_wire::proto::{EventKind, ShareKind};
use tokio::sync::mpsc;
use zeroize::Zeroize as _;

use super::{Engagement, LEDGER_HEAD, Member, blocking, vet::Vetted};
use crate::{
    desk::Kept,
    error::{Error, Result},
    inbox::{Backlog, kind},
    learner::{Learner, Progress},
    report::{Happening, Seconds},
    transfer::{send_body, send_shares},
};

/// A contribution that is on its way, or at the server.
pub(super) struct Contributed {
    pub header: Signed<Header>,
    pub charged: Charged,
    pub seconds: Seconds,
    pub local: Local,
    /// Zeros in the memory that the update was sealed from, for the sum to be opened in: its pages need not be asked
    /// of the system again. Empty after a restart.
    pub wiped: Vec<i64>,
}

/// What is known of the update at home.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Local {
    pub training_loss: Option<f64>,
    pub clip: Option<ClipReport>,
}

/// What training gave.
struct Trained {
    work: Work,
    /// Mean training loss.
    loss: Option<f64>,
}

/// What is still to be noised. Only [`noise`] makes of it what can be sealed.
enum Work {
    /// One update, still to be clipped.
    Update(Vec<f32>),
    /// A batch of records' gradients, each clipped on its own.
    Batch(Box<ExampleSum>),
}

/// Above this share of coordinates quantised to 0 the member is warned.
const MOST_ZEROED: f64 = 0.9;

impl Member {
    pub(super) async fn contribute(
        &mut self,
        engaged: &mut Engagement,
        vetted: &Vetted,
    ) -> Result<Contributed> {
        let mut seconds = Seconds::default();
        let mut local = Local::default();
        let earlier = vetted.attempt.contribution(self.site.manifest().value())?;
        let resumed = earlier.is_some();
        let mut wiped = Vec::new();
        let (header, shares, charged) = match earlier {
            // Sealed in an earlier life: the same bytes again, never a second update under one context.
            Some(Kept { header, shares }) => {
                let charged = self.charge(engaged, vetted).await?;
                (header, shares, charged)
            }
            None => {
                let started = Instant::now();
                let trained = self.train(engaged, vetted).await?;
                seconds.train = started.elapsed().as_secs_f64();
                local.training_loss = trained.loss;

                let started = Instant::now();
                let (noised, report) = self.privatise(engaged, trained.work).await?;
                local.clip = Some(report);
                let charged = self.charge(engaged, vetted).await?;
                seconds.privatise = started.elapsed().as_secs_f64();

                let started = Instant::now();
                let (header, shares);
                (header, shares, wiped) = self.seal(vetted, noised, &charged).await?;
                seconds.seal = started.elapsed().as_secs_f64();
                (header, shares, charged)
            }
        };
        let policy = Digest::from_bytes(*vetted.admitted.policy_digest());
        let body = vetted.parameters.body_bytes(vetted.length);
        let sealed: usize = shares.iter().map(Vec::len).sum();
        self.note_on(
            "contribution",
            [
                ("context", vetted.context.to_string().into()),
                ("header", header.digest().to_string().into()),
                ("body", header.body.to_string().into()),
                ("body_bytes", body.into()),
                ("share_bytes", (sealed as u64).into()),
                ("policy", policy.to_string().into()),
            ],
            &[&header.encode()],
        )?;
        let started = Instant::now();
        match self.send(engaged, vetted, &header, shares, &charged).await {
            // The server may have closed the phase while this member was away, with or without it.
            Err(Error::Void(said)) if resumed => {
                tracing::info!(said, "the contribution of an earlier life")
            }
            sent => sent?,
        }
        seconds.send = started.elapsed().as_secs_f64();
        Ok(Contributed {
            header,
            charged,
            seconds,
            local,
            wiped,
        })
    }

    /// Trains on a thread of its own, while events are listened to: a void attempt stops it.
    async fn train(&mut self, engaged: &Engagement, vetted: &Vetted) -> Result<Trained> {
        let in_batches = engaged.job.mechanism.batches.is_some();
        let rate = in_batches.then_some(engaged.reckoned.rate);
        let is_private = engaged.job.mechanism.unit != Unit::None;
        let mut learner = self
            .learner
            .take()
            .ok_or_else(|| Error::Fault("the learner's thread failed before".into()))?;
        let (told, mut hearing) = mpsc::unbounded_channel::<Progress>();
        let stop = Arc::clone(&self.stop);
        stop.store(false, Ordering::Relaxed);
        let state = engaged.model.state.clone();
        let (mechanism, round) = (engaged.reckoned.mechanism.clone(), vetted.plan.round);
        let mut training = tokio::task::spawn_blocking(move || {
            let mut progress = |at: Progress| {
                let _ = told.send(at); // nobody listens any more: training goes on regardless
            };
            let work = match rate {
                Some(rate) => sum_batch(
                    &mut *learner,
                    &state,
                    round,
                    &mechanism,
                    rate,
                    &mut progress,
                    &stop,
                ),
                None => learner
                    .train(&state, round, &mut progress, &stop)
                    .map(|update| Trained {
                        work: Work::Update(update.delta),
                        loss: update.loss,
                    }),
            };
            (learner, work)
        });
        let mut kept = Backlog::default();
        let mut over = None;
        let (learner, trained) = loop {
            tokio::select! {
                done = &mut training => break done.map_err(|error| Error::fault("training", error))?,
                Some(at) = hearing.recv() => {
                    self.tell(Happening::Training { step: at.step, steps: at.steps, loss: at.loss });
                }
                event = self.inbox.next(), if over.is_none() => {
                    let event = event?;
                    if kind(&event) == EventKind::ParcelCall {
                        self.hand_over(&event.envelope)?;
                        continue;
                    }
                    if matches!(kind(&event), EventKind::Void | EventKind::Ended | EventKind::Plan) {
                        // Let the next wait look at it; stop if it ends this attempt.
                        over = self.ends(engaged, vetted.context, &event);
                        if over.is_some() {
                            self.stop.store(true, Ordering::Relaxed);
                        }
                    }
                    if let Err(Error::Void(said)) = kept.push(event) {
                        over.get_or_insert(said);
                        self.stop.store(true, Ordering::Relaxed);
                    }
                }
            }
        };
        self.learner = Some(learner);
        while let Ok(at) = hearing.try_recv() {
            self.tell(Happening::Training {
                step: at.step,
                steps: at.steps,
                loss: at.loss,
            });
        }
        self.inbox.put_back(kept);
        match (over, trained) {
            (Some(reason), _) => Err(Error::Void(reason)),
            // Leaving would show everybody that something is wrong with this member's data.
            (None, Err(Error::Refused(why))) if is_private && rate.is_none() => {
                self.tell(Happening::Warning {
                    said: format!("{why}: this round gets nothing of this member's but noise"),
                });
                let nothing = vec![0.0; engaged.reckoned.mechanism.dimension()];
                Ok(Trained {
                    work: Work::Update(nothing),
                    loss: None,
                })
            }
            (None, trained) => trained,
        }
    }

    /// Clips, quantises and adds noise.
    async fn privatise(
        &mut self,
        engaged: &Engagement,
        work: Work,
    ) -> Result<(Noised, ClipReport)> {
        let mechanism = engaged.reckoned.mechanism.clone();
        let (noised, report) = blocking(move || noise(work, &mechanism)).await?;
        if !report.norm_before.is_finite() {
            self.tell(Happening::Warning {
                said: "training gave numbers that are not finite: zeros were sent in their place"
                    .into(),
            });
        }
        if report.zeroed_share > MOST_ZEROED {
            self.tell(Happening::Warning {
                said: format!(
                    "{:.0} % of the coordinates that were clipped were rounded to 0: clip less, or allow more value bits",
                    report.zeroed_share * 100.0
                ),
            });
        }
        Ok((noised, report))
    }

    /// Charges the dataset's ledger, durably and at the worst case, before anything leaves.
    async fn charge(&mut self, engaged: &Engagement, vetted: &Vetted) -> Result<Charged> {
        let cost = engaged.reckoned.attempt_cost()?;
        let charged = engaged.ledger.charge(
            *engaged.digest().as_bytes(),
            *vetted.context.as_bytes(),
            &cost,
            SystemTime::now(),
        );
        let path = self.site.home().ledger();
        let charged = self.site.disk().commits(&path, charged).await?;
        self.note(
            "charge",
            [
                ("context", vetted.context.to_string().into()),
                ("dataset", self.options.dataset.clone().into()),
                ("cost", charged.cost().units().into()),
                (
                    LEDGER_HEAD,
                    Digest::from_bytes(*charged.ledger_head())
                        .to_string()
                        .into(),
                ),
            ],
        )?;
        Ok(charged)
    }

    /// Seals what is admitted, noised and charged, and makes it durable before its first byte leaves. Gives back the
    /// values' memory, wiped.
    async fn seal(
        &mut self,
        vetted: &Vetted,
        noised: Noised,
        charged: &Charged,
    ) -> Result<(Signed<Header>, Vec<Vec<u8>>, Vec<i64>)> {
        demand_same_context(vetted.context, charged)?;
        let mut values = noised.into_values();
        if let Some(folder) = &self.options.dangerous_plaintext {
            let name = format!(
                "{}-{}-{}.i64",
                vetted.plan.round, vetted.plan.attempt, vetted.seat
            );
            dangerous_write_plaintext(&folder.join(name), &values)?;
        }
        let body = vetted.attempt.start_body()?;
        let (parameters, context, seat) = (vetted.parameters, vetted.context, vetted.seat);
        let (threshold, holders) = (vetted.plan.threshold, vetted.holding());
        let threads = self.options.threads;
        let (sealed, wiped) = blocking(move || {
            let mut file = BufWriter::with_capacity(1 << 20, body);
            let sealed: SealedContribution = ciphertune_seal::contribute_on(
                threads,
                &parameters,
                &context,
                seat,
                threshold,
                &holders,
                &values,
                &mut file,
            )?;
            file.flush()
                .map_err(|error| Error::fault("writing the body", error))?;
            values.as_mut_slice().zeroize();
            Ok((sealed, std::mem::take(&mut *values)))
        })
        .await?;
        let header = Header {
            context: vetted.context,
            body: sealed.body_sha256,
            shares: sealed
                .sealed_shares
                .iter()
                .map(|share| Digest::sha256(share))
                .collect(),
        };
        let header = Signed::sign(header, self.site.key());
        vetted
            .attempt
            .keep_contribution(&header, &sealed.sealed_shares)?;
        Ok((header, sealed.sealed_shares, wiped))
    }

    /// Sends what was charged: no proof of the charge, no sending.
    async fn send(
        &mut self,
        engaged: &Engagement,
        vetted: &Vetted,
        header: &Signed<Header>,
        shares: Vec<Vec<u8>>,
        charged: &Charged,
    ) -> Result<()> {
        demand_same_context(vetted.context, charged)?;
        let (client, context) = (self.client.clone(), vetted.context);
        let (header, body) = (header.encode(), vetted.attempt.body());
        let sent = async {
            send_shares(&client, context, ShareKind::Key, header, shares).await?;
            send_body(&client, context, &body).await
        };
        self.while_open(engaged, context, sent).await
    }
}

/// Draws a batch by coins of the operating system's entropy, for this attempt alone, and sums its records' gradients. One
/// that is empty is a sum like any other.
fn sum_batch(
    learner: &mut dyn Learner,
    state: &[f32],
    round: u32,
    mechanism: &Mechanism,
    rate: SamplingRate,
    progress: &mut dyn FnMut(Progress),
    stop: &AtomicBool,
) -> Result<Trained> {
    let mut entropy = Entropy::from_os().map_err(|error| Error::fault("entropy", error))?;
    let batch = PoissonBatch::draw(learner.records(), rate, &mut entropy);
    let mut sum = ExampleSum::new(mechanism);
    let loss = learner.add_gradients(state, round, &batch, &mut sum, progress, stop)?;
    if sum.examples() == batch.records().len() {
        Ok(Trained {
            work: Work::Batch(Box::new(sum)),
            loss,
        })
    } else {
        Err(Error::Misuse(
            "the learner summed other records than were drawn".into(),
        ))
    }
}

fn noise(work: Work, mechanism: &Mechanism) -> Result<(Noised, ClipReport)> {
    let (clipped, report) = match work {
        Work::Update(delta) => Clipped::new(&delta, mechanism)?,
        Work::Batch(sum) => sum.finish(),
    };
    let noised = if mechanism.spec().unit == Unit::None {
        clipped.without_privacy(mechanism)?
    } else {
        let mut entropy = Entropy::from_os().map_err(|error| Error::fault("entropy", error))?;
        clipped.add_noise(mechanism, &mut entropy)?
    };
    Ok((noised, report))
}

fn demand_same_context(context: Context, charged: &Charged) -> Result<()> {
    if charged.context() == context.as_bytes() {
        Ok(())
    } else {
        Err(Error::Misuse("the charge is for another context".into()))
    }
}

/// Little-endian integers, for whoever holds the sealed sum to the plain one. See
/// [`Options::dangerous_plaintext`](super::Options).
pub(super) fn dangerous_write_plaintext(path: &Path, values: &[i64]) -> Result<()> {
    let write = || {
        let mut file = BufWriter::new(File::create(path)?);
        values
            .iter()
            .try_for_each(|value| file.write_all(&value.to_le_bytes()))?;
        file.flush()
    };
    write().map_err(|error| Error::fault(format_args!("writing {}", path.display()), error))
}
