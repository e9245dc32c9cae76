//! Logs against one another: what one says, another one must know.

use std::path::Path;

use ciphertune_audit::Reader;
use ciphertune_round::{Context, Digest, Fingerprint};

use super::{
    case::{AttemptFacts, Case, Claim},
    finding::{Finding, Rule},
    node::Node,
};

/// How far clocks may be apart, in milliseconds.
const SKEW: u64 = 300_000;

impl Case {
    /// Holds a log to every head of it that others have signed for, by reading it once more.
    pub(super) fn check_claims(&mut self, folder: &Path, node: &mut Node, owner: &Fingerprint) {
        let Some(claims) = self.claims.get(owner).cloned() else {
            return;
        };
        let Ok(mut reader) = Reader::open(folder.join("audit.jsonl")) else {
            return;
        };
        let mut held: Option<(u64, Claim)> = None;
        let mut claims = claims.into_iter().peekable();
        loop {
            while let Some((size, claim)) = claims.next_if(|(size, _)| *size == reader.size()) {
                node.known_to_others += 1;
                if reader.root() != claim.root {
                    let said = format!(
                        "the first {size} entries are not those that {} signed for (root {})",
                        self.whose(&claim),
                        Digest::from_bytes(claim.root).short()
                    );
                    return self.forked(node, reader.last_time(), size, held.as_ref(), said);
                }
                held = Some((size, claim));
            }
            match reader.next() {
                Ok(Some(_)) => {}
                _ => break,
            }
        }
        if let Some((size, claim)) = claims.next().filter(|_| node.is_whole) {
            let said = format!(
                "the log has {} entries, and {} signed for {size}: its end was cut off",
                reader.size(),
                self.whose(&claim)
            );
            self.forked(node, reader.last_time(), size, held.as_ref(), said);
        }
    }

    fn forked(
        &mut self,
        node: &Node,
        time: u64,
        size: u64,
        held: Option<&(u64, Claim)>,
        detail: String,
    ) {
        let since = match held {
            Some((good, claim)) => {
                let whose = self.whose(claim);
                format!("its first {good} entries are as {whose} signed for")
            }
            None => "nothing before is signed for by another".into(),
        };
        let finding = Finding {
            rule: Rule::Fork,
            node: node.name.clone(),
            entry: size.checked_sub(1),
            time: node.until.clone(),
            since: Some(since),
            detail,
        };
        self.find(time, finding);
    }

    /// Holds what each log says of each attempt to what the others do. Of a log that breaks off nothing is asked that might stand
    /// behind.
    pub(super) fn check_attempts(&mut self, nodes: &[Node], server: Option<usize>) {
        let mut found = Vec::new();
        for (context, attempt) in &self.attempts {
            for (place, node) in nodes.iter().enumerate() {
                let party = self.parties.get(place).copied().flatten();
                let asked = node.is_whole && Some(place) != server;
                if let Some(party) = party.filter(|_| asked) {
                    let said =
                        of_member(attempt, place, (&party, self.number_if_met(&party)), server);
                    found
                        .extend(said.map(|(rule, said)| (attempt.time, rule, node, context, said)));
                }
            }
            if let Some(server) = server
                && !attempt.views.contains_key(&server)
                && let Some(node) = nodes.get(server).filter(|it| it.is_whole)
            {
                let said = "a member's log has its plan, and the server's log has not".to_owned();
                found.push((attempt.time, Rule::Missing, node, context, said));
            }
        }
        let found: Vec<(u64, Finding)> = found
            .into_iter()
            .map(|(time, rule, node, context, said)| {
                (
                    time,
                    finding(rule, node, context, attempt_of(self, context), said),
                )
            })
            .collect();
        for (time, finding) in found {
            self.find(time, finding);
        }
    }
}

fn attempt_of<'a>(case: &'a Case, context: &Context) -> Option<&'a AttemptFacts> {
    case.attempts.get(context)
}

/// What a member's log must say of an attempt that the server, or the roster, says it took part in.
fn of_member(
    attempt: &AttemptFacts,
    place: usize,
    (party, number): (&Fingerprint, Option<u32>),
    server: Option<usize>,
) -> Option<(Rule, String)> {
    let view = attempt.views.get(&place);
    let own = view.and_then(|view| view.header);
    let roster = attempt.roster.as_ref();
    let in_roster = roster
        .and_then(|roster| roster.headers.get(&number?))
        .copied();
    let received = attempt.received.get(party);
    let theirs = in_roster.or(received.map(|(header, _)| *header));
    match (theirs, own) {
        (Some(_), None) => {
            return Some((
                Rule::Missing,
                "the server has this member's signed contribution, and its own log has none".into(),
            ));
        }
        (Some(theirs), Some(own)) if theirs != own => {
            return Some((
                Rule::Roster,
                format!(
                    "the server has the contribution {} of this member, and its own log {}",
                    theirs.short(),
                    own.short()
                ),
            ));
        }
        _ => {}
    }
    let view = view?;
    if let Some((_, at)) = received.filter(|(_, at)| view.header_time > at + SKEW) {
        let minutes = (view.header_time - at) / 60_000;
        return Some((
            Rule::Time,
            format!("it was sent {minutes} minutes after the server had it"),
        ));
    }
    let planned = server.and_then(|server| attempt.views.get(&server));
    let planned = planned.map_or(0, |view| view.plan_time);
    if planned > view.plan_time.saturating_add(SKEW) {
        let minutes = (planned - view.plan_time) / 60_000;
        return Some((
            Rule::Time,
            format!("the member had its plan {minutes} minutes before the server made it"),
        ));
    }
    None
}

fn finding(
    rule: Rule,
    node: &Node,
    context: &Context,
    attempt: Option<&AttemptFacts>,
    said: String,
) -> Finding {
    let (round, number) = attempt.map_or((0, 0), |it| (it.round, it.attempt));
    Finding {
        rule,
        node: node.name.clone(),
        entry: None,
        time: None,
        since: None,
        detail: format!(
            "round {round}, attempt {number} ({}): {said}",
            context.digest().short()
        ),
    }
}
