//! The one byte form of a policy, and its digest.

use std::collections::BTreeMap;

use serde::Serialize;
use sha2::{Digest as _, Sha256};

use crate::allowed::Allowed;
use crate::instant::Instant;
use crate::policy::{Policy, Roles};
use crate::schema;

impl Policy {
    /// The policy as JSON: keys sorted, no white space, every number a string, the names of all its parts as a sorted
    /// list; optional settings absent where they say what their absence says. Equal policies give equal bytes.
    #[must_use]
    pub fn canonical_json(&self) -> String {
        serde_json::to_string(&self.to_json())
            .expect("strings, lists and tables with string keys serialise")
    }

    /// SHA-256 of [`Self::canonical_json`].
    #[must_use]
    pub fn digest(&self) -> [u8; 32] {
        Sha256::digest(self.canonical_json().as_bytes()).into()
    }

    fn to_json(&self) -> Json {
        let text = |value: &dyn ToString| Json::Text(value.to_string());
        let list = |allowed: &Allowed| Json::List(allowed.items());
        let mut privacy = BTreeMap::from([
            ("unit", text(&self.unit())),
            ("clip_norm", text(&self.clip_norm)),
            ("rounds", text(&self.rounds)),
        ]);
        let mut aggregation = BTreeMap::from([
            ("min_contributors", text(&self.aggregation.min_contributors)),
            ("colluders", text(&self.aggregation.colluders)),
            ("min_cohort", text(&self.aggregation.min_cohort)),
        ]);
        if let Some(threshold) = &self.aggregation.threshold {
            aggregation.insert("threshold", text(threshold));
        }
        if let Some(committee) = &self.aggregation.committee {
            aggregation.insert("committee", text(committee));
        }
        if let Some(rate) = &self.max_sampling_rate {
            privacy.insert("max_sampling_rate", text(rate));
        }
        let mut model = BTreeMap::from([
            ("backbones", list(&self.backbones)),
            ("encoders", list(&self.encoders)),
            ("tasks", list(&self.tasks)),
        ]);
        if self.datasets != Allowed::Any {
            model.insert("datasets", list(&self.datasets));
        }
        let mut whole = BTreeMap::from([
            ("schema", text(&schema::VERSION)),
            ("names", Json::List(self.names.iter().cloned().collect())),
            ("aggregation", Json::Table(aggregation)),
            ("model", Json::Table(model)),
            (
                "releases",
                Json::Table(BTreeMap::from([(
                    "metrics",
                    Json::List(self.metrics.iter().map(ToString::to_string).collect()),
                )])),
            ),
        ]);
        if let Some(promise) = &self.privacy {
            privacy.insert("adjacency", text(&promise.adjacency));
            privacy.insert("placement", text(&promise.placement));
            privacy.insert("epsilon", text(&promise.job.epsilon));
            privacy.insert("delta", text(&promise.job.delta));
            let budget = [
                ("epsilon", text(&promise.budget.epsilon)),
                ("delta", text(&promise.budget.delta)),
            ];
            whole.insert("budget", Json::Table(BTreeMap::from(budget)));
        }
        whole.insert("privacy", Json::Table(privacy));
        for (section, settings) in [
            ("identity", self.identity_json()),
            ("roles", self.roles_json()),
            ("audit", self.audit_json()),
            ("time", self.time_json()),
        ] {
            if !settings.is_empty() {
                whole.insert(section, Json::Table(settings));
            }
        }
        Json::Table(whole)
    }

    fn identity_json(&self) -> BTreeMap<&'static str, Json> {
        let ages = [
            ("max_certificate_age_days", self.max_age_days.certificate),
            (
                "max_revocation_list_age_days",
                self.max_age_days.revocation_list,
            ),
        ];
        let written = |(name, age): (_, Option<u32>)| Some((name, Json::Text(age?.to_string())));
        ages.into_iter().filter_map(written).collect()
    }

    fn roles_json(&self) -> BTreeMap<&'static str, Json> {
        let default = Roles::default();
        let all = [
            ("submit_job", &self.roles.submit_job, default.submit_job),
            ("abort_job", &self.roles.abort_job, default.abort_job),
            ("read_log", &self.roles.read_log, default.read_log),
            (
                "change_policy",
                &self.roles.change_policy,
                default.change_policy,
            ),
        ];
        all.into_iter()
            .filter(|(_, roles, default)| *roles != default)
            .map(|(name, roles, _)| {
                let words = roles.iter().map(ToString::to_string).collect();
                (name, Json::List(words))
            })
            .collect()
    }

    fn audit_json(&self) -> BTreeMap<&'static str, Json> {
        let days = self.retention_days;
        let written = days.map(|days| ("retention_days", Json::Text(days.to_string())));
        written.into_iter().collect()
    }

    fn time_json(&self) -> BTreeMap<&'static str, Json> {
        let ends = [
            ("valid_from", self.time.valid_from),
            ("valid_until", self.time.valid_until),
        ];
        let written =
            |(name, end): (_, Option<Instant>)| Some((name, Json::Text(end?.to_string())));
        ends.into_iter().filter_map(written).collect()
    }
}

/// JSON without numbers.
#[derive(Serialize)]
#[serde(untagged)]
enum Json {
    Text(String),
    List(Vec<String>),
    Table(BTreeMap<&'static str, Json>),
}
