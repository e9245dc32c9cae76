//! Logs against one another: what one says, another one must know.

use std::{collections::BTreeMap, path::Path};

use ciphertune_audit::Reader;
use ciphertune_identity::Validity;
use ciphertune_round::{Digest, Fingerprint};

use super::{
    case::{AttemptFacts, Case, Claim, JobFacts, Sent, View},
    finding::{Finding, Rule},
    node::{Node, SKEW},
};

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
                node.known_to_others += u64::from(claim.by_another);
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
            time: Some(Validity::instant(time / 1000).to_string()),
            since: Some(since),
            detail,
        };
        self.find(time, finding);
    }

    /// Holds what each log says of each job and attempt to what the others do. Of a log that breaks off nothing is asked that might
    /// stand behind.
    pub(super) fn check_others(&mut self, nodes: &[Node], server: Option<usize>) {
        let is_whole = |place: usize| nodes.get(place).is_some_and(|node| node.is_whole);
        let server = server.filter(|place| is_whole(*place));
        let mut found = Vec::new();
        for (context, attempt) in &self.attempts {
            let said = self.of_attempt(attempt, server, &is_whole);
            found.extend(said.into_iter().map(|(rule, place, said)| {
                let (round, number) = (attempt.round, attempt.attempt);
                let which = context.digest().short();
                let said = format!("round {round}, attempt {number} ({which}): {said}");
                (attempt.time, rule, place, said)
            }));
        }
        for (digest, at) in &self.ended_at {
            found.extend(self.of_pruned(digest, at, server));
        }
        for (digest, facts) in &self.jobs {
            let server = server.filter(|place| self.keeps(*place, digest));
            let keeps = |place: usize| is_whole(place) && self.keeps(place, digest);
            let said = self.of_job(facts, server, &keeps);
            found.extend(said.into_iter().map(|(rule, place, said)| {
                let which = digest.short();
                (facts.time, rule, place, format!("job {which}: {said}"))
            }));
        }
        for (time, rule, place, detail) in found {
            let node = nodes
                .get(place)
                .map_or_else(String::new, |node| node.name.clone());
            let finding = Finding {
                rule,
                node,
                entry: None,
                time: None,
                since: None,
                detail,
            };
            self.find(time, finding);
        }
    }

    /// A node that has removed a job's evidence must not have had its end long before the server made it, or the server
    /// long before a member heard of it.
    fn of_pruned(
        &self,
        job: &Digest,
        at: &BTreeMap<usize, u64>,
        server: Option<usize>,
    ) -> Option<(u64, Rule, usize, String)> {
        let made = server.and_then(|server| at.get(&server)).copied();
        let made = made.or_else(|| at.values().max().copied().filter(|_| server.is_none()))?;
        let early = |(place, own): (&usize, &u64)| {
            let is_early = made > own.saturating_add(SKEW) && !self.keeps(*place, job);
            is_early.then_some((*place, *own))
        };
        let (place, own) = at.iter().find_map(early)?;
        let said = format!(
            "job {}: it removed its evidence by an end that is {} minutes earlier than another log's",
            job.short(),
            (made - own) / 60_000
        );
        Some((own, Rule::Time, place, said))
    }

    /// Whether a node still has what its log says of a job.
    fn keeps(&self, place: usize, job: &Digest) -> bool {
        let pruned = self.pruned.get(place);
        pruned.is_none_or(|pruned| !pruned.contains(job))
    }

    /// The members whose whole logs are at hand: place, fingerprint, number.
    fn members_at_hand<'a>(
        &'a self,
        server: Option<usize>,
        is_whole: &'a dyn Fn(usize) -> bool,
    ) -> impl Iterator<Item = (usize, &'a Fingerprint, Option<u32>)> {
        let places = self.parties.iter().enumerate();
        let known = places.filter_map(|(place, party)| Some((place, party.as_ref()?)));
        let others = known.filter(move |(place, _)| Some(*place) != server && is_whole(*place));
        others.map(|(place, party)| (place, party, self.number_if_met(party)))
    }

    fn of_attempt(
        &self,
        attempt: &AttemptFacts,
        server: Option<usize>,
        is_whole: &dyn Fn(usize) -> bool,
    ) -> Vec<Found> {
        let mut found: Vec<Found> = Vec::new();
        let has = |place: usize| self.keeps(place, &attempt.job);
        let server = server.filter(|place| has(*place));
        let of_server = server.and_then(|server| attempt.views.get(&server));
        for (place, _, number) in self.members_at_hand(server, is_whole) {
            if !has(place) {
                continue;
            }
            let view = attempt.views.get(&place);
            let said = number.and_then(|number| of_member(attempt, view, of_server, number));
            found.extend(said.map(|(rule, said)| (rule, place, said)));
        }
        if let Some(place) = server {
            let said = of_server_in(attempt, of_server, self.ends.get(&attempt.job));
            found.extend(said.map(|(rule, said)| (rule, place, said)));
        }
        found
    }

    fn of_job(
        &self,
        facts: &JobFacts,
        server: Option<usize>,
        is_whole: &dyn Fn(usize) -> bool,
    ) -> Vec<Found> {
        let mut found: Vec<Found> = Vec::new();
        let missing = |place: usize, said: String| (Rule::Missing, place, said);
        if let Some(place) = server
            && !facts.known_to.contains(&place)
        {
            let said = "a member answered it, and the server's log does not know it";
            found.push(missing(place, said.into()));
        } else if let Some(place) = server
            && !facts.ended_in.is_empty()
            && !facts.ended_in.contains(&place)
        {
            let said = "a member's log holds its end as the server signed it, and the server's log does not";
            found.push(missing(place, said.into()));
        }
        for (place, party, _) in self.members_at_hand(server, is_whole) {
            let name = self.name_of(party);
            let own = facts.own_answers.get(&place);
            if let Some(received) = facts.received_answers.get(party)
                && own.is_none_or(|own| !own.contains_key(received))
            {
                let said = "the server has this member's signed answer, and its own log has not";
                found.push(missing(place, said.into()));
            }
            let taken = own.into_iter().flatten().filter(|(_, taken)| **taken);
            if let Some(server) = server
                && taken
                    .map(|(digest, _)| digest)
                    .any(|it| facts.received_answers.get(party) != Some(it))
            {
                let said = format!("the server took the answer of {name}, and its log has not");
                found.push(missing(server, said));
            }
        }
        found
    }
}

/// A rule that a log breaks: its place, and how.
type Found = (Rule, usize, String);

/// What a member's log must say of an attempt that the server, or the roster, says it took part in.
fn of_member(
    attempt: &AttemptFacts,
    view: Option<&View>,
    server: Option<&View>,
    number: u32,
) -> Option<(Rule, String)> {
    let sent = |what: Sent| view.and_then(|view| view.sent.get(&what)).copied();
    let roster = attempt.roster.as_ref();
    let in_roster = roster
        .and_then(|roster| roster.headers.get(&number))
        .copied();
    if let Some(theirs) = in_roster
        && sent(Sent::Contribution).is_none_or(|(own, _)| own != theirs)
    {
        let said = match sent(Sent::Contribution) {
            None => {
                "a signed roster has this member's signed contribution, and its own log has none"
                    .into()
            }
            Some((own, _)) => format!(
                "a signed roster has the contribution {} of this member, and its own log {}",
                theirs.short(),
                own.short()
            ),
        };
        return Some((Rule::Missing, said));
    }
    for what in [
        Sent::Contribution,
        Sent::Echo,
        Sent::Release,
        Sent::Agreement,
    ] {
        let Some((theirs, at)) = attempt.received.get(&(number, what)).copied() else {
            continue;
        };
        let word = what.word();
        match sent(what) {
            None => {
                let said =
                    format!("the server has this member's signed {word}, and its own log has none");
                return Some((Rule::Missing, said));
            }
            Some((own, _)) if own != theirs => {
                let said = format!(
                    "the server has the {word} {} of this member, and its own log {}",
                    theirs.short(),
                    own.short()
                );
                return Some((Rule::Roster, said));
            }
            Some((_, sent)) if sent > at + SKEW => {
                let minutes = (sent - at) / 60_000;
                return Some((
                    Rule::Time,
                    format!("its {word} was sent {minutes} minutes after the server had it"),
                ));
            }
            Some(_) => {}
        }
    }
    let (view, server) = (view?, server?);
    for (what, theirs, own) in [
        ("plan", server.plan_time, view.plan_time),
        ("roster", server.roster_time, view.roster_time),
    ] {
        if own > 0 && theirs > own + SKEW {
            let minutes = (theirs - own) / 60_000;
            let said =
                format!("the member had its {what} {minutes} minutes before the server made it");
            return Some((Rule::Time, said));
        }
    }
    None
}

/// What the server's log must say of an attempt that others know.
fn of_server_in(
    attempt: &AttemptFacts,
    view: Option<&View>,
    end: Option<&(bool, u32, String)>,
) -> Option<(Rule, String)> {
    let missing = |said: &str| Some((Rule::Missing, said.to_owned()));
    let Some(view) = view else {
        return missing("a member's log has its plan, and the server's log has not");
    };
    let roster = attempt.roster.as_ref();
    if roster.is_some() && view.roster.is_none() {
        return missing("a member's log has its signed roster, and the server's log has none");
    }
    let contributors = roster.map_or(&[][..], |roster| &roster.contributors);
    if contributors
        .iter()
        .any(|who| !attempt.contributed.contains(who))
    {
        return missing("the roster names a contribution that is in no entry of the server's log");
    }
    let others = || attempt.views.values();
    if others().any(|it| it.quorum.is_some()) && view.echoes < attempt.threshold {
        return missing(
            "a member's log has enough signed echoes of its roster, and the server's log has not",
        );
    }
    if others().any(|it| it.is_open) && view.releases < attempt.threshold {
        return missing(
            "a member opened its sum, and the server's log has not the signed releases that it takes",
        );
    }
    if !attempt.shown.is_subset(&attempt.agreed_with) {
        return missing(
            "a member's log has signed agreements that the server handed on, and the server's log has not",
        );
    }
    if attempt.agreed.is_some() && attempt.void.is_some() {
        return Some((
            Rule::Agreement,
            "members agreed on its model, and the server signed that it was void".into(),
        ));
    }
    // Stopped between the last agreement and the end of its round a job ends without it.
    let stopped = end.is_some_and(|(completed, ..)| !completed);
    if attempt.agreed.is_some() && !attempt.is_complete && !stopped {
        return missing(
            "members agreed on its model, and the server's log does not say that the round is complete",
        );
    }
    None
}

impl Sent {
    fn word(self) -> &'static str {
        match self {
            Self::Contribution => "contribution",
            Self::Echo => "echo",
            Self::Release => "release",
            Self::Agreement => "agreement",
        }
    }
}
