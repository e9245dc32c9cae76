//! The revocation list that a plan was made under: the newest, and in force.

use std::time::SystemTime;

use ciphertune_identity::RevocationList;
use ciphertune_policy::{Instant, Policy};
use ciphertune_round::{Plan, Signed};
use ciphertune_wire::proto;

use super::{Engagement, Member};
use crate::{
    error::{Error, Result},
    transfer::retry,
};

impl Member {
    /// Makes sure that the server holds callers to a list no older than this member's, gets that list, and holds it to its
    /// dates. What this member has contributed to already, under an earlier list, it finishes.
    pub(super) async fn check_revocations(
        &mut self,
        engaged: &Engagement,
        plan: &Signed<Plan>,
    ) -> Result<()> {
        self.refresh()?;
        let known = self.site.credentials().revocations().number();
        let begun = {
            let attempt = engaged.desk.attempt(plan.context())?;
            attempt
                .contribution(self.site.manifest().value())?
                .is_some()
        };
        if plan.revocation_number < known && !begun {
            return Err(Error::Refused(format!(
                "the plan was made under revocation list {}, and the authority has issued list {known}: have the server's \
                 operator install it",
                plan.revocation_number
            )));
        }
        if plan.revocation_number > known {
            self.fetch_list().await?;
        }
        let list = self.site.credentials().revocations();
        let same = list.number() == plan.revocation_number;
        if same && list.digest() != plan.revocations {
            return Err(Error::Refused(format!(
                "the plan names another revocation list {} than the authority's",
                plan.revocation_number
            )));
        }
        if list.number() < plan.revocation_number {
            return Err(Error::Refused(format!(
                "the plan was made under revocation list {}, and the server hands out list {}",
                plan.revocation_number,
                list.number()
            )));
        }
        let now = SystemTime::now();
        if !list.holds(now) {
            return Err(Error::Refused(format!(
                "revocation list {} holds from {} until {}, and it is {}: have the authority issue the next (ciphertune identity crl), \
                 and the server's operator install it",
                list.number(),
                list.validity().start(),
                list.validity().end(),
                Instant::from(now)
            )));
        }
        let own = self.site.credentials().certificate().peer();
        if list.names(&own.serial) {
            return Err(Error::Refused(format!(
                "this party's certificate ({}) is revoked: ask the authority for another",
                own.serial
            )));
        }
        Ok(())
    }

    /// Asks the server for the authority's newest list.
    async fn fetch_list(&mut self) -> Result<()> {
        let reply = retry(|| {
            let mut client = self.client.clone();
            async move { client.directory(proto::DirectoryRequest {}).await }
        })
        .await?;
        let list = RevocationList::from_pem(&reply.into_inner().revocations)?;
        let before = self.site.credentials().clone();
        self.site.keep_list(list)?;
        self.note_changes(&before)
    }

    /// Holds the list to the age that a policy allows.
    pub(super) fn check_list_age(&self, policy: &Policy, now: Instant) -> Result<()> {
        let list = self.site.credentials().revocations();
        let issued_at = Instant::from_seconds(list.validity().not_before());
        policy
            .admit_revocation_list(issued_at.unwrap_or(Instant::EPOCH), now)
            .map_err(|refusal| Error::Refused(refusal.to_string()))
    }
}
