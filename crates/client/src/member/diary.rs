//! What a member writes into its audit log, and the signed objects that it keeps beside it.

use std::time::SystemTime;

use ciphertune_audit::{Evidence, Note};
use ciphertune_identity::Credentials;
use serde_json::{Map, Value};

use super::Member;
use crate::{
    error::{Error, Result},
    site::Site,
};

impl Member {
    /// Appends to the audit log. Never a value that depends on data. What is resumed after a crash is noted again.
    pub(super) fn note<const K: usize>(
        &mut self,
        kind: &str,
        fields: [(&str, Value); K],
    ) -> Result<()> {
        self.note_on(kind, fields, &[])
    }

    /// Appends what rests on these objects, which are on the disk first.
    pub(super) fn note_on<const K: usize>(
        &mut self,
        kind: &str,
        fields: [(&str, Value); K],
        objects: &[&[u8]],
    ) -> Result<()> {
        let (disk, path) = (self.site.disk(), self.site.home().audit());
        let mut fields: Map<String, Value> = fields
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value))
            .collect();
        if !objects.is_empty() {
            let names = keep(&self.site, objects)?;
            fields.insert(Evidence::FIELD.into(), names.into());
        }
        let log = &mut self.log;
        disk.appends(&path, || log.append(kind, fields, SystemTime::now()))
            .map(drop)
    }

    /// Who this is, and what holds from here on.
    pub(super) fn note_start(&mut self) -> Result<()> {
        let torn = self.log.torn_bytes();
        let peer = self.site.credentials().certificate().peer().clone();
        let manifest = self.site.manifest();
        let (digest, encoded) = (manifest.digest().to_string(), manifest.encode());
        let authority = self.site.credentials().authority().pem().to_owned();
        self.note_on(
            "started",
            [
                ("role", peer.role.to_string().into()),
                ("name", peer.name.to_string().into()),
                ("federation", peer.federation.to_string().into()),
                ("party", peer.fingerprint.to_string().into()),
                ("manifest", digest.into()),
                ("version", env!("CARGO_PKG_VERSION").into()),
            ],
            &[authority.as_bytes(), &encoded],
        )?;
        if torn > 0 {
            self.note("repaired", [("torn_bytes", torn.into())])?;
        }
        self.note_certificate()?;
        self.note_revocation_list()?;
        self.note_policies()?;
        self.note_checkpoint()
    }

    /// Takes up a certificate or revocation list that was installed in the meantime, and notes that it was.
    pub(super) fn refresh(&mut self) -> Result<()> {
        let before = self.site.credentials().clone();
        self.site.refresh()?;
        self.note_changes(&before)
    }

    /// Notes what has changed since the credentials were these.
    pub(super) fn note_changes(&mut self, before: &Credentials) -> Result<()> {
        if self.site.credentials().certificate() != before.certificate() {
            self.note_certificate()?;
        }
        if self.site.credentials().revocations() != before.revocations() {
            self.note_revocation_list()?;
        }
        Ok(())
    }

    fn note_certificate(&mut self) -> Result<()> {
        let certificate = self.site.credentials().certificate().clone();
        let validity = certificate.validity();
        self.note_on(
            "certificate",
            [
                ("serial", certificate.peer().serial.to_string().into()),
                ("not_before", validity.start().to_string().into()),
                ("not_after", validity.end().to_string().into()),
            ],
            &[certificate.pem().as_bytes()],
        )
    }

    fn note_revocation_list(&mut self) -> Result<()> {
        let list = self.site.credentials().revocations().clone();
        self.note_on(
            "revocation-list",
            [
                ("number", list.number().into()),
                ("digest", list.digest().to_string().into()),
            ],
            &[list.pem().as_bytes()],
        )
    }

    fn note_policies(&mut self) -> Result<()> {
        let documents =
            std::iter::once(self.site.federation_policy()).chain(self.site.site_policy());
        let (digests, encoded): (Vec<Value>, Vec<Vec<u8>>) = documents
            .map(|document| (document.digest().to_string().into(), document.encode()))
            .unzip();
        let objects: Vec<&[u8]> = encoded.iter().map(Vec::as_slice).collect();
        self.note_on("policy", [("policies", digests.into())], &objects)
    }

    /// Signs the log as it stands, into the log itself: whoever rewrites what is before needs the key.
    pub(super) fn note_checkpoint(&mut self) -> Result<()> {
        let name = self.site.credentials().certificate().peer().log_name();
        let checkpoint = self.log.checkpoint(&name)?;
        let note = Note::sign(checkpoint, self.site.key());
        self.note("checkpoint", [("note", note.to_text().into())])
    }
}

/// Puts objects where they are found by their names; those that are there already are left.
fn keep(site: &Site, objects: &[&[u8]]) -> Result<Vec<String>> {
    let evidence = Evidence::beside(&site.home().audit());
    objects
        .iter()
        .map(|object| {
            let name = Evidence::name_of(object);
            let place = evidence.place_of(&name);
            if !place.exists() {
                site.disk().write(&place, object)?;
            }
            Ok::<_, Error>(name)
        })
        .collect()
}
