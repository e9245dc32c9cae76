//! Lower what a context was charged to what its roster gives, once t members that hold shares have echoed it; never
//! without their certificate, and once.

use std::time::SystemTime;

use ciphertune_ledger::{Cost, Settlement};
use ciphertune_round::Digest;

use super::{
    Engagement, LEDGER_HEAD, Member,
    heard::{Accepted, Heard},
    vet::Vetted,
};
use crate::{
    error::{Error, Result},
    quorum::Certificate,
};

impl Member {
    /// Keeps the certificate durably, then lowers the charge on it. An earlier life's certificate is the one that counts.
    /// Without privacy nothing was charged, and the certificate is for whoever audits.
    pub(super) async fn settle(
        &mut self,
        engaged: &Engagement,
        vetted: &Vetted,
        roster: &Accepted,
        heard: &Heard,
    ) -> Result<()> {
        let manifest = self.site.manifest().value();
        let certificate = match vetted.attempt.certificate(manifest)? {
            Some(kept) => kept,
            None => {
                let (plan, signed) = (vetted.plan.clone(), roster.signed.clone());
                let echoes = heard.echoes_of(roster).cloned().collect();
                let made = Certificate::new(plan, signed, echoes, manifest)?;
                vetted.attempt.keep_certificate(&made)?;
                made
            }
        };
        if certificate.context() != vetted.context || certificate.roster() != roster.digest {
            return Err(Error::Fault(
                "the certificate that was kept for this attempt is another one's".into(),
            ));
        }
        self.note_on(
            "quorum",
            [
                ("context", vetted.context.to_string().into()),
                ("roster", certificate.roster().to_string().into()),
                ("contributors", certificate.contributors().into()),
                ("certificate", certificate.digest().to_string().into()),
            ],
            &[&certificate.to_bytes()],
        )?;
        if engaged.reckoned.attempt.is_none() {
            return Ok(());
        }
        let cost = if certificate.names(&self.site.fingerprint()) {
            engaged
                .reckoned
                .cost_with(certificate.contributors(), certificate.colluders())?
        } else {
            Cost::ZERO // no sum with this member's numbers in it can be opened any more
        };
        let settlement = Settlement {
            cost,
            roster: *certificate.roster().as_bytes(),
            certificate: *certificate.digest().as_bytes(),
        };
        let context = *vetted.context.as_bytes();
        let settled = engaged
            .ledger
            .settle(context, &settlement, SystemTime::now());
        let path = self.site.home().ledger();
        let head = self.site.disk().commits(&path, settled).await?;
        self.note(
            "settle",
            [
                ("context", vetted.context.to_string().into()),
                ("roster", certificate.roster().to_string().into()),
                ("certificate", certificate.digest().to_string().into()),
                ("cost", settlement.cost.units().into()),
                (LEDGER_HEAD, Digest::from_bytes(head).to_string().into()),
            ],
        )
    }
}
