//! What the audit log is told.

use ciphertune_round::{Digest, Fingerprint};
use ciphertune_wire::Refusal;

use super::{Coordinator, Jobs};
use crate::{
    diary::Diary,
    error::{Refused, Result, fault},
};

/// Refusals that one run notes.
const REFUSALS: usize = 1_000;

impl Coordinator {
    /// Notes in the audit log who this is, and what holds from here on.
    pub(super) async fn note_start(&self) -> Result<()> {
        let mut jobs = self.jobs.lock().await;
        let credentials = self.gate.credentials();
        let (federation, now) = (&self.federation, self.now());
        jobs.diary.note_start(&credentials, federation, now)?;
        jobs.diary.note_checkpoint(&*self.key, now)
    }

    /// Notes that a party's signed object contradicts what it may say, as long as there is room for such: what comes late or is of
    /// nobody's job tells nothing, and nobody fills the log.
    pub(super) fn note_refused(
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
        let noted = (jobs.diary).note_refused(what, job, &by, &refused.detail, self.now());
        if let Err(error) = noted {
            tracing::error!(%error, "a refusal is not in the audit log");
        }
    }

    /// Moves audit entries from the database, where they became durable with their step, to the log.
    pub(super) async fn flush_notes(&self, diary: &mut Diary) -> Result<()> {
        const DOING: &str = "writing the audit log";
        let notes = self.database.notes().await?;
        let Some(last) = notes.last().map(|(number, ..)| *number) else {
            return Ok(());
        };
        for (number, at, kind, fields) in notes {
            let fields = serde_json::from_str(&fields).map_err(|error| fault(DOING, error))?;
            diary.append_numbered(number, &kind, fields, at)?;
        }
        self.database.noted(last).await
    }

    /// The audit log as it stands, signed.
    pub async fn checkpoint(&self) -> Result<Vec<u8>> {
        let jobs = self.jobs.lock().await;
        let note = jobs.diary.checkpoint(&*self.key)?;
        Ok(note.to_text().into_bytes())
    }
}
