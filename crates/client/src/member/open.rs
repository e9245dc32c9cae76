//! Echo the one roster, release for it once enough echoed it, rebuild the sum of the keys, open and check the sum.

use std::{
    collections::{BTreeMap, VecDeque},
    fs::File,
    io::BufReader,
    path::PathBuf,
    time::{Duration, Instant},
};

use ciphertune_dp::Release as Released;
use ciphertune_gauss::Entropy;
use ciphertune_identity::Role;
use ciphertune_round::{Contributor, Digest, Echo, Hasher, Release, Roster, ShareIndex, Signed};
use ciphertune_seal::{Check, CheckValue, KeySum, KeySumShare, OneTimeKey, SecondOpening};
use ciphertune_wire::proto::{Event, EventKind, PutSignedRequest, ShareKind};
use rand_core::Rng as _;

use super::{
    Engagement, Member, blocking,
    contribute::{Contributed, Local, dangerous_write_plaintext},
    vet::Vetted,
};
use crate::{
    desk::KeptRelease,
    error::{Error, Result},
    report::Seconds,
    transfer::{Wanted, fetch, fetch_shares, retry, send_shares},
};

/// How long the last contributors' check values are waited for once enough members released; then they are computed
/// from their bodies.
const PATIENCE: Duration = Duration::from_secs(2);

/// A sum that was opened and checked.
pub(super) struct Opened {
    pub released: Released,
    pub key: KeySum,
    pub roster: Digest,
    pub contributors: usize,
    pub second: SecondOpening,
    pub seconds: Seconds,
    pub local: Local,
    /// Events for [`Member::serve`], read while this attempt was waited for.
    pub kept: VecDeque<Event>,
}

/// A roster that was checked, and is the one of this context.
struct Accepted {
    digest: Digest,
    sum: Digest,
    contributors: Vec<Contributor>,
}

impl Member {
    pub(super) async fn open(
        &mut self,
        engaged: &Engagement,
        vetted: &Vetted,
        contributed: Contributed,
    ) -> Result<Opened> {
        let mut kept = VecDeque::new();
        let opened = self
            .open_keeping(engaged, vetted, contributed, &mut kept)
            .await;
        match opened {
            Ok(opened) => Ok(Opened { kept, ..opened }),
            Err(error) => {
                self.inbox.put_back(kept.into_iter());
                Err(error)
            }
        }
    }

    async fn open_keeping(
        &mut self,
        engaged: &Engagement,
        vetted: &Vetted,
        contributed: Contributed,
        kept: &mut VecDeque<Event>,
    ) -> Result<Opened> {
        let mut seconds = contributed.seconds;
        let started = Instant::now();
        let mut heard = Heard::default();
        let roster = self
            .accept_roster(engaged, vetted, &contributed, &mut heard, kept)
            .await?;
        self.echo(vetted, &roster).await?;
        while heard.echoes(&roster) < vetted.plan.threshold {
            self.listen(engaged, vetted, &mut heard, kept).await?;
        }
        seconds.wait = started.elapsed().as_secs_f64();

        let started = Instant::now();
        let spot = self.release(vetted, &contributed, &roster).await?;
        while heard.releases(&roster).count() < vetted.plan.threshold {
            self.listen(engaged, vetted, &mut heard, kept).await?;
        }
        self.await_checks(engaged, vetted, &roster, &mut heard, kept)
            .await?;
        let checks = self.check_values(vetted, &roster, &heard, spot).await?;
        let keys = self.rebuild_key(vetted, &roster, &heard).await?;
        let (sum, second, key) = self.open_sum(vetted, &roster, keys, checks).await?;
        if let Some(folder) = &self.options.dangerous_plaintext {
            let name = format!(
                "{}-{}-sum-by-{}.i64",
                vetted.plan.round, vetted.plan.attempt, vetted.seat
            );
            dangerous_write_plaintext(&folder.join(name), &sum)?;
        }
        let contributors = roster.contributors.len();
        let released = Released::from_opened(sum, contributors, &engaged.reckoned.mechanism)?;
        seconds.open = started.elapsed().as_secs_f64();
        self.note(
            "opened",
            [
                ("context", vetted.context.to_string().into()),
                ("roster", roster.digest.to_string().into()),
                ("contributors", contributors.into()),
                ("second_opening_block", second.block.into()),
                ("blocks", second.blocks.into()),
                (
                    "disagreeing_shares",
                    key.disagreeing()
                        .iter()
                        .map(|seat| seat.get())
                        .collect::<Vec<_>>()
                        .into(),
                ),
            ],
        )?;
        Ok(Opened {
            released,
            key,
            roster: roster.digest,
            contributors,
            second,
            seconds,
            local: contributed.local,
            kept: VecDeque::new(),
        })
    }

    /// Waits for the roster, checks it, and notes durably that it is the one for this context.
    async fn accept_roster(
        &mut self,
        engaged: &Engagement,
        vetted: &Vetted,
        contributed: &Contributed,
        heard: &mut Heard,
        kept: &mut VecDeque<Event>,
    ) -> Result<Accepted> {
        let roster = loop {
            if let Some(roster) = heard.roster.take() {
                break roster;
            }
            self.listen(engaged, vetted, heard, kept).await?;
        };
        let manifest = self.site.manifest().value();
        let contributors =
            roster.contributors(&vetted.plan, manifest, Some(&contributed.header))?;
        let digest = roster.digest();
        vetted.attempt.accept_roster(&digest)?;
        self.note(
            "roster",
            [
                ("context", vetted.context.to_string().into()),
                ("roster", digest.to_string().into()),
                ("contributors", contributors.len().into()),
            ],
        )?;
        Ok(Accepted {
            digest,
            sum: roster.sum,
            contributors,
        })
    }

    async fn echo(&mut self, vetted: &Vetted, roster: &Accepted) -> Result<()> {
        let echo = Echo {
            context: vetted.context,
            roster: roster.digest,
        };
        let request = PutSignedRequest {
            envelope: Signed::sign(echo, self.site.key()).encode(),
        };
        retry(|| {
            let (mut client, request) = (self.client.clone(), request.clone());
            async move { client.put_echo(request).await.map(drop) }
        })
        .await
    }

    /// Adds the shares that the roster's members sealed to this one, seals the result to everybody, and sends it with
    /// this member's check value. Returns the check value of one random foreign body, for the spot check.
    async fn release(
        &mut self,
        vetted: &Vetted,
        contributed: &Contributed,
        roster: &Accepted,
    ) -> Result<Option<(ShareIndex, CheckValue)>> {
        let earlier = vetted.attempt.release(self.site.manifest().value())?;
        let KeptRelease { release, shares } = match earlier {
            Some(kept) => kept,
            None => self.seal_release(vetted, contributed, roster).await?,
        };
        if release.roster != roster.digest {
            return Err(Error::Refused(
                "this member released for another roster".into(),
            ));
        }
        send_shares(
            &self.client,
            vetted.context,
            ShareKind::KeySum,
            release.encode(),
            shares,
        )
        .await?;
        self.spot_check(vetted, roster).await
    }

    async fn seal_release(
        &mut self,
        vetted: &Vetted,
        contributed: &Contributed,
        roster: &Accepted,
    ) -> Result<KeptRelease> {
        let sealed = fetch_shares(
            &self.client,
            vetted.context,
            ShareKind::Key,
            vetted.seats.len(),
        )
        .await?;
        let sealed = held_to_digests(sealed, vetted.seat, |sender| {
            roster
                .contributors
                .iter()
                .find(|contributor| contributor.seat == sender)
                .map(|contributor| contributor.header.shares.as_slice())
        })?;
        if sealed.len() != roster.contributors.len() {
            return Err(Error::Void(format!(
                "{} of {} sealed shares for this member came from the server",
                sealed.len(),
                roster.contributors.len()
            )));
        }
        let key = self.stock.take(&vetted.offer)?;
        let share = ciphertune_seal::sum_shares(&key, &vetted.context, vetted.seat, &sealed)?;
        let shares = share.seal_to(&vetted.context, &roster.digest, vetted.seat, &vetted.seats)?;
        let in_roster = roster
            .contributors
            .iter()
            .any(|contributor| contributor.seat == vetted.seat);
        let check = if in_roster {
            Some(
                self.check_value(vetted, roster, vetted.attempt.body())
                    .await?,
            )
        } else {
            None
        };
        let release = Release {
            context: vetted.context,
            roster: roster.digest,
            shares: shares.iter().map(|share| Digest::sha256(share)).collect(),
            check: check.map(|check| check.0),
            ledger_head: Digest::from_bytes(*contributed.charged.ledger_head()),
        };
        let release = Signed::sign(release, self.site.key());
        vetted.attempt.keep_release(&release, &shares)?;
        self.note(
            "release",
            [
                ("context", vetted.context.to_string().into()),
                ("roster", roster.digest.to_string().into()),
                ("release", release.digest().to_string().into()),
            ],
        )?;
        Ok(KeptRelease { release, shares })
    }

    /// Fetches one random foreign body, so that a contributor that lies about its check value is caught with evidence.
    async fn spot_check(
        &mut self,
        vetted: &Vetted,
        roster: &Accepted,
    ) -> Result<Option<(ShareIndex, CheckValue)>> {
        let foreign: Vec<&Contributor> = roster
            .contributors
            .iter()
            .filter(|contributor| contributor.seat != vetted.seat)
            .collect();
        if foreign.is_empty() {
            return Ok(None);
        }
        let mut entropy = Entropy::from_os().map_err(|error| Error::fault("entropy", error))?;
        let one = foreign[(entropy.next_u64() % foreign.len() as u64) as usize];
        let check = self.foreign_check(vetted, roster, one).await?;
        Ok(Some((one.seat, check)))
    }

    /// The check value of a foreign body, fetched and held to its signed header.
    async fn foreign_check(
        &mut self,
        vetted: &Vetted,
        roster: &Accepted,
        contributor: &Contributor,
    ) -> Result<CheckValue> {
        let path = vetted
            .attempt
            .download(&format!("body-{}", contributor.seat));
        let bytes = vetted.parameters.body_bytes(vetted.length);
        fetch(
            &self.client,
            vetted.context,
            Wanted::Body(contributor.seat),
            bytes,
            &path,
        )
        .await?;
        let (file, digest) = (path.clone(), contributor.header.body);
        let same = blocking(move || Ok(file_digest(&file)? == digest)).await?;
        if !same {
            return Err(Error::Void(format!(
                "the server's body of seat {} is not the one that its header signs",
                contributor.seat
            )));
        }
        self.check_value(vetted, roster, path).await
    }

    async fn check_value(
        &mut self,
        vetted: &Vetted,
        roster: &Accepted,
        body: PathBuf,
    ) -> Result<CheckValue> {
        let (parameters, length, roster) = (vetted.parameters, vetted.length, roster.digest);
        blocking(move || {
            let body = open_file(&body)?;
            Ok(ciphertune_seal::check_value(
                &parameters,
                length,
                &roster,
                body,
            )?)
        })
        .await
    }

    /// Waits a little for the check values of contributors that have not released yet.
    async fn await_checks(
        &mut self,
        engaged: &Engagement,
        vetted: &Vetted,
        roster: &Accepted,
        heard: &mut Heard,
        kept: &mut VecDeque<Event>,
    ) -> Result<()> {
        let waited = tokio::time::timeout(PATIENCE, async {
            while roster
                .contributors
                .iter()
                .any(|one| heard.check_of(roster, one.seat).is_none())
            {
                self.listen(engaged, vetted, heard, kept).await?;
            }
            Ok(())
        })
        .await;
        waited.unwrap_or(Ok(()))
    }

    /// Every contributor's check value: its own word for it, or computed from its signed body where it gave none. The
    /// one that was spot-checked is held to what it said.
    async fn check_values(
        &mut self,
        vetted: &Vetted,
        roster: &Accepted,
        heard: &Heard,
        spot: Option<(ShareIndex, CheckValue)>,
    ) -> Result<Vec<CheckValue>> {
        let mut checks = Vec::with_capacity(roster.contributors.len());
        for contributor in &roster.contributors {
            let said = heard.check_of(roster, contributor.seat);
            let computed = spot
                .filter(|(seat, _)| *seat == contributor.seat)
                .map(|(_, check)| check);
            if let (Some(said), Some(computed)) = (said, computed)
                && said.0 != computed.0
            {
                self.note(
                    "lying-check-value",
                    [
                        ("context", vetted.context.to_string().into()),
                        ("seat", contributor.seat.get().into()),
                        ("member", contributor.header.signer().to_string().into()),
                    ],
                )?;
                return Err(Error::Void(format!(
                    "{} (seat {}) signed a check value that its own signed body does not have",
                    self.site.name_of(&contributor.header.signer()),
                    contributor.seat
                )));
            }
            checks.push(match said.or(computed) {
                Some(check) => check,
                None => self.foreign_check(vetted, roster, contributor).await?,
            });
        }
        Ok(checks)
    }

    /// Opens the key-sum shares of everybody who released, and rebuilds S: more than one candidate where shares
    /// disagree, the likeliest first.
    async fn rebuild_key(
        &mut self,
        vetted: &Vetted,
        roster: &Accepted,
        heard: &Heard,
    ) -> Result<Vec<KeySum>> {
        let sealed = fetch_shares(
            &self.client,
            vetted.context,
            ShareKind::KeySum,
            vetted.seats.len(),
        )
        .await?;
        let sealed = held_to_digests(sealed, vetted.seat, |sender| {
            heard
                .release_of(roster, sender)
                .map(|release| release.shares.as_slice())
        })?;
        let key: OneTimeKey = self.stock.take(&vetted.offer)?;
        let mut shares = Vec::with_capacity(sealed.len());
        for (sender, sealed) in &sealed {
            // One that does not open is as good as missing: enough others may be here.
            match KeySumShare::open(
                &key,
                &vetted.context,
                &roster.digest,
                *sender,
                vetted.seat,
                sealed,
            ) {
                Ok(share) => shares.push(share),
                Err(_) => self.note(
                    "unopened-share",
                    [
                        ("context", vetted.context.to_string().into()),
                        ("seat", sender.get().into()),
                    ],
                )?,
            }
        }
        let (parameters, threshold) = (vetted.parameters, vetted.plan.threshold);
        let contributors = roster.contributors.len();
        blocking(move || {
            Ok(KeySum::candidates(
                &parameters,
                &shares,
                threshold,
                contributors,
            )?)
        })
        .await
    }

    /// Opens the sum with the first candidate that passes every check.
    async fn open_sum(
        &mut self,
        vetted: &Vetted,
        roster: &Accepted,
        keys: Vec<KeySum>,
        checks: Vec<CheckValue>,
    ) -> Result<(Vec<i64>, SecondOpening, KeySum)> {
        let path = vetted.attempt.download("sum");
        let bytes = vetted.parameters.body_bytes(vetted.length);
        fetch(&self.client, vetted.context, Wanted::Sum, bytes, &path).await?;
        let (parameters, length, context) = (vetted.parameters, vetted.length, vetted.context);
        let (digest, sum, contributors) = (roster.digest, roster.sum, roster.contributors.len());
        blocking(move || {
            let mut failure = Error::Void("no key sum could be rebuilt from the shares".into());
            for key in keys {
                let file = open_file(&path)?;
                match ciphertune_seal::open(
                    &parameters,
                    length,
                    &context,
                    &digest,
                    &key,
                    contributors,
                    &checks,
                    &sum,
                    file,
                ) {
                    Ok((opened, second)) => return Ok((opened.into_values(), second, key)),
                    // What the server sent is wrong whatever the key.
                    Err(
                        error @ ciphertune_seal::Error::Failed(Check::Digest | Check::CheckValue),
                    ) => {
                        return Err(error.into());
                    }
                    Err(error) => failure = error.into(),
                }
            }
            Err(failure)
        })
        .await
    }

    /// Takes the next event into `heard`. What does not verify, or is for another context, is passed over.
    async fn listen(
        &mut self,
        engaged: &Engagement,
        vetted: &Vetted,
        heard: &mut Heard,
        kept: &mut VecDeque<Event>,
    ) -> Result<()> {
        let (kind, envelope) = self.next_of(engaged, vetted.context, kept).await?;
        let seat_of = |signer| vetted.plan.seat_of(&signer);
        match kind {
            EventKind::Roster => {
                if let Ok(roster) = self.site.verify_as::<Roster>(&envelope, Role::Server)
                    && roster.context == vetted.context
                {
                    heard.roster = Some(roster);
                }
            }
            EventKind::Echo => {
                if let Ok(echo) = self.site.verify_as::<Echo>(&envelope, Role::Member)
                    && echo.context == vetted.context
                    && let Some(seat) = seat_of(echo.signer())
                {
                    heard.echoes.entry(seat).or_insert(echo.roster);
                }
            }
            EventKind::Release => {
                if let Ok(release) = self.site.verify_as::<Release>(&envelope, Role::Member)
                    && release.context == vetted.context
                    && release.shares.len() == vetted.seats.len()
                    && let Some(seat) = seat_of(release.signer())
                {
                    heard
                        .releases
                        .entry(seat)
                        .or_insert(release.value().clone());
                }
            }
            _ => {}
        }
        Ok(())
    }
}

/// What was heard in one context; a member's first word counts.
#[derive(Default)]
struct Heard {
    roster: Option<Signed<Roster>>,
    echoes: BTreeMap<ShareIndex, Digest>,
    releases: BTreeMap<ShareIndex, Release>,
}

impl Heard {
    /// How many distinct members echoed this roster.
    fn echoes(&self, roster: &Accepted) -> usize {
        self.echoes
            .values()
            .filter(|echoed| **echoed == roster.digest)
            .count()
    }

    fn releases(&self, roster: &Accepted) -> impl Iterator<Item = &Release> {
        self.releases
            .values()
            .filter(|release| release.roster == roster.digest)
    }

    fn release_of(&self, roster: &Accepted, seat: ShareIndex) -> Option<&Release> {
        self.releases
            .get(&seat)
            .filter(|release| release.roster == roster.digest)
    }

    fn check_of(&self, roster: &Accepted, seat: ShareIndex) -> Option<CheckValue> {
        self.release_of(roster, seat)?.check.map(CheckValue)
    }
}

/// Keeps the sealed shares whose digest for this seat its sender signed.
fn held_to_digests<'a>(
    sealed: Vec<(ShareIndex, Vec<u8>)>,
    seat: ShareIndex,
    signed: impl Fn(ShareIndex) -> Option<&'a [Digest]>,
) -> Result<Vec<(ShareIndex, Vec<u8>)>> {
    let mut held: BTreeMap<ShareIndex, Vec<u8>> = BTreeMap::new();
    for (sender, sealed) in sealed {
        let Some(digest) = signed(sender).and_then(|digests| digests.get(seat.position())) else {
            continue;
        };
        if Digest::sha256(&sealed) != *digest {
            return Err(Error::Void(format!(
                "the server's share of seat {sender} is not the one that its sender signed"
            )));
        }
        held.insert(sender, sealed);
    }
    Ok(held.into_iter().collect())
}

fn open_file(path: &std::path::Path) -> Result<BufReader<File>> {
    File::open(path)
        .map(|file| BufReader::with_capacity(1 << 20, file))
        .map_err(|error| Error::fault(format_args!("reading {}", path.display()), error))
}

fn file_digest(path: &std::path::Path) -> Result<Digest> {
    use std::io::Read;
    let mut file = open_file(path)?;
    let mut hasher = Hasher::default();
    let mut buffer = vec![0; 1 << 16];
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok(hasher.finish()),
            Ok(read) => hasher.update(buffer.get(..read).unwrap_or_default()),
            Err(error) => {
                return Err(Error::fault(
                    format_args!("reading {}", path.display()),
                    error,
                ));
            }
        }
    }
}
