//! The protocol's rules, on the machine alone: no socket, no file, no clock.

use std::{
    sync::Arc,
    time::{Duration, UNIX_EPOCH},
};

use ciphertune_identity::{Authority, Manifest, Name, Party, Role, SigningKey, Validity};
use ciphertune_policy::{Adjacency, Placement, Unit};
use ciphertune_round::{
    Admission, Agreement, Context, Deadlines, Digest, Echo, Envelope, Header, Job, Mechanism,
    OneTimeKeyOffer, PUBLIC_KEY_BYTES, PolicyDocument, Release, ShareIndex, Signed, Signer as _,
};
use ciphertune_wire::{Refusal, proto::EventKind};

use super::{Announcement, Effect, Input, Machine, Phase, Present, key_digest};
use crate::{federation::Federation, moment::Moment};

const POLICY: &str = r#"
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

struct Lab {
    federation: Arc<Federation>,
    members: Vec<SigningKey>,
    researcher: SigningKey,
    officer: SigningKey,
    machine: Machine,
    now: Moment,
    serial: u64,
}

impl Lab {
    /// A federation of `members`, and a job that expects all of them and takes three contributors.
    fn new(members: usize, rounds: u32, max_attempts: u32) -> Self {
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
            toml: POLICY.into(),
        };
        let policy = Signed::sign(document, &officer);
        let federation = Federation::new(
            authority.certificate(),
            manifest.envelope().clone(),
            policy.envelope().clone(),
        );
        let federation = Arc::new(federation.unwrap());
        let now = Moment::from_millis(1_000_000);
        let job = Signed::sign(job(members.len(), rounds, max_attempts), &researcher);
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

    fn feed(&mut self, input: Input) -> Result<Vec<Effect>, Refusal> {
        let mut next = self.machine.clone();
        let effects = next
            .handle(&input, self.now)
            .map_err(|refused| refused.code)?;
        self.machine = next;
        Ok(effects)
    }

    fn wait(&mut self, seconds: u64) -> Vec<Effect> {
        self.now = self.now.after(Duration::from_secs(seconds));
        self.feed(Input::Deadline).unwrap()
    }

    fn admission(&self, member: usize, refusal: Option<&str>) -> Signed<Admission> {
        let admission = Admission {
            job: self.machine.digest(),
            refusal: refusal.map(str::to_owned),
            federation_policy: self.federation.document().digest(),
            site_policy: None,
        };
        Signed::sign(admission, &self.members[member])
    }

    fn key(&mut self, member: usize) -> Envelope {
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
    fn poll(&mut self, members: &[usize]) -> Vec<Effect> {
        let present = members
            .iter()
            .map(|member| Present {
                member: self.members[*member].verifying_key().fingerprint(),
                one_time_key: Some(self.key(*member)),
            })
            .collect();
        let nonce = [self.serial as u8; 32];
        self.feed(Input::Poll { present, nonce }).unwrap()
    }

    /// Everybody accepts and is present: contributing has begun.
    fn begin(&mut self) -> Context {
        for member in 0..self.members.len() {
            self.feed(Input::Admission(self.admission(member, None)))
                .unwrap();
        }
        let everybody: Vec<_> = (0..self.members.len()).collect();
        assert_eq!(events(&self.poll(&everybody)), [EventKind::Plan]);
        self.context()
    }

    fn context(&self) -> Context {
        self.machine.current().unwrap().context
    }

    fn header(&self, member: usize) -> Signed<Header> {
        let header = Header {
            context: self.context(),
            body: Digest::sha256(&[member as u8]),
            shares: vec![Digest::sha256(b"share"); self.machine.current().unwrap().seats.len()],
        };
        Signed::sign(header, &self.members[member])
    }

    fn body(&self, member: usize) -> Input {
        Input::Body {
            context: self.context(),
            member: self.members[member].verifying_key().fingerprint(),
            digest: Digest::sha256(&[member as u8]),
        }
    }

    fn contribute(&mut self, member: usize) -> Vec<Effect> {
        let mut effects = self.feed(Input::Header(self.header(member))).unwrap();
        effects.extend(self.feed(self.body(member)).unwrap());
        effects
    }

    fn echo(&self, member: usize, roster: Digest) -> Input {
        let context = self.context();
        Input::Echo(Signed::sign(
            Echo { context, roster },
            &self.members[member],
        ))
    }

    fn release(&self, member: usize) -> Input {
        let attempt = self.machine.current().unwrap();
        let release = Release {
            context: attempt.context,
            roster: attempt.roster.unwrap_or(Digest::sha256(b"no roster")),
            shares: vec![Digest::sha256(b"sum share"); attempt.seats.len()],
            check: Some([1, 2]),
            ledger_head: Digest::sha256(b"ledger"),
        };
        Input::Release(Signed::sign(release, &self.members[member]))
    }

    fn agreement(&self, member: usize, model: &[u8]) -> Input {
        let agreement = Agreement {
            context: self.context(),
            model: Digest::sha256(model),
            log_head: Digest::sha256(b"log"),
            server_checkpoint: Vec::new(),
        };
        Input::Agreement(Signed::sign(agreement, &self.members[member]))
    }

    fn close(&mut self) -> Vec<Effect> {
        let context = self.context();
        let sum = Digest::sha256(b"sum");
        self.feed(Input::Summed { context, sum }).unwrap()
    }

    /// From contributing to agreeing, with everybody.
    fn open(&mut self) {
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

fn job(members: usize, rounds: u32, max_attempts: u32) -> Job {
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
            max_examples: 1,
        },
        dimension: 5,
        value_bound: 2047,
        rounds,
        max_attempts,
        min_contributors: 3,
        colluders: 0,
        threshold: None,
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

fn events(effects: &[Effect]) -> Vec<EventKind> {
    effects
        .iter()
        .filter_map(|effect| match effect {
            Effect::Emit(Announcement::Said(kind, _) | Announcement::Own(kind, ..)) => Some(*kind),
            _ => None,
        })
        .collect()
}

fn reason(machine: &Machine) -> &str {
    match machine.phase() {
        Phase::Ended {
            reason,
            completed: false,
        } => reason,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_job_of_two_rounds_runs_to_its_end() {
    let mut lab = Lab::new(3, 2, 1);
    lab.begin();
    for round in 1..=2 {
        lab.open();
        for member in 0..3 {
            assert_eq!(
                events(&lab.feed(lab.agreement(member, b"model")).unwrap()),
                [EventKind::Agreement]
            );
        }
        let next = events(&lab.poll(&[0, 1, 2]));
        if round == 1 {
            assert!(matches!(lab.machine.phase(), Phase::Gathering { .. }));
            assert_eq!(events(&lab.poll(&[0, 1, 2])), [EventKind::Plan]);
            let plan = &lab.machine.current().unwrap().plan;
            assert_eq!(
                (plan.round, plan.attempt, plan.model),
                (2, 1, Digest::sha256(b"model"))
            );
        } else {
            assert_eq!(next, [EventKind::Ended]);
        }
    }
    assert!(matches!(
        lab.machine.phase(),
        Phase::Ended {
            completed: true,
            ..
        }
    ));
}

#[test]
fn an_input_that_changes_nothing_is_not_persisted_and_one_that_does_is() {
    let mut lab = Lab::new(3, 1, 1);
    assert!(lab.poll(&[0, 1, 2]).is_empty());
    assert!(lab.wait(1).is_empty());
    let first = lab.feed(Input::Admission(lab.admission(0, None))).unwrap();
    assert_eq!(first.first(), Some(&Effect::Persist));
    assert!(
        lab.feed(Input::Admission(lab.admission(0, None)))
            .unwrap()
            .is_empty()
    );
    let second = lab.feed(Input::Admission(lab.admission(0, Some("no"))));
    assert_eq!(second, Err(Refusal::Conflict));
}

#[test]
fn a_job_that_too_few_accept_ends_and_says_who_refused_and_why() {
    let mut lab = Lab::new(3, 1, 1);
    lab.feed(Input::Admission(lab.admission(0, None))).unwrap();
    lab.feed(Input::Admission(lab.admission(1, Some("epsilon is spent"))))
        .unwrap();
    let effects = lab.feed(Input::Admission(lab.admission(2, None))).unwrap();
    assert_eq!(events(&effects), [EventKind::Ended]);
    assert!(reason(&lab.machine).contains("m1: epsilon is spent"));
}

#[test]
fn a_job_that_the_policy_refuses_ends_with_the_policys_words() {
    let mut lab = Lab::new(3, 200, 1);
    for member in 0..3 {
        lab.feed(Input::Admission(lab.admission(member, None)))
            .unwrap();
    }
    assert_eq!(events(&lab.poll(&[0, 1, 2])), [EventKind::Ended]);
    assert!(
        reason(&lab.machine).contains("privacy.rounds"),
        "{}",
        reason(&lab.machine)
    );
}

#[test]
fn a_sites_policy_binds_the_plan_and_must_be_an_officers() {
    let mut lab = Lab::new(4, 1, 1);
    let site = |toml: &str, by: &SigningKey| {
        let document = PolicyDocument {
            federation: "lab".into(),
            toml: toml.into(),
        };
        Signed::sign(document, by).envelope().clone()
    };
    let strict = POLICY.replace("min_contributors = 3", "min_contributors = 4");
    let mut admission = lab.admission(0, None).value().clone();
    admission.site_policy = Some(site(&strict, &lab.researcher));
    let by_nobody = Signed::sign(admission.clone(), &lab.members[0]);
    assert_eq!(
        lab.feed(Input::Admission(by_nobody)),
        Err(Refusal::Malformed)
    );
    admission.site_policy = Some(site(&strict, &lab.officer));
    lab.feed(Input::Admission(Signed::sign(admission, &lab.members[0])))
        .unwrap();
    for member in 1..4 {
        lab.feed(Input::Admission(lab.admission(member, None)))
            .unwrap();
    }
    lab.poll(&[0, 1, 2, 3]);
    let plan = &lab.machine.current().unwrap().plan;
    assert_eq!((plan.min_contributors, plan.policies.len()), (4, 2));
}

#[test]
fn an_admission_under_another_federation_policy_is_a_conflict() {
    let mut lab = Lab::new(3, 1, 1);
    let mut admission = lab.admission(0, None).value().clone();
    admission.federation_policy = Digest::sha256(b"another");
    let admission = Signed::sign(admission, &lab.members[0]);
    assert_eq!(
        lab.feed(Input::Admission(admission)),
        Err(Refusal::Conflict)
    );
}

#[test]
fn an_attempt_closes_at_the_deadline_with_enough_contributors() {
    let mut lab = Lab::new(4, 1, 1);
    lab.begin();
    for member in 0..3 {
        lab.contribute(member);
    }
    let effects = lab.wait(100);
    let seats = [1, 2, 3]
        .map(|seat| ShareIndex::new(seat).unwrap())
        .to_vec();
    let context = lab.context();
    assert!(effects.contains(&Effect::StartSum { context, seats }));
    assert_eq!(events(&lab.close()), [EventKind::Roster]);
}

#[test]
fn a_roster_below_the_minimum_is_never_made() {
    let mut lab = Lab::new(4, 1, 2);
    let context = lab.begin();
    lab.contribute(0);
    lab.contribute(1);
    lab.feed(Input::Header(lab.header(2))).unwrap();
    let effects = lab.wait(100);
    assert_eq!(events(&effects), [EventKind::Void]);
    assert!(
        !effects
            .iter()
            .any(|effect| matches!(effect, Effect::StartSum { .. }))
    );
    let sum = Digest::sha256(b"sum");
    assert_eq!(lab.feed(Input::Summed { context, sum }), Err(Refusal::Late));
}

#[test]
fn a_void_attempt_is_followed_by_a_new_one_until_there_were_enough() {
    let mut lab = Lab::new(3, 1, 2);
    let first = lab.begin();
    assert_eq!(events(&lab.wait(100)), [EventKind::Void]);
    let effects = lab.poll(&[0, 1, 2]);
    assert!(effects.contains(&Effect::DeleteContext(first)));
    let plan = &lab.machine.current().unwrap().plan;
    assert_eq!((plan.round, plan.attempt), (1, 2));
    assert_ne!(lab.context(), first);
    assert_eq!(events(&lab.wait(100)), [EventKind::Void, EventKind::Ended]);
    assert!(reason(&lab.machine).contains("void 2 times"));
}

#[test]
fn a_second_plan_never_reuses_a_one_time_key() {
    let mut lab = Lab::new(3, 1, 3);
    for member in 0..3 {
        lab.feed(Input::Admission(lab.admission(member, None)))
            .unwrap();
    }
    let present: Vec<Present> = (0..3)
        .map(|member| Present {
            member: lab.members[member].verifying_key().fingerprint(),
            one_time_key: Some(lab.key(member)),
        })
        .collect();
    let poll = |nonce| Input::Poll {
        present: present.clone(),
        nonce: [nonce; 32],
    };
    assert_eq!(events(&lab.feed(poll(1)).unwrap()), [EventKind::Plan]);
    lab.wait(100);
    assert!(lab.feed(poll(2)).unwrap().is_empty());
    let effects = lab.poll(&[0, 1, 2]);
    let spent: Vec<_> = effects
        .iter()
        .find_map(|effect| match effect {
            Effect::OpenContext { keys, .. } => Some(keys.iter().filter_map(key_digest).collect()),
            _ => None,
        })
        .unwrap();
    for old in present
        .iter()
        .filter_map(|present| present.one_time_key.as_ref())
        .filter_map(key_digest)
    {
        assert!(!spent.contains(&old));
    }
}

#[test]
fn a_contribution_after_the_close_is_late_and_a_different_header_a_conflict() {
    let mut lab = Lab::new(4, 1, 1);
    lab.begin();
    for member in 0..3 {
        lab.contribute(member);
    }
    assert!(lab.feed(Input::Header(lab.header(0))).unwrap().is_empty());
    let mut other = lab.header(0).value().clone();
    other.body = Digest::sha256(b"another body");
    let other = Signed::sign(other, &lab.members[0]);
    assert_eq!(lab.feed(Input::Header(other)), Err(Refusal::Conflict));
    lab.wait(100);
    assert_eq!(lab.feed(Input::Header(lab.header(3))), Err(Refusal::Late));
    assert_eq!(lab.feed(lab.body(3)), Err(Refusal::Late));
}

#[test]
fn a_body_that_is_not_the_signed_one_is_malformed_or_thrown_away() {
    let mut lab = Lab::new(3, 1, 1);
    let context = lab.begin();
    let (member, digest) = (
        lab.members[0].verifying_key().fingerprint(),
        Digest::sha256(b"another"),
    );
    let wrong = Input::Body {
        context,
        member,
        digest,
    };
    lab.feed(wrong.clone()).unwrap();
    let effects = lab.feed(Input::Header(lab.header(0))).unwrap();
    let seat = ShareIndex::new(1).unwrap();
    assert!(effects.contains(&Effect::DiscardBody { context, seat }));
    assert_eq!(lab.feed(wrong), Err(Refusal::Malformed));
    lab.feed(lab.body(0)).unwrap();
}

#[test]
fn an_echo_of_another_roster_or_before_there_is_one_is_a_conflict() {
    let mut lab = Lab::new(3, 1, 1);
    lab.begin();
    assert_eq!(
        lab.feed(lab.echo(0, Digest::sha256(b"early"))),
        Err(Refusal::Conflict)
    );
    for member in 0..3 {
        lab.contribute(member);
    }
    lab.close();
    let roster = lab.machine.current().unwrap().roster.unwrap();
    assert_eq!(
        events(&lab.feed(lab.echo(0, roster)).unwrap()),
        [EventKind::Echo]
    );
    assert!(lab.feed(lab.echo(0, roster)).unwrap().is_empty());
    assert_eq!(
        lab.feed(lab.echo(0, Digest::sha256(b"other"))),
        Err(Refusal::Conflict)
    );
}

#[test]
fn too_few_releases_void_the_attempt_and_later_ones_are_late() {
    let mut lab = Lab::new(3, 1, 2);
    lab.begin();
    for member in 0..3 {
        lab.contribute(member);
    }
    lab.close();
    lab.feed(lab.release(0)).unwrap();
    let late = lab.release(1);
    assert_eq!(events(&lab.wait(20)), [EventKind::Void]);
    assert_eq!(lab.feed(late), Err(Refusal::Late));
}

#[test]
fn an_agreement_before_t_releases_is_a_conflict() {
    let mut lab = Lab::new(3, 1, 1);
    lab.begin();
    for member in 0..3 {
        lab.contribute(member);
    }
    lab.close();
    assert_eq!(lab.feed(lab.agreement(0, b"model")), Err(Refusal::Conflict));
}

#[test]
fn a_disagreement_ends_the_job_and_names_the_dissenter() {
    let mut lab = Lab::new(3, 2, 1);
    lab.begin();
    lab.open();
    lab.feed(lab.agreement(0, b"model")).unwrap();
    lab.feed(lab.agreement(2, b"model")).unwrap();
    let effects = lab.feed(lab.agreement(1, b"another")).unwrap();
    assert_eq!(events(&effects), [EventKind::Agreement, EventKind::Ended]);
    assert!(reason(&lab.machine).contains("dissenting: m1"));
}

#[test]
fn a_round_completes_without_the_absent_but_waits_for_the_present() {
    let mut lab = Lab::new(3, 1, 1);
    lab.begin();
    lab.open();
    lab.feed(lab.agreement(0, b"model")).unwrap();
    assert!(lab.poll(&[0]).is_empty(), "one is fewer than t");
    lab.feed(lab.agreement(1, b"model")).unwrap();
    assert!(
        lab.poll(&[0, 1, 2]).is_empty(),
        "m2 is present and has not agreed"
    );
    assert_eq!(events(&lab.poll(&[0, 1])), [EventKind::Ended]);
}

#[test]
fn too_few_agreements_in_time_end_the_job() {
    let mut lab = Lab::new(3, 1, 1);
    lab.begin();
    lab.open();
    lab.feed(lab.agreement(0, b"model")).unwrap();
    assert_eq!(events(&lab.wait(30)), [EventKind::Ended]);
    assert!(reason(&lab.machine).contains("fewer than 2"));
}

#[test]
fn too_few_present_end_the_job_at_the_deadline() {
    let mut lab = Lab::new(3, 1, 2);
    lab.begin();
    lab.wait(100);
    assert!(lab.poll(&[0, 1]).is_empty());
    assert_eq!(events(&lab.wait(100)), [EventKind::Ended]);
}

#[test]
fn an_object_of_another_context_or_of_an_outsider_is_unknown() {
    let mut lab = Lab::new(3, 1, 1);
    lab.begin();
    let mut header = lab.header(0).value().clone();
    header.context = Context::of_plan(b"another plan");
    let header = Signed::sign(header, &lab.members[0]);
    assert_eq!(lab.feed(Input::Header(header)), Err(Refusal::Unknown));
    let outsider = Signed::sign(lab.header(0).value().clone(), &lab.researcher);
    assert_eq!(lab.feed(Input::Header(outsider)), Err(Refusal::Unknown));
}
