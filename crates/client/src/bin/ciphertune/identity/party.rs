//! A party's side: a key that never leaves home, a request, a kit.

use std::{
    path::{Path, PathBuf},
    time::SystemTime,
};

use ciphertune_client::{Error, Result, site::Site};
use ciphertune_identity::{
    AUTHORITY_DAYS, Authority, Credentials, Kit, Name, Passphrase, Register, Role, SigningKey,
    Validity, Wish,
};
use ciphertune_round::Signer as _;
use clap::Args;
use serde_json::json;

use crate::{
    Common,
    join::installed,
    output,
    passphrase::{new_passphrase, passphrase},
};

/// Flags of `ciphertune identity init`.
#[derive(Args)]
pub struct Init {
    /// Make the authority of this federation, with a certificate of its own, not a party.
    #[arg(long, value_name = "FEDERATION")]
    authority: Option<Name>,
    /// With --authority: how many days its certificate holds.
    #[arg(long, value_name = "N", default_value_t = AUTHORITY_DAYS, requires = "authority")]
    days: u32,
}

impl Init {
    pub fn run(self, common: &Common) -> Result<()> {
        let home = &common.home;
        if let Some(federation) = &self.authority
            && home.key().exists()
            && home.authority().exists()
            && !home.register().join("crl.pem").exists()
        {
            return finish(federation, common);
        }
        if home.key().exists() {
            return Err(Error::Refused(format!(
                "{} is there already, and a key is never overwritten; another party has another home (--home DIR)",
                home.key().display()
            )));
        }
        let passphrase = new_passphrase()?;
        home.create()?;
        match self.authority {
            Some(federation) => found(&federation, self.days, &passphrase, common),
            None => party(&passphrase, common),
        }
    }
}

fn party(passphrase: &Passphrase, common: &Common) -> Result<()> {
    let key = SigningKey::generate()?;
    let path = common.home.key();
    key.save(&path, passphrase)?;
    let fingerprint = key.verifying_key().fingerprint();
    if common.json {
        return output::json(&json!({
            "key": path.display().to_string(),
            "fingerprint": fingerprint.to_string(),
        }));
    }
    output::say(&format!(
        "{}: a new key, encrypted; it never leaves this home, and without its pass-phrase it is lost\nfingerprint {fingerprint}\n\
         next: ciphertune identity request --federation FEDERATION --role ROLE --name NAME",
        path.display()
    ))
}

/// What is missing of an authority that was made half: only its register can be.
fn finish(federation: &Name, common: &Common) -> Result<()> {
    let authority = Authority::load(&common.home.identity(), &passphrase()?)?;
    if authority.federation() != federation {
        return Err(Error::Refused(format!(
            "this home's authority is of {}, not of {federation}",
            authority.federation()
        )));
    }
    let register = Register::create(&common.home, &authority, SystemTime::now())?;
    founded(&authority, &register, common)
}

fn found(federation: &Name, days: u32, passphrase: &Passphrase, common: &Common) -> Result<()> {
    let (home, now) = (&common.home, SystemTime::now());
    let authority = Authority::create(federation, Validity::issued(now, days)?)?;
    authority.save(&home.identity(), passphrase)?;
    let register = Register::create(home, &authority, now)?;
    founded(&authority, &register, common)
}

fn founded(authority: &Authority, register: &Register, common: &Common) -> Result<()> {
    let (home, federation) = (&common.home, authority.federation());
    let certificate = authority.certificate();
    let fingerprint = certificate.key().fingerprint();
    if common.json {
        return output::json(&json!({
            "federation": federation.to_string(),
            "certificate": home.authority().display().to_string(),
            "fingerprint": fingerprint.to_string(),
            "ends": certificate.validity().end().to_string(),
            "register": register.folder().display().to_string(),
        }));
    }
    output::say(&format!(
        "{}: the authority of federation {federation}, until {}\nfingerprint {fingerprint}: everybody who installs a kit compares \
         it with what you read out to them\nkeep this home offline; it takes no part in rounds\nnext: ciphertune identity \
         approve REQUEST, for each party",
        home.authority().display(),
        certificate.validity().end()
    ))
}

/// Flags of `ciphertune identity request`.
#[derive(Args)]
pub struct Request {
    /// The federation.
    #[arg(long)]
    federation: Name,
    /// This party's name in it.
    #[arg(long)]
    name: Name,
    /// What this party is to do: member, server, officer, researcher or auditor.
    #[arg(long)]
    role: Role,
    /// Where the request goes: NAME.request here, unless given.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

impl Request {
    pub fn run(self, common: &Common) -> Result<()> {
        if common.home.register().exists() {
            return Err(Error::Refused(format!(
                "{} is an authority's home: a party has a home, and a key, of its own (--home DIR)",
                common.home.root().display()
            )));
        }
        let key = SigningKey::load(&common.home.key(), &passphrase()?)?;
        let wish = Wish {
            federation: self.federation,
            role: self.role,
        };
        let request = ciphertune_identity::Request::wishing(&self.name, &wish, &key)?;
        let out = self
            .out
            .unwrap_or_else(|| PathBuf::from(format!("{}.request", self.name)));
        output::write_new(&out, request.pem().as_bytes())?;
        let fingerprint = key.verifying_key().fingerprint();
        if common.json {
            return output::json(&json!({
                "request": out.display().to_string(),
                "federation": wish.federation.to_string(),
                "name": self.name.to_string(),
                "role": wish.role.as_str(),
                "fingerprint": fingerprint.to_string(),
            }));
        }
        output::say(&format!(
            "{}: {} asks to be {} of {}\nfingerprint {fingerprint}\nnext: send the file to the authority, and read it the \
             fingerprint by another way (a telephone); it sends a kit back",
            out.display(),
            self.name,
            wish.role.with_article(),
            wish.federation
        ))
    }
}

/// Flags of `ciphertune identity install`.
#[derive(Args)]
pub struct Install {
    /// The kit's folder.
    kit: PathBuf,
    /// The site's own policy, as `ciphertune policy sign` made it.
    #[arg(long, value_name = "FILE")]
    site_policy: Option<PathBuf>,
    /// The authority's fingerprint, as its people read it out: any other authority's kit is refused.
    #[arg(long, value_name = "HEX")]
    authority: Option<String>,
}

impl Install {
    pub fn run(self, common: &Common) -> Result<()> {
        let credentials = Credentials::read(&self.kit)
            .map_err(|error| Error::Refused(format!("{}: no kit: {error}", self.kit.display())))?;
        check_authority(&credentials, self.authority.as_deref())?;
        let passphrase = passphrase()?;
        if !Kit::is_whole(&self.kit) {
            let peer = credentials.certificate().peer();
            if peer.role != Role::Officer {
                return Err(Error::Refused(format!(
                    "{} is half a kit: manifest, policy and address are missing, and {} {} needs them; have the authority pack it \
                     again",
                    self.kit.display(),
                    peer.role,
                    peer.name
                )));
            }
            Site::install_credentials(&common.home, &passphrase, &credentials)?;
            return first_kit(&credentials, common);
        }
        let site_policy = self
            .site_policy
            .as_deref()
            .map(output::envelope)
            .transpose()?;
        let kit = Kit::read(&self.kit).map_err(|error| {
            Error::Refused(format!(
                "{error}: the kit is not whole; have the authority pack it again"
            ))
        })?;
        Site::install(&common.home, &passphrase, &kit, site_policy.as_ref())?;
        let site = Site::open(common.home.clone(), &passphrase)?;
        warn(&credentials);
        installed(&site, common)
    }
}

/// Holds a kit's authority to the fingerprint that its people read out, if somebody typed it.
pub fn check_authority(credentials: &Credentials, wanted: Option<&str>) -> Result<()> {
    let found = credentials.authority().key().fingerprint().to_string();
    match wanted {
        Some(wanted) if read_out(wanted) != found => Err(Error::Refused(format!(
            "the kit is of the authority {found}, not {}: somebody packed another one",
            wanted.trim()
        ))),
        _ => Ok(()),
    }
}

/// An officer's, before there is a policy.
fn first_kit(credentials: &Credentials, common: &Common) -> Result<()> {
    let peer = credentials.certificate().peer();
    let authority = credentials.authority().key().fingerprint();
    if common.json {
        return output::json(&json!({"installed": {
            "name": peer.name.to_string(),
            "role": peer.role.as_str(),
            "federation": peer.federation.to_string(),
            "authority": authority.to_string(),
            "policy": null,
        }}));
    }
    output::say(&format!(
        "installed: the certificate of {} {} of {}; the kit has no policy yet\nauthority {authority}: compare it with what its \
         people say by another way\nnext: ciphertune policy sign FILE, and send the authority what it makes",
        peer.role, peer.name, peer.federation
    ))
}

/// Says on standard error what ends soon.
pub fn warn(credentials: &Credentials) {
    for said in credentials.warnings(SystemTime::now()) {
        eprintln!("warning: {said}");
    }
}

/// A fingerprint as somebody typed it who heard it: in groups, with colons or not, in any case.
pub fn read_out(typed: &str) -> String {
    let digits = typed
        .chars()
        .filter(|c| !c.is_whitespace() && !":-.".contains(*c));
    digits.map(|c| c.to_ascii_lowercase()).collect()
}

/// A file or folder that a kit is made of, or may not be there yet.
pub fn check_absent(path: &Path) -> Result<()> {
    match path.exists() {
        true => Err(Error::Misuse(format!(
            "{} is there already: nothing is overwritten",
            path.display()
        ))),
        false => Ok(()),
    }
}
