//! A researcher's side: submit a job, ask how it stands.

use ciphertune_round::{Abort, Digest, Job, Signed};
use ciphertune_wire::{Client, Meter, Refusal, proto};

use crate::{error::Result, site::Site, transfer::retry_a_while};

/// A researcher, connected.
pub struct Researcher {
    site: Site,
    client: Client,
}

impl Researcher {
    /// Connects.
    pub async fn connect(site: Site) -> Result<Self> {
        let client = site.connect(Meter::default()).await?;
        Ok(Self { site, client })
    }

    /// Signs and submits a job; its digest is its name from then on.
    pub async fn submit(&mut self, job: Job) -> Result<Digest> {
        let job = Signed::sign(job, self.site.key());
        let request = proto::SubmitJobRequest { job: job.encode() };
        retry_a_while(|| {
            let (mut client, request) = (self.client.clone(), request.clone());
            async move { client.submit_job(request).await.map(drop) }
        })
        .await?;
        Ok(job.digest())
    }

    /// How one job stands, or every job.
    pub async fn status(&mut self, job: Option<Digest>) -> Result<Vec<proto::JobState>> {
        let request = proto::JobStatusRequest {
            job: job.map(|job| job.as_bytes().to_vec()).unwrap_or_default(),
        };
        let reply = retry_a_while(|| {
            let (mut client, request) = (self.client.clone(), request.clone());
            async move { client.job_status(request).await }
        })
        .await?;
        Ok(reply.into_inner().jobs)
    }

    /// Asks that a job stop; says whether it still ran.
    pub async fn abort(&mut self, job: Digest, reason: &str) -> Result<bool> {
        let abort = Abort {
            job,
            reason: reason.to_owned(),
        };
        let request = proto::AbortJobRequest {
            abort: Signed::sign(abort, self.site.key()).encode(),
        };
        match self.client.abort_job(request).await {
            Ok(_) => Ok(true),
            Err(status) if Refusal::of(&status) == Some(Refusal::Late) => Ok(false),
            Err(status) => Err(status.into()),
        }
    }
}
