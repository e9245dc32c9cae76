//! What an earlier run left: its jobs, its audit entries, its files.

use std::sync::Arc;

use ciphertune_identity::Manifest;
use ciphertune_round::{Context, Ended, Job, Object as _, Signed};
use ciphertune_wire::proto;
use prost::Message as _;

use super::Coordinator;
use crate::{
    diary::Diary,
    error::{Result, fault},
    moment::Moment,
    phase::{Input, Machine},
    storage::{Batch, LogEntry, StoredJob},
};

impl Coordinator {
    pub(super) async fn resume(&self) -> Result<()> {
        let now = self.now();
        let mut jobs = self.jobs.lock().await;
        self.flush().await?;
        let federation = self.federation.digest();
        let unchanged = self.database.federation(&federation, false).await? == federation;
        for stored in self.database.running().await? {
            if !unchanged {
                self.end_stored(&stored, now).await?;
                continue;
            }
            let mut machine = self.replay(&stored)?;
            let effects = machine.handle(&Input::Restarted, now)?;
            self.apply(&machine, Some(&Input::Restarted), effects, now)
                .await?;
            tracing::info!(job = %stored.digest, "job taken up again");
            jobs.running.insert(stored.digest, machine);
        }
        if !unchanged {
            self.database.federation(&federation, true).await?;
        }
        self.flush().await?;
        self.announced.send_replace(*self.committed.borrow());
        let current: Vec<Context> = jobs
            .running
            .values()
            .filter_map(|machine| machine.current().map(|attempt| attempt.context))
            .collect();
        self.bulk.sweep(&current).await
    }

    fn replay(&self, stored: &StoredJob) -> Result<Machine> {
        let keyring: &Manifest = self.federation.manifest();
        let job = Signed::<Job>::decode(&stored.envelope, keyring)
            .map_err(|error| fault("reading a job", error))?;
        let (mut machine, _) = Machine::submit(Arc::clone(&self.federation), job, stored.at)?;
        for (at, entry) in &stored.entries {
            machine.handle(&entry.input(keyring)?, *at)?;
        }
        Ok(machine)
    }

    /// Ends a job that began under another manifest or policy: what its members signed was about those.
    async fn end_stored(&self, stored: &StoredJob, now: Moment) -> Result<()> {
        let reason = "the federation's manifest or policy changed; submit the job again";
        let ended = Ended {
            job: stored.digest,
            completed: false,
            rounds: 0,
            reason: reason.into(),
        };
        let status = proto::JobState {
            job: stored.digest.as_bytes().to_vec(),
            phase: "ended".into(),
            reason: reason.into(),
            ..Default::default()
        };
        let signed = self.sign(Ended::LABEL, ended.serialise());
        let fields = vec![
            ("job", stored.digest.to_string().into()),
            ("completed", false.into()),
            ("rounds", 0.into()),
            ("reason", reason.into()),
        ];
        let fields = Diary::naming(fields, &[&signed]);
        let entry = LogEntry {
            kind: "ended".into(),
            fields: serde_json::Value::Object(fields).to_string(),
            object: Some(signed.clone()),
        };
        let batch = Batch {
            events: vec![(proto::EventKind::Ended.into(), signed)],
            entries: vec![entry],
            ended: Some(status.encode_to_vec()),
            ..Batch::default()
        };
        let last = self.database.commit(&stored.digest, now, batch).await?;
        self.committed.send_replace(last);
        Ok(())
    }
}
