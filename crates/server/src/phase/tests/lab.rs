//! A federation without sockets, files or clocks, to drive a machine with.

use std::{
    sync::Arc,
    time::{Duration, UNIX_EPOCH},
};

use ciphertune_identity::{Authority, Manifest, Name, Party, Role, SigningKey, Validity};
use ciphertune_policy::{Adjacency, Instant, Placement, Unit};
use ciphertune_round::{
    Admission, Agreement, Context, Deadlines, Digest, Echo, Envelope, Header, Job, Mechanism,
    OneTimeKeyOffer, PUBLIC_KEY_BYTES, PolicyDocument, Release, Signed, Signer as _,
};
use ciphertune_wire::{Refusal, proto::EventKind};

use super::super::{Announcement, Effect, Input, ListInForce, Machine, Phase, Present};
use crate::{federation::Federation, moment::Moment};

pub(super) const POLICY: &str = r#"
schema = 1
name = "test"
[privacy]
unit = "none"
clip_norm = "64"
rounds = 100
[aggregation]
min_contributors = 3
colluders = 0
[model]
backbones = ["any"]
encoders = ["any"]
tasks = ["any"]
[releases]
metrics = []
"#;

pub(super) struct Lab {
    pub(super) federation: Arc<Federation>,
    pub(super) members: Vec<SigningKey>,
    pub(super) researcher: SigningKey,
    pub(super) officer: SigningKey,
    pub(super) machine: Machine,
    pub(super) now: Moment,
    pub(super) serial: u64,
}

impl Lab {
    /// A federation of `members`, and a job that expects all of them and takes three contributors.
    pub(super) fn new(members: usize, rounds: u32, max_attempts: u32) -> Self {
        Self::under(POLICY, members, job(members, rounds, max_attempts))
    }

    /// The same with a committee of `size` in each of two rounds.
    pub(super) fn with_committee(members: usize, size: usize) -> Self {
        let policy = POLICY.replace("colluders = 0", "colluders = 0\ncommittee = 2");
        let job = Job {
            committee: Some(size),
            ..job(members, 2, 2)
        };
        Self::under(&policy, members, job)
    }

    pub(super) fn under(policy: &str, members: usize, job: Job) -> Self {
        let name = |text: &str| Name::new(text).unwrap();
        let key = || SigningKey::generate().unwrap();
        let authority =
            Authority::create(&name("lab"), Validity::days(UNIX_EPOCH, 9).unwrap()).unwrap();
        let (server, officer, researcher) = (key(), key(), key());
        let members: Vec<_> = (0..members).map(|_| key()).collect();
        let party = |name: &str, role, key: &SigningKey| Party {
            name: Name::new(name).unwrap(),
            role,
            key: key.verifying_key(),
        };
        let mut parties = vec![
            party("hub", Role::Server, &server),
            party("anna", Role::Officer, &officer),
            party("rosa", Role::Researcher, &researcher),
        ];
        for (number, member) in members.iter().enumerate() {
            parties.push(party(&format!("m{number}"), Role::Member, member));
        }
        let manifest = Manifest::new(
            name("lab"),
            1,
            UNIX_EPOCH,
            parties,
            "localhost:1".parse().unwrap(),
        )
        .unwrap();
        let manifest = authority.sign_manifest(manifest).unwrap();
        let document = PolicyDocument {
            federation: "lab".into(),
            toml: policy.into(),
        };
        let policy = Signed::sign(document, &officer);
        let federation = Federation::new(
            authority.certificate(),
            manifest.envelope().clone(),
            policy.envelope().clone(),
        );
        let federation = Arc::new(federation.unwrap());
        let now = Moment::from_millis(1_000_000);
        let job = Signed::sign(job, &researcher);
        let (machine, effects) = Machine::submit(Arc::clone(&federation), job, now).unwrap();
        assert!(events(&effects) == [EventKind::Job]);
        Self {
            federation,
            members,
            researcher,
            officer,
            machine,
            now,
            serial: 0,
        }
    }

    /// A revocation list that was issued when 1970 began.
    pub(super) fn list() -> ListInForce {
        ListInForce {
            number: 3,
            digest: Digest::sha256(b"list 3"),
            issued_at: Instant::EPOCH,
        }
    }

    pub(super) fn feed(&mut self, input: Input) -> Result<Vec<Effect>, Refusal> {
        let mut next = self.machine.clone();
        let effects = next
            .handle(&input, self.now)
            .map_err(|refused| refused.code)?;
        self.machine = next;
        Ok(effects)
    }

    pub(super) fn wait(&mut self, seconds: u64) -> Vec<Effect> {
        self.now = self.now.after(Duration::from_secs(seconds));
        self.feed(Input::Deadline).unwrap()
    }

    pub(super) fn admission(&self, member: usize, refusal: Option<&str>) -> Signed<Admission> {
        let admission = Admission {
            job: self.machine.digest(),
            refusal: refusal.map(str::to_owned),
            federation_policy: self.federation.document().digest(),
            site_policy: None,
        };
        Signed::sign(admission, &self.members[member])
    }

    pub(super) fn key(&mut self, member: usize) -> Envelope {
        self.serial += 1;
        let mut public_key = vec![0; PUBLIC_KEY_BYTES];
        public_key[..8].copy_from_slice(&self.serial.to_le_bytes());
        let offer = OneTimeKeyOffer {
            member: self.members[member].verifying_key().fingerprint(),
            serial: self.serial,
            public_key,
        };
        Signed::sign(offer, &self.members[member])
            .envelope()
            .clone()
    }

    /// A poll with these members present, each with a fresh key.
    pub(super) fn poll(&mut self, members: &[usize]) -> Vec<Effect> {
        let present = members
            .iter()
            .map(|member| Present {
                member: self.members[*member].verifying_key().fingerprint(),
                one_time_key: Some(self.key(*member)),
            })
            .collect();
        let nonce = [self.serial as u8; 32];
        let list = Self::list();
        self.feed(Input::Poll {
            present,
            nonce,
            list,
        })
        .unwrap()
    }

    /// Everybody accepts and is present: contributing has begun.
    pub(super) fn begin(&mut self) -> Context {
        for member in 0..self.members.len() {
            self.feed(Input::Admission(self.admission(member, None)))
                .unwrap();
        }
        let everybody: Vec<_> = (0..self.members.len()).collect();
        assert_eq!(events(&self.poll(&everybody)), [EventKind::Plan]);
        self.context()
    }

    pub(super) fn context(&self) -> Context {
        self.machine.current().unwrap().context
    }

    /// The members that hold shares in the current attempt, to which everybody came.
    pub(super) fn holders(&self) -> Vec<usize> {
        let plan = &self.machine.current().unwrap().plan;
        plan.holders().map(|seat| seat.position()).collect()
    }

    pub(super) fn header(&self, member: usize) -> Signed<Header> {
        let header = Header {
            context: self.context(),
            body: Digest::sha256(&[member as u8]),
            shares: vec![Digest::sha256(b"share"); self.holders().len()],
        };
        Signed::sign(header, &self.members[member])
    }

    pub(super) fn body(&self, member: usize) -> Input {
        Input::Body {
            context: self.context(),
            member: self.members[member].verifying_key().fingerprint(),
            digest: Digest::sha256(&[member as u8]),
        }
    }

    pub(super) fn revoke(&mut self, member: usize) -> Vec<Effect> {
        let member = self.members[member].verifying_key().fingerprint();
        self.feed(Input::Revoked { member }).unwrap()
    }

    pub(super) fn contribute(&mut self, member: usize) -> Vec<Effect> {
        let mut effects = self.feed(Input::Header(self.header(member))).unwrap();
        effects.extend(self.feed(self.body(member)).unwrap());
        effects
    }

    pub(super) fn echo(&self, member: usize, roster: Digest) -> Input {
        let context = self.context();
        Input::Echo(Signed::sign(
            Echo { context, roster },
            &self.members[member],
        ))
    }

    pub(super) fn release(&self, member: usize) -> Input {
        let attempt = self.machine.current().unwrap();
        let release = Release {
            context: attempt.context,
            roster: attempt.roster.unwrap_or(Digest::sha256(b"no roster")),
            shares: vec![
                Digest::sha256(b"sum share");
                if self.holders().contains(&member) {
                    attempt.seats.len()
                } else {
                    0
                }
            ],
            check: Some([1, 2]),
            ledger_head: Digest::sha256(b"ledger"),
        };
        Input::Release(Signed::sign(release, &self.members[member]))
    }

    pub(super) fn agreement(&self, member: usize, model: &[u8]) -> Input {
        let agreement = Agreement {
            context: self.context(),
            model: Digest::sha256(model),
            log_head: Digest::sha256(b"log"),
            log_size: 1,
            server_checkpoint: Vec::new(),
        };
        Input::Agreement(Signed::sign(agreement, &self.members[member]))
    }

    pub(super) fn close(&mut self) -> Vec<Effect> {
        let context = self.context();
        let sum = Digest::sha256(b"sum");
        self.feed(Input::Summed { context, sum }).unwrap()
    }

    /// From contributing to agreeing, with everybody.
    pub(super) fn open(&mut self) {
        for member in 0..self.members.len() {
            self.contribute(member);
        }
        self.close();
        for member in 0..self.members.len() {
            self.feed(self.release(member)).unwrap();
        }
        assert!(matches!(self.machine.phase(), Phase::Agreeing { .. }));
    }
}

pub(super) fn job(members: usize, rounds: u32, max_attempts: u32) -> Job {
    Job {
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
        dimension: 5,
        state: 5,
        value_bound: 2047,
        rounds,
        max_attempts,
        min_contributors: 3,
        colluders: 0,
        threshold: None,
        committee: None,
        deadlines: Deadlines {
            contribute: Duration::from_secs(100),
            open: Duration::from_secs(20),
            agree: Duration::from_secs(30),
        },
        initial_model: Digest::sha256(b"model 0"),
        expected_members: members,
        nonce: [7; 32],
    }
}

pub(super) fn events(effects: &[Effect]) -> Vec<EventKind> {
    effects
        .iter()
        .filter_map(|effect| match effect {
            Effect::Emit(Announcement::Said(kind, _) | Announcement::Own(kind, ..)) => Some(*kind),
            _ => None,
        })
        .collect()
}

pub(super) fn reason(machine: &Machine) -> &str {
    match machine.phase() {
        Phase::Ended {
            reason,
            completed: false,
        } => reason,
        other => panic!("{other:?}"),
    }
}
