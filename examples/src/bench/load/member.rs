//! A light member: a certificate, a connection, an event stream; it says in a round what a member says, and seals nothing.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use ciphertune_client::transfer::retry;
use ciphertune_round::{
    Admission, Agreement, Context, Digest, Echo, Hasher, Header, Object, OneTimeKeyOffer,
    PUBLIC_KEY_BYTES, Plan, Release, Signed, Signer as _,
};
use ciphertune_seal::SEALED_SHARE_BYTES;
use ciphertune_wire::{Client, Meter, connect, limits::SHARES_A_MESSAGE, proto};
use tokio::sync::{Barrier, mpsc};
use tonic::Status;

use super::{
    board::{Board, Said, What},
    bodies::Bodies,
    phases::Timed,
    scene::{Holder, Scene},
};
use crate::{Error, Result};

/// What all light members have in common.
pub struct Cast {
    /// The federation.
    pub scene: Scene,
    /// What they send.
    pub bodies: Arc<Bodies>,
    /// How many jobs there are.
    pub jobs: usize,
    /// All contribute to all jobs from one moment on, as if training had ended everywhere at once.
    pub begin: Barrier,
    /// What they hear.
    pub board: Board,
}

/// One member that is connected.
pub struct Light {
    cast: Arc<Cast>,
    number: usize,
    client: Client,
    /// Its traffic, TLS included.
    pub meter: Meter,
    jobs: HashMap<Digest, mpsc::UnboundedReceiver<Arc<Said>>>,
    reading: tokio::task::JoinHandle<()>,
}

impl Light {
    /// Connects, gives a one-time key for each job, and follows the events.
    pub async fn connect(cast: Arc<Cast>, number: usize, jobs: &[Digest]) -> Result<Self> {
        let meter = Meter::default();
        let (address, tls) = (
            cast.scene.address.to_string(),
            cast.holder(number)?.tls.clone(),
        );
        let client = connect(&address, tls, meter.clone())
            .await
            .map_err(|error| Error::fault(format_args!("member {number}"), error))?;
        let (tell, jobs) = jobs
            .iter()
            .map(|job| {
                let (tell, heard) = mpsc::unbounded_channel();
                ((*job, tell), (*job, heard))
            })
            .unzip();
        let mut own = client.clone();
        let keys = cast.keys(number)?;
        let put = proto::PutOneTimeKeysRequest { keys };
        own.put_one_time_keys(put).await.map_err(refused)?;
        let reading = tokio::spawn(read(Arc::clone(&cast), client.clone(), tell));
        Ok(Self {
            cast,
            number,
            client,
            meter,
            jobs,
            reading,
        })
    }

    /// Takes part in every job; returns what each took.
    pub async fn play(mut self) -> Result<Vec<Timed>> {
        let mut parts = tokio::task::JoinSet::new();
        for (job, said) in self.jobs.drain() {
            let part = Part {
                cast: Arc::clone(&self.cast),
                number: self.number,
                client: self.client.clone(),
                job,
                heard: Heard::of(said),
            };
            parts.spawn(part.play());
        }
        let mut timed = Vec::new();
        while let Some(played) = parts.join_next().await {
            let played = played.map_err(|error| Error::fault("a member's part", error))?;
            timed.push(played.map_err(|error| {
                Error::fault(format_args!("member {}", self.number + 1), error)
            })?);
        }
        Ok(timed)
    }
}

impl Drop for Light {
    fn drop(&mut self) {
        self.reading.abort();
    }
}

/// Hands each job's part what is said of it; a stream that breaks is opened again after the last event.
async fn read(
    cast: Arc<Cast>,
    client: Client,
    tell: HashMap<Digest, mpsc::UnboundedSender<Arc<Said>>>,
) {
    let mut after = 0;
    loop {
        let opened = retry(|| {
            let mut client = client.clone();
            async move { client.events(proto::EventsRequest { after }).await }
        });
        let Ok(stream) = opened.await else { return };
        let mut stream = stream.into_inner();
        while let Ok(Some(event)) = stream.message().await {
            after = event.sequence;
            let Ok(said) = cast.board.read(&cast.scene, &event) else {
                return;
            };
            if let Some(tell) = tell.get(&said.job) {
                let _ = tell.send(said);
            }
        }
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
}

impl Cast {
    fn holder(&self, number: usize) -> Result<&Holder> {
        let holder = self.scene.members.get(number);
        holder.ok_or_else(|| Error::Fault(format!("no member {number}")))
    }

    fn sign<T: Object>(&self, number: usize, value: T) -> Result<Vec<u8>> {
        Ok(Signed::sign(value, &self.holder(number)?.key).encode())
    }

    /// A public key for each job. Nobody seals to them: coefficients below ML-KEM's q, and no two alike.
    fn keys(&self, number: usize) -> Result<Vec<Vec<u8>>> {
        let member = self.holder(number)?.key.verifying_key().fingerprint();
        (0..self.jobs as u64)
            .map(|serial| {
                let mut public_key = vec![1; PUBLIC_KEY_BYTES];
                if let Some(start) = public_key.first_chunk_mut::<8>() {
                    *start = serial.to_le_bytes();
                }
                if let Some(end) = public_key.last_chunk_mut::<8>() {
                    *end = (number as u64).to_le_bytes();
                }
                let offer = OneTimeKeyOffer {
                    member,
                    serial,
                    public_key,
                };
                self.sign(number, offer)
            })
            .collect()
    }
}

/// One member's part in one job.
struct Part {
    cast: Arc<Cast>,
    number: usize,
    client: Client,
    job: Digest,
    heard: Heard,
}

impl Part {
    async fn play(mut self) -> Result<Timed> {
        let mut timed = Timed::default();
        self.heard.until(|heard| heard.job).await?;
        let at = Instant::now();
        let admission = Admission {
            job: self.job,
            refusal: None,
            federation_policy: self.cast.scene.policy.digest(),
            site_policy: None,
        };
        let admission = self.cast.sign(self.number, admission)?;
        retry(|| {
            let (mut client, admission) = (self.client.clone(), admission.clone());
            async move { client.admit(proto::AdmitRequest { admission }).await }
        })
        .await?;
        timed.admit = at.elapsed();

        let at = Instant::now();
        self.heard.until(|heard| heard.plan.is_some()).await?;
        timed.plan = at.elapsed();
        let (plan, context) = self.heard.plan.clone().ok_or_else(nothing)?;
        let own = self.cast.holder(self.number)?.key.verifying_key();
        let holds = plan.is_holder(&own.fingerprint());

        self.cast.begin.wait().await;
        let began = Instant::now();
        self.contribute(&plan, context).await?;
        timed.shares = began.elapsed();
        self.put_body(context).await?;
        timed.contribute = began.elapsed();
        timed.contributed = Some((began, Instant::now()));

        let at = Instant::now();
        self.heard.until(|heard| heard.roster.is_some()).await?;
        timed.roster = at.elapsed();
        let (roster, sum, contributors) = self.heard.roster.ok_or_else(nothing)?;
        if contributors != plan.seats.len() || sum != self.cast.bodies.sum {
            return Err(Error::Refused(format!(
                "the sum of {contributors} bodies is not the plain sum of {}",
                plan.seats.len()
            )));
        }

        let began = Instant::now();
        if holds {
            let echo = Echo { context, roster };
            let envelope = self.cast.sign(self.number, echo)?;
            retry(|| {
                let (mut client, envelope) = (self.client.clone(), envelope.clone());
                async move { client.put_echo(proto::PutSignedRequest { envelope }).await }
            })
            .await?;
        }
        let threshold = plan.threshold;
        self.heard.until(|heard| heard.echoes >= threshold).await?;
        timed.echo = began.elapsed();
        if holds {
            let shares = self.get_shares(context, proto::ShareKind::Key).await?;
            expect(shares, plan.seats.len(), "shares of keys")?;
        }
        self.release(&plan, context, roster, holds).await?;
        self.heard
            .until(|heard| heard.releases >= threshold)
            .await?;
        let shares = self.get_shares(context, proto::ShareKind::KeySum).await?;
        if shares < threshold {
            expect(shares, threshold, "shares of the sum of keys")?;
        }
        timed.release = began.elapsed().saturating_sub(timed.echo);
        let at = Instant::now();
        self.get_sum(context, sum).await?;
        timed.sum = at.elapsed();
        timed.open = began.elapsed();

        let at = Instant::now();
        let agreement = Agreement {
            context,
            model: Digest::sha256(b"the model of a load"),
            log_head: Digest::sha256(b"no log"),
            log_size: 1,
            server_checkpoint: Vec::new(),
        };
        let envelope = self.cast.sign(self.number, agreement)?;
        retry(|| {
            let (mut client, envelope) = (self.client.clone(), envelope.clone());
            async move {
                client
                    .put_agreement(proto::PutSignedRequest { envelope })
                    .await
            }
        })
        .await?;
        timed.agree = at.elapsed();
        self.heard.until(|heard| heard.over).await?;
        Ok(timed)
    }

    /// The header, and a share for everybody who holds one.
    async fn contribute(&self, plan: &Plan, context: Context) -> Result<()> {
        let count = plan.holders().count();
        let bodies = &self.cast.bodies;
        let header = Header {
            context,
            body: bodies.digest(self.number).ok_or_else(nothing)?,
            shares: vec![bodies.share_sha256; count],
        };
        let signed = self.cast.sign(self.number, header)?;
        self.put_shares(context, proto::ShareKind::Key, signed, count)
            .await
    }

    async fn release(
        &self,
        plan: &Plan,
        context: Context,
        roster: Digest,
        holds: bool,
    ) -> Result<()> {
        let count = if holds { plan.seats.len() } else { 0 };
        let release = Release {
            context,
            roster,
            shares: vec![self.cast.bodies.share_sha256; count],
            check: Some([1, 2]),
            ledger_head: Digest::sha256(b"no ledger"),
        };
        let signed = self.cast.sign(self.number, release)?;
        self.put_shares(context, proto::ShareKind::KeySum, signed, count)
            .await
    }

    async fn put_shares(
        &self,
        context: Context,
        kind: proto::ShareKind,
        signed: Vec<u8>,
        count: usize,
    ) -> Result<()> {
        const A_MESSAGE: usize = SHARES_A_MESSAGE / SEALED_SHARE_BYTES;
        Ok(retry(|| {
            let (mut client, mut signed) = (self.client.clone(), signed.clone());
            let share = self.cast.bodies.share.clone();
            let messages = (0..count.div_ceil(A_MESSAGE).max(1)).map(move |message| {
                let shares = A_MESSAGE.min(count - message * A_MESSAGE);
                proto::PutSharesRequest {
                    context: context.as_bytes().to_vec(),
                    kind: kind.into(),
                    signed: std::mem::take(&mut signed),
                    shares: vec![share.to_vec(); shares],
                }
            });
            async move {
                let put = client.put_shares(tokio_stream::iter(messages)).await;
                put.map(drop)
            }
        })
        .await?)
    }

    /// The body, from wherever the server has it.
    async fn put_body(&self, context: Context) -> Result<()> {
        Ok(retry(|| async {
            let mut client = self.client.clone();
            let request = proto::BodyOffsetRequest {
                context: context.as_bytes().to_vec(),
            };
            let at = client.body_offset(request).await?.into_inner();
            if at.complete {
                return Ok(());
            }
            let chunks = self.cast.bodies.chunks(self.number, at.durable);
            let chunks = chunks.map(move |(offset, data)| proto::BodyChunk {
                context: context.as_bytes().to_vec(),
                offset,
                data,
            });
            let put = client.put_body(tokio_stream::iter(chunks)).await?;
            if put.into_inner().complete {
                Ok(())
            } else {
                Err(Status::aborted("the server has only part of the body"))
            }
        })
        .await?)
    }

    /// How many shares there are for this member.
    async fn get_shares(&self, context: Context, kind: proto::ShareKind) -> Result<usize> {
        Ok(retry(|| {
            let mut client = self.client.clone();
            async move {
                let request = proto::GetSharesRequest {
                    context: context.as_bytes().to_vec(),
                    kind: kind.into(),
                };
                let mut stream = client.get_shares(request).await?.into_inner();
                let mut count = 0;
                while stream.message().await?.is_some() {
                    count += 1;
                }
                Ok(count)
            }
        })
        .await?)
    }

    /// The sum, held to the digest in the roster.
    async fn get_sum(&self, context: Context, sum: Digest) -> Result<()> {
        let got = retry(|| {
            let mut client = self.client.clone();
            async move {
                let request = proto::GetSumRequest {
                    context: context.as_bytes().to_vec(),
                    offset: 0,
                };
                let mut stream = client.get_sum(request).await?.into_inner();
                let mut hasher = Hasher::default();
                while let Some(chunk) = stream.message().await? {
                    hasher.update(&chunk.data);
                }
                Ok(hasher.finish())
            }
        })
        .await?;
        if got == sum {
            Ok(())
        } else {
            Err(Error::Refused("the sum is not the roster's".into()))
        }
    }
}

/// What was heard of one job so far.
struct Heard {
    said: mpsc::UnboundedReceiver<Arc<Said>>,
    job: bool,
    plan: Option<(Arc<Plan>, Context)>,
    /// Digest, that of the sum, contributors.
    roster: Option<(Digest, Digest, usize)>,
    echoes: usize,
    /// With shares.
    releases: usize,
    over: bool,
}

impl Heard {
    fn of(said: mpsc::UnboundedReceiver<Arc<Said>>) -> Self {
        Self {
            said,
            job: false,
            plan: None,
            roster: None,
            echoes: 0,
            releases: 0,
            over: false,
        }
    }

    async fn until(&mut self, enough: impl Fn(&Self) -> bool) -> Result<()> {
        while !enough(self) {
            let said = self.said.recv().await.ok_or_else(nothing)?;
            match &said.what {
                What::Job => self.job = true,
                What::Plan(plan, context) => self.plan = Some((Arc::clone(plan), *context)),
                What::Roster {
                    digest,
                    sum,
                    contributors,
                } => self.roster = Some((*digest, *sum, *contributors)),
                What::Echo => self.echoes += 1,
                What::Release(shares) => self.releases += usize::from(*shares),
                What::Over(Ok(())) => self.over = true,
                What::Over(Err(reason)) => return Err(Error::Refused(reason.clone())),
                What::Other => {}
            }
        }
        Ok(())
    }
}

fn nothing() -> Error {
    Error::Fault("the server's events ended in the middle of a round".into())
}

fn refused(status: Status) -> Error {
    Error::Client(status.into())
}

fn expect(got: usize, wanted: usize, what: &str) -> Result<()> {
    if got == wanted {
        return Ok(());
    }
    Err(Error::Refused(format!("{got} {what} of {wanted}")))
}
