//! Where a party keeps what: the layout of `--home DIR`.

use std::{
    fs::DirBuilder,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
};

use ciphertune_round::Digest;

use crate::error::{Result, fault};

/// A party's folder. Paths only: what stands in them belongs to other crates.
///
/// ```text
/// identity/   key.pem  cert.pem  ca.pem  crl.pem  manifest.bin
/// policy/     the federation's and the site's signed documents
/// ledger.sqlite  audit.jsonl
/// jobs/JOB/   model and state of one job
/// register/   an authority's: what it has issued
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Home(PathBuf);

impl Home {
    /// The home at `root`; nothing is created or read.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self(root.into())
    }

    /// Creates the folders that are missing, for their owner alone (mode 0700).
    pub fn create(&self) -> Result<()> {
        for folder in [self.identity(), self.policy(), self.jobs()] {
            DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(&folder)
                .map_err(|error| fault(&format!("creating {}", folder.display()), error))?;
        }
        Ok(())
    }

    /// The folder itself.
    pub fn root(&self) -> &Path {
        &self.0
    }

    /// `identity/`.
    pub fn identity(&self) -> PathBuf {
        self.0.join("identity")
    }

    /// `identity/key.pem`: the encrypted private key.
    pub fn key(&self) -> PathBuf {
        self.identity().join("key.pem")
    }

    /// `identity/cert.pem`: the party's certificate.
    pub fn certificate(&self) -> PathBuf {
        self.identity().join("cert.pem")
    }

    /// `identity/ca.pem`: the authority's certificate.
    pub fn authority(&self) -> PathBuf {
        self.identity().join("ca.pem")
    }

    /// `identity/crl.pem`: the authority's newest revocation list that this party has.
    pub fn revocations(&self) -> PathBuf {
        self.identity().join("crl.pem")
    }

    /// `identity/manifest.bin`: the envelope of the manifest in force.
    pub fn manifest(&self) -> PathBuf {
        self.identity().join("manifest.bin")
    }

    /// `register/`.
    pub fn register(&self) -> PathBuf {
        self.0.join("register")
    }

    /// `policy/`.
    pub fn policy(&self) -> PathBuf {
        self.0.join("policy")
    }

    /// `ledger.sqlite`: the privacy spent.
    pub fn ledger(&self) -> PathBuf {
        self.0.join("ledger.sqlite")
    }

    /// `audit.jsonl`: the log.
    pub fn audit(&self) -> PathBuf {
        self.0.join("audit.jsonl")
    }

    /// `jobs/`.
    pub fn jobs(&self) -> PathBuf {
        self.0.join("jobs")
    }

    /// `jobs/JOB/`, the job by its digest in hexadecimal.
    pub fn job(&self, job: &Digest) -> PathBuf {
        self.jobs().join(job.to_string())
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt};

    use super::*;

    #[test]
    fn a_home_is_created_for_its_owner_alone() {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::new(folder.path().join("north"));
        home.create().unwrap();
        home.create().unwrap();
        for path in [home.root().to_owned(), home.identity(), home.jobs()] {
            let mode = fs::metadata(path).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o700);
        }
        assert!(home.key().ends_with("north/identity/key.pem"));
    }
}
