//! `ciphertune identity show`: what an auditor needs to see of a file, in words or JSON from one list of fields.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::ExitCode,
    time::SystemTime,
};

use ciphertune_client::{Error, Result, officer};
use ciphertune_identity::{
    AuthorityCertificate, Certificate, Manifest, Request, RevocationList, Validity,
};
use ciphertune_round::{Digest, Envelope, Fingerprint};
use clap::Args;
use serde_json::{Map, Value, json};

use crate::{Common, output};

/// Flags of `ciphertune identity show`.
#[derive(Args)]
pub struct Show {
    /// Files, or folders of them (a kit, a home's identity/).
    files: Vec<PathBuf>,
    /// The authority's certificate that signatures are held to; the ca.pem beside a file, else this home's, unless given.
    #[arg(long, value_name = "PEM")]
    authority: Option<PathBuf>,
}

/// What kits, homes and registers name their files, in the order in which they are shown.
const NAMES: [&str; 5] = [
    "ca.pem",
    "cert.pem",
    "crl.pem",
    "manifest.bin",
    "policy.bin",
];

/// The files of a home that are no part of a kit.
const OWN: &str = "key.pem";

impl Show {
    /// Exit code 1 where anything does not hold: a signature, a date, a revoked certificate.
    pub fn run(self, common: &Common) -> Result<ExitCode> {
        let named = match self.files.is_empty() {
            true => vec![common.home.identity()],
            false => self.files,
        };
        let mut files = Vec::new();
        for path in named {
            match path.is_dir() {
                true => files.extend(inside(&path)?),
                false => files.push(path),
            }
        }
        let mut holds = true;
        for file in files {
            let trust = Trust::beside(&file, self.authority.as_deref(), common)?;
            let fields = fields(&file, &trust)?;
            holds &= fields.iter().all(|(name, value)| match *name {
                "verified" | "holds" | "usable" => *value != Value::Bool(false),
                "revoked" => *value != Value::Bool(true),
                _ => true,
            });
            match common.json {
                true => output::json(&as_json(&file, fields))?,
                false => output::say(&in_words(&file, &fields))?,
            }
        }
        Ok(ExitCode::from(u8::from(!holds)))
    }
}

fn inside(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found: Vec<PathBuf> = std::iter::once(OWN)
        .chain(NAMES)
        .map(|name| folder.join(name))
        .filter(|path| path.is_file())
        .collect();
    // An authority's register.
    if let Ok(issued) = fs::read_dir(folder.join("issued")) {
        let issued = issued.flatten().map(|entry| entry.path());
        let mut issued: Vec<PathBuf> = issued
            .filter(|path| path.extension().is_some_and(|it| it == "pem"))
            .collect();
        issued.sort();
        found.extend(issued);
    }
    match found.is_empty() {
        true => Err(Error::Misuse(format!(
            "{} holds none of {}",
            folder.display(),
            NAMES.join(", ")
        ))),
        false => Ok(found),
    }
}

/// What a file's signature is held to, where it is at hand.
struct Trust {
    authority: Option<AuthorityCertificate>,
    list: Option<RevocationList>,
    manifest: Option<Envelope>,
}

impl Trust {
    fn beside(file: &Path, named: Option<&Path>, common: &Common) -> Result<Self> {
        let folder = file.parent().unwrap_or(Path::new(""));
        // Beside it, in the register that it is a part of, or at home.
        let first = |name: &str, home: PathBuf| {
            let above = folder.parent().map(|above| above.join(name));
            let places = [Some(folder.join(name)), above, Some(home)];
            places.into_iter().flatten().find(|path| path.is_file())
        };
        let authority = match named {
            Some(path) => Some(path.to_owned()),
            None => first("ca.pem", common.home.authority()),
        };
        let authority = authority
            .as_deref()
            .map(AuthorityCertificate::read)
            .transpose()?;
        let list = first("crl.pem", common.home.revocations());
        let list = list.as_deref().map(RevocationList::read).transpose()?;
        let ours = |list: &RevocationList| {
            (authority.as_ref()).is_some_and(|authority| list.verify(authority).is_ok())
        };
        let manifest = first("manifest.bin", common.home.manifest());
        Ok(Self {
            list: list.filter(ours),
            manifest: manifest.as_deref().map(output::envelope).transpose()?,
            authority,
        })
    }

    /// Whether the authority's signature holds; in words, too. Null where there is none to hold it to.
    fn signature(
        &self,
        verify: impl FnOnce(&AuthorityCertificate) -> ciphertune_identity::Result<()>,
    ) -> Fields {
        let (verified, said) = match &self.authority {
            None => (
                Value::Null,
                "not verified: --authority PEM says by whose certificate".into(),
            ),
            Some(authority) => match verify(authority) {
                Ok(()) => (
                    true.into(),
                    format!("by the authority {}", authority.key().fingerprint()),
                ),
                Err(error) => (false.into(), format!("DOES NOT HOLD: {error}")),
            },
        };
        vec![("verified", verified), ("signature", said.into())]
    }
}

type Fields = Vec<(&'static str, Value)>;

fn fields(path: &Path, trust: &Trust) -> Result<Fields> {
    let bytes = fs::read(path)
        .map_err(|error| Error::Misuse(format!("cannot read {}: {error}", path.display())))?;
    let named = |error: ciphertune_identity::Error| Error::Malformed {
        what: path.display().to_string(),
        detail: error.to_string(),
    };
    let Ok(text) = std::str::from_utf8(&bytes) else {
        return manifest(path, &bytes, trust);
    };
    let begins = |label: &str| text.contains(&format!("-----BEGIN {label}-----"));
    if begins("CERTIFICATE REQUEST") {
        Ok(request(&Request::from_pem(text).map_err(named)?))
    } else if begins("X509 CRL") {
        Ok(list(&RevocationList::from_pem(text).map_err(named)?, trust))
    } else if begins("ENCRYPTED PRIVATE KEY") {
        key(path)
    } else if begins("PRIVATE KEY") {
        Err(Error::Refused(format!(
            "{} is a private key in clear: it is not shown, and not used",
            path.display()
        )))
    } else if begins("CERTIFICATE") {
        match AuthorityCertificate::from_pem(text) {
            Ok(found) => Ok(authority(&found)),
            Err(_) => Ok(certificate(
                &Certificate::from_pem(text).map_err(named)?,
                trust,
            )),
        }
    } else {
        manifest(path, &bytes, trust)
    }
}

fn authority(found: &AuthorityCertificate) -> Fields {
    let mut fields = vec![
        ("kind", "authority's certificate".into()),
        ("federation", found.federation().as_str().into()),
        ("fingerprint", hex(&found.key().fingerprint())),
    ];
    fields.extend(dates(found.validity()));
    fields.extend([("verified", true.into()), ("signature", "by itself".into())]);
    fields
}

fn certificate(found: &Certificate, trust: &Trust) -> Fields {
    let peer = found.peer();
    let mut fields = vec![
        ("kind", "certificate".into()),
        ("federation", peer.federation.as_str().into()),
        ("name", peer.name.as_str().into()),
        ("role", peer.role.as_str().into()),
        ("fingerprint", hex(&peer.fingerprint)),
        ("serial", peer.serial.to_string().into()),
    ];
    fields.extend(dates(found.validity()));
    fields.extend(trust.signature(|it| found.verify(it)));
    fields.extend(revocation(found, trust));
    if let Ok(hosts) = found.hosts()
        && !hosts.is_empty()
    {
        let hosts: Vec<String> = hosts.iter().map(ToString::to_string).collect();
        fields.push(("hosts", hosts.join(", ").into()));
    }
    fields
}

fn revocation(found: &Certificate, trust: &Trust) -> Fields {
    let (revoked, said) = match &trust.list {
        None => (
            Value::Null,
            "not known: no revocation list of this authority at hand".into(),
        ),
        Some(list) => match list.revoked().get(&found.peer().serial) {
            Some(revoked) => (
                true.into(),
                format!(
                    "REVOKED at {}: {}",
                    Validity::instant(revoked.at),
                    revoked.reason
                ),
            ),
            None => (false.into(), format!("not in list {}", list.number())),
        },
    };
    vec![("revoked", revoked), ("revocation", said.into())]
}

fn request(found: &Request) -> Fields {
    let wish = |said: fn(&ciphertune_identity::Wish) -> String| found.wish().map(said).into();
    vec![
        ("kind", "request".into()),
        ("federation", wish(|it| it.federation.to_string())),
        ("name", found.name().as_str().into()),
        ("role", wish(|it| it.role.to_string())),
        ("fingerprint", hex(&found.key().fingerprint())),
        ("verified", true.into()),
        ("signature", "by this key".into()),
    ]
}

fn list(found: &RevocationList, trust: &Trust) -> Fields {
    let mut fields = vec![
        ("kind", "revocation list".into()),
        ("number", found.number().into()),
        ("digest", found.digest().to_string().into()),
    ];
    fields.extend(dates(found.validity()));
    fields.extend(trust.signature(|it| found.verify(it)));
    let each = found.revoked().iter().map(|(serial, revoked)| {
        json!({
            "serial": serial.to_string(),
            "at": Validity::instant(revoked.at).to_string(),
            "reason": revoked.reason.as_str(),
        })
    });
    fields.push(("certificates", each.collect()));
    fields
}

fn key(path: &Path) -> Result<Fields> {
    let mode = fs::metadata(path)
        .map_err(|error| Error::Fault(format!("reading {}: {error}", path.display())))?
        .permissions()
        .mode();
    Ok(vec![
        ("kind", "private key, encrypted".into()),
        ("mode", format!("{:04o}", mode & 0o7777).into()),
        ("usable", (mode & 0o077 == 0).into()),
        (
            "read by",
            match mode & 0o077 {
                0 => "its owner alone".into(),
                _ => format!("OTHERS: it is not used; chmod 600 {}", path.display()).into(),
            },
        ),
    ])
}

fn manifest(path: &Path, bytes: &[u8], trust: &Trust) -> Result<Fields> {
    let unknown = || {
        Error::Malformed {
        what: path.display().to_string(),
        detail:
            "neither a certificate, a request, a revocation list, an encrypted key, a manifest nor a policy"
                .into(),
    }
    };
    let envelope = Envelope::decode(bytes).map_err(|_| unknown())?;
    let Some(authority) = &trust.authority else {
        return Err(Error::Misuse(format!(
            "{}: a manifest is shown once its signature is verified: --authority PEM",
            path.display()
        )));
    };
    let found = match Manifest::verify(envelope.clone(), authority) {
        Ok(found) => found,
        // The same bytes may be a policy; else the manifest's own fault is said.
        Err(error) => return policy(&envelope, authority, trust).map_err(|_| error.into()),
    };
    let mut fields = vec![
        ("kind", "manifest".into()),
        ("federation", found.federation().as_str().into()),
        ("serial", found.serial().into()),
        ("digest", found.digest().to_string().into()),
        (
            "issued",
            Validity::moment(found.issued_at()).to_string().into(),
        ),
        ("address", found.endpoint().to_string().into()),
    ];
    fields.extend(trust.signature(|_| Ok(())));
    fields.push(("parties", found.parties().iter().map(party).collect()));
    Ok(fields)
}

fn policy(envelope: &Envelope, authority: &AuthorityCertificate, trust: &Trust) -> Result<Fields> {
    let trusted = officer::Trust {
        authority: authority.clone(),
        manifest: trust.manifest.clone(),
        certificate: None,
    };
    let found = officer::verify(envelope, &trusted, SystemTime::now())?;
    let names: Vec<&str> = found.policy.names().collect();
    Ok(vec![
        ("kind", "policy".into()),
        ("federation", found.document.federation.as_str().into()),
        ("name", names.join(" + ").into()),
        (
            "digest",
            Digest::from_bytes(found.policy.digest()).to_string().into(),
        ),
        ("verified", true.into()),
        (
            "signature",
            format!("by officer {} of the manifest", found.officer).into(),
        ),
    ])
}

/// One party of a manifest.
pub fn party(party: &ciphertune_identity::Party) -> Value {
    json!({
        "role": party.role.as_str(),
        "name": party.name.as_str(),
        "fingerprint": party.fingerprint().to_string(),
    })
}

fn dates(validity: &Validity) -> Fields {
    let now = SystemTime::now();
    let left = validity.seconds_left(now);
    let state = match (validity.contains(now), left) {
        (true, _) => format!("holds, {} days left", left / 86_400),
        (false, 0) => "HAS ENDED".into(),
        (false, _) => "HAS NOT BEGUN".into(),
    };
    vec![
        ("begins", validity.start().to_string().into()),
        ("ends", validity.end().to_string().into()),
        ("holds", validity.contains(now).into()),
        ("validity", state.into()),
        ("seconds_left", left.into()),
    ]
}

fn hex(fingerprint: &Fingerprint) -> Value {
    fingerprint.to_string().into()
}

fn as_json(file: &Path, fields: Fields) -> Value {
    let file = ("file".to_owned(), file.display().to_string().into());
    let fields = fields
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value));
    Value::Object(std::iter::once(file).chain(fields).collect::<Map<_, _>>())
}

fn in_words(file: &Path, fields: &Fields) -> String {
    let mut words = file.display().to_string();
    for (name, value) in fields {
        match value {
            Value::Null => words.push_str(&format!("\n  {name:<13} not said")),
            Value::String(said) => words.push_str(&format!("\n  {name:<13} {said}")),
            Value::Array(each) if each.is_empty() => {
                words.push_str(&format!("\n  {name:<13} none"))
            }
            Value::Array(each) => {
                words.push_str(&format!("\n  {name}"));
                for one in each.iter().filter_map(Value::as_object) {
                    let said: Vec<&str> = one.values().filter_map(Value::as_str).collect();
                    words.push_str(&format!("\n    {}", said.join("  ")));
                }
            }
            other => words.push_str(&format!("\n  {name:<13} {other}")),
        }
    }
    words
}
