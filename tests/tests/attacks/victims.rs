//! What every attack here asserts of its victims, and what attackers share.

use ciphertune_ledger::Cost;
use ciphertune_round::{Digest, Job, Plan, Roster};
use ciphertune_sum::{N, add_assign, codec};
use ciphertune_tests::{
    federation::{Federation, INSTITUTION, Member, Wish, until},
    front::{Front, Lies, Put},
    learner::{Vectors, first_model},
    plaintext::{Quantiser, add_up},
};
use ciphertune_wire::proto::EventKind;

/// Two blocks of four integers a word, the second not full.
pub const DIMENSION: usize = 20_000;
/// q.
pub const Q: u64 = 0xFFFF_FFFF_0000_0001;

/// Adds `by` to one word, modulo q: the smallest change that still is a body.
pub fn add_to_word(bytes: &mut [u8], word: usize, by: u64) {
    let place = &mut bytes[8 * word..8 * word + 8];
    let value = u64::from_le_bytes((&*place).try_into().unwrap());
    let changed = ((u128::from(value) + u128::from(by)) % u128::from(Q)) as u64;
    place.copy_from_slice(&changed.to_le_bytes());
}

/// The sum of bodies, as a server adds them, however many they are.
pub fn sum_of(bodies: &[Vec<u8>]) -> Vec<u8> {
    let mut sum = vec![0; bodies[0].len() / 8];
    for body in bodies {
        for (sum, body) in sum.chunks_mut(N).zip(body.chunks(8 * N)) {
            let mut words = vec![0; N];
            codec::decode_words(body, &mut words).unwrap();
            add_assign(sum, &words);
        }
    }
    let mut bytes = Vec::new();
    codec::encode_words(&sum, &mut bytes);
    bytes
}

/// What the members' plain updates of round 1 average to, three of them, without noise.
pub fn average() -> Vec<f32> {
    let quantiser = Quantiser::derive(3, None, 12, DIMENSION);
    let plain =
        [0, 1, 2].map(|member| quantiser.quantise(&Vectors::of(member, DIMENSION).update(1)));
    quantiser.average_onto(&first_model(DIMENSION), &add_up(&plain), 3)
}

/// A victim left its one attempt with `words`: it has no model, its audit log says why, and the key that would open
/// what was sealed to it is erased.
#[track_caller]
pub fn left_with(federation: &Federation, member: usize, run: &Member, job: &Digest, words: &str) {
    let said = run.voided();
    assert_eq!(said.len(), 1, "{said:?}");
    assert!(said[0].contains(words), "{said:?} does not say {words:?}");
    assert_eq!(federation.refused(member), said, "the log of {member}");
    assert_eq!(federation.log(member, "attempt-left").len(), 1);
    assert_eq!(federation.log(member, "opened").len(), 0);
    assert!(federation.model(member, job).is_none(), "member {member}");
    assert!(run.reports().is_empty());
    keys_of_contexts_are_erased(federation, member, 1);
}

/// A member bound keys to so many contexts, and none of them is left.
#[track_caller]
pub fn keys_of_contexts_are_erased(federation: &Federation, member: usize, contexts: usize) {
    let (held, bound) = federation.one_time_keys(member);
    assert_eq!(bound.len(), contexts, "keys bound by {member}");
    assert!(
        held.is_disjoint(&bound),
        "member {member} holds {held:?} of {bound:?}"
    );
}

/// Runs three members under a lying server. Every one of them must leave the attempt with `words`; nobody agrees to
/// anything, nobody says two things in one context. `said` is how many echoes and how many releases there are.
pub async fn refused_by_all(lies: Lies, mut federation: Federation, said: [usize; 2], words: &str) {
    let (server, front) = federation.serve_behind(lies).await;
    let mut members: Vec<_> = (0..3)
        .map(|member| federation.join(Vectors::of(member, DIMENSION)))
        .collect();
    let wish = Wish {
        seconds: [60, 3, 3],
        ..Wish::of(3, DIMENSION)
    };
    let (_, job) = federation.submit(&wish).await;
    for (member, run) in members.iter_mut().enumerate() {
        let outcome = run.end().await.unwrap();
        assert!(!outcome.completed && outcome.rounds == 0, "{outcome:?}");
        left_with(&federation, member, run, &job, words);
    }
    nobody_said_more(&front, said);
    server.stop().await;
}

/// So many echoes and releases, no agreement, and nothing twice.
#[track_caller]
pub fn nobody_said_more(front: &Front, said: [usize; 2]) {
    let counted = [Put::Echo, Put::Release].map(|put| front.count(put));
    assert_eq!(counted, said, "echoes and releases");
    assert_eq!(front.count(Put::Agreement), 0);
    assert_eq!(front.contradictions(), Vec::<String>::new());
}

/// Runs three members under a server that lies about the roster, in its own name.
pub async fn refused_roster(
    federation: Federation,
    words: &str,
    lie: impl Fn(&mut Roster) + Send + Sync + 'static,
) {
    let lies = Lies::none().about(EventKind::Roster, federation.server_key(), lie);
    refused_by_all(lies, federation, [0, 0], words).await;
}

/// Runs members of a private federation, each with `site` as its own policy, under plans that the server changed and
/// signed. Everybody must refuse with `words`, before anything is charged or sent.
pub async fn refused_plan(
    site: Option<&str>,
    words: &str,
    lie: impl Fn(&mut Plan) + Send + Sync + 'static,
) {
    let federation = Federation::found_with(INSTITUTION, &[site; 3]).await;
    let lies = Lies::none().about(EventKind::Plan, federation.server_key(), lie);
    refused_before_anything_is_sent(lies, federation, words).await;
}

/// Runs three members of a private federation. Everybody must refuse the first plan with `words`, in its audit log too,
/// before anything is charged or sent, and without a key left that the plan made known.
pub async fn refused_before_anything_is_sent(lies: Lies, federation: Federation, words: &str) {
    let job = Wish::of(3, 100).job(INSTITUTION).unwrap();
    refused_before_anything_is_sent_by(3, job, lies, federation, words).await;
}

/// So do so many members, all of a private federation, that take part in a job.
pub async fn refused_before_anything_is_sent_by(
    members: usize,
    job: Job,
    lies: Lies,
    mut federation: Federation,
    words: &str,
) {
    let (server, front) = federation.serve_behind(lies).await;
    let mut members: Vec<_> = (0..members)
        .map(|member| federation.join(Vectors::of(member, 100)))
        .collect();
    federation.submit_job(job).await;
    for (member, run) in members.iter_mut().enumerate() {
        until(|| !run.voided().is_empty()).await;
        run.drop_out().await;
        let said = run.voided();
        assert!(said[0].contains(words), "{said:?} does not say {words:?}");
        assert_eq!(federation.refused(member), said, "the log of {member}");
        assert_eq!(federation.log(member, "plan").len(), 0);
        let (held, bound) = federation.one_time_keys(member);
        assert!(held.is_disjoint(&bound), "{held:?} of {bound:?}");
        let standing = federation.standing(member).await.expect("it reserved");
        assert_eq!(standing.spent, Cost::ZERO);
        assert!(standing.held != Cost::ZERO);
    }
    let sent = [Put::KeyShares, Put::Body, Put::Echo, Put::Release].map(|put| front.count(put));
    assert_eq!(sent, [0; 4]);
    assert_eq!(server.holds(), Vec::<String>::new());
    server.stop().await;
}
