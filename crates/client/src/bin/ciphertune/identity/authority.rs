//! The authority's side: it sees requests, never a private key but its own, and need not be online.

use std::{
    io::{BufRead as _, IsTerminal as _, Write as _},
    path::{Path, PathBuf},
    time::SystemTime,
};

use ciphertune_client::{Error, Result, officer};
use ciphertune_identity::{
    Approval, Authority, Certificate, Credentials, Endpoint, Host, LEAF_DAYS, LIST_DAYS, Name,
    Party, Reason, Register, Role, Validity,
};
use ciphertune_round::Envelope;
use clap::Args;
use serde_json::json;

use super::party::{check_absent, read_out};
use crate::{Common, output, passphrase::passphrase};

/// Seconds: how long before its end the authority is warned of it.
const YEAR: u64 = 365 * 86_400;

/// The authority with its key, and what it has issued.
struct Office {
    authority: Authority,
    register: Register,
}

impl Office {
    /// Reads the register before it asks for the pass-phrase: who is in the wrong home hears so at once.
    fn open(common: &Common) -> Result<Self> {
        let register = Register::open(&common.home)?;
        let authority = Authority::load(&common.home.identity(), &passphrase()?)?;
        let left = authority
            .certificate()
            .validity()
            .seconds_left(SystemTime::now());
        if left < YEAR {
            eprintln!(
                "warning: the authority's own certificate ends at {}: plan for another authority",
                authority.certificate().validity().end()
            );
        }
        if !authority.holds(SystemTime::now()) {
            return Err(Error::Refused(format!(
                "the authority's certificate ended at {}: found another authority, and have everybody install its kits",
                authority.certificate().validity().end()
            )));
        }
        Ok(Self {
            authority,
            register,
        })
    }
}

/// Flags of `ciphertune identity approve`.
#[derive(Args)]
pub struct Approve {
    /// The request's file.
    request: PathBuf,
    /// The role; what the request asks for, unless given.
    #[arg(long)]
    role: Option<Role>,
    /// A server's: a name or address that members reach it at, beside localhost; may be given several times.
    #[arg(long, value_name = "HOST")]
    host: Vec<Host>,
    /// How many days the certificate holds.
    #[arg(long, value_name = "N", default_value_t = LEAF_DAYS)]
    days: u32,
    /// The fingerprint that the party read out: a request of any other key is refused.
    #[arg(long, value_name = "HEX")]
    fingerprint: Option<String>,
    /// Issue without asking.
    #[arg(long)]
    yes: bool,
}

impl Approve {
    pub fn run(self, common: &Common) -> Result<()> {
        let request = output::read(&self.request)?;
        let request = ciphertune_identity::Request::from_pem(&request)?;
        let register = Register::open(&common.home)?;
        let role = self.role(&request, register.authority().federation())?;
        let approval = register.check(&request, role)?;
        let hosts = self.hosts(&register, &request, approval)?;
        drop(register);
        let fingerprint = request.key().fingerprint().to_string();
        if let Some(wanted) = &self.fingerprint
            && read_out(wanted) != fingerprint
        {
            return Err(Error::Refused(format!(
                "the request's key is {fingerprint}, not {}: somebody sent another request",
                wanted.trim()
            )));
        }
        let asked = request.wish().map_or("none".to_owned(), |wish| {
            format!("{} of {}", wish.role, wish.federation)
        });
        eprintln!(
            "request of {}\n  role asked for  {asked}\n  key             {fingerprint}\n  signature       by this key\n  to be issued    {role}'s \
             certificate for {} days{}{}",
            request.name(),
            self.days,
            match hosts.is_empty() {
                true => String::new(),
                false => format!(", for {}", listed(&hosts)),
            },
            match approval {
                Approval::New => String::new(),
                Approval::Renewal => ", a renewal".into(),
                Approval::Again(reason) => {
                    format!(", for a key whose last one was revoked ({reason})")
                }
            }
        );
        if !self.yes && self.fingerprint.is_none() {
            confirm(&format!(
                "Has {} read you this key's fingerprint by another way, and is it to be {}?",
                request.name(),
                role.with_article()
            ))?;
        }
        let mut office = Office::open(common)?;
        office.register.check(&request, role)?;
        let validity = Validity::issued(SystemTime::now(), self.days)?;
        let certificate = office.authority.issue(&request, role, &hosts, validity)?;
        issued(&mut office, certificate, common)
    }

    /// Those given; a renewal without any is for those that the certificate had.
    fn hosts(
        &self,
        register: &Register,
        request: &ciphertune_identity::Request,
        approval: Approval,
    ) -> Result<Vec<Host>> {
        match register.held_by(request.name()) {
            Some(held) if approval == Approval::Renewal && self.host.is_empty() => {
                Ok(held.hosts()?)
            }
            _ => Ok(self.host.clone()),
        }
    }

    fn role(&self, request: &ciphertune_identity::Request, federation: &Name) -> Result<Role> {
        match (self.role, request.wish()) {
            (_, Some(wish)) if wish.federation != *federation => Err(Error::Refused(format!(
                "{} asks to be {} of {}, and this is the authority of {federation}",
                request.name(),
                wish.role.with_article(),
                wish.federation
            ))),
            (Some(role), _) => Ok(role),
            (None, Some(wish)) => Ok(wish.role),
            (None, None) => Err(Error::Misuse(
                "the request asks for no role: --role says which".into(),
            )),
        }
    }
}

fn listed(hosts: &[Host]) -> String {
    let hosts: Vec<String> = hosts.iter().map(ToString::to_string).collect();
    hosts.join(", ")
}

/// Asks on the terminal; without one, nobody can have said yes.
fn confirm(question: &str) -> Result<()> {
    let input = std::io::stdin();
    if !input.is_terminal() {
        return Err(Error::Misuse(
            "nobody can be asked here: --fingerprint HEX (as the party read it out), or --yes"
                .into(),
        ));
    }
    eprint!("{question} [y/N] ");
    let _ = std::io::stderr().flush();
    let mut answer = String::new();
    input
        .lock()
        .read_line(&mut answer)
        .map_err(|error| Error::Fault(format!("reading the answer: {error}")))?;
    match answer.trim() {
        "y" | "Y" | "yes" => Ok(()),
        _ => Err(Error::Refused("not approved; nothing was issued".into())),
    }
}

/// Keeps a certificate and says what is next.
fn issued(office: &mut Office, certificate: Certificate, common: &Common) -> Result<()> {
    let path = office.register.keep_certificate(certificate.clone())?;
    let peer = certificate.peer();
    let listed = office.register.manifest().is_some_and(|manifest| {
        let party = manifest.party(&peer.fingerprint);
        party.is_some_and(|party| party.name == peer.name && party.role == peer.role)
    });
    if common.json {
        return output::json(&json!({
            "certificate": path.display().to_string(),
            "name": peer.name.to_string(),
            "role": peer.role.as_str(),
            "serial": peer.serial.to_string(),
            "fingerprint": peer.fingerprint.to_string(),
            "ends": certificate.validity().end().to_string(),
            "in_manifest": listed,
        }));
    }
    output::say(&format!(
        "{}: the certificate of {} {}, serial {}, until {}\nnext: {}ciphertune identity kit --for {}",
        path.display(),
        peer.role,
        peer.name,
        peer.serial,
        certificate.validity().end(),
        if listed {
            ""
        } else {
            "ciphertune identity issue-manifest, when all parties are approved; then "
        },
        peer.name
    ))
}

/// Flags of `ciphertune identity renew`.
#[derive(Args)]
pub struct Renew {
    /// The party.
    name: Name,
    /// How many days the new certificate holds.
    #[arg(long, value_name = "N", default_value_t = LEAF_DAYS)]
    days: u32,
}

impl Renew {
    pub fn run(self, common: &Common) -> Result<()> {
        let mut office = Office::open(common)?;
        let held = office.register.held_by(&self.name).ok_or_else(|| {
            Error::Refused(format!(
                "{} has no certificate that could be renewed: it was never approved, or is revoked",
                self.name
            ))
        })?;
        let validity = Validity::issued(SystemTime::now(), self.days)?;
        let certificate = office.authority.renew(held, validity)?;
        issued(&mut office, certificate, common)
    }
}

/// Flags of `ciphertune identity revoke`.
#[derive(Args)]
pub struct Revoke {
    /// The party.
    name: Name,
    /// unspecified, key-compromise, affiliation-changed, superseded or cessation-of-operation.
    #[arg(long, default_value_t = Reason::Unspecified)]
    reason: Reason,
}

impl Revoke {
    pub fn run(self, common: &Common) -> Result<()> {
        let mut office = Office::open(common)?;
        let role = (office.register.issued().iter())
            .rfind(|it| it.peer().name == self.name)
            .map(|it| it.peer().role);
        let (authority, now) = (&office.authority, SystemTime::now());
        let revoked = office
            .register
            .revoke(authority, &self.name, self.reason, now)?;
        let serials: Vec<String> = revoked.iter().map(ToString::to_string).collect();
        let (list, name) = (list_path(&office.register), &self.name);
        let list = list.display();
        let next = match role {
            Some(Role::Server) => format!(
                "members that get {list} refuse {name}; approve another server's request, then ciphertune identity issue-manifest, \
                 and new kits for all"
            ),
            Some(Role::Officer) => format!(
                "give {list} to the server's operator; policies that {name} signed hold until the next manifest: approve another \
                 officer's request, ciphertune identity issue-manifest, and have that officer sign the policy again"
            ),
            _ => format!(
                "give {list} to the server's operator now; it refuses {name} from the next call on, and ends jobs that {name} \
                 signed. ciphertune identity issue-manifest and new kits then keep {name}'s key out of everybody's list of parties"
            ),
        };
        said_list(&office.register, &serials, &next, common)
    }
}

/// Flags of `ciphertune identity crl`.
#[derive(Args)]
pub struct Crl {
    /// How many days the list is the newest one.
    #[arg(long, value_name = "N", default_value_t = LIST_DAYS)]
    days: u32,
}

impl Crl {
    pub fn run(self, common: &Common) -> Result<()> {
        let Office {
            authority,
            mut register,
        } = Office::open(common)?;
        register.renew_list(&authority, SystemTime::now(), self.days)?;
        let next = format!(
            "give {} to the server's operator; members get it from the server",
            list_path(&register).display()
        );
        said_list(&register, &[], &next, common)
    }
}

fn list_path(register: &Register) -> PathBuf {
    register.folder().join("crl.pem")
}

fn said_list(register: &Register, revoked: &[String], next: &str, common: &Common) -> Result<()> {
    let (list, path) = (register.revocations(), list_path(register));
    if common.json {
        return output::json(&json!({
            "list": path.display().to_string(),
            "number": list.number(),
            "revoked_now": revoked,
            "revoked": list.revoked().len(),
            "ends": list.validity().end().to_string(),
        }));
    }
    output::say(&format!(
        "{}: revocation list {}, {} certificates, until {}",
        path.display(),
        list.number(),
        list.revoked().len(),
        list.validity().end()
    ))?;
    for serial in revoked {
        output::say(&format!("  revoked now: {serial}"))?;
    }
    output::say(&format!("next: {next}"))
}

/// Flags of `ciphertune identity issue-manifest`.
#[derive(Args)]
pub struct IssueManifest {
    /// Where members reach the server; as in the last manifest, unless given.
    #[arg(long, value_name = "HOST:PORT")]
    address: Option<Endpoint>,
}

impl IssueManifest {
    pub fn run(self, common: &Common) -> Result<()> {
        let Office {
            authority,
            mut register,
        } = Office::open(common)?;
        let before: Vec<Party> = register
            .manifest()
            .map(|manifest| manifest.parties().to_vec())
            .unwrap_or_default();
        let address = self
            .address
            .or_else(|| register.manifest().map(|it| it.endpoint().clone()))
            .ok_or_else(|| {
                Error::Misuse(
                    "the first manifest says where the server is: --address HOST:PORT".into(),
                )
            })?;
        check_server(&register, &address)?;
        let manifest = register.issue_manifest(&authority, address, SystemTime::now())?;
        let new = |party: &&Party| !before.contains(party);
        let gone = |party: &&Party| !manifest.parties().contains(party);
        let names = |parties: Vec<&Party>| -> Vec<String> {
            parties.iter().map(|party| party.name.to_string()).collect()
        };
        let added = names(manifest.parties().iter().filter(new).collect());
        let removed = names(before.iter().filter(gone).collect());
        let digest = manifest.digest().to_string();
        if common.json {
            return output::json(&json!({
                "serial": manifest.serial(),
                "digest": digest,
                "address": manifest.endpoint().to_string(),
                "parties": manifest.parties().iter().map(super::show::party).collect::<Vec<_>>(),
                "added": added,
                "removed": removed,
            }));
        }
        output::say(&format!(
            "manifest {} of {}: {} parties, server at {}, digest {digest}",
            manifest.serial(),
            manifest.federation(),
            manifest.parties().len(),
            manifest.endpoint()
        ))?;
        for party in manifest.parties() {
            let mark = if added.contains(&party.name.to_string()) {
                "+"
            } else {
                " "
            };
            output::say(&format!(
                "{mark} {} {} {}",
                party.role,
                party.name,
                party.fingerprint()
            ))?;
        }
        for name in &removed {
            output::say(&format!("- {name}"))?;
        }
        output::say(
            "next: ciphertune identity kit --for NAME, for each; jobs under another manifest end when the server takes this one",
        )
    }
}

/// Whether members will find at an address what the server's certificate says.
fn check_server(register: &Register, address: &Endpoint) -> Result<()> {
    let mut names: Vec<&Name> = register.issued().iter().map(|it| &it.peer().name).collect();
    names.dedup();
    let held = names.iter().filter_map(|name| register.held_by(name));
    let mut servers = held.filter(|it| it.peer().role == Role::Server);
    let server = servers.next().ok_or_else(|| {
        Error::Refused(
            "no server: ciphertune identity approve the request of one (--role server) first"
                .into(),
        )
    })?;
    let hosts = server.hosts()?;
    if hosts.contains(address.host()) {
        return Ok(());
    }
    Err(Error::Refused(format!(
        "the certificate of {} is for {}, not for {}: approve its request again with --host {}",
        server.peer().name,
        listed(&hosts),
        address.host(),
        address.host()
    )))
}

/// Flags of `ciphertune identity kit`.
#[derive(Args)]
pub struct Kit {
    /// The party.
    #[arg(long = "for", value_name = "NAME")]
    name: Name,
    /// The federation's policy, as an officer signed it; the last one given, unless given.
    #[arg(long, value_name = "FILE")]
    policy: Option<PathBuf>,
    /// The kit's folder, new; NAME.kit here, unless given.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

impl Kit {
    pub fn run(self, common: &Common) -> Result<()> {
        let register = Register::open(&common.home)?;
        let certificate = register.held_by(&self.name).ok_or_else(|| {
            Error::Refused(format!(
                "{} has no certificate: ciphertune identity approve its request first",
                self.name
            ))
        })?;
        let out = self
            .out
            .unwrap_or_else(|| PathBuf::from(format!("{}.kit", self.name)));
        check_absent(&out)?;
        let credentials = Credentials::new(
            register.authority().clone(),
            certificate.clone(),
            register.revocations().clone(),
        )?;
        let policy = match &self.policy {
            Some(path) => Some(output::envelope(path)?),
            None => kept_policy(&register)?,
        };
        let role = certificate.peer().role;
        let (policy, manifest) = match (policy, register.manifest()) {
            (Some(policy), Some(manifest)) => (policy, manifest),
            (None, _) if role == Role::Officer => {
                whole(&out, |folder| credentials.write(folder))?;
                return packed(&out, &credentials, None, common);
            }
            (None, _) => {
                return Err(Error::Refused(
                    "there is no policy: have an officer sign one (its kit may be packed before), then --policy FILE".into(),
                ));
            }
            (_, None) => {
                return Err(Error::Refused(
                    "there is no manifest yet: ciphertune identity issue-manifest --address HOST:PORT".into(),
                ));
            }
        };
        let listed = manifest.party(&certificate.peer().fingerprint);
        if !listed.is_some_and(|it| it.name == self.name && it.role == role) {
            return Err(Error::Refused(format!(
                "manifest {} does not list {role} {}: ciphertune identity issue-manifest first",
                manifest.serial(),
                self.name
            )));
        }
        let policies = officer::policy_in_force(manifest, &policy)?;
        if self.policy.is_some() {
            register.keep_policy(&policy)?;
        }
        let kit = ciphertune_identity::Kit {
            address: manifest.endpoint().clone(),
            manifest: manifest.envelope().clone(),
            policy,
            credentials: credentials.clone(),
        };
        kit.verify(&credentials.certificate().peer().key)?;
        whole(&out, |folder| kit.write(folder))?;
        packed(&out, &credentials, Some(&policies), common)
    }
}

/// The policy that the last kit had, while its signer is an officer.
fn kept_policy(register: &Register) -> Result<Option<Envelope>> {
    let (policy, manifest) = match (register.policy()?, register.manifest()) {
        (Some(policy), Some(manifest)) => (policy, manifest),
        (policy, _) => return Ok(policy),
    };
    match officer::policy_in_force(manifest, &policy) {
        Ok(_) => Ok(Some(policy)),
        Err(_) => {
            eprintln!(
                "warning: the policy of the last kits was signed by somebody who is no officer of manifest {}: have an officer sign \
                 it again, and give it with --policy FILE",
                manifest.serial()
            );
            Ok(None)
        }
    }
}

/// Writes a folder under another name first, so that whoever sees it sees all of it.
fn whole(out: &Path, write: impl FnOnce(&Path) -> ciphertune_identity::Result<()>) -> Result<()> {
    let name = out.file_name().unwrap_or_default().to_string_lossy();
    let half = out.with_file_name(format!(".{name}.{}.new", std::process::id()));
    let fault = |error: std::io::Error| Error::Fault(format!("writing {}: {error}", out.display()));
    let written = write(&half)
        .map_err(Error::from)
        .and_then(|()| std::fs::rename(&half, out).map_err(fault));
    if written.is_err() {
        let _ = std::fs::remove_dir_all(&half);
    }
    written
}

fn packed(
    out: &Path,
    credentials: &Credentials,
    policy: Option<&str>,
    common: &Common,
) -> Result<()> {
    let peer = credentials.certificate().peer();
    super::party::warn(credentials);
    if common.json {
        return output::json(&json!({
            "kit": out.display().to_string(),
            "name": peer.name.to_string(),
            "role": peer.role.as_str(),
            "policy": policy,
            "revocation_list": credentials.revocations().number(),
        }));
    }
    let with = match policy {
        Some(policy) => format!("policy {policy:?}"),
        None => "no policy yet: enough to sign the first one".into(),
    };
    let next = match (peer.role, policy) {
        (Role::Member, Some(_)) => format!(
            "ciphertune join --kit {} --data FILE --model DIR",
            out.display()
        ),
        (Role::Server, _) => "name it in server.toml (kit = …), and start ciphertune-server".into(),
        _ => format!("ciphertune identity install {}", out.display()),
    };
    output::say(&format!(
        "{}: a kit for {} {}, {with}; nothing in it is secret\nnext, at {}'s: {next}",
        out.display(),
        peer.role,
        peer.name,
        peer.name
    ))
}
