//! What a contribution was charged is lowered on a certificate of t echoes, once, and in no other way (privacy.md, §6).

use ciphertune_audit::Evidence;
use ciphertune_client::{mechanism::Reckoned, quorum::Certificate};
use ciphertune_identity::{Manifest, SigningKey};
use ciphertune_ledger::{Cost, Kind, Standing};
use ciphertune_round::{Context, Digest, Echo, Envelope, Header, Job, Plan, Roster, Seat, Signed};
use ciphertune_tests::{
    federation::{Federation, INSTITUTION, Wish, is_over, until_job},
    front::{Lies, Put},
    learner::Vectors,
};

const DIMENSION: usize = 3_000;
const MEMBERS: usize = 4;

/// A context with everything that is said in it: four members, three of whom (0, 1, 2) are in the roster; t = 3.
struct Context4 {
    federation: Federation,
    plan: Signed<Plan>,
    roster: Signed<Roster>,
}

impl Context4 {
    async fn new() -> Self {
        let federation = Federation::found(MEMBERS, INSTITUTION).await;
        let plan = Self::plan(&federation, 1);
        let roster = Self::roster(&federation, &plan, &[0, 1, 2]);
        Self {
            federation,
            plan,
            roster,
        }
    }

    fn plan(federation: &Federation, attempt: u32) -> Signed<Plan> {
        let site = federation.site(0);
        let any = site.federation_policy().envelope().clone();
        let seats = site.manifest().members().map(|party| Seat {
            member: party.fingerprint(),
            one_time_key: any.clone(),
        });
        let digest = Digest::sha256(b"any");
        let plan = Plan {
            federation: "test".into(),
            manifest: site.manifest().digest(),
            job: digest,
            round: 1,
            attempt,
            model: digest,
            revocation_number: 1,
            revocations: digest,
            policy: digest,
            policies: vec![any.clone()],
            seats: seats.collect(),
            committee: None,
            threshold: 3,
            min_contributors: 2,
            colluders: 0,
            parameters: "any".into(),
            dimension: 1,
            value_bound: 1,
            nonce: [0; 32],
        };
        Signed::sign(plan, &federation.server_key())
    }

    fn roster(federation: &Federation, plan: &Signed<Plan>, members: &[usize]) -> Signed<Roster> {
        let mut headers: Vec<(usize, Envelope)> = members
            .iter()
            .map(|member| {
                let header = Header {
                    context: plan.context(),
                    body: Digest::sha256(b"body"),
                    shares: vec![Digest::sha256(b"share"); MEMBERS],
                };
                let signed = Signed::sign(header, &federation.member(*member).key());
                let place = |member| plan.seat_of(&federation.fingerprint(member));
                (
                    place(*member).unwrap().position(),
                    signed.envelope().clone(),
                )
            })
            .collect();
        headers.sort_by_key(|(seat, _)| *seat);
        let roster = Roster {
            context: plan.context(),
            headers: headers.into_iter().map(|(_, header)| header).collect(),
            sum: Digest::sha256(b"sum"),
        };
        Signed::sign(roster, &federation.server_key())
    }

    fn key(&self, member: usize) -> SigningKey {
        self.federation.member(member).key()
    }

    fn echo(&self, member: usize) -> Signed<Echo> {
        echo(self.plan.context(), self.roster.digest(), &self.key(member))
    }

    fn manifest(&self) -> Signed<Manifest> {
        self.federation.site(0).manifest().clone()
    }

    fn certificate(&self, echoes: Vec<Signed<Echo>>) -> Result<Certificate, String> {
        let (plan, roster) = (self.plan.clone(), self.roster.clone());
        Certificate::new(plan, roster, echoes, self.manifest().value())
            .map_err(|error| error.to_string())
    }

    /// Parses envelopes as they lie in a file.
    fn parsed(&self, parts: &[Vec<u8>]) -> Result<Certificate, String> {
        let bytes: Vec<u8> = parts
            .iter()
            .flat_map(|part| [&(part.len() as u32).to_be_bytes()[..], part].concat())
            .collect();
        Certificate::parse(&bytes, self.manifest().value()).map_err(|error| error.to_string())
    }
}

fn echo(context: Context, roster: Digest, key: &SigningKey) -> Signed<Echo> {
    Signed::sign(Echo { context, roster }, key)
}

#[tokio::test]
async fn t_echoes_of_holders_are_a_certificate_that_an_auditor_can_read_again() {
    let four = Context4::new().await;
    let made = four
        .certificate([0, 2, 3].map(|member| four.echo(member)).into())
        .unwrap();
    assert_eq!((made.contributors(), made.colluders()), (3, 0));
    assert_eq!(
        (made.context(), made.roster()),
        (four.plan.context(), four.roster.digest())
    );
    assert!(made.names(&four.federation.fingerprint(1)));
    assert!(!made.names(&four.federation.fingerprint(3)));
    let bytes = made.to_bytes();
    let read = Certificate::parse(&bytes, four.manifest().value()).unwrap();
    assert_eq!(
        (read.to_bytes(), read.digest()),
        (bytes.clone(), Digest::sha256(&bytes))
    );
    for end in [0, 3, 4, 100, bytes.len() - 1] {
        assert!(Certificate::parse(&bytes[..end], four.manifest().value()).is_err());
    }
    let longer = [bytes.clone(), vec![0]].concat();
    assert!(Certificate::parse(&longer, four.manifest().value()).is_err());
}

#[tokio::test]
async fn what_is_too_few_doubled_or_about_something_else_is_no_certificate() {
    let four = Context4::new().await;
    let (context, roster) = (four.plan.context(), four.roster.digest());
    let with = |third: Signed<Echo>| four.certificate(vec![four.echo(0), four.echo(1), third]);
    assert!(with(four.echo(2)).is_ok());

    let said = four
        .certificate(vec![four.echo(0), four.echo(1)])
        .unwrap_err();
    assert!(
        said.contains("2 members echoed the roster, and it takes 3"),
        "{said}"
    );
    assert!(four.certificate(Vec::new()).is_err());
    let said = with(four.echo(1)).unwrap_err();
    assert!(said.contains("echoed twice"), "{said}");
    let other_context = Context4::plan(&four.federation, 2).context();
    let said = with(echo(other_context, roster, &four.key(2))).unwrap_err();
    assert!(said.contains("for another context"), "{said}");
    let other_roster = Context4::roster(&four.federation, &four.plan, &[0, 1]).digest();
    let said = with(echo(context, other_roster, &four.key(2))).unwrap_err();
    assert!(said.contains("of another roster"), "{said}");
    let said = with(echo(context, roster, &four.federation.server_key())).unwrap_err();
    assert!(said.contains("holds no shares"), "{said}");
    // A roster of another attempt.
    let plan = Context4::plan(&four.federation, 2);
    let foreign = Context4::roster(&four.federation, &plan, &[0, 1, 2]);
    let manifest = four.manifest();
    let echoes = [0, 1, 2].map(|member| echo(context, foreign.digest(), &four.key(member)));
    let made = Certificate::new(four.plan.clone(), foreign, echoes.into(), manifest.value());
    assert!(made.unwrap_err().to_string().contains("another context"));
}

#[tokio::test]
async fn what_somebody_else_signed_is_no_certificate() {
    let four = Context4::new().await;
    let echoes = [0, 1, 2].map(|member| four.echo(member).encode());
    let (plan, roster) = (four.plan.encode(), four.roster.encode());
    let with = |plan: &[u8], roster: &[u8], echo: &[u8]| {
        let parts = [plan, roster, &echoes[0], &echoes[1], echo];
        four.parsed(&parts.map(<[u8]>::to_vec))
    };
    assert!(with(&plan, &roster, &echoes[2]).is_ok());
    let forged = |mut bytes: Vec<u8>| {
        let last = bytes.len() - 1; // in the signature
        bytes[last] ^= 1;
        bytes
    };
    assert!(with(&forged(plan.clone()), &roster, &echoes[2]).is_err());
    assert!(with(&plan, &forged(roster.clone()), &echoes[2]).is_err());
    assert!(with(&plan, &roster, &forged(echoes[2].clone())).is_err());
    // A member is no server, and the server no member.
    let mine = Signed::sign(four.roster.value().clone(), &four.key(3)).encode();
    assert!(with(&plan, &mine, &echoes[2]).is_err());
    let mine = Signed::sign(four.plan.value().clone(), &four.key(3)).encode();
    assert!(with(&mine, &roster, &echoes[2]).is_err());
    let servers = echo(
        four.plan.context(),
        four.roster.digest(),
        &four.federation.server_key(),
    );
    assert!(with(&plan, &roster, &servers.encode()).is_err());
    // A signature of something else by the right member.
    let header = four.roster.headers[0].encode();
    assert!(with(&plan, &roster, &header).is_err());
    assert!(four.parsed(std::slice::from_ref(&plan)).is_err() && four.parsed(&[]).is_err());
    let crowd: Vec<Vec<u8>> = [plan, roster]
        .into_iter()
        .chain(std::iter::repeat_n(echoes[0].clone(), 1_001))
        .collect();
    let said = four.parsed(&crowd).unwrap_err();
    assert!(said.contains("more echoes than members"), "{said}");
}

/// What an attempt costs with so many contributors.
fn cost_with(job: &Job, contributors: usize) -> Cost {
    let reckoned = Reckoned::of(job, job.min_contributors, job.colluders).unwrap();
    reckoned.cost_with(contributors, job.colluders).unwrap()
}

fn attempt_cost(job: &Job) -> Cost {
    let reckoned = Reckoned::of(job, job.min_contributors, job.colluders).unwrap();
    reckoned.attempt_cost().unwrap()
}

#[test]
fn more_colluders_than_the_job_assumed_are_as_many_fewer_contributors() {
    let job = Wish::of(5, DIMENSION).job(INSTITUTION).unwrap();
    let reckoned = Reckoned::of(&job, job.min_contributors, job.colluders).unwrap();
    let cost = |contributors, colluders| reckoned.cost_with(contributors, colluders).unwrap();
    assert_eq!(cost(2, 0), reckoned.attempt_cost().unwrap());
    assert_eq!(cost(5, 0), cost(5, 1), "a fellow knows its own noise");
    assert_eq!(cost(5, 3), cost(3, 1));
    assert!(cost(5, 1).at(8) < cost(4, 1).at(8));
    assert!(reckoned.cost_with(5, 5).is_err() && reckoned.cost_with(1, 0).is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_round_with_more_contributors_than_it_takes_costs_less() {
    let mut federation = Federation::found(3, INSTITUTION).await;
    let server = federation.serve();
    let wish = Wish {
        rounds: 2,
        ..Wish::of(3, DIMENSION)
    };
    let job = wish.job(INSTITUTION).unwrap();
    let mut members: Vec<_> = (0..3)
        .map(|member| federation.join(Vectors::of(member, DIMENSION)))
        .collect();
    let _submitted = federation.submit_job(job.clone()).await;
    for run in &mut members {
        let outcome = run.end().await.unwrap();
        assert!(outcome.completed, "{}: {:?}", outcome.reason, run.voided());
    }
    let (charged, settled) = (attempt_cost(&job), cost_with(&job, 3));
    for member in 0..3 {
        let Standing { spent, held, .. } = federation.standing(member).await.unwrap();
        assert_eq!((&spent, &held), (&settled.times(2), &settled.times(2)));
        let history = federation.history(member).await;
        let charges = history.iter().filter(|entry| entry.kind == Kind::Charge);
        assert!(charges.clone().count() == 2 && charges.clone().all(|one| one.cost == charged));
        // Every lowering has its evidence on the disk and in the log.
        let noted = federation.log(member, "settle");
        assert_eq!(noted.len(), 2);
        for (note, entry) in noted.iter().zip(
            history
                .iter()
                .filter(|entry| matches!(entry.kind, Kind::Settle { .. })),
        ) {
            let evidence = Evidence::beside(&federation.member(member).home.audit());
            let named = note["certificate"].as_str().unwrap();
            let bytes = evidence.get(named).unwrap();
            let manifest = federation.site(member).manifest().clone();
            let certificate = Certificate::parse(&bytes, manifest.value()).unwrap();
            let Kind::Settle {
                roster,
                certificate: digest,
            } = entry.kind
            else {
                unreachable!()
            };
            assert_eq!(digest, *certificate.digest().as_bytes());
            assert_eq!(roster, *certificate.roster().as_bytes());
            assert_eq!(note["certificate"], certificate.digest().to_string());
            assert_eq!(entry.context, *certificate.context().as_bytes());
        }
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_t_echoes_the_worst_case_stays_charged() {
    let mut federation = Federation::found(3, INSTITUTION).await;
    // Nobody's echo but the member's own comes through.
    let silent = Lies::none().forwarding(|_, put| put != Put::Echo);
    let (server, _front) = federation.serve_behind(silent).await;
    let wish = Wish {
        seconds: [60, 5, 5],
        ..Wish::of(3, DIMENSION)
    };
    let job = wish.job(INSTITUTION).unwrap();
    let mut members: Vec<_> = (0..3)
        .map(|member| federation.join(Vectors::of(member, DIMENSION)))
        .collect();
    federation.submit_job(job.clone()).await;
    for run in &mut members {
        assert!(!run.end().await.unwrap().completed);
    }
    for member in 0..3 {
        let standing = federation.standing(member).await.unwrap();
        assert_eq!(standing.spent, attempt_cost(&job));
        assert_eq!(federation.log(member, "settle").len(), 0);
    }
    server.stop().await;
}

/// n = 4, t = 3: three echo a roster without the fourth, whose body came to nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_the_roster_does_not_name_has_spent_nothing() {
    let mut federation = Federation::found(4, INSTITUTION).await;
    let late = federation.fingerprint(3);
    // Its header arrives, its body never does.
    let lies = Lies::none().forwarding(move |member, put| *member != late || put != Put::Body);
    let (server, _front) = federation.serve_behind(lies).await;
    let wish = Wish {
        seconds: [6, 60, 60],
        ..Wish::of(4, DIMENSION)
    };
    let job = wish.job(INSTITUTION).unwrap();
    let mut members: Vec<_> = (0..4)
        .map(|member| federation.join(Vectors::of(member, DIMENSION)))
        .collect();
    let (mut researcher, digest) = federation.submit_job(job.clone()).await;
    let state = until_job(&mut researcher, digest, is_over).await;
    assert_eq!(state.phase, "completed", "{}", state.reason);
    for run in &mut members {
        let _ = run.end().await.unwrap();
    }
    for member in 0..3 {
        let standing = federation.standing(member).await.unwrap();
        assert_eq!(standing.spent, cost_with(&job, 3));
    }
    let standing = federation.standing(3).await.unwrap();
    assert_eq!(standing.spent, Cost::ZERO);
    let [charge] = federation.log(3, "charge").try_into().unwrap();
    let [settled] = federation.log(3, "settle").try_into().unwrap();
    assert_eq!(
        charge["context"], settled["context"],
        "it was charged before it sent anything"
    );
    server.stop().await;
}
