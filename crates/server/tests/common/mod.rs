//! A federation on one machine whose members only pretend: the server cannot tell.
#![allow(dead_code)]

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use ciphertune_identity::{
    Authority, Certificate, Credentials, Host, Kit, Manifest, Name, Party, Reason, Request,
    Revocation, RevocationList, Role, SigningKey, Validity, tls, watch::Watched,
};
use ciphertune_policy::{Adjacency, Placement, Unit};
use ciphertune_round::{
    Admission, Agreement, Context, Deadlines, Digest, Echo, Ended, Envelope, Header, Job,
    Mechanism, Object, OneTimeKeyOffer, PUBLIC_KEY_BYTES, Plan, PolicyDocument, Release, Roster,
    Signed, Signer,
};
use ciphertune_server::{Config, Outside, run};
use ciphertune_sum::{N, codec::encode_words, modular};
use ciphertune_wire::{
    Client, Meter, Refusal, connect,
    proto::{
        AdmitRequest, BodyChunk, BodyOffsetRequest, Event, EventKind, EventsRequest,
        GetSharesRequest, GetSumRequest, PutBodyReply, PutOneTimeKeysRequest, PutSharesRequest,
        PutSignedRequest, ShareKind, SubmitJobRequest,
    },
};
use tokio::{
    net::TcpListener,
    runtime::Runtime,
    sync::{oneshot, watch},
};
use tonic::{Status, Streaming};

pub const POLICY: &str = include_str!("../../../../policies/laboratory-no-privacy.toml");

/// Long enough for a loaded machine, and never reached on a good one.
const PATIENCE: Duration = Duration::from_secs(60);

/// The blocks of a body: d is chosen so that there are two.
const BLOCKS: usize = 2;

pub struct Identity {
    pub key: SigningKey,
    pub certificate: Certificate,
}

/// Authority, parties, and the folder that the server's data live in.
pub struct Federation {
    pub authority: Authority,
    pub manifest: Signed<Manifest>,
    pub policy: Signed<PolicyDocument>,
    pub members: Vec<Identity>,
    pub researcher: Identity,
    pub officer: Identity,
    pub stranger: Identity,
    server_seed: PathBuf,
    server_certificate: Certificate,
    pub list: RevocationList,
    folder: tempfile::TempDir,
}

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

fn year() -> Validity {
    Validity::days(SystemTime::now() - Duration::from_secs(3600), 30).unwrap()
}

fn passphrase() -> ciphertune_identity::Passphrase {
    ciphertune_identity::Passphrase::new("a pass-phrase for tests").unwrap()
}

impl Federation {
    pub fn new(members: usize, policy: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let validity = Validity::days(SystemTime::now() - Duration::from_secs(7200), 60).unwrap();
        let authority = Authority::create(&name("lab"), validity).unwrap();
        let issue = |who: &str, role: Role| {
            let key = SigningKey::generate().unwrap();
            let hosts: &[Host] = &[];
            let request = Request::new(&name(who), &key).unwrap();
            let certificate = authority.issue(&request, role, hosts, year()).unwrap();
            Identity { key, certificate }
        };
        let server = issue("hub", Role::Server);
        let (officer, researcher) = (
            issue("anna", Role::Officer),
            issue("rosa", Role::Researcher),
        );
        let stranger = issue("stranger", Role::Member);
        let members: Vec<_> = (0..members)
            .map(|number| issue(&format!("m{number}"), Role::Member))
            .collect();
        let party = |who: String, role, identity: &Identity| Party {
            name: name(&who),
            role,
            key: identity.key.verifying_key(),
        };
        let mut parties = vec![
            party("hub".into(), Role::Server, &server),
            party("anna".into(), Role::Officer, &officer),
            party("rosa".into(), Role::Researcher, &researcher),
        ];
        for (number, member) in members.iter().enumerate() {
            parties.push(party(format!("m{number}"), Role::Member, member));
        }
        let manifest = Manifest::new(
            name("lab"),
            1,
            SystemTime::now(),
            parties,
            "localhost:4711".parse().unwrap(),
        )
        .unwrap();
        let manifest = authority.sign_manifest(manifest).unwrap();
        let document = PolicyDocument {
            federation: "lab".into(),
            toml: policy.into(),
        };
        let policy = Signed::sign(document, &officer.key);
        let server_seed = folder.path().join("server.pem");
        server.key.save(&server_seed, &passphrase()).unwrap();
        Self {
            manifest,
            policy,
            members,
            researcher,
            officer,
            stranger,
            server_seed,
            server_certificate: server.certificate,
            list: authority.revoke(&BTreeMap::new(), 1, year()).unwrap(),
            authority,
            folder,
        }
    }

    pub fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// Writes what the program is started with, and returns the configuration's path.
    pub fn write_configuration(&self) -> PathBuf {
        let kit = Kit {
            credentials: self.server_credentials(&self.list),
            manifest: self.manifest.envelope().clone(),
            policy: self.policy.envelope().clone(),
            address: "localhost:4711".parse().unwrap(),
        };
        kit.write(&self.folder.path().join("kit")).unwrap();
        let passphrase = self.folder.path().join("passphrase");
        std::fs::write(&passphrase, "a pass-phrase for tests\n").unwrap();
        std::fs::set_permissions(&passphrase, std::fs::Permissions::from_mode(0o600)).unwrap();
        let path = self.folder.path().join("server.toml");
        let text = r#"
listen = "127.0.0.1:0"
kit = "kit"
key = "server.pem"
data = "data"
passphrase_file = "passphrase"
outside = "127.0.0.1:0"
"#;
        std::fs::write(&path, text).unwrap();
        path
    }

    /// Starts the server, or starts it again on the same data, in a runtime of its own.
    pub fn serve(&self) -> Server {
        self.serve_with(|_| ())
    }

    /// The same, seen from outside at the address that is returned. The listener lives in the caller's runtime.
    pub fn serve_seen(&self, change: impl FnOnce(&mut Config)) -> (Server, SocketAddr) {
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let outside = Outside {
            listener: TcpListener::from_std(listener).unwrap(),
            name: Some("hub.example".into()),
        };
        let server = self.serve_with(|config| {
            config.outside = Some(outside);
            change(config);
        });
        (server, address)
    }

    /// The same, configured otherwise.
    pub fn serve_with(&self, change: impl FnOnce(&mut Config)) -> Server {
        let mut config = Config {
            credentials: watch::channel(self.server_credentials(&self.list)).1,
            key: SigningKey::load(&self.server_seed, &passphrase()).unwrap(),
            manifest: self.manifest.envelope().clone(),
            policy: self.policy.envelope().clone(),
            data: self.data(),
            outside: None,
            keep_free: 0,
            disk: Watched::default(),
            clock: Arc::new(SystemTime::now),
        };
        change(&mut config);
        Server::start(config)
    }

    /// What the server shows, and holds callers to.
    pub fn server_credentials(&self, list: &RevocationList) -> Credentials {
        let ca = self.authority.certificate().clone();
        Credentials::new(ca, self.server_certificate.clone(), list.clone()).unwrap()
    }

    /// What a party shows.
    pub fn credentials(&self, identity: &Identity) -> Credentials {
        let ca = self.authority.certificate().clone();
        Credentials::new(ca, identity.certificate.clone(), self.list.clone()).unwrap()
    }

    /// The next list, from then on, which names these members.
    pub fn list_of(&self, number: u64, members: &[usize], validity: Validity) -> RevocationList {
        let entry = Revocation {
            at: validity.not_before(),
            reason: Reason::KeyCompromise,
        };
        let serial = |&member: &usize| self.members[member].certificate.peer().serial.clone();
        let revoked = members.iter().map(serial).map(|serial| (serial, entry));
        self.authority
            .revoke(&revoked.collect(), number, validity)
            .unwrap()
    }

    pub async fn connect(&self, server: &Server, identity: &Identity) -> Client {
        let tls = tls::client_config(&self.credentials(identity), &identity.key).unwrap();
        connect(&server.address(), tls, Meter::default())
            .await
            .unwrap()
    }

    pub async fn member(&self, server: &Server, number: usize) -> Member<'_> {
        Member {
            federation: self,
            number,
            client: self.connect(server, &self.members[number]).await,
            inbox: None,
            seen: 0,
        }
    }

    pub fn job(&self, change: impl FnOnce(&mut Job)) -> Signed<Job> {
        let mut job = Job {
            federation: "lab".into(),
            name: "test".into(),
            backbone: Digest::sha256(b"backbone"),
            tuning: "{}".into(),
            task: "classification".into(),
            encoder: "embedding".into(),
            mechanism: Mechanism {
                unit: Unit::None,
                adjacency: Adjacency::ALL[0],
                placement: Placement::ALL[0],
                clip_norm: "1".parse().unwrap(),
                noise_multiplier: "0".parse().unwrap(),
                epsilon: None,
                delta: None,
                value_bits: 12,
                batches: None,
            },
            dimension: 4 * N as u64 + 1,
            state: 4 * N as u64 + 1,
            value_bound: 2047,
            rounds: 1,
            max_attempts: 2,
            min_contributors: 3,
            colluders: 0,
            threshold: None,
            committee: None,
            deadlines: Deadlines {
                contribute: Duration::from_secs(60),
                open: Duration::from_secs(60),
                agree: Duration::from_secs(60),
            },
            initial_model: Digest::sha256(b"model 0"),
            expected_members: self.members.len(),
            nonce: [7; 32],
        };
        change(&mut job);
        Signed::sign(job, &self.researcher.key)
    }

    pub async fn submit(&self, server: &Server, job: &Signed<Job>) -> Result<Digest, Status> {
        let mut client = self.connect(server, &self.researcher).await;
        let reply = client
            .submit_job(SubmitJobRequest { job: job.encode() })
            .await?;
        Ok(Digest::parse(&reply.into_inner().job).unwrap())
    }

    /// Everybody connects, gives keys, follows events and accepts; returns them with the plan in hand.
    pub async fn begin(
        &self,
        server: &Server,
        job: &Signed<Job>,
    ) -> (Vec<Member<'_>>, Signed<Plan>) {
        self.submit(server, job).await.unwrap();
        let mut members = Vec::new();
        for number in 0..self.members.len() {
            let mut member = self.member(server, number).await;
            member.put_keys(4).await;
            member.follow().await;
            member.admit(job, None).await.unwrap();
            members.push(member);
        }
        let mut plan = None;
        for member in &mut members {
            plan = Some(member.next::<Plan>(EventKind::Plan).await);
        }
        (members, plan.unwrap())
    }
}

pub struct Server {
    pub address: SocketAddr,
    runtime: Option<Runtime>,
    stop: Option<oneshot::Sender<()>>,
    ended: std::sync::mpsc::Receiver<ciphertune_server::Result<()>>,
}

impl Server {
    fn start(config: Config) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let (end, ended) = std::sync::mpsc::channel();
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        runtime.spawn(async move {
            let listener = TcpListener::from_std(listener).unwrap();
            let served = run(listener, config, async {
                let _ = stopped.await;
            });
            let _ = end.send(served.await);
        });
        Self {
            address,
            runtime: Some(runtime),
            stop: Some(stop),
            ended,
        }
    }

    pub fn address(&self) -> String {
        format!("localhost:{}", self.address.port())
    }

    /// As a crash ends it: every task is dropped where it stands.
    pub fn kill(mut self) {
        if let Some(runtime) = self.runtime.take() {
            let killer = std::thread::spawn(|| runtime.shutdown_timeout(Duration::from_secs(20)));
            killer.join().unwrap();
        }
    }

    /// As its operator ends it.
    pub fn stop(mut self) -> ciphertune_server::Result<()> {
        drop(self.stop.take());
        self.ended
            .recv_timeout(PATIENCE)
            .expect("the server does not end")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

pub struct Member<'a> {
    pub federation: &'a Federation,
    pub number: usize,
    pub client: Client,
    inbox: Option<Streaming<Event>>,
    seen: u64,
}

impl Member<'_> {
    pub fn key(&self) -> &SigningKey {
        &self.federation.members[self.number].key
    }

    pub async fn put_keys(&mut self, count: u64) -> u32 {
        let keys = (0..count)
            .map(|serial| {
                // Small bytes: every coefficient of a key is below ML-KEM's q. Its end may be anything.
                let mut public_key = vec![self.number as u8 % 12; PUBLIC_KEY_BYTES];
                public_key[..8].copy_from_slice(&serial.to_le_bytes());
                let end = PUBLIC_KEY_BYTES - 8;
                public_key[end..].copy_from_slice(&(self.number as u64).to_le_bytes());
                let offer = OneTimeKeyOffer {
                    member: self.key().verifying_key().fingerprint(),
                    serial,
                    public_key,
                };
                Signed::sign(offer, self.key()).encode()
            })
            .collect();
        let reply = self
            .client
            .put_one_time_keys(PutOneTimeKeysRequest { keys })
            .await;
        reply.unwrap().into_inner().stock
    }

    /// Opens the event stream after the last event seen.
    pub async fn follow(&mut self) {
        let after = self.seen;
        self.inbox = Some(
            self.client
                .events(EventsRequest { after })
                .await
                .unwrap()
                .into_inner(),
        );
    }

    pub fn leave(&mut self) {
        self.inbox = None;
    }

    /// The next event of a kind; others are passed over.
    pub async fn next_event(&mut self, kind: EventKind) -> Event {
        let inbox = self.inbox.as_mut().expect("follow first");
        loop {
            let event = tokio::time::timeout(PATIENCE, inbox.message())
                .await
                .unwrap_or_else(|_| panic!("no {kind:?} in time"))
                .unwrap()
                .expect("the stream ended");
            assert_eq!(event.sequence, self.seen + 1, "events have gaps");
            self.seen = event.sequence;
            if event.kind() == kind {
                return event;
            }
            assert!(
                event.kind() != EventKind::Ended || kind == EventKind::Ended,
                "ended: {:?}",
                Ended::parse(Envelope::decode(&event.envelope).unwrap().payload())
            );
        }
    }

    /// What the event stream ends with.
    pub async fn stream_ends(&mut self) -> Refusal {
        let stream = self.inbox.as_mut().expect("follow first");
        loop {
            match tokio::time::timeout(PATIENCE, stream.message())
                .await
                .unwrap()
            {
                Ok(Some(_)) => {}
                Ok(None) => panic!("it ended without a word"),
                Err(status) => return Refusal::of(&status).expect("a refusal"),
            }
        }
    }

    pub async fn next<T: Object>(&mut self, kind: EventKind) -> Signed<T> {
        let event = self.next_event(kind).await;
        let manifest: &Manifest = &self.federation.manifest;
        Signed::decode(&event.envelope, manifest).unwrap()
    }

    pub async fn admit(&mut self, job: &Signed<Job>, refusal: Option<&str>) -> Result<(), Status> {
        let admission = Admission {
            job: job.digest(),
            refusal: refusal.map(str::to_owned),
            federation_policy: self.federation.policy.digest(),
            site_policy: None,
        };
        let admission = Signed::sign(admission, self.key()).encode();
        self.client
            .admit(AdmitRequest { admission })
            .await
            .map(|_| ())
    }

    pub fn words(&self) -> Vec<u64> {
        words(self.number as u64 + 1)
    }

    pub fn body(&self) -> Vec<u8> {
        bytes(&self.words())
    }

    pub fn shares(&self, plan: &Signed<Plan>) -> Vec<Vec<u8>> {
        (0..plan.seats.len())
            .map(|seat| format!("share of {} for {seat}", self.number).into_bytes())
            .collect()
    }

    pub async fn put_header(&mut self, plan: &Signed<Plan>, body: &[u8]) -> Result<(), Status> {
        let shares = self.shares(plan);
        let header = Header {
            context: plan.context(),
            body: Digest::sha256(body),
            shares: shares.iter().map(|share| Digest::sha256(share)).collect(),
        };
        let signed = Signed::sign(header, self.key()).encode();
        self.put_shares(plan.context(), ShareKind::Key, signed, shares)
            .await
    }

    pub async fn put_shares(
        &mut self,
        context: Context,
        kind: ShareKind,
        signed: Vec<u8>,
        shares: Vec<Vec<u8>>,
    ) -> Result<(), Status> {
        let request = PutSharesRequest {
            context: context.as_bytes().to_vec(),
            kind: kind.into(),
            signed,
            shares,
        };
        let messages = tokio_stream::iter([request]);
        self.client.put_shares(messages).await.map(|_| ())
    }

    pub async fn put_body(
        &mut self,
        context: Context,
        from: u64,
        bytes: &[u8],
    ) -> Result<PutBodyReply, Status> {
        let chunks = chunks(context, from, bytes);
        let reply = self.client.put_body(tokio_stream::iter(chunks)).await;
        reply.map(|reply| reply.into_inner())
    }

    pub async fn offset(&mut self, context: Context) -> Result<PutBodyReply, Status> {
        let context = context.as_bytes().to_vec();
        let reply = self.client.body_offset(BodyOffsetRequest { context }).await;
        reply.map(|reply| reply.into_inner())
    }

    pub async fn contribute(&mut self, plan: &Signed<Plan>) {
        let body = self.body();
        self.put_header(plan, &body).await.unwrap();
        assert!(
            self.put_body(plan.context(), 0, &body)
                .await
                .unwrap()
                .complete
        );
    }

    pub async fn echo(&mut self, roster: &Signed<Roster>) -> Result<(), Status> {
        let echo = Echo {
            context: roster.context,
            roster: roster.digest(),
        };
        let envelope = Signed::sign(echo, self.key()).encode();
        self.client
            .put_echo(PutSignedRequest { envelope })
            .await
            .map(|_| ())
    }

    pub async fn release(
        &mut self,
        plan: &Signed<Plan>,
        roster: &Signed<Roster>,
    ) -> Result<(), Status> {
        let shares = self.shares(plan);
        let release = Release {
            context: plan.context(),
            roster: roster.digest(),
            shares: shares.iter().map(|share| Digest::sha256(share)).collect(),
            check: Some([1, 2]),
            ledger_head: Digest::sha256(b"ledger"),
        };
        let signed = Signed::sign(release, self.key()).encode();
        self.put_shares(plan.context(), ShareKind::KeySum, signed, shares)
            .await
    }

    pub async fn agree(&mut self, plan: &Signed<Plan>, model: &[u8]) -> Result<(), Status> {
        let agreement = Agreement {
            context: plan.context(),
            model: Digest::sha256(model),
            log_head: Digest::sha256(b"log"),
            log_size: 1,
            server_checkpoint: Vec::new(),
        };
        let envelope = Signed::sign(agreement, self.key()).encode();
        self.client
            .put_agreement(PutSignedRequest { envelope })
            .await
            .map(|_| ())
    }

    pub async fn get_shares(
        &mut self,
        context: Context,
        kind: ShareKind,
    ) -> Result<Vec<(u32, Vec<u8>)>, Status> {
        let request = GetSharesRequest {
            context: context.as_bytes().to_vec(),
            kind: kind.into(),
        };
        let mut stream = self.client.get_shares(request).await?.into_inner();
        let mut shares = Vec::new();
        while let Some(share) = stream.message().await? {
            shares.push((share.sender, share.share));
        }
        Ok(shares)
    }

    pub async fn get_sum(&mut self, context: Context, offset: u64) -> Result<Vec<u8>, Status> {
        let request = GetSumRequest {
            context: context.as_bytes().to_vec(),
            offset,
        };
        let mut stream = self.client.get_sum(request).await?.into_inner();
        let mut sum = Vec::new();
        while let Some(chunk) = stream.message().await? {
            sum.extend_from_slice(&chunk.data);
        }
        Ok(sum)
    }
}

pub fn words(seed: u64) -> Vec<u64> {
    (0..(BLOCKS * N) as u64)
        .map(|i| modular::mul(seed + 1, modular::pow(7, i + seed)))
        .collect()
}

pub fn bytes(words: &[u64]) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode_words(words, &mut bytes);
    bytes
}

pub fn sum_of(bodies: &[Vec<u64>]) -> Vec<u8> {
    let sum: Vec<u64> = (0..BLOCKS * N)
        .map(|i| {
            bodies
                .iter()
                .fold(0, |sum, body| modular::add(sum, body[i]))
        })
        .collect();
    bytes(&sum)
}

pub fn chunks(context: Context, from: u64, bytes: &[u8]) -> Vec<BodyChunk> {
    bytes
        .chunks(8 * 1000)
        .scan(from, |offset, data| {
            let chunk = BodyChunk {
                context: context.as_bytes().to_vec(),
                offset: *offset,
                data: data.to_vec().into(),
            };
            *offset += data.len() as u64;
            Some(chunk)
        })
        .collect()
}

pub fn refusal<T: std::fmt::Debug>(result: Result<T, Status>) -> Refusal {
    let status = result.unwrap_err();
    Refusal::of(&status).unwrap_or_else(|| panic!("{status:?}"))
}

pub fn files_under(folder: &Path) -> usize {
    std::fs::read_dir(folder).map_or(0, |entries| entries.count())
}
