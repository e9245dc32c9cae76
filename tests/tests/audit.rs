//! An auditor recomputes everything from the folders of all nodes: runs that were honest hold, and each way to rewrite history is
//! found, named, and placed.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ciphertune_audit::{Checkpoint, Note};
use ciphertune_client::{
    auditor, retention,
    verify::{Audit, Rule},
};
use ciphertune_identity::{Certificate, SigningKey, Validity};
use ciphertune_ledger::{Book, Budget, Kind, Ledger};
use ciphertune_policy::{Instant, Policy};
use ciphertune_round::{Agreement, Context, Digest, Header, Job, Plan, Roster, Signed, Void};
use ciphertune_tests::{
    federation::{Federation, INSTITUTION, LABORATORY, RECORD, Wish, changed, until},
    forge::Copies,
    learner::{Gate, Vectors},
};
use serde_json::{Value, json};

const DIMENSION: usize = 200;
const MEMBERS: usize = 3;

/// A federation that ran one job of two rounds, and copies of what its nodes keep.
async fn ran(policy: &str, sites: &[Option<&str>]) -> (Federation, Copies) {
    ran_for(2, policy, sites).await
}

async fn ran_for(rounds: u32, policy: &str, sites: &[Option<&str>]) -> (Federation, Copies) {
    let mut federation = Federation::found_with(policy, sites).await;
    let server = federation.serve();
    let mut members: Vec<_> = (0..MEMBERS)
        .map(|member| federation.join(Vectors::of(member, DIMENSION)))
        .collect();
    let wish = Wish {
        rounds,
        ..Wish::of(MEMBERS, DIMENSION)
    };
    federation.submit(&wish).await;
    for member in &mut members {
        let outcome = member.end().await.unwrap();
        assert!(outcome.completed, "{}", outcome.reason);
    }
    server.stop().await;
    let copies = Copies::of(&federation, MEMBERS).await;
    (federation, copies)
}

async fn institution() -> (Federation, Copies) {
    ran(INSTITUTION, &[None; MEMBERS]).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_honest_run_holds_and_its_epsilon_is_what_the_ledgers_say() {
    let (federation, copies) = institution().await;
    let audit = copies.audit(&copies.folders()).await;
    assert!(audit.holds(), "{:#?}", audit.findings);
    let verdict = audit.verdict();
    assert_eq!((verdict.jobs, verdict.attempts, verdict.rounds), (1, 2, 2));
    for node in &verdict.nodes {
        // At the start, and one a round; a member's job ends after its last round, the server's with it.
        let of_server = node.name.starts_with("server");
        assert_eq!(
            node.checkpoints,
            if of_server { 3 } else { 4 },
            "{}",
            node.name
        );
        assert!(node.known_to_others >= 2, "{}", node.name);
        assert!(node.signed_entries + 1 == node.entries);
    }
    for member in 0..MEMBERS {
        let spent = federation.standing(member).await.unwrap().spent;
        assert_ne!(spent, ciphertune_ledger::Cost::ZERO);
        let spending = &verdict.spending[member];
        assert_eq!(spending.attempts, 2);
        let epsilon = spending.epsilon.unwrap();
        assert!(epsilon > 0.0 && epsilon < spending.epsilon_budget.unwrap());
        assert_eq!(spending.jobs.len(), 1);
    }
    // Each folder holds by itself, too.
    for folder in copies.folders() {
        let audit = copies.audit(&[folder]).await;
        assert!(audit.holds(), "{:#?}", audit.findings);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn runs_without_privacy_at_record_level_and_after_a_stop_hold() {
    let (_federation, copies) = ran(LABORATORY, &[None; MEMBERS]).await;
    let audit = copies.audit(&copies.folders()).await;
    assert!(audit.holds(), "{:#?}", audit.findings);

    // A member stops in the first attempt, which is void, and comes back for the second.
    let mut federation = Federation::found(MEMBERS, RECORD).await;
    let server = federation.serve();
    let gate = Gate::default();
    let mut stopped = federation.join(Vectors::of(0, DIMENSION).behind(&gate));
    let mut members: Vec<_> = (1..MEMBERS)
        .map(|member| federation.join(Vectors::of(member, DIMENSION)))
        .collect();
    federation
        .submit(&Wish::of_batches(MEMBERS, DIMENSION))
        .await;
    until(|| gate.is_reached()).await;
    stopped.drop_out().await;
    gate.open();
    members.push(federation.join(Vectors::of(0, DIMENSION)));
    for member in &mut members {
        assert!(member.end().await.unwrap().completed);
    }
    server.stop().await;
    let copies = Copies::of(&federation, MEMBERS).await;
    let audit = copies.audit(&copies.folders()).await;
    assert!(audit.holds(), "{:#?}", audit.findings);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_line_that_was_edited_deleted_moved_inserted_or_back_dated_is_found_where_it_is() {
    let (_federation, copies) = institution().await;
    let server = copies.server();
    let place = copies.place_of(0, "contribution");
    // Edited: what decides nothing in itself, so that only the tree tells.
    let reserve = copies.place_of(0, "reserve");
    let honest = copies.lines(0);
    copies.tamper(0, true, |lines| {
        lines[reserve]["fields"]["attempts"] = json!(1)
    });
    // Others signed for a shorter beginning of it than its own first checkpoint is of.
    let found = copies.first_wrong().await;
    assert_eq!(found.rule, Rule::Fork, "{found}");
    let found = copies
        .finds(Rule::Checkpoint, "one of them was edited")
        .await;
    assert_eq!(found.node, "member hospital-1");
    let checkpoints: Vec<usize> = (0..honest.len())
        .filter(|place| honest[*place]["kind"] == "checkpoint")
        .collect();
    let [start, checkpoint, ..] = checkpoints[..] else {
        panic!("{checkpoints:?}");
    };
    let checkpoint = checkpoint as u64;
    assert_eq!(found.entry, Some(checkpoint), "{found}");
    let since = found.since.unwrap();
    assert!(since.contains(&format!("first {start} entries")), "{since}");
    copies.write(0, &honest);

    // After a checkpoint that holds, that is what is known.
    let second = copies
        .lines(0)
        .iter()
        .rposition(|line| line["kind"] == "opened")
        .unwrap();
    copies.tamper(0, true, |lines| {
        lines[second]["fields"]["blocks"] = json!(77)
    });
    let found = copies
        .finds(Rule::Checkpoint, "one of them was edited")
        .await;
    let since = found.since.unwrap();
    assert!(
        since.contains(&format!("first {checkpoint} entries")),
        "{since}"
    );
    copies.write(0, &honest);

    // Deleted.
    copies.tamper(0, false, |lines| drop(lines.remove(place)));
    let found = copies.first_wrong().await;
    assert_eq!(
        (found.rule, found.entry),
        (Rule::Chain, Some(place as u64)),
        "{found}"
    );
    assert!(found.detail.contains("is missing"), "{found}");
    copies.write(0, &honest);
    copies.tamper(0, true, |lines| drop(lines.remove(place)));
    copies
        .finds(Rule::Checkpoint, "edited, deleted, inserted or moved")
        .await;
    copies.finds(Rule::Missing, "its own log has none").await;
    copies.write(0, &honest);

    // Moved.
    copies.tamper(0, false, |lines| lines.swap(place, place + 1));
    let found = copies.first_wrong().await;
    assert_eq!(
        (found.rule, found.entry),
        (Rule::Chain, Some(place as u64)),
        "{found}"
    );
    copies.write(0, &honest);

    // Inserted.
    copies.tamper(server, true, |lines| lines.insert(5, lines[4].clone()));
    let found = copies
        .finds(Rule::Checkpoint, "one of them was edited")
        .await;
    assert_eq!(found.node, "server server");
    let honest_server = copies.lines(server);
    copies.tamper(server, true, |lines| {
        lines.remove(5);
        let mut odd = lines[4].clone();
        odd["kind"] = json!("excuse");
        lines.insert(5, odd);
    });
    let found = copies.first_wrong().await;
    assert_eq!((found.rule, found.entry), (Rule::Chain, Some(5)), "{found}");
    copies.write(server, &honest_server);
    copies.tamper(server, true, |lines| drop(lines.remove(5)));
    assert!(
        copies.audit(&copies.folders()).await.holds(),
        "honest again"
    );

    // Back-dated: one line, and then all of them by their owner.
    copies.tamper(0, false, |lines| {
        lines[place]["time"] = json!("2020-01-01T00:00:00.000Z")
    });
    let found = copies.first_wrong().await;
    assert_eq!(
        (found.rule, found.entry),
        (Rule::Chain, Some(place as u64)),
        "{found}"
    );
    assert!(found.detail.contains("back-dated"), "{found}");
    copies.write(0, &honest);
    copies.rewrite(0, |lines| {
        for line in lines {
            let time = line["time"].as_str().unwrap().replacen("20", "21", 1);
            line["time"] = json!(time);
        }
    });
    copies.finds(Rule::Certificate, "at the time").await;

    // By an hour, which no certificate tells: the server had it before.
    copies.write(0, &honest);
    copies.rewrite(0, |lines| {
        for line in lines {
            let time = line["time"].as_str().unwrap();
            let (second, millis) = time.split_once('.').unwrap();
            let second: Instant = format!("{second}Z").parse().unwrap();
            let later = Instant::from_seconds(second.seconds() + 3600).unwrap();
            let later = later.to_string();
            let later = later.strip_suffix('Z').unwrap();
            line["time"] = json!(format!("{later}.{millis}"));
        }
    });
    copies
        .finds(Rule::Time, "minutes after the server had it")
        .await;

    // Cut off at its end, where no checkpoint of its own tells: others signed for more.
    copies.write(0, &honest[..place]);
    let found = copies.finds(Rule::Fork, "its end was cut off").await;
    assert_eq!(found.node, "member hospital-1");

    // A last line without its end is what a crash leaves: no alarm.
    copies.write(0, &honest);
    let path = copies.node(0).join("audit.jsonl");
    let mut bytes = std::fs::read(&path).unwrap();
    bytes.extend(br#"{"sequence":99,"ti"#);
    std::fs::write(&path, bytes).unwrap();
    assert!(copies.audit(&copies.folders()).await.holds());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_its_owner_wrote_anew_and_signed_again_is_not_what_others_signed_for() {
    let (_federation, copies) = institution().await;
    let honest = copies.lines(0);
    // A member's.
    let reserve = copies.place_of(0, "reserve");
    copies.rewrite(0, |lines| lines[reserve]["fields"]["attempts"] = json!(1));
    let audit = copies.audit(&copies.folders()).await;
    assert!(
        audit.findings.iter().all(|it| it.rule == Rule::Fork),
        "{:#?}",
        audit.findings
    );
    let found = copies.first_wrong().await;
    assert_eq!(found.node, "member hospital-1");
    assert!(found.detail.contains("are not those that"), "{found}");
    // Its own folder tells as well: it holds agreements that it signed before.
    assert!(!copies.audit(&[copies.node(0)]).await.holds());
    copies.write(0, &honest);

    // The server's.
    let server = copies.server();
    let plan = copies.place_of(server, "plan");
    let honest = copies.lines(server);
    copies.rewrite(server, |lines| lines[plan]["fields"]["cohort"] = json!(7));
    let found = copies.first_wrong().await;
    assert_eq!(
        (found.rule, found.node.as_str()),
        (Rule::Fork, "server server"),
        "{found}"
    );
    copies.write(server, &honest);

    // Signed by another key than the owner's.
    copies.tamper(0, true, |lines| {
        let place = lines
            .iter()
            .position(|line| line["kind"] == "checkpoint")
            .unwrap();
        let note = Note::parse(lines[place]["fields"]["note"].as_str().unwrap()).unwrap();
        let forged = Note::sign(note.unverified().clone(), &SigningKey::generate().unwrap());
        lines[place]["fields"]["note"] = json!(forged.to_text());
    });
    let found = copies.first_wrong().await;
    assert_eq!(found.rule, Rule::Checkpoint);
    assert!(
        found.detail.contains("not signed by the log's owner"),
        "{found}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_shows_two_members_two_histories_is_found_without_its_log() {
    let (_federation, copies) = institution().await;
    let server_key = copies.key(copies.server());
    let of_another: Agreement = copies.said(1, &copies.lines(1)[copies.place_of(1, "agreement")]);
    let shown = Note::parse(std::str::from_utf8(&of_another.server_checkpoint).unwrap()).unwrap();
    let shown = shown.unverified();
    // The member whom it lies to keeps what it was shown.
    copies.rewrite(0, |lines| {
        let place = lines
            .iter()
            .position(|line| line["kind"] == "agreement")
            .unwrap();
        let honest: Agreement = copies.said(0, &lines[place]);
        let (origin, size) = (shown.origin().to_owned(), shown.size());
        let other = Checkpoint::new(&origin, size, [9; 32]).unwrap();
        let lie = Agreement {
            server_checkpoint: Note::sign(other, server_key).to_text().into_bytes(),
            ..honest
        };
        copies.put(
            0,
            &mut lines[place],
            None,
            &Signed::sign(lie, copies.key(0)),
        );
    });
    let members = &copies.folders()[..MEMBERS];
    let audit = copies.audit(members).await;
    let mut forks = audit.findings.iter().filter(|it| it.rule == Rule::Fork);
    let fork = forks.find(|it| it.detail.contains("two histories of one log"));
    let fork = fork.unwrap();
    assert!(
        fork.detail.contains("the server, as shown to hospital-"),
        "{fork}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ledger_that_was_rolled_back_and_a_charge_that_is_missing_are_found() {
    let (_federation, copies) = institution().await;
    // Rolled back: the file of before the job.
    let ledger = copies.node(1).join("ledger.sqlite");
    let now = std::fs::read(&ledger).unwrap();
    for part in ["ledger.sqlite", "ledger.sqlite-wal", "ledger.sqlite-shm"] {
        let _ = std::fs::remove_file(copies.node(1).join(part));
    }
    let found = copies.first_wrong().await;
    assert_eq!(
        (found.rule, found.node.as_str()),
        (Rule::Ledger, "member hospital-2"),
        "{found}"
    );
    std::fs::write(&ledger, &now).unwrap();

    // A charge is missing from the log, as its owner might write it.
    let honest = copies.lines(2);
    copies.rewrite(2, |lines| lines.retain(|line| line["kind"] != "charge"));
    let found = copies.first_wrong().await;
    assert_eq!(
        (found.rule, found.node.as_str()),
        (Rule::Charge, "member hospital-3"),
        "{found}"
    );
    assert!(
        found.detail.contains("without a charge before it"),
        "{found}"
    );
    copies.write(2, &honest);

    // Another price.
    copies.rewrite(2, |lines| {
        let charge = lines
            .iter()
            .position(|line| line["kind"] == "charge")
            .unwrap();
        lines[charge]["fields"]["cost"][0] = json!(1);
    });
    let found = copies.first_wrong().await;
    assert_eq!(found.rule, Rule::Charge, "{found}");
    copies.write(2, &honest);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_roster_below_the_minimum_is_found_in_whosever_log_it_is() {
    let (_federation, copies) = institution().await;
    let server = copies.server();
    let lines = copies.lines(server);
    let place = copies.place_of(server, "roster");
    let honest: Roster = copies.said(server, &lines[place]);
    let small = Roster {
        headers: honest.headers[..1].to_vec(),
        ..honest
    };
    let small = Signed::sign(small, copies.key(server));
    for node in 0..=MEMBERS {
        copies.rewrite(node, |lines| {
            let place = lines
                .iter()
                .position(|line| line["kind"] == "roster")
                .unwrap();
            lines[place]["fields"]["contributors"] = json!(1);
            copies.put(node, &mut lines[place], Some("roster"), &small);
        });
    }
    let found = copies.first_wrong().await;
    assert_eq!(found.rule, Rule::Roster, "{found}");
    assert!(
        found
            .detail
            .contains("names 1 contributors, the plan wants at least 2"),
        "{found}"
    );

    // A second roster of one attempt, in one log.
    let (_federation, copies) = institution().await;
    let other = Roster {
        sum: Digest::sha256(b"another"),
        ..copies.said::<Roster>(0, &copies.lines(0)[copies.place_of(0, "roster")])
    };
    let other = Signed::sign(other, copies.key(copies.server()));
    copies.rewrite(0, |lines| {
        let place = lines
            .iter()
            .position(|line| line["kind"] == "roster")
            .unwrap();
        copies.put(0, &mut lines[place], Some("roster"), &other);
    });
    copies
        .finds(Rule::Roster, "two rosters of one attempt")
        .await;
}

/// A certificate for the same party that held for the authority's first second alone.
fn ended_certificate(federation: &Federation, of: &Certificate) -> Certificate {
    let begun = federation.authority().certificate().validity().not_before();
    let begun = UNIX_EPOCH + Duration::from_secs(begun);
    let validity = Validity::between(begun, begun + Duration::from_secs(1)).unwrap();
    federation.authority().renew(of, validity).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_expired_certificate_is_found_in_the_members_log_and_in_the_servers() {
    let (federation, copies) = institution().await;
    let expired = ended_certificate(&federation, &federation.member(1).certificate);
    copies.rewrite(1, |lines| {
        let place = lines
            .iter()
            .position(|line| line["kind"] == "certificate")
            .unwrap();
        let name = copies.keep(1, expired.pem().as_bytes());
        lines[place]["fields"]["serial"] = json!(expired.peer().serial.to_string());
        lines[place]["fields"]["evidence"] = json!([name]);
    });
    let found = copies.first_wrong().await;
    assert_eq!(
        (found.rule, found.node.as_str()),
        (Rule::Certificate, "member hospital-2"),
        "{found}"
    );
    assert!(found.detail.contains("and not at the time"), "{found}");

    // What a server took of a party whose certificate had ended, and one that the authority never signed.
    let (federation, copies) = institution().await;
    let own = &federation.member(1).certificate;
    let expired = ended_certificate(&federation, own);
    let server = copies.server();
    let honest = copies.lines(server);
    copies.rewrite(server, |lines| {
        let met = lines
            .iter_mut()
            .find(|line| line["kind"] == "met" && line["fields"]["name"] == "hospital-2");
        let fields = &mut met.unwrap()["fields"];
        fields["serial"] = json!(expired.peer().serial.to_string());
        fields["evidence"] = json!([copies.keep(server, expired.der())]);
    });
    let found = copies.first_wrong().await;
    assert_eq!(
        (found.rule, found.node.as_str()),
        (Rule::Certificate, "server server"),
        "{found}"
    );
    assert!(found.detail.contains("hospital-2"), "{found}");
    copies.write(server, &honest);
    copies.rewrite(server, |lines| {
        let met = lines.iter_mut().find(|line| line["kind"] == "met");
        met.unwrap()["fields"]["serial"] = json!("00");
    });
    let found = copies.first_wrong().await;
    assert_eq!(found.rule, Rule::Evidence, "{found}");
    // Without a revocation list nobody can be said not to be revoked.
    copies.write(server, &honest);
    copies.rewrite(server, |lines| {
        lines.retain(|line| line["kind"] != "revocation-list");
    });
    assert_eq!(copies.first_wrong().await.rule, Rule::Revocation);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_policy_that_got_weaker_between_two_rounds_is_found() {
    // One site wants at least three contributors.
    let site = changed(INSTITUTION, "min_contributors = 2", "min_contributors = 3");
    let federation_policy = changed(INSTITUTION, "min_contributors = 2", "min_contributors = 2");
    let (_federation, copies) = ran_strict(&federation_policy, &site).await;
    let server = copies.server();
    let key = copies.key(server);
    copies.rewrite(server, |lines| {
        let second = lines
            .iter()
            .rposition(|line| line["kind"] == "plan")
            .unwrap();
        let honest: Plan = copies.said(server, &lines[second]);
        assert_eq!((honest.round, honest.policies.len()), (2, 2));
        let policies = honest.policies[..1].to_vec();
        let policy = Policy::parse(&federation_policy).unwrap().digest();
        let weaker = Plan {
            policies,
            policy: Digest::from_bytes(policy),
            ..honest
        };
        let weaker = Signed::sign(weaker, key);
        lines[second]["fields"]["context"] = json!(weaker.context().to_string());
        copies.put(server, &mut lines[second], None, &weaker);
    });
    let found = copies.first_wrong().await;
    assert_eq!(
        (found.rule, found.node.as_str()),
        (Rule::Policy, "server server"),
        "{found}"
    );
    assert!(
        found.detail.contains("weaker than that of round 1"),
        "{found}"
    );
}

/// A run in which one site has a policy of its own, and the job asks for three contributors.
async fn ran_strict(policy: &str, site: &str) -> (Federation, Copies) {
    let mut federation = Federation::found_with(policy, &[None, Some(site), None]).await;
    let server = federation.serve();
    let mut members: Vec<_> = (0..MEMBERS)
        .map(|member| federation.join(Vectors::of(member, DIMENSION)))
        .collect();
    let wish = Wish {
        rounds: 2,
        ..Wish::of(MEMBERS, DIMENSION)
    };
    federation.submit_job(wish.job(site).unwrap()).await;
    for member in &mut members {
        let outcome = member.end().await.unwrap();
        assert!(outcome.completed, "{}", outcome.reason);
    }
    server.stop().await;
    let copies = Copies::of(&federation, MEMBERS).await;
    (federation, copies)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plan_outside_its_job_and_a_job_outside_the_policy_are_found() {
    let (federation, copies) = institution().await;
    let server = copies.server();
    let honest = copies.lines(server);
    let place = copies.place_of(server, "plan");
    let plan: Plan = copies.said(server, &honest[place]);
    let put = |lines: &mut Vec<Value>, plan: Plan| {
        let plan = Signed::sign(plan, copies.key(server));
        lines[place]["fields"]["context"] = json!(plan.context().to_string());
        lines[place]["fields"]["job"] = json!(plan.job.to_string());
        copies.put(server, &mut lines[place], None, &plan);
    };
    copies.rewrite(server, |lines| {
        put(
            lines,
            Plan {
                min_contributors: 1,
                ..plan.clone()
            },
        );
    });
    let found = copies.first_wrong().await;
    assert_eq!(
        (found.rule, found.entry),
        (Rule::Plan, Some(place as u64)),
        "{found}"
    );
    copies.write(server, &honest);

    // More rounds than the policy allows.
    let submitted = copies.place_of(server, "job");
    let job: Job = copies.said(server, &honest[submitted]);
    copies.rewrite(server, |lines| {
        let long = Signed::sign(Job { rounds: 11, ..job }, &federation.researcher_key());
        put(
            lines,
            Plan {
                job: long.digest(),
                ..plan
            },
        );
        copies.put(server, &mut lines[submitted], Some("job"), &long);
        lines.retain(|line| line["kind"] != "admission");
    });
    let found = copies.finds(Rule::Plan, "privacy.rounds").await;
    assert!(found.detail.contains("11"), "{found}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_and_a_member_that_say_different_things_are_found() {
    let (_federation, copies) = institution().await;
    // The member signed another contribution than the server has.
    copies.rewrite(0, |lines| {
        let place = lines
            .iter()
            .position(|line| line["kind"] == "contribution")
            .unwrap();
        let honest: Header = copies.said(0, &lines[place]);
        let other = Header {
            body: Digest::sha256(b"another"),
            ..honest
        };
        copies.put(
            0,
            &mut lines[place],
            Some("header"),
            &Signed::sign(other, copies.key(0)),
        );
    });
    copies
        .finds(
            Rule::Roster,
            "the roster names another header of this member",
        )
        .await;
    copies
        .finds(Rule::Missing, "a signed roster has the contribution")
        .await;

    // The server's log knows nothing of a round that a member took part in.
    let (_federation, copies) = institution().await;
    let server = copies.server();
    let kinds = [
        "plan",
        "contribution",
        "body",
        "roster",
        "echo",
        "release",
        "agreement",
        "complete",
    ];
    copies.rewrite(server, |lines| {
        let last = lines
            .iter()
            .rposition(|line| line["kind"] == "plan")
            .unwrap();
        let mut place = 0;
        lines.retain(|line| {
            place += 1;
            place <= last || !kinds.contains(&line["kind"].as_str().unwrap())
        });
    });
    copies
        .finds(Rule::Missing, "the server's log has not")
        .await;

    // An object was changed, and one is missing.
    let (_federation, copies) = institution().await;
    let lines = copies.lines(0);
    let place = copies.place_of(0, "release");
    let name = lines[place]["fields"]["evidence"][0].as_str().unwrap();
    let path = copies.node(0).join("evidence").join(name);
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[40] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let found = copies.first_wrong().await;
    assert_eq!(
        (found.rule, found.entry),
        (Rule::Evidence, Some(place as u64)),
        "{found}"
    );
    std::fs::remove_file(&path).unwrap();
    let found = copies.first_wrong().await;
    assert!(found.detail.contains("missing"), "{found}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_report_says_what_only_the_run_can_know_and_escapes_what_others_wrote() {
    let (federation, copies) = institution().await;
    let audit = copies.audit(&copies.folders()).await;
    let (digest, _) = audit.jobs().next().unwrap();
    let report = audit.report(&digest.to_string()[..8]).unwrap();
    let page = report.to_html().unwrap();
    let json = serde_json::to_value(&report).unwrap();
    assert!(page.contains("Verified.") && json["verdict"]["holds"] == true);
    // Nothing of the page is elsewhere.
    for outside in ["http://", "https://", "src=", "@import", "<script"] {
        assert!(!page.contains(outside), "{outside}");
    }
    for member in 0..MEMBERS {
        for roster in federation.log(member, "roster") {
            assert!(page.contains(roster["roster"].as_str().unwrap()));
        }
        let facts = &json["members"][member];
        assert_eq!(
            (&facts["rounds"], &facts["answer"]),
            (&json!(2), &json!("accepted"))
        );
        let sent: u64 = federation
            .log(member, "contribution")
            .iter()
            .map(|it| it["body_bytes"].as_u64().unwrap() + it["share_bytes"].as_u64().unwrap())
            .sum();
        assert_eq!(facts["sealed_bytes"], json!(sent));
        assert!(facts["bytes_up"].as_u64().unwrap() > sent);
        let epsilon = audit.spending[member].epsilon.unwrap();
        assert_eq!(facts["budgets"][0]["epsilon_of_job"], json!(epsilon));
        assert!(page.contains(&format!("{epsilon:.4}")));
    }
    assert!(json["encryption"]["standard_classical"].as_u64().unwrap() >= 128);
    // By its name, too; an unknown one is answered with those that there are.
    assert!(audit.report("plain vectors").is_ok());
    let said = audit.report("another").err().unwrap().to_string();
    assert!(said.contains(&digest.to_string()), "{said}");

    // A name with markup in it, as a researcher might choose, and a run that does not hold.
    let server = copies.server();
    let place = copies.place_of(server, "job");
    let job: Job = copies.said(server, &copies.lines(server)[place]);
    copies.rewrite(server, |lines| {
        let name = "<script>alert(1)</script>".to_owned();
        let renamed = Signed::sign(Job { name, ..job }, &federation.researcher_key());
        copies.put(server, &mut lines[place], Some("job"), &renamed);
    });
    let audit = copies.audit(&copies.folders()).await;
    let page = audit
        .report("<script>alert(1)</script>")
        .unwrap()
        .to_html()
        .unwrap();
    assert!(!page.contains("<script") && page.contains("&lt;script&gt;"));
    assert!(page.contains("Not verified.") && page.contains("What does not hold"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_server_leaves_out_is_found_in_the_members_logs() {
    let (_federation, copies) = ran_for(1, LABORATORY, &[None; MEMBERS]).await;
    let server = copies.server();
    let honest = copies.lines(server);
    let cut = |node: usize, kind: &str| {
        let place = copies.place_of(node, kind);
        copies.rewrite(node, |lines| lines.truncate(place));
    };
    // Before anybody had agreed on anything: no head of the server's log stands in another.
    (0..=MEMBERS).for_each(|node| cut(node, "agreement"));
    let audit = copies.audit(&copies.folders()).await;
    assert!(audit.holds(), "{:#?}", audit.findings);
    let without = |kinds: &[&str]| {
        copies.write(server, &honest);
        cut(server, "agreement");
        copies.rewrite(server, |lines| {
            lines.retain(|line| !kinds.contains(&line["kind"].as_str().unwrap()));
        });
    };
    without(&["admission"]);
    copies
        .finds(Rule::Missing, "the server took the answer of hospital-1")
        .await;
    let all = ["contribution", "body", "roster", "echo", "release"];
    without(&all);
    copies.finds(Rule::Missing, "its signed roster").await;
    without(&all[3..]);
    copies.finds(Rule::Missing, "enough signed echoes").await;
    without(&["release"]);
    copies
        .finds(Rule::Missing, "the signed releases that it takes")
        .await;
    without(&["contribution"]);
    copies
        .finds(Rule::Missing, "a contribution that is in no entry")
        .await;
    without(&["body"]);
    copies.finds(Rule::Roster, "the body of hospital-1").await;
    without(&[
        "job",
        "admission",
        "plan",
        "contribution",
        "body",
        "roster",
        "echo",
        "release",
    ]);
    copies
        .finds(Rule::Missing, "the server's log does not know it")
        .await;

    // A member that leaves out its answer, its plan, or what it released.
    copies.write(server, &honest);
    cut(server, "agreement");
    let own = copies.lines(0);
    for (kind, words) in [
        ("admission", "in no entry before"),
        ("plan", "no plan of the attempt"),
        ("release", "the server has this member's signed release"),
        ("echo", "the server has this member's signed echo"),
        ("checkpoint", "nothing in this log is signed by its owner"),
    ] {
        copies.write(0, &own);
        copies.rewrite(0, |lines| lines.retain(|line| line["kind"] != kind));
        let audit = copies.audit(&copies.folders()).await;
        let said: Vec<&str> = audit.findings.iter().map(|it| it.detail.as_str()).collect();
        assert!(
            said.iter().any(|it| it.contains(words)),
            "{kind}: {said:#?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_hides_the_end_of_a_round_or_contradicts_it_is_found() {
    let (_federation, copies) = institution().await;
    let server = copies.server();
    let honest = copies.lines(server);
    let last = honest
        .iter()
        .rposition(|line| line["kind"] == "complete")
        .unwrap();
    copies.rewrite(server, |lines| lines.truncate(last));
    copies
        .finds(Rule::Missing, "does not say that the round is complete")
        .await;
    copies
        .finds(Rule::Missing, "holds its end as the server signed it")
        .await;
    // A void of what the members agreed on.
    let context = honest
        .iter()
        .rfind(|line| line["kind"] == "roster")
        .unwrap()["fields"]["context"]
        .clone();
    let void = Void {
        context: Context::from_digest(Digest::from_hex(context.as_str().unwrap()).unwrap()),
        reason: "an excuse".into(),
    };
    let void = Signed::sign(void, copies.key(server));
    copies.rewrite(server, |lines| {
        let mut line = lines.last().unwrap().clone();
        line["kind"] = json!("void");
        line["fields"] = json!({"context": context, "reason": "an excuse"});
        copies.put(server, &mut line, None, &void);
        lines.push(line);
    });
    copies
        .finds(Rule::Agreement, "the server signed that it was void")
        .await;
    // Another end than it signed, and one that it did not sign.
    copies.write(server, &honest);
    let ended = copies.place_of(server, "ended");
    copies.rewrite(server, |lines| {
        lines[ended]["fields"]["completed"] = json!(false)
    });
    let found = copies
        .finds(Rule::Evidence, "another end than was signed")
        .await;
    assert_eq!(found.entry, Some(ended as u64));
    copies.rewrite(server, |lines| {
        lines[ended]["fields"]
            .as_object_mut()
            .unwrap()
            .remove("evidence");
    });
    copies
        .finds(Rule::Evidence, "rests on nothing that it signed")
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ledger_with_charges_that_no_log_has_or_under_another_name_is_found() {
    let (_federation, copies) = institution().await;
    let path = copies.node(1).join("ledger.sqlite");
    let loss = Policy::parse(INSTITUTION).unwrap().budget().unwrap();
    let now = SystemTime::now();
    let book = Book::read(&path, &[]).await.unwrap();
    let charge = book
        .entries("vectors")
        .find(|it| it.kind == Kind::Charge)
        .unwrap();
    let ledger = Ledger::open(&path, "scratch", Budget::Private(loss), &[], now)
        .await
        .unwrap();
    ledger
        .charge(charge.job, [7; 32], &charge.cost, now)
        .await
        .unwrap();
    drop(ledger);
    let found = copies
        .finds(Rule::Ledger, "of which the log has no plan")
        .await;
    assert_eq!(found.node, "member hospital-2");

    let (_federation, copies) = institution().await;
    copies.rewrite(1, |lines| {
        for line in lines.iter_mut().filter(|line| line["kind"] == "charge") {
            line["fields"]["dataset"] = json!("scratch");
        }
    });
    copies
        .finds(
            Rule::Charge,
            "which this member's answer to the job does not name",
        )
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_ends_in_a_finding_and_moves_no_cursor() {
    let (_federation, copies) = institution().await;
    let path = copies.node(0).join("audit.jsonl");
    let honest = std::fs::read(&path).unwrap();
    // A last line without its end is what a crash leaves: said, and no alarm.
    std::fs::write(&path, [honest.as_slice(), b"{\"sequence\":"].concat()).unwrap();
    let audit = copies.audit(&copies.folders()).await;
    assert!(audit.holds() && audit.nodes[0].unfinished_bytes == 12);
    // Words that would clear a screen.
    let lines = copies.lines(2);
    copies.rewrite(2, |lines| {
        let mut line = lines[5].clone();
        line["kind"] = json!("refused");
        line["fields"] = json!({"what": "x", "evidence": ["\u{1b}[2J verified"]});
        lines.insert(6, line);
    });
    let audit = copies.audit(&copies.folders()).await;
    assert!(!audit.holds());
    assert!(
        audit
            .findings
            .iter()
            .all(|it| !it.to_string().contains('\u{1b}'))
    );
    copies.write(2, &lines);
    // A hundred thousand objects for one entry, and very many findings: the server's is not lost among them.
    copies.rewrite(2, |lines| {
        let mut line = lines[5].clone();
        line["kind"] = json!("refused");
        line["fields"] = json!({"evidence": vec!["00".repeat(32); 3_000]});
        (0..1_500).for_each(|_| lines.insert(6, line.clone()));
    });
    let server = copies.server();
    let admission = copies.place_of(server, "admission");
    let of_server = copies.lines(server);
    copies.rewrite(server, |lines| {
        lines[admission]["fields"]["accepted"] = json!(false)
    });
    let audit = copies.audit(&copies.folders()).await;
    assert!(audit.verdict().found > 1_500 && audit.findings.len() < 1_000);
    let said = audit
        .findings
        .iter()
        .any(|it| it.node == "server server" && it.rule == Rule::Evidence);
    assert!(said, "{:?}", audit.findings.first());
    copies.write(2, &lines);
    copies.write(server, &of_server);
    // What is no file.
    std::fs::remove_file(&path).unwrap();
    std::fs::create_dir(&path).unwrap();
    copies.finds(Rule::Missing, "is no file").await;
    let status = std::process::Command::new("mkfifo")
        .arg(copies.node(1).join("audit.jsonl.fifo"))
        .status();
    if status.is_ok_and(|status| status.success()) {
        std::fs::rename(
            copies.node(1).join("audit.jsonl.fifo"),
            copies.node(1).join("audit.jsonl"),
        )
        .unwrap();
        let audit = copies.audit(&copies.folders()).await;
        assert!(audit.findings.iter().any(|it| it.node.contains("member-1")));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_servers_log_is_fetched_by_whom_the_policy_lets_and_holds_by_itself() {
    let policy = format!("{INSTITUTION}[roles]\nread_log = [\"researcher\"]\n");
    let mut federation = Federation::found(MEMBERS, &policy).await;
    let server = federation.serve();
    let mut members: Vec<_> = (0..MEMBERS)
        .map(|member| federation.join(Vectors::of(member, DIMENSION)))
        .collect();
    federation.submit(&Wish::of(MEMBERS, DIMENSION)).await;
    for member in &mut members {
        assert!(member.end().await.unwrap().completed);
    }
    let folder = tempfile::tempdir().unwrap();
    let reader = federation.researchers_site();
    let first = auditor::fetch(&reader, folder.path(), &mut |_| {})
        .await
        .unwrap();
    assert!(first.new == first.entries && first.objects > 20);
    let audit = Audit::of(
        &[folder.path().to_owned()],
        None,
        SystemTime::now(),
        &mut |_, _| {},
    )
    .await
    .unwrap();
    assert!(audit.holds(), "{:#?}", audit.findings);
    assert_eq!(audit.nodes[0].name, "server server");
    // What is here stays, a torn end is made up for, and only what is new comes.
    let path = folder.path().join("audit.jsonl");
    let whole = std::fs::read(&path).unwrap();
    std::fs::write(&path, &whole[..whole.len() - 7]).unwrap();
    let again = auditor::fetch(&reader, folder.path(), &mut |_| {})
        .await
        .unwrap();
    assert_eq!((again.new, again.objects), (1, 0));
    assert_eq!(std::fs::read(&path).unwrap(), whole);
    // Another log than was here before is no continuation.
    std::fs::write(&path, [&whole[..], b"{}\n"].concat()).unwrap();
    assert!(
        auditor::fetch(&reader, folder.path(), &mut |_| {})
            .await
            .is_err()
    );

    // Members read the job's events, and not the log.
    let refused = auditor::fetch(&federation.site(0), folder.path(), &mut |_| {}).await;
    let elsewhere = tempfile::tempdir().unwrap();
    let refused =
        refused.and(auditor::fetch(&federation.site(0), elsewhere.path(), &mut |_| {}).await);
    assert!(refused.is_err());
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn evidence_is_removed_when_its_time_is_over_and_never_before() {
    let policy = format!("{INSTITUTION}[audit]\nretention_days = 30\n");
    let (_federation, copies) = ran_for(1, &policy, &[None; MEMBERS]).await;
    let now = SystemTime::now();
    let days = |days: u64| now + Duration::from_secs(days * 86_400);
    for node in 0..=MEMBERS {
        let folder = copies.node(node);
        assert_eq!(
            retention::prune(&folder, days(29), false).unwrap().objects,
            0
        );
        let would = retention::prune(&folder, days(31), true).unwrap();
        assert!(would.objects > 0 && would.jobs.len() == 1, "{would:?}");
        assert!(
            copies.audit(&copies.folders()).await.holds(),
            "a dry run touches nothing"
        );
    }
    // One node after the other: each still holds, and so do the others beside it.
    for node in 0..=MEMBERS {
        let pruned = retention::prune(&copies.node(node), days(31), false).unwrap();
        assert!(pruned.objects > 0);
        let audit = copies.audit_at(&copies.folders(), days(31)).await;
        assert!(audit.holds(), "{node}: {:#?}", audit.findings);
        assert!(audit.nodes[node].pruned_entries > 0);
        assert_eq!(
            retention::prune(&copies.node(node), days(31), false)
                .unwrap()
                .objects,
            0
        );
    }

    // Dated ahead, and too early by the log's own times.
    let (_federation, copies) = ran_for(1, &policy, &[None; MEMBERS]).await;
    retention::prune(&copies.node(0), days(31), false).unwrap();
    copies.finds(Rule::Time, "later than now").await;
    copies.rewrite(0, |lines| {
        let before = lines[lines.len() - 2]["time"].clone();
        lines.last_mut().unwrap()["time"] = before;
    });
    copies
        .finds(Rule::Evidence, "removed before its time")
        .await;
    // One that names itself, under policies that keep everything.
    let (_federation, kept) = ran_for(1, INSTITUTION, &[None; MEMBERS]).await;
    let lines = kept.lines(0);
    let job = lines.iter().find(|line| line["kind"] == "ended").unwrap()["fields"]["job"].clone();
    kept.tamper(0, true, |lines| {
        let mut line = lines.last().unwrap().clone();
        line["kind"] = json!("pruned");
        line["fields"] = json!({"job": job, "jobs": [job], "objects": 1});
        lines.push(line);
    });
    kept.finds(Rule::Evidence, "removed before its time").await;

    // Where the policies keep it for ever.
    let (_federation, copies) = ran_for(1, INSTITUTION, &[None; MEMBERS]).await;
    let refused = retention::prune(&copies.node(0), days(9_999), false);
    assert!(refused.is_err_and(|error| error.to_string().contains("for ever")));
}
