//! A researcher's side: submit a job, ask how it stands.

use ciphertune_round::{Abort, Digest, Job, Object as _, Signed};
use ciphertune_wire::{Client, Meter, Refusal, proto};

use crate::{
    error::{Error, Result},
    site::Site,
    transfer::retry_a_while,
};

/// Digits of a digest that stand for all of it.
const SHORT: usize = 8;

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
        let named = job.map(|job| job.to_string()).unwrap_or_default();
        let request = proto::JobStatusRequest {
            job: job.map(|job| job.as_bytes().to_vec()).unwrap_or_default(),
        };
        let reply = retry_a_while(|| {
            let (mut client, request) = (self.client.clone(), request.clone());
            async move {
                match client.job_status(request).await {
                    Err(status) if Refusal::of(&status) == Some(Refusal::Unknown) => Ok(None),
                    reply => reply.map(|reply| Some(reply.into_inner().jobs)),
                }
            }
        });
        reply.await?.ok_or_else(|| unknown(&named))
    }

    /// The job with this digest, or the only one whose digest begins so.
    ///
    /// # Errors
    /// [`Error::Refused`] when there is none, or more than one.
    pub async fn find(&mut self, digest: &str) -> Result<Digest> {
        if let Ok(whole) = Digest::from_hex(digest) {
            return Ok(whole);
        }
        let is_one = digest.len() >= SHORT && digest.bytes().all(|byte| byte.is_ascii_hexdigit());
        if !is_one {
            return Err(Error::Misuse(format!(
                "{digest:?} is no job's digest: 64 hexadecimal digits, or the first {SHORT} and more"
            )));
        }
        let jobs = self.status(None).await?;
        let jobs = jobs.iter().map(|state| Digest::parse(&state.job));
        let jobs = jobs.collect::<std::result::Result<Vec<_>, _>>()?;
        let begins = |job: &&Digest| job.to_string().starts_with(&digest.to_ascii_lowercase());
        match jobs.iter().filter(begins).collect::<Vec<_>>().as_slice() {
            [job] => Ok(**job),
            [] => Err(unknown(digest)),
            _ => Err(Error::Refused(format!(
                "more than one job begins with {digest}; how: ciphertune job list"
            ))),
        }
    }

    /// Asks that a job stop; says whether it still ran.
    ///
    /// # Errors
    /// [`Error::Malformed`] for a reason that cannot be signed.
    pub async fn abort(&mut self, job: Digest, reason: &str) -> Result<bool> {
        let abort = Abort {
            job,
            reason: reason.to_owned(),
        };
        Abort::parse(&abort.serialise())?;
        let request = proto::AbortJobRequest {
            abort: Signed::sign(abort, self.site.key()).encode(),
        };
        let aborted = retry_a_while(|| {
            let (mut client, request) = (self.client.clone(), request.clone());
            async move {
                match client.abort_job(request).await {
                    Ok(_) => Ok(Ok(true)),
                    Err(status) => match Refusal::of(&status) {
                        Some(Refusal::Late) => Ok(Ok(false)),
                        Some(Refusal::Unknown) => Ok(Err(unknown(&job.to_string()))),
                        _ => Err(status),
                    },
                }
            }
        });
        aborted.await?
    }
}

fn unknown(job: &str) -> Error {
    Error::Refused(format!(
        "the server has no job {job}; how: ciphertune job list"
    ))
}
