//! Check the roster, echo it as the one of this context, and release for it once enough members echoed it.

use ciphertune_gauss::Entropy;
use ciphertune_round::{Contributor, Digest, Echo, Release, ShareIndex, Signed};
use ciphertune_seal::CheckValue;
use ciphertune_wire::proto::{PutSignedRequest, ShareKind};
use rand_core::Rng as _;

use super::{
    Engagement, Member, blocking,
    contribute::Contributed,
    heard::{Accepted, Heard, held_to_digests},
    vet::Vetted,
};
use crate::{
    desk::KeptRelease,
    error::{Error, Result},
    inbox::Backlog,
    transfer::{fetch_shares, retry, send_shares},
};

impl Member {
    /// Waits for the roster, checks it, and notes durably that it is the one for this context.
    pub(super) async fn accept_roster(
        &mut self,
        engaged: &Engagement,
        vetted: &Vetted,
        contributed: &Contributed,
        heard: &mut Heard,
        kept: &mut Backlog,
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
        self.note_on(
            "roster",
            [
                ("context", vetted.context.to_string().into()),
                ("roster", digest.to_string().into()),
                ("contributors", contributors.len().into()),
            ],
            &[&roster.encode()],
        )?;
        Ok(Accepted {
            digest,
            sum: roster.sum,
            contributors,
            signed: roster,
        })
    }

    /// Echoes the roster, if this member holds shares: nobody else's word counts.
    pub(super) async fn echo(&mut self, vetted: &Vetted, roster: &Accepted) -> Result<()> {
        if vetted.place.is_none() {
            return Ok(());
        }
        let echo = Echo {
            context: vetted.context,
            roster: roster.digest,
        };
        let echo = Signed::sign(echo, self.site.key()).encode();
        self.note_on(
            "echo",
            [
                ("context", vetted.context.to_string().into()),
                ("roster", roster.digest.to_string().into()),
            ],
            &[&echo],
        )?;
        let request = PutSignedRequest { envelope: echo };
        let client = self.client.clone();
        let echoed = retry(|| {
            let (mut client, request) = (client.clone(), request.clone());
            async move { client.put_echo(request).await.map(drop) }
        });
        self.unless_void(vetted.context, echoed).await
    }

    /// Adds the shares that the roster's members sealed to this one, if it holds shares, seals the result to everybody, and
    /// sends it with this member's check value, if it contributed. Returns the check value of one random foreign body, for
    /// the spot check.
    pub(super) async fn release(
        &mut self,
        vetted: &Vetted,
        contributed: &Contributed,
        roster: &Accepted,
    ) -> Result<Option<(ShareIndex, CheckValue)>> {
        if vetted.place.is_none() && !roster.names(vetted.seat) {
            return self.spot_check(vetted, roster).await; // nothing to release
        }
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
        self.note_on(
            "release",
            [
                ("context", vetted.context.to_string().into()),
                ("roster", roster.digest.to_string().into()),
                ("release", release.digest().to_string().into()),
            ],
            &[&release.encode()],
        )?;
        let (client, kind) = (self.client.clone(), ShareKind::KeySum);
        let sent = send_shares(&client, vetted.context, kind, release.encode(), shares);
        self.unless_void(vetted.context, sent).await?;
        self.spot_check(vetted, roster).await
    }

    async fn seal_release(
        &mut self,
        vetted: &Vetted,
        contributed: &Contributed,
        roster: &Accepted,
    ) -> Result<KeptRelease> {
        let shares = match vetted.place {
            Some(place) => self.seal_share(vetted, roster, place).await?,
            None => Vec::new(),
        };
        let check = if roster.names(vetted.seat) {
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
        Ok(KeptRelease { release, shares })
    }

    /// This member's share of the sum of keys, sealed to everybody; it stands at `place` among those that hold shares.
    async fn seal_share(
        &mut self,
        vetted: &Vetted,
        roster: &Accepted,
        place: usize,
    ) -> Result<Vec<Vec<u8>>> {
        let (client, context) = (self.client.clone(), vetted.context);
        let sealed = fetch_shares(&client, context, ShareKind::Key, vetted.seats.len());
        let sealed = self.unless_void(context, sealed).await?;
        let sealed = held_to_digests(sealed, place, |sender| {
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
        let (roster, seat, seats) = (roster.digest, vetted.seat, vetted.seats.clone());
        blocking(move || {
            let share = ciphertune_seal::sum_shares(&key, &context, seat, &sealed)?;
            Ok(share.seal_to(&context, &roster, seat, &seats)?)
        })
        .await
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
}
