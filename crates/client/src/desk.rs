//! What a member must not forget about one attempt: files that are written before the step that they allow.

use std::{
    fs::{self, File},
    path::PathBuf,
};

use ciphertune_gauss::Entropy;
use ciphertune_round::{Context, Digest, Envelope, Header, Keyring, Release, Signed};
use ciphertune_seal::OneTimeKey;
use zeroize::Zeroizing;

use crate::{
    durable,
    error::{Error, Result},
};

const PARCEL_KEY: &str = "parcel-key";

/// The folder of one job.
pub struct Desk {
    folder: PathBuf,
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

/// The folder of one attempt.
pub struct Attempt {
    folder: PathBuf,
}

impl Desk {
    /// Opens, or starts, a job's folder.
    pub fn open(folder: PathBuf) -> Result<Self> {
        durable::folder(&folder.join("attempts"))?;
        durable::folder(&folder.join("plans"))?;
        Ok(Self { folder })
    }

    /// Where the model is kept.
    pub fn model(&self) -> PathBuf {
        self.folder.join("model.safetensors")
    }

    /// Where finished rounds are noted for the person who runs this member, one JSON a line.
    pub fn rounds(&self) -> PathBuf {
        self.folder.join("rounds.jsonl")
    }

    /// Whether this member admitted the job in an earlier life.
    pub fn was_admitted(&self) -> bool {
        self.folder.join("admitted").exists()
    }

    /// Notes durably that it did.
    pub fn note_admitted(&self) -> Result<()> {
        durable::write(&self.folder.join("admitted"), b"")
    }

    /// Notes durably that this is the one plan for its (round, attempt).
    ///
    /// # Errors
    /// [`Error::Refused`] if another plan for them was seen.
    pub fn accept_plan(&self, round: u32, attempt: u32, context: Context) -> Result<()> {
        let path = self.folder.join("plans").join(format!("{round}-{attempt}"));
        durable::once(
            &path,
            &context.digest(),
            "a second, different plan came for this round and attempt",
        )
    }

    /// Whether another plan than this one was accepted for its (round, attempt).
    pub fn contradicts(&self, round: u32, attempt: u32, context: Context) -> Result<bool> {
        let path = self.folder.join("plans").join(format!("{round}-{attempt}"));
        let noted = durable::read(&path)?;
        Ok(noted.is_some_and(|noted| noted != context.digest().to_string().as_bytes()))
    }

    /// How many plans of this job were accepted, in every life: no fewer than were charged.
    pub fn plans(&self) -> Result<u64> {
        fs::read_dir(self.folder.join("plans"))
            .map(|entries| entries.count() as u64)
            .map_err(|error| Error::fault("counting plans", error))
    }

    /// The contexts of all attempts that were taken up, in every life.
    pub fn attempts(&self) -> Result<Vec<Context>> {
        let doing = |error| Error::fault("listing attempts", error);
        fs::read_dir(self.folder.join("attempts"))
            .map_err(doing)?
            .map(|entry| {
                let name = entry.map_err(doing)?.file_name();
                let digest = Digest::from_hex(&name.to_string_lossy())?;
                Ok(Context::from_digest(digest))
            })
            .collect()
    }

    /// The folder of one attempt.
    pub fn attempt(&self, context: Context) -> Result<Attempt> {
        let folder = self.folder.join("attempts").join(context.to_string());
        durable::folder(&folder)?;
        Ok(Attempt { folder })
    }
}

impl Attempt {
    /// The body that was, or will be, sent.
    pub fn body(&self) -> PathBuf {
        self.folder.join("body")
    }

    /// A download.
    pub fn download(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// The contribution that was sealed here in an earlier life, if it is whole: its header and its sealed shares.
    pub fn contribution(&self, keyring: &dyn Keyring) -> Result<Option<Kept>> {
        let Some(header) = durable::read(&self.folder.join("header"))? else {
            return Ok(None);
        };
        let header = Signed::<Header>::verify(Envelope::decode(&header)?, keyring)?;
        let shares = self.shares("shares", &header.shares)?;
        Ok(Some(Kept { header, shares }))
    }

    /// Makes a contribution durable: the body, which stands in [`Attempt::body`]'s temporary file, the shares, and at
    /// last the header, whose presence says that all of it is here.
    pub fn keep_contribution(&self, header: &Signed<Header>, shares: &[Vec<u8>]) -> Result<()> {
        let temporary = durable::temporary(&self.body());
        File::open(&temporary)
            .and_then(|file| file.sync_all())
            .map_err(|error| Error::fault("writing the body", error))?;
        durable::settle(&temporary, &self.body())?;
        durable::write(&self.folder.join("shares"), &shares.concat())?;
        durable::write(&self.folder.join("header"), &header.encode())
    }

    /// A release that was sealed here in an earlier life, with its sealed shares.
    pub fn release(&self, keyring: &dyn Keyring) -> Result<Option<KeptRelease>> {
        let Some(release) = durable::read(&self.folder.join("release"))? else {
            return Ok(None);
        };
        let release = Signed::<Release>::verify(Envelope::decode(&release)?, keyring)?;
        let shares = self.shares("release-shares", &release.shares)?;
        Ok(Some(KeptRelease { release, shares }))
    }

    /// Makes a release durable before its first byte leaves: sealing again would give other bytes.
    pub fn keep_release(&self, release: &Signed<Release>, shares: &[Vec<u8>]) -> Result<()> {
        durable::write(&self.folder.join("release-shares"), &shares.concat())?;
        durable::write(&self.folder.join("release"), &release.encode())
    }

    /// The agreement that was signed here in an earlier life, else `fresh`, made durable.
    pub fn agreement(&self, fresh: impl FnOnce() -> Vec<u8>) -> Result<Vec<u8>> {
        let path = self.folder.join("agreement");
        if let Some(kept) = durable::read(&path)? {
            return Ok(kept);
        }
        let fresh = fresh();
        durable::write(&path, &fresh)?;
        Ok(fresh)
    }

    /// The key to which a fellow member seals the model that this one missed: the one of an earlier life, else a fresh
    /// one, made durable.
    pub fn parcel_key(&self) -> Result<OneTimeKey> {
        let path = self.folder.join(PARCEL_KEY);
        if let Some(kept) = durable::read(&path)?.map(Zeroizing::new) {
            return Ok(OneTimeKey::from_stored(&kept)?);
        }
        let mut entropy = Entropy::from_os().map_err(|error| Error::fault("entropy", error))?;
        let key = OneTimeKey::generate(&mut entropy)?;
        durable::write(&path, &key.store_bytes())?;
        Ok(key)
    }

    /// Erases that key, and what a crash left of writing it, if there is any.
    pub fn erase_parcel_key(&self) -> Result<()> {
        let path = self.folder.join(PARCEL_KEY);
        durable::erase(&durable::temporary(&path))?;
        durable::erase(&path)
    }

    /// Sealed shares, all of one length, held to their signed digests.
    fn shares(&self, name: &str, digests: &[Digest]) -> Result<Vec<Vec<u8>>> {
        let bytes = durable::read(&self.folder.join(name))?
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
        durable::once(
            &path,
            roster,
            "this member echoed another roster in this context",
        )
    }

    /// Whether the attempt was left, for good.
    pub fn is_over(&self) -> bool {
        self.folder.join("over").exists()
    }

    /// Leaves the attempt for good and removes its bulk. Its roster stays: the promise to release for no other.
    pub fn clear(&self) -> Result<()> {
        durable::write(&self.folder.join("over"), b"")?;
        self.erase_parcel_key()?;
        let entries = fs::read_dir(&self.folder)
            .map_err(|error| Error::fault("clearing an attempt", error))?;
        for entry in entries.flatten() {
            let name = entry.file_name();
            if name != "roster" && name != "over" {
                fs::remove_file(entry.path())
                    .map_err(|error| Error::fault("clearing an attempt", error))?;
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
        let desk = Desk::open(folder.path().join("job")).unwrap();
        desk.accept_plan(1, 1, context(b"a")).unwrap();
        desk.accept_plan(1, 1, context(b"a")).unwrap();
        drop(desk);
        let desk = Desk::open(folder.path().join("job")).unwrap();
        assert!(matches!(
            desk.accept_plan(1, 1, context(b"b")),
            Err(Error::Refused(_))
        ));
        desk.accept_plan(1, 2, context(b"b")).unwrap();
    }

    #[test]
    fn every_attempt_that_was_taken_up_is_known_by_its_context() {
        let folder = tempfile::tempdir().unwrap();
        let desk = Desk::open(folder.path().to_owned()).unwrap();
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
        let desk = Desk::open(folder.path().to_owned()).unwrap();
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
