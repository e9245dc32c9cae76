//! What follows from the authority's revocation list.

use std::sync::Arc;

use ciphertune_identity::Peer;
use ciphertune_round::Digest;
use tokio::task::block_in_place;

use super::{Coordinator, steps::to_its_end};
use crate::{
    error::{Error, Result},
    phase::Input,
};

impl Coordinator {
    /// Takes what members have sent whose certificates are revoked out of every roster that is not signed yet, and ends the
    /// jobs of whom else is revoked.
    ///
    /// # Errors
    /// [`Error::Fault`], when all others were seen to: what failed is to be tried again.
    pub async fn enforce_revocations(self: &Arc<Self>) -> Result<()> {
        let this = Arc::clone(self);
        to_its_end(async move {
            let met = this.database.met().await?.into_iter();
            let revoked: Vec<_> = met
                .filter(|(_, serial)| this.gate.revokes(serial))
                .map(|(member, _)| member)
                .collect();
            let mut jobs = this.jobs.lock().await;
            let running: Vec<Digest> = jobs.running.keys().copied().collect();
            let mut failed = Ok(());
            for job in running {
                for &member in &revoked {
                    let revoked = Input::Revoked { member };
                    match this.step(&mut jobs, &job, &revoked).await {
                        // A job that ended meanwhile is nobody's any more.
                        Ok(()) | Err(Error::Refused(_)) => {}
                        Err(error) => failed = Err(error),
                    }
                }
            }
            failed
        })
        .await
    }

    /// Notes in the audit log which certificate and revocation list are new since it was last noted.
    pub async fn note_credentials(&self) -> Result<()> {
        self.flush().await?;
        let (credentials, now) = (self.gate.credentials(), self.now());
        block_in_place(|| self.diary().note_credentials(&credentials, now))
    }

    /// Notes which certificate a party showed.
    pub async fn meet(&self, peer: &Peer, certificate: &[u8]) -> Result<()> {
        if self.database.has_met(peer).await? {
            return Ok(());
        }
        // The log first: what the database knows is not noted again.
        self.flush().await?;
        let now = self.now();
        block_in_place(|| self.diary().note_met(peer, certificate, now))?;
        self.database.meet(peer).await
    }
}
