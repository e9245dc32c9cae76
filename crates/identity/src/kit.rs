//! What a party carries home from the authority: no secrets.

use std::{fs, path::Path};

use ciphertune_round::{Envelope, Signed, VerifyingKey};

use crate::{
    certificate::{AuthorityCertificate, Certificate},
    endpoint::Endpoint,
    error::{Error, Result, fault, malformed},
    file,
    manifest::Manifest,
};

const AUTHORITY: &str = "ca.pem";
const CERTIFICATE: &str = "cert.pem";
const MANIFEST: &str = "manifest.bin";
const POLICY: &str = "policy.bin";
const ADDRESS: &str = "address.txt";
const MAX_ADDRESS_BYTES: u64 = 512;

/// The authority's certificate, the party's own, the manifest, the federation's policy, the server's address: one
/// folder with `ca.pem`, `cert.pem`, `manifest.bin`, `policy.bin`, `address.txt`.
///
/// What a kit says is believed after [`Kit::verify`], and its authority only once people compared the fingerprint of
/// its key by another way than the one that the kit came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kit {
    /// The authority's certificate.
    pub authority: AuthorityCertificate,
    /// The party's certificate.
    pub certificate: Certificate,
    /// The manifest as the authority signed it.
    pub manifest: Envelope,
    /// The federation's policy as an officer signed it: who, `policy` and `round` know.
    pub policy: Envelope,
    /// Where the server listens.
    pub address: Endpoint,
}

impl Kit {
    /// Writes the kit into a folder, which is created if missing.
    pub fn write(&self, folder: &Path) -> Result<()> {
        fs::create_dir_all(folder)
            .map_err(|error| fault(&format!("creating {}", folder.display()), error))?;
        let address = format!("{}\n", self.address);
        for (name, bytes) in [
            (AUTHORITY, self.authority.pem().as_bytes()),
            (CERTIFICATE, self.certificate.pem().as_bytes()),
            (MANIFEST, self.manifest.encode().as_slice()),
            (POLICY, self.policy.encode().as_slice()),
            (ADDRESS, address.as_bytes()),
        ] {
            file::write(&folder.join(name), bytes, 0o644)?;
        }
        Ok(())
    }

    /// Reads a kit. Each part is parsed; whether they belong together is asked by [`verify`](Self::verify).
    pub fn read(folder: &Path) -> Result<Self> {
        let envelope = |name: &str| -> Result<Envelope> {
            let path = folder.join(name);
            let bytes = file::read(&path, Envelope::MAX_BYTES as u64)?;
            Envelope::decode(&bytes).map_err(|error| malformed(&path.display().to_string(), error))
        };
        Ok(Self {
            authority: AuthorityCertificate::read(&folder.join(AUTHORITY))?,
            certificate: Certificate::read(&folder.join(CERTIFICATE))?,
            manifest: envelope(MANIFEST)?,
            policy: envelope(POLICY)?,
            address: file::read_text(&folder.join(ADDRESS), MAX_ADDRESS_BYTES)?
                .trim_end()
                .parse()?,
        })
    }

    /// Verifies that the kit is for `own` key and of one piece, and returns its manifest: the authority signed the
    /// certificate and the manifest; the manifest lists this very party; the address is the manifest's.
    pub fn verify(&self, own: &VerifyingKey) -> Result<Signed<Manifest>> {
        let peer = self.certificate.peer();
        if peer.key != *own {
            return Err(Error::Refused("the kit is for another key".into()));
        }
        self.certificate.verify(&self.authority)?;
        let manifest = Manifest::verify(self.manifest.clone(), &self.authority)?;
        match manifest.party(&peer.fingerprint) {
            Some(party) if party.name == peer.name && party.role == peer.role => {}
            Some(party) => {
                return Err(Error::Refused(format!(
                    "the certificate says {} {}, the manifest {} {}",
                    peer.role, peer.name, party.role, party.name
                )));
            }
            None => {
                return Err(Error::Refused(format!(
                    "the manifest does not list {} {}",
                    peer.role, peer.name
                )));
            }
        }
        if self.address != *manifest.endpoint() {
            return Err(Error::Refused(format!(
                "the kit's address is {}, the manifest's {}",
                self.address,
                manifest.endpoint()
            )));
        }
        Ok(manifest)
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use ciphertune_round::{Signer, label};

    use super::*;
    use crate::{Authority, Name, Party, Request, Role, SigningKey, Validity};

    struct Fixture {
        authority: Authority,
        key: SigningKey,
        kit: Kit,
    }

    fn fixture() -> Fixture {
        let name = |text| Name::new(text).unwrap();
        let start = UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        let validity = Validity::days(start, 90).unwrap();
        let authority = Authority::create(&name("lab"), validity).unwrap();
        let (key, hub) = (
            SigningKey::generate().unwrap(),
            SigningKey::generate().unwrap(),
        );
        let request = Request::new(&name("north"), &key).unwrap();
        let certificate = authority
            .issue(&request, Role::Member, &[], validity)
            .unwrap();
        let party = |text, role, key: &SigningKey| Party {
            name: name(text),
            role,
            key: key.verifying_key(),
        };
        let parties = vec![
            party("hub", Role::Server, &hub),
            party("north", Role::Member, &key),
        ];
        let address: Endpoint = "localhost:4711".parse().unwrap();
        let manifest = Manifest::new(name("lab"), 1, start, parties, address.clone()).unwrap();
        let manifest = authority.sign_manifest(manifest).unwrap();
        let kit = Kit {
            authority: authority.certificate().clone(),
            certificate,
            manifest: manifest.envelope().clone(),
            policy: Envelope::sign(label::POLICY, b"unit".to_vec(), &hub),
            address,
        };
        Fixture {
            authority,
            key,
            kit,
        }
    }

    #[test]
    fn a_kit_survives_its_folder_and_holds_no_secret() {
        let Fixture { key, kit, .. } = fixture();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("kit");
        kit.write(&path).unwrap();
        let read = Kit::read(&path).unwrap();
        assert_eq!(read, kit);
        read.verify(&key.verifying_key()).unwrap();
        for entry in fs::read_dir(&path).unwrap() {
            let bytes = fs::read(entry.unwrap().path()).unwrap();
            let text = String::from_utf8_lossy(&bytes);
            assert!(!text.contains("PRIVATE"));
        }
    }

    #[test]
    fn a_kit_for_another_key_or_of_another_authority_is_refused() {
        let (north, other) = (fixture(), fixture());
        let refused = |kit: &Kit, key: &SigningKey| {
            matches!(kit.verify(&key.verifying_key()), Err(Error::Refused(_)))
        };
        assert!(!refused(&north.kit, &north.key));
        assert!(refused(&north.kit, &other.key));
        let mut mixed = north.kit.clone();
        mixed.authority = other.authority.certificate().clone();
        assert!(refused(&mixed, &north.key));
        let mut mixed = north.kit.clone();
        mixed.manifest = other.kit.manifest.clone();
        assert!(refused(&mixed, &north.key));
        let mut mixed = north.kit.clone();
        mixed.address = "localhost:4712".parse().unwrap();
        assert!(refused(&mixed, &north.key));
    }

    #[test]
    fn a_kit_whose_manifest_gives_another_role_is_refused() {
        let Fixture {
            authority,
            key,
            mut kit,
        } = fixture();
        let request = Request::new(&Name::new("north").unwrap(), &key).unwrap();
        let validity = *kit.certificate.validity();
        kit.certificate = authority
            .issue(&request, Role::Officer, &[], validity)
            .unwrap();
        let Err(Error::Refused(reason)) = kit.verify(&key.verifying_key()) else {
            panic!("a member posed as an officer");
        };
        assert!(reason.contains("officer"), "{reason}");
    }

    #[test]
    fn a_kit_with_a_part_missing_names_it() {
        let Fixture { kit, .. } = fixture();
        let folder = tempfile::tempdir().unwrap();
        kit.write(folder.path()).unwrap();
        fs::remove_file(folder.path().join(MANIFEST)).unwrap();
        let Err(Error::Fault(reason)) = Kit::read(folder.path()) else {
            panic!("a kit without a manifest was read");
        };
        assert!(reason.contains(MANIFEST));
    }
}
