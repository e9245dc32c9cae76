//! What a member must not forget about one attempt: files that are written before the step that they allow.

use std::{
    fs::File,
    path::{Path, PathBuf},
};

use ciphertune_gauss::Entropy;
use ciphertune_identity::Manifest;
use ciphertune_round::{
    Context, Digest, Envelope, Header, Job, Keyring, Object as _, Plan, Release, Signed,
};
use ciphertune_seal::OneTimeKey;
use zeroize::Zeroizing;

use crate::{
    disk::{self, Disk},
    error::{Error, Result},
    model::Model,
    quorum::Certificate,
    report::RoundReport,
};

const PARCEL_KEY: &str = "parcel-key";
const CERTIFICATE: &str = "certificate";

/// The plan that a job's effective policy is read from.
const POLICY_PLAN: &str = "policy-plan";

/// The signed job.
const ADMITTED: &str = "admitted";

/// The folder of one job.
pub struct Desk {
    folder: PathBuf,
    disk: Disk,
}

/// A job that was taken part in, as it stands at home.
pub struct KeptJob {
    /// The job.
    pub job: Job,
    /// By which everybody names it.
    pub digest: Digest,
    /// The model after its last finished round.
    pub model: Model,
}

impl KeptJob {
    /// Reads a job's folder; none where it holds no job or no model. The job's signature was verified when it was admitted,
    /// and is not here.
    ///
    /// # Errors
    /// [`Error::Malformed`] for files that are not what this member writes.
    pub fn read(folder: &Path) -> Result<Option<Self>> {
        let job = disk::read(&folder.join(ADMITTED))?.filter(|bytes| !bytes.is_empty());
        let (Some(job), Some(model)) = (job, Model::read(&Desk::model_in(folder))?) else {
            return Ok(None);
        };
        let envelope = Envelope::decode(&job)?;
        Ok(Some(Self {
            job: Job::parse(envelope.payload())?,
            digest: envelope.digest(Job::LABEL),
            model,
        }))
    }
}

/// A contribution as it was sealed, whole.
pub struct Kept {
    /// Its signed header.
    pub header: Signed<Header>,
    /// The sealed share for each seat.
    pub shares: Vec<Vec<u8>>,
}

/// A release as it was sealed, whole.
pub struct KeptRelease {
    /// The signed release.
    pub release: Signed<Release>,
    /// The key-sum share sealed to each seat.
    pub shares: Vec<Vec<u8>>,
}

/// An attempt that was opened, and what this member said of it, whole.
pub struct KeptOpening {
    /// The model that came out.
    pub model: Model,
    /// The round's report, as far as it was known then.
    pub report: RoundReport,
    /// The signed agreement.
    pub agreement: Vec<u8>,
}

/// The folder of one attempt.
pub struct Attempt {
    folder: PathBuf,
    disk: Disk,
}

impl Desk {
    /// Opens, or starts, a job's folder.
    pub fn open(folder: PathBuf, disk: Disk) -> Result<Self> {
        disk.folder(&folder.join("attempts"))?;
        disk.folder(&folder.join("plans"))?;
        Ok(Self { folder, disk })
    }

    /// Where the model is kept.
    pub fn model(&self) -> PathBuf {
        Self::model_in(&self.folder)
    }

    /// Where the model is kept in a job's folder.
    pub fn model_in(folder: &Path) -> PathBuf {
        folder.join("model.safetensors")
    }

    /// Replaces the model.
    pub fn write_model(&self, model: &Model) -> Result<()> {
        model.write(&self.disk, &self.model())
    }

    /// Notes a finished round for the person who runs this member: one JSON a line. After a crash a round may stand
    /// there twice.
    pub fn note_round(&self, report: &RoundReport) -> Result<()> {
        let line = serde_json::to_string(report)
            .map_err(|error| Error::fault("writing the round's report", error))?;
        self.disk
            .append_line(&self.folder.join("rounds.jsonl"), &line)
    }

    /// Whether this member admitted the job in an earlier life.
    pub fn was_admitted(&self) -> bool {
        self.folder.join(ADMITTED).exists()
    }

    /// Notes durably that it did, and what.
    pub fn note_admitted(&self, job: &Signed<Job>) -> Result<()> {
        self.disk.write(&self.folder.join(ADMITTED), &job.encode())
    }

    /// Whether the job's end was noted, and told, in an earlier life.
    pub fn has_ended(&self) -> bool {
        self.folder.join("ended").exists()
    }

    /// Notes durably that it was.
    pub fn note_ended(&self) -> Result<()> {
        self.disk.write(&self.folder.join("ended"), b"")
    }

    /// Notes durably that this is the one plan for its (round, attempt).
    ///
    /// # Errors
    /// [`Error::Refused`] if another plan for them was seen.
    pub fn accept_plan(&self, round: u32, attempt: u32, context: Context) -> Result<()> {
        let path = self.folder.join("plans").join(format!("{round}-{attempt}"));
        self.disk.once(
            &path,
            &context.digest(),
            "a second, different plan came for this round and attempt",
        )
    }

    /// The accepted plan whose effective policy is the strictest so far: no later one of this job may have a weaker.
    pub fn policy_plan(&self) -> Result<Option<Plan>> {
        let Some(bytes) = disk::read(&self.folder.join(POLICY_PLAN))? else {
            return Ok(None);
        };
        let envelope = Envelope::decode(&bytes)?;
        Ok(Some(Plan::parse(envelope.payload())?))
    }

    /// Notes durably that `plan` is, if it has another policy than the one noted before.
    pub fn note_policy_plan(&self, plan: &Signed<Plan>) -> Result<()> {
        let noted = self.policy_plan()?;
        if noted.is_some_and(|noted| noted.policy == plan.policy) {
            return Ok(());
        }
        self.disk
            .write(&self.folder.join(POLICY_PLAN), &plan.encode())
    }

    /// Whether another plan than this one was accepted for its (round, attempt).
    pub fn contradicts(&self, round: u32, attempt: u32, context: Context) -> Result<bool> {
        let path = self.folder.join("plans").join(format!("{round}-{attempt}"));
        let noted = disk::read(&path)?;
        Ok(noted.is_some_and(|noted| noted != context.digest().to_string().as_bytes()))
    }

    /// How many plans of this job were accepted, in every life: no fewer than were charged.
    pub fn plans(&self) -> Result<u64> {
        let plans = disk::files(&self.folder.join("plans"))?;
        Ok(plans
            .iter()
            .filter(|path| !disk::is_temporary(path))
            .count() as u64)
    }

    /// The contexts of all attempts that were taken up, in every life.
    pub fn attempts(&self) -> Result<Vec<Context>> {
        let folders = disk::files(&self.folder.join("attempts"))?;
        folders
            .iter()
            .map(|folder| {
                let name = folder.file_name().and_then(|name| name.to_str());
                Ok(Context::from_digest(Digest::from_hex(
                    name.unwrap_or_default(),
                )?))
            })
            .collect()
    }

    /// The folder of one attempt.
    pub fn attempt(&self, context: Context) -> Result<Attempt> {
        let folder = self.folder.join("attempts").join(context.to_string());
        self.disk.folder(&folder)?;
        Ok(Attempt {
            folder,
            disk: self.disk.clone(),
        })
    }
}

impl Attempt {
    /// The body that was, or will be, sent.
    pub fn body(&self) -> PathBuf {
        self.folder.join("body")
    }

    /// Starts the body's file, until [`Attempt::keep_contribution`] a temporary one.
    pub fn start_body(&self) -> Result<File> {
        self.disk.start(&self.body())
    }

    /// A download.
    pub fn download(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// The contribution that was sealed here in an earlier life, if it is whole: its header and its sealed shares.
    pub fn contribution(&self, keyring: &dyn Keyring) -> Result<Option<Kept>> {
        let Some(header) = disk::read(&self.folder.join("header"))? else {
            return Ok(None);
        };
        let header = Signed::<Header>::verify(Envelope::decode(&header)?, keyring)?;
        let shares = self.shares("shares", &header.shares)?;
        Ok(Some(Kept { header, shares }))
    }

    /// Makes a contribution durable: the body that was [started](Attempt::start_body) and is finished, the shares, and
    /// at last the header, whose presence says that all of it is here.
    pub fn keep_contribution(&self, header: &Signed<Header>, shares: &[Vec<u8>]) -> Result<()> {
        let body = self.body();
        self.disk.settle(&disk::temporary(&body), &body)?;
        self.disk
            .write(&self.folder.join("shares"), &shares.concat())?;
        self.disk
            .write(&self.folder.join("header"), &header.encode())
    }

    /// A release that was sealed here in an earlier life, with its sealed shares.
    pub fn release(&self, keyring: &dyn Keyring) -> Result<Option<KeptRelease>> {
        let Some(release) = disk::read(&self.folder.join("release"))? else {
            return Ok(None);
        };
        let release = Signed::<Release>::verify(Envelope::decode(&release)?, keyring)?;
        let shares = self.shares("release-shares", &release.shares)?;
        Ok(Some(KeptRelease { release, shares }))
    }

    /// Makes a release durable before its first byte leaves: sealing again would give other bytes.
    pub fn keep_release(&self, release: &Signed<Release>, shares: &[Vec<u8>]) -> Result<()> {
        self.disk
            .write(&self.folder.join("release-shares"), &shares.concat())?;
        self.disk
            .write(&self.folder.join("release"), &release.encode())
    }

    /// What was opened here in an earlier life, if it is whole.
    pub fn opening(&self) -> Result<Option<KeptOpening>> {
        let Some(agreement) = disk::read(&self.folder.join("agreement"))? else {
            return Ok(None);
        };
        let gone = || Error::Fault("the opening of this attempt is gone".into());
        let report = disk::read(&self.folder.join("report"))?.ok_or_else(gone)?;
        Ok(Some(KeptOpening {
            model: Model::read(&self.opened_model())?.ok_or_else(gone)?,
            report: serde_json::from_slice(&report)
                .map_err(|error| Error::malformed("the kept report", error))?,
            agreement,
        }))
    }

    /// Whether something was opened here in an earlier life, and neither made the job's model nor left.
    pub fn has_opening(&self) -> bool {
        !self.is_over() && self.folder.join("agreement").exists() && self.opened_model().exists()
    }

    /// Makes an opening durable before this member says that it agrees: once enough do, nobody can fetch the sum
    /// again. The agreement's presence says that all of it is here.
    pub fn keep_opening(&self, opening: &KeptOpening) -> Result<()> {
        let report = serde_json::to_vec(&opening.report)
            .map_err(|error| Error::fault("writing the round's report", error))?;
        opening.model.write(&self.disk, &self.opened_model())?;
        self.disk.write(&self.folder.join("report"), &report)?;
        self.disk
            .write(&self.folder.join("agreement"), &opening.agreement)
    }

    /// Puts the model that was opened here in the place of the job's.
    pub fn promote_model(&self, desk: &Desk) -> Result<()> {
        self.disk.settle(&self.opened_model(), &desk.model())
    }

    fn opened_model(&self) -> PathBuf {
        self.folder.join("model")
    }

    /// The key to which a fellow member seals the model that this one missed: the one of an earlier life, else a fresh
    /// one, made durable.
    pub fn parcel_key(&self) -> Result<OneTimeKey> {
        let path = self.folder.join(PARCEL_KEY);
        if let Some(kept) = disk::read(&path)?.map(Zeroizing::new) {
            return Ok(OneTimeKey::from_stored(&kept)?);
        }
        let mut entropy = Entropy::from_os().map_err(|error| Error::fault("entropy", error))?;
        let key = OneTimeKey::generate(&mut entropy)?;
        self.disk.write(&path, &key.store_bytes())?;
        Ok(key)
    }

    /// Erases that key, and what a crash left of writing it, if there is any.
    pub fn erase_parcel_key(&self) -> Result<()> {
        let path = self.folder.join(PARCEL_KEY);
        self.disk.erase(&disk::temporary(&path))?;
        self.disk.erase(&path)
    }

    /// Sealed shares, all of one length, held to their signed digests.
    fn shares(&self, name: &str, digests: &[Digest]) -> Result<Vec<Vec<u8>>> {
        let bytes = disk::read(&self.folder.join(name))?
            .ok_or_else(|| Error::Fault(format!("the {name} of this attempt are gone")))?;
        let one = bytes.len() / digests.len().max(1);
        let shares: Vec<Vec<u8>> = bytes.chunks(one.max(1)).map(<[u8]>::to_vec).collect();
        let whole = shares.len() == digests.len()
            && shares
                .iter()
                .zip(digests)
                .all(|(share, digest)| Digest::sha256(share) == *digest);
        if whole {
            Ok(shares)
        } else {
            Err(Error::Fault(format!(
                "the {name} of this attempt were changed"
            )))
        }
    }

    /// Notes durably that this is the one roster that this member will ever echo, and release for, in the context.
    ///
    /// # Errors
    /// [`Error::Refused`] if it echoed another one.
    pub fn accept_roster(&self, roster: &Digest) -> Result<()> {
        let path = self.folder.join("roster");
        self.disk.once(
            &path,
            roster,
            "this member echoed another roster in this context",
        )
    }

    /// The certificate of the roster that t members echoed, if it was kept in this life or an earlier one.
    pub fn certificate(&self, manifest: &Manifest) -> Result<Option<Certificate>> {
        disk::read(&self.folder.join(CERTIFICATE))?
            .map(|bytes| Certificate::parse(&bytes, manifest))
            .transpose()
    }

    /// Makes a certificate durable before a charge is lowered on it. Whoever audits the ledger finds it among the log's evidence.
    pub fn keep_certificate(&self, certificate: &Certificate) -> Result<()> {
        self.disk
            .write(&self.folder.join(CERTIFICATE), &certificate.to_bytes())
    }

    /// Whether the attempt was left, for good.
    pub fn is_over(&self) -> bool {
        self.folder.join("over").exists()
    }

    /// Leaves the attempt for good and removes its bulk; again after a crash, what that left. Its roster stays: the promise to
    /// release for no other.
    pub fn clear(&self) -> Result<()> {
        if !self.is_over() {
            self.disk.write(&self.folder.join("over"), b"")?;
        }
        self.erase_parcel_key()?;
        for path in disk::files(&self.folder)? {
            let stays = ["roster", "over"];
            if !stays.iter().any(|name| path.ends_with(name)) {
                self.disk.remove(&path)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn context(plan: &[u8]) -> Context {
        Context::of_plan(plan)
    }

    #[test]
    fn a_second_plan_for_a_round_and_attempt_is_refused_even_after_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let desk = Desk::open(folder.path().join("job"), Disk::default()).unwrap();
        desk.accept_plan(1, 1, context(b"a")).unwrap();
        desk.accept_plan(1, 1, context(b"a")).unwrap();
        drop(desk);
        let desk = Desk::open(folder.path().join("job"), Disk::default()).unwrap();
        assert!(matches!(
            desk.accept_plan(1, 1, context(b"b")),
            Err(Error::Refused(_))
        ));
        desk.accept_plan(1, 2, context(b"b")).unwrap();
    }

    #[test]
    fn every_attempt_that_was_taken_up_is_known_by_its_context() {
        let folder = tempfile::tempdir().unwrap();
        let desk = Desk::open(folder.path().to_owned(), Disk::default()).unwrap();
        assert_eq!(desk.attempts().unwrap(), []);
        for plan in [b"a", b"b"] {
            desk.attempt(context(plan)).unwrap();
        }
        let mut expected = [context(b"a"), context(b"b")];
        expected.sort();
        let mut known = desk.attempts().unwrap();
        known.sort();
        assert_eq!(known, expected);
    }

    #[test]
    fn a_second_roster_in_a_context_is_refused_even_after_the_attempt_was_cleared() {
        let folder = tempfile::tempdir().unwrap();
        let desk = Desk::open(folder.path().to_owned(), Disk::default()).unwrap();
        let attempt = desk.attempt(context(b"a")).unwrap();
        attempt.accept_roster(&Digest::sha256(b"one")).unwrap();
        attempt.clear().unwrap();
        let attempt = desk.attempt(context(b"a")).unwrap();
        assert!(attempt.is_over());
        attempt.accept_roster(&Digest::sha256(b"one")).unwrap();
        assert!(matches!(
            attempt.accept_roster(&Digest::sha256(b"two")),
            Err(Error::Refused(_))
        ));
    }
}
