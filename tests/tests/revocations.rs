//! Certificates are revoked and renewed while members and server run.

use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime},
};

use ciphertune_client::{Error, site::Site};
use ciphertune_identity::{Credentials, Validity};
use ciphertune_tests::{
    federation::{Federation, LABORATORY, Wish, is_over, until, until_contributed, until_job},
    keys::{self, passphrase, validity},
    learner::{Gate, Vectors, average_of},
};

const DIMENSION: usize = 5_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_update_of_a_member_that_is_revoked_before_the_close_does_not_count_and_its_run_ends() {
    let mut federation = Federation::found(4, LABORATORY).await;
    let server = federation.serve();
    let gate = Gate::default();
    let mut revoked = federation.join(Vectors::of(3, DIMENSION));
    let mut others: Vec<_> = [0, 1, 2]
        .map(|member| {
            let learner = Vectors::of(member, DIMENSION).behind(&gate);
            (member, federation.join(learner))
        })
        .into();
    let (mut researcher, job) = federation.submit(&Wish::of(4, DIMENSION)).await;
    until_contributed(&mut researcher, job, 3).await;
    federation.revoke(&[3]);
    let ended = revoked.end().await;
    let Err(Error::TurnedAway(said)) = ended else {
        panic!("a revoked member ran on: {ended:?}");
    };
    assert!(said.contains("your certificate is revoked"), "{said}");
    until(|| server.log().contains("\"kind\":\"revoked\"")).await;
    gate.open();
    for (member, run) in &mut others {
        let outcome = run.end().await.unwrap();
        assert!(outcome.completed, "{}: {:?}", outcome.reason, run.voided());
        assert_eq!(run.reports()[0].contributors, 3);
        let model = federation.model(*member, &job).expect("a model");
        assert!(
            model.state == average_of(&[0, 1, 2], DIMENSION),
            "member {member}"
        );
    }
    assert!(federation.model(3, &job).is_none());
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plan_under_an_older_list_than_a_member_knows_is_refused_until_the_server_has_the_new_one()
 {
    let mut federation = Federation::found(3, LABORATORY).await;
    let server = federation.serve();
    let newer = keys::empty_list(federation.authority(), 2);
    let member = federation.member(0);
    let credentials = member.credentials(federation.authority(), &newer);
    credentials.write(&member.home.identity()).unwrap();
    let wish = Wish {
        seconds: [4, 60, 60],
        ..Wish::of(3, DIMENSION)
    };
    let mut first: Vec<_> = (0..3)
        .map(|member| federation.join(Vectors::of(member, DIMENSION)))
        .collect();
    let (mut researcher, job) = federation.submit(&wish).await;
    let state = until_job(&mut researcher, job, is_over).await;
    assert_eq!(state.phase, "ended", "{}", state.reason);
    // All of them hear of the end: who did not would report it when it joins again.
    for run in &mut first {
        assert!(!run.end().await.unwrap().completed);
    }
    let said = first[0].voided().join("\n");
    assert!(
        said.contains("under revocation list 1, and the authority has issued list 2"),
        "{said}"
    );

    // The server gets it: the next job runs.
    federation.hand_over(&newer);
    until(|| server.log().contains("\"number\":2}}")).await;
    let mut again: Vec<_> = (0..3)
        .map(|member| federation.join(Vectors::of(member, DIMENSION)))
        .collect();
    let other = Wish {
        rounds: 2,
        ..Wish::of(3, DIMENSION)
    };
    federation.submit(&other).await;
    for run in &mut again {
        let outcome = run.end().await.unwrap();
        assert!(outcome.completed, "{}: {:?}", outcome.reason, run.voided());
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_get_a_later_list_from_the_server_and_keep_it() {
    let mut federation = Federation::found(3, LABORATORY).await;
    let server = federation.serve();
    server.started().await;
    let list = federation.revoke(&[]);
    until(|| server.log().contains("\"number\":2}}")).await;
    let mut members: Vec<_> = (0..3)
        .map(|member| federation.join(Vectors::of(member, DIMENSION)))
        .collect();
    federation.submit(&Wish::of(3, DIMENSION)).await;
    for member in &mut members {
        let outcome = member.end().await.unwrap();
        assert!(
            outcome.completed,
            "{}: {:?}",
            outcome.reason,
            member.voided()
        );
    }
    for member in 0..3 {
        let site = federation.site(member);
        assert_eq!(site.credentials().revocations(), &list);
        // The one that it started with, and this.
        assert_eq!(federation.log(member, "revocation-list").len(), 2);
    }
    // A kit with an older one does not bring that back.
    let mut kit = federation.kit(0, federation.sign_policy(LABORATORY));
    let holder = federation.member(0);
    let older = keys::empty_list(federation.authority(), 1);
    kit.credentials = holder.credentials(federation.authority(), &older);
    Site::install(&holder.home, &passphrase(), &kit, None).unwrap();
    assert_eq!(federation.site(0).credentials().revocations(), &list);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_renewed_certificate_is_taken_up_without_a_restart() {
    let mut federation = Federation::found(3, LABORATORY).await;
    let server = federation.serve();
    let gate = Gate::default();
    let mut members: Vec<_> = (0..3)
        .map(|member| federation.join(Vectors::of(member, DIMENSION).behind(&gate)))
        .collect();
    let (_, job) = federation.submit(&Wish::of(3, DIMENSION)).await;
    until(|| gate.is_reached()).await;
    // A new certificate for the same key lies at home; a while later the old one is revoked.
    let holder = federation.member(1);
    let renewed = federation
        .authority()
        .renew(&holder.certificate, validity(80))
        .unwrap();
    let old = federation.credentials_of(holder);
    let (ca, list) = (old.authority().clone(), old.revocations().clone());
    let new = Credentials::new(ca, renewed, list).unwrap();
    new.write(&holder.home.identity()).unwrap();
    tokio::time::sleep(Duration::from_secs(10)).await;
    federation.revoke(&[1]);
    until(|| server.log().contains("\"number\":2}}")).await;
    gate.open();
    for member in &mut members {
        let outcome = member.end().await.unwrap();
        assert!(
            outcome.completed,
            "{}: {:?}",
            outcome.reason,
            member.voided()
        );
        assert_eq!(member.reports()[0].contributors, 3);
    }
    assert!(federation.model(1, &job).is_some());
    server.stop().await;
}

/// The server's clock is 45 minutes behind, as a malicious one's may be: for it the list is not yet a day old.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plan_under_a_list_that_is_older_than_the_policy_allows_is_refused_by_the_members() {
    let policy = format!("{LABORATORY}\n[identity]\nmax_revocation_list_age_days = 1\n");
    let mut federation = Federation::found(3, &policy).await;
    let now = SystemTime::now();
    let issued = now - Duration::from_secs(24 * 3_600 + 1_800);
    let old = Validity::between(issued, now + Duration::from_secs(86_400)).unwrap();
    let old = (federation.authority().revoke(&BTreeMap::new(), 2, old)).unwrap();
    federation.hand_over(&old);
    let server = federation.serve_behind_by(Duration::from_secs(2_700));
    let mut members: Vec<_> = (0..3)
        .map(|member| federation.join(Vectors::of(member, DIMENSION)))
        .collect();
    let wish = Wish {
        seconds: [4, 60, 60],
        ..Wish::of(3, DIMENSION)
    };
    let (mut researcher, job) = federation.submit(&wish).await;
    let state = until_job(&mut researcher, job, is_over).await;
    assert_eq!(state.phase, "ended", "{}", state.reason);
    for member in &mut members {
        assert!(!member.end().await.unwrap().completed);
        let said = member.voided().join("\n");
        assert!(
            said.contains(
                "identity.max_revocation_list_age_days: asked for a revocation list issued at"
            ),
            "{said}"
        );
    }
    server.stop().await;
}
