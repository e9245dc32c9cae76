//! What the audit log is told. A step notes it in the database, in the same transaction; from there it goes into the log, many
//! entries with one sync, and only then members hear of the step.

use std::{sync::Arc, time::Duration};

use ciphertune_round::{Digest, Fingerprint};
use ciphertune_wire::Refusal;
use tokio::task::block_in_place;

use super::{Coordinator, Jobs};
use crate::{
    diary::Diary,
    error::{Refused, Result},
};

/// Refusals that one run notes.
const REFUSALS: usize = 1_000;

/// How long until what failed is tried again.
const AGAIN: Duration = Duration::from_secs(1);

impl Coordinator {
    /// Notes in the audit log who this is, and what holds from here on.
    pub(super) fn note_start(&self) -> Result<()> {
        let credentials = self.gate.credentials();
        let (federation, now) = (&self.federation, self.now());
        let mut diary = self.diary();
        diary.note_start(&credentials, federation, now)?;
        diary.note_checkpoint(&*self.key, now)
    }

    /// Notes that a party's signed object contradicts what it may say, as long as there is room for such: what comes late or is of
    /// nobody's job tells nothing, and nobody fills the log.
    pub(super) async fn note_refused(
        &self,
        jobs: &mut Jobs,
        what: &str,
        job: &Digest,
        by: Option<Fingerprint>,
        refused: &Refused,
    ) {
        let tells = matches!(
            refused.code,
            Refusal::Malformed | Refusal::Role | Refusal::Conflict
        );
        let (Some(by), true) = (by, tells && jobs.refusals < REFUSALS) else {
            return;
        };
        jobs.refusals += 1;
        let entry = Diary::refused(what, job, &by, &refused.detail);
        if let Err(error) = self.database.note(self.now(), entry).await {
            tracing::error!(%error, "a refusal is not in the audit log");
        }
        self.committed.send_modify(|_| ());
    }

    /// Moves what steps noted into the log, and announces them, until it is dropped.
    pub async fn write_log(self: Arc<Self>) {
        let mut committed = self.committed.subscribe();
        loop {
            let last = *committed.borrow_and_update();
            let written = self.flush().await;
            for context in std::mem::take(&mut *self.over.lock().await) {
                if let Err(error) = self.bulk.delete(&context).await {
                    tracing::error!(%context, %error, "an old context stays for a while");
                }
            }
            // Durable all the same; what failed is tried again.
            self.announced.send_if_modified(|announced| {
                let is_news = last > *announced;
                *announced = last.max(*announced);
                is_news
            });
            let changed = match written {
                Ok(()) => committed.changed().await,
                Err(error) => {
                    tracing::error!(%error, "audit entries wait in the database");
                    tokio::time::sleep(AGAIN).await;
                    Ok(())
                }
            };
            if changed.is_err() {
                return;
            }
        }
    }

    /// Moves audit entries from the database, where they became durable with their step, to the log.
    pub async fn flush(&self) -> Result<()> {
        let _turn = self.writing.lock().await;
        loop {
            let entries = self.database.entries().await?;
            let Some(last) = entries.last().map(|(number, ..)| *number) else {
                return Ok(());
            };
            block_in_place(|| self.diary().write(entries, &*self.key))?;
            self.database.written(last).await?;
        }
    }

    /// The audit log as it stands, with all that was announced in it, signed.
    pub async fn checkpoint(&self) -> Result<Vec<u8>> {
        self.flush().await?;
        let note = self.diary().checkpoint(&*self.key)?;
        Ok(note.to_text().into_bytes())
    }
}
