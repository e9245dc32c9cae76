//! Wait for the roster, echo and release it, rebuild the sum of the keys from others' releases, open and check the sum.

use std::{
    fs::File,
    io::{BufReader, Read},
    path::PathBuf,
    time::{Duration, Instant},
};

use ciphertune_dp::Release as Released;
use ciphertune_round::{Contributor, Digest, Hasher, ShareIndex};
use ciphertune_seal::{
    Check, CheckValue, KeySum, KeySumShare, OneTimeKey, SecondOpening, check_value,
};
use ciphertune_wire::proto::ShareKind;

use super::{
    Engagement, Member, blocking,
    contribute::{Contributed, Local, dangerous_write_plaintext},
    heard::{Accepted, Heard, held_to_digests},
    vet::Vetted,
};
use crate::{
    error::{Error, Result},
    inbox::Backlog,
    report::Seconds,
    transfer::{Wanted, fetch, fetch_shares},
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
    pub kept: Backlog,
}

impl Member {
    pub(super) async fn open(
        &mut self,
        engaged: &Engagement,
        vetted: &Vetted,
        contributed: Contributed,
    ) -> Result<Opened> {
        let mut kept = Backlog::default();
        let opened = self
            .open_keeping(engaged, vetted, contributed, &mut kept)
            .await;
        match opened {
            Ok(opened) => Ok(Opened { kept, ..opened }),
            Err(error) => {
                self.inbox.put_back(kept);
                Err(error)
            }
        }
    }

    async fn open_keeping(
        &mut self,
        engaged: &Engagement,
        vetted: &Vetted,
        contributed: Contributed,
        kept: &mut Backlog,
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
        self.settle(engaged, vetted, &roster, &heard).await?;
        seconds.wait = started.elapsed().as_secs_f64();

        let started = Instant::now();
        let spot = self.release(vetted, &contributed, &roster).await?;
        while heard.shares(&roster) < vetted.plan.threshold {
            self.listen(engaged, vetted, &mut heard, kept).await?;
        }
        self.await_checks(engaged, vetted, &roster, &mut heard, kept)
            .await?;
        let checks = self.check_values(vetted, &roster, &heard, spot).await?;
        let keys = self.rebuild_key(vetted, &roster, &heard).await?;
        let (sum, second, key) = self
            .open_sum(vetted, &roster, keys, checks, contributed.wiped)
            .await?;
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
            kept: Backlog::default(),
        })
    }

    /// The check value of a foreign body, fetched and held to its signed header.
    pub(super) async fn foreign_check(
        &mut self,
        vetted: &Vetted,
        roster: &Accepted,
        contributor: &Contributor,
    ) -> Result<CheckValue> {
        let path = vetted
            .attempt
            .download(&format!("body-{}", contributor.seat));
        let bytes = vetted.parameters.body_bytes(vetted.length);
        let (client, wanted) = (self.client.clone(), Wanted::Body(contributor.seat));
        let fetched = fetch(&client, vetted.context, wanted, bytes, &path);
        self.unless_void(vetted.context, fetched).await?;
        let (check, digest) = self.digested_check(vetted, roster, path).await?;
        if digest != contributor.header.body {
            return Err(Error::Void(format!(
                "the server's body of seat {} is not the one that its header signs",
                contributor.seat
            )));
        }
        check
    }

    pub(super) async fn check_value(
        &mut self,
        vetted: &Vetted,
        roster: &Accepted,
        body: PathBuf,
    ) -> Result<CheckValue> {
        let (parameters, length, roster) = (vetted.parameters, vetted.length, roster.digest);
        blocking(move || {
            let body = open_file(&body)?;
            Ok(check_value(&parameters, length, &roster, body)?)
        })
        .await
    }

    /// The check value of a body, or why it has none, and its SHA-256, in one pass.
    async fn digested_check(
        &mut self,
        vetted: &Vetted,
        roster: &Accepted,
        body: PathBuf,
    ) -> Result<(Result<CheckValue>, Digest)> {
        let (parameters, length, roster) = (vetted.parameters, vetted.length, roster.digest);
        blocking(move || {
            let mut body = Digested {
                source: open_file(&body)?,
                hasher: Hasher::default(),
            };
            let check = check_value(&parameters, length, &roster, &mut body);
            // A body that is refused half way has a digest all the same: it tells whose fault it is.
            std::io::copy(&mut body, &mut std::io::sink())
                .map_err(|error| Error::fault("reading a body", error))?;
            Ok((check.map_err(Error::from), body.hasher.finish()))
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
        kept: &mut Backlog,
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

    /// Opens the key-sum shares of all that released one, and rebuilds S: more than one candidate where shares
    /// disagree, the likeliest first.
    async fn rebuild_key(
        &mut self,
        vetted: &Vetted,
        roster: &Accepted,
        heard: &Heard,
    ) -> Result<Vec<KeySum>> {
        let (client, most) = (self.client.clone(), vetted.holders.len());
        let sealed = fetch_shares(&client, vetted.context, ShareKind::KeySum, most);
        let sealed = self.unless_void(vetted.context, sealed).await?;
        let sealed = held_to_digests(sealed, vetted.seat.position(), |sender| {
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

    /// Opens the sum with the first candidate that passes every check, into the vector given where it is as long.
    async fn open_sum(
        &mut self,
        vetted: &Vetted,
        roster: &Accepted,
        keys: Vec<KeySum>,
        checks: Vec<CheckValue>,
        mut into: Vec<i64>,
    ) -> Result<(Vec<i64>, SecondOpening, KeySum)> {
        let path = vetted.attempt.download("sum");
        let bytes = vetted.parameters.body_bytes(vetted.length);
        let client = self.client.clone();
        let fetched = fetch(&client, vetted.context, Wanted::Sum, bytes, &path);
        self.unless_void(vetted.context, fetched).await?;
        let (parameters, length, context) = (vetted.parameters, vetted.length, vetted.context);
        let (digest, sum, contributors) = (roster.digest, roster.sum, roster.contributors.len());
        let threads = self.options.threads;
        blocking(move || {
            let mut failure = Error::Void("no key sum could be rebuilt from the shares".into());
            for key in keys {
                let file = open_file(&path)?;
                match ciphertune_seal::open_on(
                    threads,
                    &parameters,
                    length,
                    &context,
                    &digest,
                    &key,
                    contributors,
                    &checks,
                    &sum,
                    file,
                    std::mem::take(&mut into),
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
}

fn open_file(path: &std::path::Path) -> Result<BufReader<File>> {
    File::open(path)
        .map(|file| BufReader::with_capacity(1 << 20, file))
        .map_err(|error| Error::fault(format_args!("reading {}", path.display()), error))
}

/// A source whose every byte goes through the digest as it is read.
struct Digested<R> {
    source: R,
    hasher: Hasher,
}

impl<R: Read> Read for Digested<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let read = self.source.read(buffer)?;
        self.hasher.update(buffer.get(..read).unwrap_or_default());
        Ok(read)
    }
}
