//! The entries of jobs and their rounds: each object signed by whom it may be, and inside what was signed before it.

use std::collections::{BTreeMap, BTreeSet};

use ciphertune_audit::{Note, Record};
use ciphertune_identity::Role;
use ciphertune_ledger::Cost;
use ciphertune_policy::{Instant, Policy, Unit};
use ciphertune_round::{
    Abort, Admission, Agreement, Context, Digest, Echo, Ended, Fingerprint, Header, Job, Plan,
    Release, Roster, Signed, Void,
};

use super::{
    case::{AttemptFacts, Claim, JobFacts, Refusal, RosterFacts, Sent, View},
    finding::{Breaks, Check, Rule, Wrong, demand},
    node::{Examiner, context, digest, same},
};
use crate::{
    mechanism::Reckoned,
    quorum::{Certificate, split},
    rules::{self, Rules},
};

impl Examiner<'_> {
    pub(super) fn of_a_job(&mut self, record: &Record, objects: &[Vec<u8>]) -> Check {
        match (record.kind.as_str(), objects) {
            ("job", [job]) => self.job(record, job).map(drop),
            ("admission", [job, admission]) if !self.is_server() => {
                self.job(record, job)?;
                self.admission(record, admission)
            }
            ("admission", [admission]) if self.is_server() => self.admission(record, admission),
            ("answered", []) => self.answered(record),
            ("body", []) => self.body(record),
            ("plan", [plan]) => self.planned(record, plan),
            ("charge", []) => self.charge(record),
            ("contribution", [header]) => self.contribution(record, header),
            ("roster", [roster]) => self.roster(record, roster),
            ("echo", [echo]) => self.echo(record, echo),
            ("quorum", [certificate]) => self.quorum(record, certificate),
            ("settle", []) => self.settle(record),
            ("release", [release]) => self.release(record, release),
            ("opened", []) => self.opened(record),
            ("agreement", [agreement]) => self.agreement(record, agreement),
            ("agreed", [agreements]) => self.agreed(record, agreements),
            ("complete", []) => self.complete(record),
            ("void", [void]) => self.void(record, void),
            ("abort", [abort]) => self.abort(record, abort),
            ("ended", objects) => self.ended(record, objects.first().map(Vec::as_slice)),
            ("refused", []) => {
                self.refused(record);
                Ok(())
            }
            // What decides nothing.
            (
                "reserve" | "revoked" | "restarted" | "held" | "resumed" | "hopeless"
                | "attempt-left" | "repaired" | "parcel" | "parcel-request" | "parcel-call"
                | "caught-up" | "wrong-parcel" | "unopened-share" | "lying-check-value",
                _,
            ) => Ok(()),
            (kind, objects) => Err(Wrong(
                Rule::Chain,
                format!(
                    "no node writes an entry {kind:?} that rests on {} objects: it was inserted or edited",
                    objects.len()
                ),
            )),
        }
    }

    fn job(&mut self, record: &Record, bytes: &[u8]) -> Check<Digest> {
        let manifest = self.manifest()?;
        let job = Signed::<Job>::decode(bytes, manifest.value()).breaks(Rule::Signature)?;
        let found = job.digest();
        same(record, "job", &found)?;
        let reckoned = Reckoned::of(&job, job.min_contributors, job.colluders);
        let place = self.place;
        let facts = self.case.jobs.entry(found).or_insert_with(|| JobFacts {
            reckoned: reckoned.map_err(|error| error.to_string()),
            job,
            evidence: record.evidence().next().unwrap_or_default().to_owned(),
            time: record.time,
            policies: Vec::new(),
            known_to: BTreeSet::new(),
            answers: BTreeMap::new(),
            own_answers: BTreeMap::new(),
            received_answers: BTreeMap::new(),
            datasets: BTreeMap::new(),
            budget: None,
            ended_in: BTreeSet::new(),
            refusals: Vec::new(),
        });
        facts.known_to.insert(place);
        Ok(found)
    }

    fn admission(&mut self, record: &Record, bytes: &[u8]) -> Check {
        let admission = self.signed::<Admission>(bytes, Role::Member)?;
        same(record, "job", &admission.job)?;
        same(record, "admission", &admission.digest())?;
        self.check_sender(record, &admission.signer())?;
        let accepted = record.fields.get("accepted").and_then(|it| it.as_bool());
        demand(
            accepted == Some(admission.refusal.is_none()),
            Rule::Evidence,
            || "the entry says another answer than was signed".into(),
        )?;
        let (job, who) = (admission.job, admission.signer());
        let (name, refusal) = (self.case.name_of(&who), admission.refusal.clone());
        let (is_server, place, found) = (self.is_server(), self.place, admission.digest());
        let facts = self.case.jobs.get_mut(&job);
        let facts = facts.ok_or_else(|| unknown("job", &job))?;
        if let Some(reason) = &refusal
            && !facts.answers.contains_key(&who)
        {
            facts.refusals.push(Refusal {
                by: name,
                time: record.when(),
                reason: reason.clone(),
            });
        }
        facts.answers.insert(who, refusal);
        if is_server {
            facts.received_answers.insert(who, found);
            return Ok(());
        }
        let own = facts.own_answers.entry(place).or_default();
        own.entry(found).or_insert(false);
        let dataset = record.text("dataset").unwrap_or_default().to_owned();
        facts.datasets.entry(place).or_default().insert(dataset);
        Ok(())
    }

    /// The server took an answer.
    fn answered(&mut self, record: &Record) -> Check {
        let (job, admission) = (digest(record, "job")?, digest(record, "admission")?);
        let place = self.place;
        let facts = self
            .case
            .jobs
            .get_mut(&job)
            .ok_or_else(|| unknown("job", &job))?;
        let own = facts.own_answers.entry(place).or_default();
        demand(own.insert(admission, true).is_some(), Rule::Missing, || {
            "the answer itself is in no entry before".into()
        })
    }

    /// Whose object an entry may be about: a member's own in its log, the one that is named in the server's.
    fn check_sender(&self, record: &Record, signer: &Fingerprint) -> Check {
        if !self.is_server() {
            demand(
                self.in_force.party == Some(*signer),
                Rule::Signature,
                || format!("signed by {}, in another's log", self.case.name_of(signer)),
            )?;
            return self.check_own(record);
        }
        let named = digest(record, "member").map(Fingerprint::from_digest)?;
        demand(named == *signer, Rule::Evidence, || {
            format!("it was signed by {}", self.case.name_of(signer))
        })?;
        self.check_own(record)?;
        self.check_other(signer, record)
    }

    fn planned(&mut self, record: &Record, bytes: &[u8]) -> Check {
        self.check_own(record)?;
        let plan = self.signed::<Plan>(bytes, Role::Server)?;
        let found = plan.context();
        same(record, "context", &found.digest())?;
        same(record, "job", &plan.job)?;
        let place = (plan.job, plan.round, plan.attempt);
        let of_round = (record.number("round"), record.number("attempt"));
        demand(
            of_round == (Some(plan.round.into()), Some(plan.attempt.into())),
            Rule::Evidence,
            || {
                format!(
                    "the plan is of round {}, attempt {}",
                    plan.round, plan.attempt
                )
            },
        )?;
        let first = *self.case.plans.entry(place).or_insert(found);
        let only = demand(first == found, Rule::Plan, || {
            format!(
                "a second plan for round {}, attempt {}: {} and {}",
                plan.round,
                plan.attempt,
                first.digest().short(),
                found.digest().short()
            )
        });
        let name = record.evidence().next().unwrap_or_default().to_owned();
        self.case
            .attempts
            .entry(found)
            .or_insert_with(|| AttemptFacts {
                job: plan.job,
                round: plan.round,
                attempt: plan.attempt,
                time: record.time,
                plan: name,
                policy: plan.policy,
                parameters: plan.parameters.clone(),
                threshold: plan.threshold,
                min_contributors: plan.min_contributors,
                colluders: plan.colluders,
                cohort: plan.seats.len(),
                roster: None,
                void: None,
                agreed: None,
                is_complete: false,
                contributed: BTreeSet::new(),
                agreed_with: BTreeSet::new(),
                shown: BTreeSet::new(),
                views: BTreeMap::new(),
                received: BTreeMap::new(),
            });
        let place = self.place;
        if let Some(attempt) = self.case.attempts.get_mut(&found) {
            let view = attempt.views.entry(place).or_default();
            if view.plan_time == 0 {
                view.plan_time = record.time;
            }
        }
        self.hold(plan.clone());
        self.check_plan(record, &plan).and(only)
    }

    /// What a member asks of a plan before it takes part.
    fn check_plan(&mut self, record: &Record, plan: &Signed<Plan>) -> Check {
        let manifest = self.manifest()?.clone();
        let facts = self.case.jobs.get(&plan.job);
        let job = facts.ok_or_else(|| unknown("job", &plan.job))?.job.clone();
        plan.check_against(&job, &rules::members(&manifest))
            .breaks(Rule::Plan)?;
        rules::check_cohort(plan, &manifest).breaks(Rule::Plan)?;
        plan.parameters().breaks(Rule::Plan)?;
        plan.one_time_keys(&self.keyring()?)
            .breaks(Rule::Signature)?;
        Reckoned::demand_enough_noise(&job, plan.min_contributors, plan.colluders)
            .breaks(Rule::Plan)?;
        if self.is_server() {
            let (last, model) =
                (self.completed.get(&plan.job).copied()).unwrap_or((0, job.initial_model));
            demand(plan.round == last + 1, Rule::Plan, || {
                format!("a plan for round {} after round {last}", plan.round)
            })?;
            demand(plan.model == model, Rule::Plan, || {
                "the plan starts from another model than was agreed on".into()
            })?;
        }
        let earlier = self.rules.remove(&plan.job);
        let rules = match earlier {
            Some((noted, rules)) if rules.are_those_of(plan) => {
                rules.check_named_by(plan).breaks(Rule::Policy)?;
                self.rules.insert(plan.job, (noted, rules));
                return self.check_admitted(record, &job, plan);
            }
            Some((noted, _)) => {
                let rules = Rules::of(plan, &manifest).breaks(Rule::Policy)?;
                rules
                    .demand_no_weaker_than(&noted, plan)
                    .breaks(Rule::Policy)?;
                rules
            }
            None => Rules::of(plan, &manifest).breaks(Rule::Policy)?,
        };
        self.check_own_policies(plan, &rules)?;
        let documents = rules.documents().iter().map(|document| {
            let policy = Policy::parse(&document.toml).ok();
            let name = policy.as_ref().and_then(|policy| policy.names().next());
            let name = name.unwrap_or_default().to_owned();
            (name, document.digest(), document.signer())
        });
        if let Some(facts) = self.case.jobs.get_mut(&plan.job) {
            facts.policies = documents.collect();
            facts.budget = rules.policy().budget();
        }
        self.rules.insert(plan.job, (plan.value().clone(), rules));
        self.check_admitted(record, &job, plan)
    }

    /// The policies that this node says it holds are among the plan's.
    fn check_own_policies(&self, plan: &Signed<Plan>, rules: &Rules) -> Check {
        let Some((federation, site)) = self.in_force.policies.split_first() else {
            return Err(Wrong(
                Rule::Policy,
                "the log names no policy before it".into(),
            ));
        };
        let carries = |own: &Signed<_>| {
            let mut documents = rules.documents().iter();
            documents.any(|it| rules::is(it.envelope(), Signed::envelope(own)))
        };
        let first = rules.documents().first();
        demand(
            first.is_some_and(|it| rules::is(it.envelope(), federation.envelope())),
            Rule::Policy,
            || "the plan's federation policy is another than this node holds".into(),
        )?;
        let seated = self
            .in_force
            .party
            .is_some_and(|own| plan.seat_of(&own).is_some());
        demand(!seated || site.iter().all(carries), Rule::Policy, || {
            "this node's own policy is not among the plan's".into()
        })
    }

    fn check_admitted(&self, record: &Record, job: &Signed<Job>, plan: &Signed<Plan>) -> Check {
        let Some((_, rules)) = self.rules.get(&plan.job) else {
            return Ok(());
        };
        let now = Instant::from_seconds(record.time / 1000).unwrap_or(Instant::EPOCH);
        let manifest = self.manifest()?;
        rules.admit(job, plan, manifest, now).breaks(Rule::Plan)?;
        let at = |seconds: u64| Instant::from_seconds(seconds).unwrap_or(Instant::EPOCH);
        let list = self.list()?;
        let issued = at(list.validity().not_before());
        (rules.policy().admit_revocation_list(issued, now)).breaks(Rule::Revocation)?;
        demand(
            list.number() != plan.revocation_number || list.digest() == plan.revocations,
            Rule::Revocation,
            || {
                format!(
                    "the plan names another revocation list {}",
                    plan.revocation_number
                )
            },
        )?;
        demand(
            !self.is_server() || list.number() == plan.revocation_number,
            Rule::Revocation,
            || {
                format!(
                    "the plan is made under revocation list {}, and list {} is in force",
                    plan.revocation_number,
                    list.number()
                )
            },
        )?;
        if let Some(certificate) = self
            .in_force
            .certificate
            .as_ref()
            .filter(|_| !self.is_server())
        {
            let issued = at(certificate.validity().not_before());
            (rules.policy().admit_certificate(issued, now)).breaks(Rule::Certificate)?;
        }
        Ok(())
    }

    /// What this node's log says of an attempt.
    fn view(&mut self, context: &Context) -> Check<&mut View> {
        let attempt = self.case.attempts.get_mut(context);
        let view = attempt.and_then(|attempt| attempt.views.get_mut(&self.place));
        view.ok_or_else(|| no_plan(context))
    }

    /// Notes what a member sent: in its own log the first time, in the server's of whom a folder is at hand. Another of its kind in
    /// one attempt is a contradiction.
    fn note_sent(
        &mut self,
        record: &Record,
        what: Sent,
        context: &Context,
        by: &Fingerprint,
        digest: Digest,
    ) -> Check {
        let found = (digest, record.time);
        let first = match self.is_server() {
            true => {
                self.view(context)?;
                let number = self.case.number_of(by);
                if !self.case.has(by) {
                    return Ok(());
                }
                let attempt = self.case.attempts.get_mut(context);
                let attempt = attempt.ok_or_else(|| no_plan(context))?;
                *attempt.received.entry((number, what)).or_insert(found)
            }
            false => *self.view(context)?.sent.entry(what).or_insert(found),
        };
        demand(first.0 == digest, Rule::Roster, || {
            format!("a second, different {} in one attempt", record.kind)
        })
    }

    fn attempt(&self, context: &Context) -> Check<&AttemptFacts> {
        let attempt = self.case.attempts.get(context);
        attempt.ok_or_else(|| unknown("attempt", &context.digest()))
    }

    fn reckoned(&self, context: &Context) -> Check<(&JobFacts, &Reckoned)> {
        let job = self.attempt(context)?.job;
        let facts = self.case.jobs.get(&job);
        let facts = facts.ok_or_else(|| unknown("job", &job))?;
        match &facts.reckoned {
            Ok(reckoned) => Ok((facts, reckoned)),
            Err(said) => Err(Wrong(Rule::Plan, said.clone())),
        }
    }

    fn charge(&mut self, record: &Record) -> Check {
        let context = context(record)?;
        let (_, reckoned) = self.reckoned(&context)?;
        let expected = reckoned.attempt_cost().breaks(Rule::Charge)?;
        check_cost(record, &expected)?;
        self.note_ledger_head(record)?;
        let place = self.place;
        let dataset = record.text("dataset").unwrap_or_default();
        let (facts, _) = self.reckoned(&context)?;
        let named = facts
            .datasets
            .get(&place)
            .is_some_and(|all| all.contains(dataset));
        demand(named, Rule::Charge, || {
            format!(
                "charged to dataset {dataset:?}, which this member's answer to the job does not name"
            )
        })?;
        self.view(&context)?.charged = true;
        Ok(())
    }

    fn settle(&mut self, record: &Record) -> Check {
        let context = context(record)?;
        let own = self.in_force.party;
        let colluders = self.attempt(&context)?.colluders;
        let Some((roster, certificate)) = self.view(&context)?.quorum else {
            let said = "a charge is lowered on a roster that no certificate is of";
            return Err(Wrong(Rule::Charge, said.into()));
        };
        same(record, "roster", &roster)?;
        same(record, "certificate", &certificate)?;
        let facts = self.attempt(&context)?.roster.as_ref();
        let contributors = facts.map_or(&[][..], |it| &it.contributors);
        let own = own.and_then(|own| self.case.number_if_met(&own));
        let (count, named) = (
            contributors.len(),
            contributors.iter().any(|who| Some(*who) == own),
        );
        let (_, reckoned) = self.reckoned(&context)?;
        let expected = match named {
            true => reckoned.cost_with(count, colluders).breaks(Rule::Charge)?,
            false => Cost::ZERO,
        };
        check_cost(record, &expected)?;
        self.note_ledger_head(record)?;
        Ok(())
    }

    fn note_ledger_head(&mut self, record: &Record) -> Check {
        let head = *digest(record, crate::budget::LEDGER_HEAD)?.as_bytes();
        if let Some(own) = self.in_force.party {
            self.case.ledger_heads.entry(own).or_default().push(head);
        }
        Ok(())
    }

    fn contribution(&mut self, record: &Record, bytes: &[u8]) -> Check {
        let context = context(record)?;
        let header = self.signed::<Header>(bytes, Role::Member)?;
        same(record, "header", &header.digest())?;
        same(record, "context", &header.context.digest())?;
        self.check_sender(record, &header.signer())?;
        let (found, sender) = (header.digest(), header.signer());
        self.note_sent(record, Sent::Contribution, &context, &sender, found)?;
        if self.is_server() {
            let number = self.case.number_of(&sender);
            if let Some(attempt) = self.case.attempts.get_mut(&context) {
                attempt.contributed.insert(number);
            }
            return Ok(());
        }
        same(record, "body", &header.body)?;
        let (facts, _) = self.reckoned(&context)?;
        let private = facts.job.mechanism.unit != Unit::None;
        let (body, shares) = (record.number("body_bytes"), record.number("share_bytes"));
        let view = self.view(&context)?;
        view.body_bytes = body.unwrap_or(0);
        view.share_bytes = shares.unwrap_or(0);
        demand(view.charged || !private, Rule::Charge, || {
            "it left without a charge before it".into()
        })
    }

    /// A body that came, whole: the one that its sender's header states.
    fn body(&mut self, record: &Record) -> Check {
        let context = context(record)?;
        let member = digest(record, "member").map(Fingerprint::from_digest)?;
        let (number, body) = (self.case.number_of(&member), digest(record, "body")?);
        // One that came before its header and differs has to come again: the last counts.
        self.view(&context)?.bodies.insert(number, body);
        Ok(())
    }

    fn roster(&mut self, record: &Record, bytes: &[u8]) -> Check {
        let context = context(record)?;
        self.check_own(record)?;
        let roster = self.signed::<Roster>(bytes, Role::Server)?;
        let found = roster.digest();
        same(record, "roster", &found)?;
        let plan = self.plan(&context)?;
        let contributors = roster.contributors(&plan, &self.keyring()?, None);
        let contributors = contributors.breaks(Rule::Roster)?;
        let stated: Vec<(Fingerprint, Digest)> = contributors
            .iter()
            .map(|one| (one.header.signer(), one.header.body))
            .collect();
        let contributors: Vec<_> = contributors
            .iter()
            .map(|one| (one.header.signer(), one.header.digest()))
            .collect();
        let name = record.evidence().next().unwrap_or_default().to_owned();
        let at_hand = contributors.iter().filter(|(who, _)| self.case.has(who));
        let headers: Vec<(Fingerprint, Digest)> = at_hand.copied().collect();
        let own = self.in_force.party;
        let view = self.view(&context)?;
        view.roster = Some(found);
        if view.roster_time == 0 {
            view.roster_time = record.time;
        }
        let header = view
            .sent
            .get(&Sent::Contribution)
            .map(|(digest, _)| *digest);
        let bodies = std::mem::take(&mut view.bodies);
        self.check_bodies(&stated, &bodies)?;
        let named = contributors.iter().find(|(who, _)| Some(*who) == own);
        demand(
            named.is_none_or(|(_, digest)| Some(*digest) == header),
            Rule::Roster,
            || "the roster names another header of this member than it sent".into(),
        )?;
        let numbers = contributors.iter().map(|(who, _)| self.case.number_of(who));
        let numbers = numbers.collect();
        let headers = headers
            .iter()
            .map(|(who, header)| (self.case.number_of(who), *header));
        let headers = headers.collect();
        let first = self
            .case
            .attempts
            .get_mut(&context)
            .map(|it| &mut it.roster);
        let first = first.ok_or_else(|| unknown("attempt", &context.digest()))?;
        let first = first.get_or_insert(RosterFacts {
            digest: found,
            sum: roster.sum,
            contributors: numbers,
            headers,
            evidence: name,
        });
        demand(first.digest == found, Rule::Roster, || {
            format!(
                "two rosters of one attempt: {} here, {} in another log",
                found.short(),
                first.digest.short()
            )
        })
    }

    /// The last body that came of each contributor is the one that its header states: the server's log alone has them.
    fn check_bodies(
        &mut self,
        stated: &[(Fingerprint, Digest)],
        bodies: &BTreeMap<u32, Digest>,
    ) -> Check {
        if !self.is_server() {
            return Ok(());
        }
        for (who, body) in stated {
            let number = self.case.number_of(who);
            demand(bodies.get(&number) == Some(body), Rule::Roster, || {
                format!(
                    "the body of {} is another than its header states, or none came",
                    self.case.name_of(who)
                )
            })?;
        }
        Ok(())
    }

    fn echo(&mut self, record: &Record, bytes: &[u8]) -> Check {
        let context = context(record)?;
        let echo = self.signed::<Echo>(bytes, Role::Member)?;
        same(record, "roster", &echo.roster)?;
        same(record, "context", &echo.context.digest())?;
        self.check_sender(record, &echo.signer())?;
        let (sender, found) = (echo.signer(), echo.digest());
        self.note_sent(record, Sent::Echo, &context, &sender, found)?;
        let holds = self.plan(&context)?.is_holder(&sender);
        let view = self.view(&context)?;
        check_roster(view.roster, echo.roster)?;
        view.echoes += usize::from(holds);
        Ok(())
    }

    fn quorum(&mut self, record: &Record, bytes: &[u8]) -> Check {
        let found = context(record)?;
        let manifest = self.manifest()?;
        let certificate = Certificate::parse(bytes, manifest).breaks(Rule::Roster)?;
        same(record, "context", &certificate.context().digest())?;
        same(record, "roster", &certificate.roster())?;
        same(record, "certificate", &certificate.digest())?;
        let view = self.view(&found)?;
        check_roster(view.roster, certificate.roster())?;
        view.quorum = Some((certificate.roster(), certificate.digest()));
        Ok(())
    }

    /// Only for a roster that t members that hold shares have echoed.
    fn release(&mut self, record: &Record, bytes: &[u8]) -> Check {
        let context = context(record)?;
        let release = self.signed::<Release>(bytes, Role::Member)?;
        same(record, "release", &release.digest())?;
        same(record, "roster", &release.roster)?;
        same(record, "context", &release.context.digest())?;
        let sender = release.signer();
        self.check_sender(record, &sender)?;
        self.note_sent(record, Sent::Release, &context, &sender, release.digest())?;
        let (threshold, is_server) = (self.attempt(&context)?.threshold, self.is_server());
        let view = self.view(&context)?;
        check_roster(view.roster, release.roster)?;
        let enough = match is_server {
            true => view.echoes >= threshold,
            false => view
                .quorum
                .is_some_and(|(roster, _)| roster == release.roster),
        };
        demand(enough, Rule::Release, || {
            format!("released before {threshold} members that hold shares had echoed the roster")
        })?;
        view.releases += 1;
        if release.ledger_head != Digest::from_bytes([0; 32]) {
            let heads = self.case.ledger_heads.entry(sender).or_default();
            heads.push(*release.ledger_head.as_bytes());
        }
        Ok(())
    }

    fn opened(&mut self, record: &Record) -> Check {
        let context = context(record)?;
        let roster = digest(record, "roster")?;
        let view = self.view(&context)?;
        check_roster(view.roster, roster)?;
        view.is_open = true;
        demand(
            view.quorum
                .is_some_and(|(certified, _)| certified == roster),
            Rule::Release,
            || "a sum was opened whose roster no certificate is of".into(),
        )
    }

    fn agreement(&mut self, record: &Record, bytes: &[u8]) -> Check {
        let context = context(record)?;
        let agreement = self.signed::<Agreement>(bytes, Role::Member)?;
        same(record, "context", &agreement.context.digest())?;
        let signer = agreement.signer();
        if record.kind == "agreement" {
            self.check_sender(record, &signer)?;
            let model = if self.is_server() {
                "model"
            } else {
                "agreement"
            };
            same(record, model, &agreement.model)?;
            self.note_sent(
                record,
                Sent::Agreement,
                &context,
                &signer,
                agreement.digest(),
            )?;
        }
        let number = self.case.number_of(&signer);
        let (is_server, own) = (self.is_server(), self.in_force.party);
        self.view(&context)?;
        if let Some(attempt) = self.case.attempts.get_mut(&context) {
            match is_server {
                true => attempt.agreed_with.insert(number),
                false => record.kind == "agreed" && attempt.shown.insert(number),
            };
        }
        if let Some(agreed) = self.attempt(&context)?.agreed {
            demand(agreed == agreement.model, Rule::Agreement, || {
                format!("{} agreed on another model", self.case.name_of(&signer))
            })?;
        }
        let agreements = &mut self.view(&context)?.agreements;
        let said = agreements.insert(number, agreement.model);
        demand(
            said.is_none_or(|said| said == agreement.model),
            Rule::Agreement,
            || "one member agreed on two models".into(),
        )?;
        let claim = Claim {
            root: *agreement.log_head.as_bytes(),
            signer: number,
            by_another: own != Some(signer),
            context,
            is_shown: false,
        };
        self.case.claim(signer, agreement.log_size, claim)?;
        self.server_checkpoint(&agreement.server_checkpoint, claim)
    }

    /// The server's checkpoint that a member was shown.
    fn server_checkpoint(&mut self, note: &[u8], beside: Claim) -> Check {
        let text = std::str::from_utf8(note).breaks(Rule::Checkpoint)?;
        let note = Note::parse(text).breaks(Rule::Checkpoint)?;
        let server = self.manifest()?.server();
        let server = server
            .ok_or_else(|| Wrong(Rule::Certificate, "the manifest names no server".into()))?;
        let (key, party) = (server.key, server.fingerprint());
        if self.shown.as_ref() != Some(&note) {
            note.verify(&key).breaks(Rule::Checkpoint)?;
            self.shown = Some(note.clone());
        }
        let checkpoint = note.unverified();
        let claim = Claim {
            root: *checkpoint.root(),
            is_shown: true,
            by_another: !self.is_server(),
            ..beside
        };
        self.case.claim(party, checkpoint.size(), claim)
    }

    fn agreed(&mut self, record: &Record, agreements: &[u8]) -> Check {
        let context = context(record)?;
        let model = digest(record, "agreement")?;
        let plan = self.plan(&context)?;
        for agreement in split(agreements).breaks(Rule::Evidence)? {
            self.agreement(record, &agreement.encode())?;
        }
        let (up, down) = (record.number("bytes_up"), record.number("bytes_down"));
        let view = self.view(&context)?;
        view.bytes_up = up.unwrap_or(0);
        view.bytes_down = down.unwrap_or(0);
        let agreements = std::mem::take(&mut view.agreements);
        self.check_agreed(&agreements, &plan, model)?;
        self.note_agreed(&context, model)
    }

    fn note_agreed(&mut self, context: &Context, model: Digest) -> Check {
        let Some(attempt) = self.case.attempts.get_mut(context) else {
            return Ok(());
        };
        let first = *attempt.agreed.get_or_insert(model);
        demand(first == model, Rule::Agreement, || {
            format!(
                "another model was agreed on than another log says: {} and {}",
                model.short(),
                first.short()
            )
        })
    }

    /// The server's word that a round is over.
    fn complete(&mut self, record: &Record) -> Check {
        let job = digest(record, "job")?;
        let round = record.number("round").and_then(|it| u32::try_from(it).ok());
        let round = round.ok_or_else(|| Wrong(Rule::Chain, "no round in the entry".into()))?;
        let model = digest(record, "model")?;
        self.completed.insert(job, (round, model));
        let attempts = (1..).map_while(|it| self.case.plans.get(&(job, round, it)));
        let context = attempts.last().copied();
        let context = context.ok_or_else(|| unknown("attempt of job", &job))?;
        let plan = self.plan(&context)?;
        let threshold = self.attempt(&context)?.threshold;
        let view = self.view(&context)?;
        let (releases, agreements) = (view.releases, std::mem::take(&mut view.agreements));
        demand(releases >= threshold, Rule::Missing, || {
            format!(
                "the round is complete, and {releases} releases are in the log where it takes {threshold}"
            )
        })?;
        self.check_agreed(&agreements, &plan, model)?;
        let attempt = self.case.attempts.get_mut(&context);
        if let Some(attempt) = attempt {
            attempt.is_complete = true;
            demand(attempt.void.is_none(), Rule::Agreement, || {
                "the round is complete in an attempt that was void".into()
            })?;
        }
        self.note_agreed(&context, model)
    }

    /// t members that hold shares agreed on one model, and nobody on another.
    fn check_agreed(
        &self,
        agreements: &BTreeMap<u32, Digest>,
        plan: &Signed<Plan>,
        model: Digest,
    ) -> Check {
        let others = agreements.values().filter(|said| **said != model).count();
        demand(others == 0, Rule::Agreement, || {
            format!("{others} members agreed on another model")
        })?;
        let who = agreements.keys();
        let who = who.filter_map(|who| self.case.numbered.get(*who as usize));
        let holders = who.filter(|who| plan.is_holder(who)).count();
        demand(holders >= plan.threshold, Rule::Agreement, || {
            format!(
                "{holders} members that hold shares agreed, and it takes {}",
                plan.threshold
            )
        })
    }

    fn void(&mut self, record: &Record, bytes: &[u8]) -> Check {
        let context = context(record)?;
        let void = self.signed::<Void>(bytes, Role::Server)?;
        same(record, "context", &void.context.digest())?;
        self.view(&context)?;
        if let Some(attempt) = self.case.attempts.get_mut(&context) {
            attempt.void = Some(void.reason.clone());
            demand(!attempt.is_complete, Rule::Agreement, || {
                "an attempt is void whose round was complete".into()
            })?;
        }
        Ok(())
    }

    fn abort(&mut self, record: &Record, bytes: &[u8]) -> Check {
        let manifest = self.manifest()?;
        let abort = Signed::<Abort>::decode(bytes, manifest.value()).breaks(Rule::Signature)?;
        same(record, "job", &abort.job)?;
        same(
            record,
            "by",
            &Digest::from_bytes(*abort.signer().as_bytes()),
        )
    }

    fn ended(&mut self, record: &Record, bytes: Option<&[u8]>) -> Check {
        let job = digest(record, "job")?;
        // A member that was away when it ended has heard of it otherwise.
        let Some(bytes) = bytes else {
            return demand(!self.is_server(), Rule::Evidence, || {
                "the server's end of a job rests on nothing that it signed".into()
            });
        };
        let ended = self.signed::<Ended>(bytes, Role::Server)?;
        same(record, "job", &ended.job)?;
        let fields = (
            record.fields.get("completed").and_then(|it| it.as_bool()),
            record.number("rounds"),
            record.text("reason"),
        );
        let signed = (
            Some(ended.completed),
            Some(ended.rounds.into()),
            Some(ended.reason.as_str()),
        );
        demand(
            fields.0 == signed.0 && (!self.is_server() || fields == signed),
            Rule::Evidence,
            || "the entry says another end than was signed".into(),
        )?;
        let done = self.completed.get(&job).map_or(0, |(round, _)| *round);
        demand(
            !self.is_server() || done == ended.rounds || self.has_pruned(&job),
            Rule::Missing,
            || {
                format!(
                    "it ended after {} rounds, and {done} are complete in the log",
                    ended.rounds
                )
            },
        )?;
        let place = self.place;
        self.ended.insert(job, record.time);
        let at = self.case.ended_at.entry(job).or_default();
        at.entry(place).or_insert(record.time);
        if let Some(facts) = self.case.jobs.get_mut(&job) {
            facts.ended_in.insert(place);
        }
        let said = (ended.completed, ended.rounds, ended.reason.clone());
        let first = self.case.ends.entry(job).or_insert_with(|| said.clone());
        demand(*first == said, Rule::Missing, || {
            "the job's end is another than another log says".into()
        })
    }

    fn refused(&mut self, record: &Record) {
        let reason = record.text("reason").unwrap_or_default();
        let what = record.text("what").unwrap_or_default();
        let said = Refusal {
            by: self.name.clone(),
            time: record.when(),
            reason: match digest(record, "by").map(Fingerprint::from_digest) {
                Ok(by) => format!("{what} of {}: {reason}", self.case.name_of(&by)),
                Err(_) => format!("{what}: {reason}"),
            },
        };
        // What is no job's stands on no job's page.
        let job = digest(record, "job").ok();
        if let Some(facts) = job.and_then(|job| self.case.jobs.get_mut(&job)) {
            facts.refusals.push(said);
        }
    }
}

fn no_plan(context: &Context) -> Wrong {
    let said = format!(
        "no plan of the attempt {} is in this log before",
        context.digest().short()
    );
    Wrong(Rule::Missing, said)
}

fn unknown(what: &str, which: &Digest) -> Wrong {
    Wrong(
        Rule::Missing,
        format!("the {what} {} is in no entry before", which.short()),
    )
}

fn check_roster(accepted: Option<Digest>, named: Digest) -> Check {
    match accepted {
        Some(accepted) if accepted == named => Ok(()),
        Some(accepted) => Err(Wrong(
            Rule::Roster,
            format!(
                "it is for the roster {}, and the log has {}",
                named.short(),
                accepted.short()
            ),
        )),
        None => Err(Wrong(
            Rule::Missing,
            format!("the roster {} is in no entry before", named.short()),
        )),
    }
}

fn check_cost(record: &Record, expected: &Cost) -> Check {
    let said = record.fields.get("cost").and_then(|it| it.as_array());
    let said = said.into_iter().flatten().map(|units| units.as_u64());
    let same = said.eq(expected.units().iter().map(|units| Some(*units)));
    demand(same, Rule::Charge, || {
        "the cost is not what the job's mechanism and the roster give".into()
    })
}
