//! The one byte form of a policy, and its digest.

use std::collections::BTreeMap;

use serde::Serialize;
use sha2::{Digest as _, Sha256};

use crate::allowed::Allowed;
use crate::policy::Policy;
use crate::schema;

impl Policy {
    /// The policy as JSON: keys sorted, no white space, every number a string, absent settings absent, the
    /// names of all its parts as a sorted list. Equal policies give equal bytes.
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
        let model = BTreeMap::from([
            ("backbones", list(&self.backbones)),
            ("encoders", list(&self.encoders)),
            ("tasks", list(&self.tasks)),
        ]);
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
        Json::Table(whole)
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
