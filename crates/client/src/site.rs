//! Everything that makes a folder a party's home: keys, certificates, manifest, policies.

use std::{sync::Arc, time::Duration};

use ciphertune_identity::{
    AuthorityCertificate, Credentials, Home, Kit, Manifest, Passphrase, RevocationList, Role,
    SigningKey, tls,
};
use ciphertune_policy::{self as policy, Instant, Policy, Source};
use ciphertune_round::{Envelope, Fingerprint, Job, Object, PolicyDocument, Signed, Signer as _};
use ciphertune_wire::{Client, Meter, connect_following};
use rustls::ClientConfig;
use tokio::sync::watch;

use crate::{
    backoff::Backoff,
    disk::{self, Disk},
    error::{Error, Result},
};

const FEDERATION_POLICY: &str = "federation.policy";
const SITE_POLICY: &str = "site.policy";

/// How often a run looks whether its certificate or revocation list was replaced at home.
const LOOK: Duration = Duration::from_secs(2);

pub(crate) const NO_PARTY: &str = "signed by somebody who is not in the manifest";

/// A role of a certificate as policies name it.
pub fn role(role: Role) -> policy::Role {
    match role {
        Role::Member => policy::Role::Member,
        Role::Server => policy::Role::Server,
        Role::Officer => policy::Role::Officer,
        Role::Researcher => policy::Role::Researcher,
        Role::Auditor => policy::Role::Auditor,
    }
}

/// A party at home.
pub struct Site {
    home: Home,
    disk: Disk,
    key: Arc<SigningKey>,
    credentials: Credentials,
    manifest: Signed<Manifest>,
    federation_policy: Signed<PolicyDocument>,
    site_policy: Option<Signed<PolicyDocument>>,
}

impl Site {
    /// Puts a kit into a home whose key is already there. `site_policy` is the site's own, signed by an officer. Nothing is
    /// written before all of it is verified.
    ///
    /// # Errors
    /// As [`Kit::verify`]; [`Error::Refused`] for a kit of another authority than the home's, a manifest that does not
    /// succeed the home's, a federation policy that is weaker anywhere, and policies that cannot hold together.
    pub fn install(
        home: &Home,
        passphrase: &Passphrase,
        kit: &Kit,
        site_policy: Option<&Envelope>,
    ) -> Result<()> {
        let key = SigningKey::load(&home.key(), passphrase)?;
        let mut kit = kit.clone();
        kit.credentials = with_home_list(home, &kit.credentials)?;
        let kit = &kit;
        let manifest = kit.verify(&key.verifying_key())?;
        let federation = verify_policy(&manifest, kit.policy.clone())?;
        let own = match site_policy {
            Some(policy) => Some(verify_policy(&manifest, policy.clone())?),
            None => read_policy(home, SITE_POLICY, &manifest).map_err(|error| {
                Error::Refused(format!(
                    "the site's own policy, {}: {error}; have an officer of the kit's manifest sign it (--site-policy FILE)",
                    home.policy().join(SITE_POLICY).display()
                ))
            })?,
        };
        strictest(&federation, own.as_ref())?;
        check_successor(home, kit, &manifest, &federation)?;
        home.create()?;
        let disk = Disk::default();
        disk.folder(&home.policy())?;
        write_credentials(&disk, home, &kit.credentials)?;
        disk.write(&home.manifest(), &kit.manifest.encode())?;
        disk.write(&home.policy().join(FEDERATION_POLICY), &kit.policy.encode())?;
        if let Some(policy) = site_policy {
            disk.write(&home.policy().join(SITE_POLICY), &policy.encode())?;
        }
        Self::open(home.clone(), passphrase).map(drop)
    }

    /// Puts a certificate into a home whose key is already there, without manifest and policy: what an officer needs who is to
    /// sign the first policy.
    ///
    /// # Errors
    /// [`Error::Refused`] for another key's certificate, and one that does not succeed the home's.
    pub fn install_credentials(
        home: &Home,
        passphrase: &Passphrase,
        credentials: &Credentials,
    ) -> Result<()> {
        let key = SigningKey::load(&home.key(), passphrase)?;
        credentials.check_key(&key.verifying_key())?;
        check_authority(home, credentials)?;
        let credentials = with_home_list(home, credentials)?;
        home.create()?;
        write_credentials(&Disk::default(), home, &credentials)
    }

    /// Opens a home and verifies everything in it against the authority's certificate.
    pub fn open(home: Home, passphrase: &Passphrase) -> Result<Self> {
        let key = SigningKey::load(&home.key(), passphrase)?;
        if !home.certificate().exists() {
            return Err(Error::Misuse(format!(
                "{} has no kit yet; how: ciphertune identity install KIT, or join --kit KIT",
                home.root().display()
            )));
        }
        let credentials = Credentials::read(&home.identity())?;
        let manifest = read_manifest(&home, credentials.authority())?;
        let federation_policy = read_policy(&home, FEDERATION_POLICY, &manifest)?
            .ok_or_else(|| missing(&home.policy().join(FEDERATION_POLICY)))?;
        let site_policy = read_policy(&home, SITE_POLICY, &manifest)?;
        Ok(Self {
            home,
            disk: Disk::default(),
            key: Arc::new(key),
            credentials,
            manifest,
            federation_policy,
            site_policy,
        })
    }

    /// Connects to the federation's server over mutual TLS. A certificate or list that is installed later is taken up
    /// without a restart.
    pub async fn connect(&self, meter: Meter) -> Result<Client> {
        let (address, configs) = self.dialled()?;
        Ok(connect_following(&address, configs, meter).await?)
    }

    /// The same, however long the server is away; `waits` hears why, and for how long, before each pause. A handshake that
    /// either side refuses is refused the next time, too.
    ///
    /// # Errors
    /// As [`Site::connect`], but for a server that cannot be reached.
    pub async fn connect_when_up(
        &self,
        meter: Meter,
        mut waits: impl FnMut(String, Duration),
    ) -> Result<Client> {
        let (address, configs) = self.dialled()?;
        let mut backoff = Backoff::default();
        loop {
            let dialled = connect_following(&address, configs.clone(), meter.clone());
            match dialled.await {
                Err(error @ ciphertune_wire::Error::Unreachable { .. }) => {
                    let pause = backoff.pause();
                    waits(error.to_string(), pause);
                    tokio::time::sleep(pause).await;
                }
                dialled => return Ok(dialled?),
            }
        }
    }

    /// Where the server is, and what to connect with: what is installed from now on is among it.
    fn dialled(&self) -> Result<(String, watch::Receiver<Arc<ClientConfig>>)> {
        let config = tls::client_config(&self.credentials, &self.key)?;
        let (configs, following) = watch::channel(config);
        let (home, key) = (self.home.clone(), Arc::clone(&self.key));
        tokio::spawn(follow_home(home, key, self.credentials.clone(), configs));
        Ok((self.manifest.endpoint().to_string(), following))
    }

    /// Takes up a certificate or revocation list that was installed in the meantime. Of two lists the later one counts, and is
    /// what the home holds from then on.
    pub fn refresh(&mut self) -> Result<()> {
        let found = Credentials::read(&self.home.identity())?;
        if found != self.credentials {
            self.credentials = found.after(&self.credentials)?;
            let list = self.credentials.revocations();
            if list != found.revocations() {
                self.disk
                    .write(&self.home.revocations(), list.pem().as_bytes())?;
            }
        }
        Ok(())
    }

    /// Keeps a revocation list from the server, if it is later than this party's.
    ///
    /// # Errors
    /// [`Error::Refused`] for one that the authority did not sign, or an older one.
    pub fn keep_list(&mut self, list: RevocationList) -> Result<()> {
        let credentials = self.credentials.with_revocations(list)?;
        let pem = credentials.revocations().pem();
        self.disk.write(&self.home.revocations(), pem.as_bytes())?;
        self.credentials = credentials;
        Ok(())
    }

    /// The party's certificate, its authority's, and the newest revocation list that it knows.
    pub fn credentials(&self) -> &Credentials {
        &self.credentials
    }

    /// The strictest of the federation's and the site's own policy.
    pub fn policy(&self) -> Result<Policy> {
        strictest(&self.federation_policy, self.site_policy.as_ref())
    }

    /// The same of a home whose key stays locked.
    pub fn policy_of(home: &Home) -> Result<Policy> {
        let manifest = read_manifest(home, &AuthorityCertificate::read(&home.authority())?)?;
        let federation = read_policy(home, FEDERATION_POLICY, &manifest)?
            .ok_or_else(|| missing(&home.policy().join(FEDERATION_POLICY)))?;
        let site = read_policy(home, SITE_POLICY, &manifest)?;
        strictest(&federation, site.as_ref())
    }

    /// The home.
    pub fn home(&self) -> &Home {
        &self.home
    }

    /// The same party, whose run writes to this disk.
    pub fn on(self, disk: Disk) -> Self {
        Self { disk, ..self }
    }

    /// What its run writes to.
    pub fn disk(&self) -> &Disk {
        &self.disk
    }

    /// The party's key, for signing.
    pub fn key(&self) -> &SigningKey {
        &self.key
    }

    /// The same key, for work that goes on by itself.
    pub fn shared_key(&self) -> Arc<SigningKey> {
        Arc::clone(&self.key)
    }

    /// Who this party is.
    pub fn fingerprint(&self) -> Fingerprint {
        self.key.verifying_key().fingerprint()
    }

    /// Who is who.
    pub fn manifest(&self) -> &Signed<Manifest> {
        &self.manifest
    }

    /// The federation's policy document.
    pub fn federation_policy(&self) -> &Signed<PolicyDocument> {
        &self.federation_policy
    }

    /// The site's own.
    pub fn site_policy(&self) -> Option<&Signed<PolicyDocument>> {
        self.site_policy.as_ref()
    }

    /// A party's name, for people.
    pub fn name_of(&self, fingerprint: &Fingerprint) -> String {
        name_in(&self.manifest, fingerprint)
    }

    /// A party's role, as policies name it.
    ///
    /// # Errors
    /// [`Error::Refused`] for a stranger.
    pub fn role_of(&self, party: &Fingerprint) -> Result<policy::Role> {
        let party = self.manifest.party(party);
        let party = party.ok_or_else(|| Error::Refused(NO_PARTY.into()))?;
        Ok(role(party.role))
    }

    /// Whether the policies here admit a job of this party's own: what every member will ask before it takes part.
    ///
    /// # Errors
    /// [`Error::Refused`] with every rule broken, the numbers, the line, and what to do.
    pub fn admits(&self, job: &Job, policy: &Policy, now: Instant) -> Result<()> {
        let members = self.manifest.members().count();
        let terms = job.terms(policy, members, job.expected_members)?;
        let proposal = job.proposal(&terms, self.role_of(&self.fingerprint())?, now);
        match policy.admit(&proposal) {
            Ok(_) => Ok(()),
            Err(refusal) => {
                let refusal = refusal.sourced(&proposal, &self.sources());
                Err(Error::Refused(refusal.to_string()))
            }
        }
    }

    /// Holds this party's own certificate to a policy's limit on its age.
    ///
    /// # Errors
    /// [`Error::Refused`] with the age and the limit.
    pub fn check_certificate(&self, policy: &Policy, now: Instant) -> Result<()> {
        let certificate = self.credentials.certificate();
        let issued = Instant::from_seconds(certificate.validity().not_before());
        policy
            .admit_certificate(issued.unwrap_or(Instant::EPOCH), now)
            .map_err(|refusal| Error::Refused(format!("this party's certificate: {refusal}")))
    }

    /// The documents that [`Site::policy`] merges, by their files' names.
    pub fn sources(&self) -> Vec<Source<'_>> {
        let federation = (FEDERATION_POLICY, &self.federation_policy);
        let site = self.site_policy.as_ref().map(|site| (SITE_POLICY, site));
        std::iter::once(federation)
            .chain(site)
            .map(|(name, document)| Source {
                name,
                toml: &document.toml,
            })
            .collect()
    }

    /// Decodes and verifies an object that any party of the manifest may have signed.
    pub fn verify<T: Object>(&self, bytes: &[u8]) -> Result<Signed<T>> {
        Ok(Signed::decode(bytes, self.manifest.value())?)
    }

    /// Decodes and verifies a signed object, whose signer must hold `role`.
    pub fn verify_as<T: Object>(&self, bytes: &[u8], role: Role) -> Result<Signed<T>> {
        verify_as(&self.manifest, Envelope::decode(bytes)?, role)
    }
}

/// A party's name in a manifest, for people.
pub(crate) fn name_in(manifest: &Manifest, party: &Fingerprint) -> String {
    manifest
        .party(party)
        .map_or_else(|| party.to_string(), |party| party.name.to_string())
}

/// Verifies an envelope with its signer's key from the manifest, where the signer must hold `role`.
pub(crate) fn verify_as<T: Object>(
    manifest: &Manifest,
    envelope: Envelope,
    role: Role,
) -> Result<Signed<T>> {
    let signed = Signed::<T>::verify(envelope, manifest)?;
    if manifest.party_as(&signed.signer(), role).is_none() {
        return Err(Error::Refused(format!(
            "{} was signed by somebody who is not {}",
            T::LABEL,
            role.with_article()
        )));
    }
    Ok(signed)
}

/// Verifies a policy document: an officer's signature, and the right federation.
pub(crate) fn verify_policy(
    manifest: &Manifest,
    envelope: Envelope,
) -> Result<Signed<PolicyDocument>> {
    let document = verify_as::<PolicyDocument>(manifest, envelope, Role::Officer)?;
    if document.federation != manifest.federation().as_str() {
        return Err(Error::Refused(format!(
            "a policy for federation {:?} in {}",
            document.federation,
            manifest.federation()
        )));
    }
    Ok(document)
}

fn strictest(federation: &PolicyDocument, site: Option<&Signed<PolicyDocument>>) -> Result<Policy> {
    let federation = Policy::parse(&federation.toml)?;
    match site {
        None => Ok(federation),
        Some(site) => Ok(Policy::merge(&[&federation, &Policy::parse(&site.toml)?])?),
    }
}

/// Whether a kit may take the place of what a home already holds: whoever relays a kit could have swapped a file of it.
fn check_successor(
    home: &Home,
    kit: &Kit,
    manifest: &Signed<Manifest>,
    federation: &PolicyDocument,
) -> Result<()> {
    let Some(authority) = check_authority(home, &kit.credentials)? else {
        return Ok(());
    };
    if !home.manifest().exists() {
        return Ok(());
    }
    let before = read_manifest(home, &authority)?;
    let is_same_manifest = before.digest() == manifest.digest();
    if !is_same_manifest {
        manifest.check_succeeds(&before)?;
    }
    let Some(document) = read_policy(home, FEDERATION_POLICY, &before)? else {
        return Ok(());
    };
    let (before, after) = (
        Policy::parse(&document.toml)?,
        Policy::parse(&federation.toml)?,
    );
    if is_same_manifest && !before.may_be_replaced() && before != after {
        return Err(Error::Refused(format!(
            "the kit's federation policy is another than this home's, which says that nobody puts another in its place until there is \
             another manifest (roles.change_policy = []): have the authority issue one, or ask who made the kit; this home's is {}",
            home.policy().join(FEDERATION_POLICY).display()
        )));
    }
    if after.is_as_strict_as(&before) {
        return Ok(());
    }
    let changes = before.diff(&after);
    let changes: Vec<String> = changes.iter().map(|change| format!("  {change}")).collect();
    Err(Error::Refused(format!(
        "the kit's federation policy is weaker than this home's:\n{}\nask an officer, by another way than the kit came, whether \
         it is meant; if so, move {} away and install the kit again",
        changes.join("\n"),
        home.policy().join(FEDERATION_POLICY).display()
    )))
}

/// Whether a home that has an authority has the same one; the home's authority.
fn check_authority(home: &Home, credentials: &Credentials) -> Result<Option<AuthorityCertificate>> {
    if !home.authority().exists() {
        return Ok(None);
    }
    let authority = AuthorityCertificate::read(&home.authority())?;
    let other = credentials.authority();
    if authority.key() != other.key() {
        return Err(Error::Refused(format!(
            "the kit is of another authority ({}) than this home ({}): a party of another federation needs a home of its own",
            other.key().fingerprint(),
            authority.key().fingerprint()
        )));
    }
    Ok(Some(authority))
}

/// With the home's revocation list, where it is later: lists come with kits, and by the server.
fn with_home_list(home: &Home, credentials: &Credentials) -> Result<Credentials> {
    if !home.revocations().exists() {
        return Ok(credentials.clone());
    }
    let list = RevocationList::read(&home.revocations())?;
    match list.verify(credentials.authority()) {
        Ok(()) => Ok(credentials.with_newer(&list)?),
        // Of another authority: said when the authorities are compared.
        Err(_) => Ok(credentials.clone()),
    }
}

fn write_credentials(disk: &Disk, home: &Home, credentials: &Credentials) -> Result<()> {
    let (authority, certificate) = (credentials.authority(), credentials.certificate());
    disk.write(&home.authority(), authority.pem().as_bytes())?;
    disk.write(&home.certificate(), certificate.pem().as_bytes())?;
    let list = credentials.revocations();
    disk.write(&home.revocations(), list.pem().as_bytes())
}

/// Has connections made anew with each certificate and list that is installed, as long as somebody is connected.
async fn follow_home(
    home: Home,
    key: Arc<SigningKey>,
    mut held: Credentials,
    configs: watch::Sender<Arc<ClientConfig>>,
) {
    loop {
        tokio::select! {
            () = configs.closed() => return,
            () = tokio::time::sleep(LOOK) => {}
        }
        // Half a kit is looked at again when it is whole.
        let Ok(new) = Credentials::read(&home.identity()) else {
            continue;
        };
        if let Ok(new) = new.after(&held)
            && new != held
            && let Ok(config) = tls::client_config(&new, &key)
        {
            tracing::info!("a new certificate or revocation list is in use");
            configs.send_replace(config);
            held = new;
        }
    }
}

fn read_manifest(home: &Home, authority: &AuthorityCertificate) -> Result<Signed<Manifest>> {
    let bytes = disk::read(&home.manifest())?.ok_or_else(|| missing(&home.manifest()))?;
    Ok(Manifest::verify(Envelope::decode(&bytes)?, authority)?)
}

fn read_policy(
    home: &Home,
    name: &str,
    manifest: &Manifest,
) -> Result<Option<Signed<PolicyDocument>>> {
    disk::read(&home.policy().join(name))?
        .map(|bytes| verify_policy(manifest, Envelope::decode(&bytes)?))
        .transpose()
}

fn missing(path: &std::path::Path) -> Error {
    Error::Refused(format!(
        "{} is missing: install the kit that your federation's authority made for you",
        path.display()
    ))
}
