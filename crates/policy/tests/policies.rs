//! The documents in `policies/`: each is read, explained, and admits what it is made for; its README knows every key.

use std::path::PathBuf;

use ciphertune_policy::{
    Adjacency, Instant, Placement, Policy, Proposal, Role, Unit, default_threshold, json_schema,
    markdown_table,
};

fn folder() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../policies"))
}

fn documents() -> Vec<(String, Policy)> {
    let mut documents = Vec::new();
    for entry in std::fs::read_dir(folder()).unwrap() {
        let path = entry.unwrap().path();
        if path
            .extension()
            .is_some_and(|extension| extension == "toml")
        {
            let policy = Policy::parse(&std::fs::read_to_string(&path).unwrap());
            let policy = policy.unwrap_or_else(|error| panic!("{}:\n{error}", path.display()));
            documents.push((
                path.file_stem().unwrap().to_str().unwrap().to_owned(),
                policy,
            ));
        }
    }
    documents.sort_by(|a, b| a.0.cmp(&b.0));
    documents
}

/// The most that a policy allows, with as few members as it allows.
fn limit_of(policy: &Policy) -> Proposal {
    let cohort = policy.min_cohort() as usize;
    let colluders = policy.colluders() as usize;
    Proposal {
        unit: policy.unit(),
        adjacency: policy.adjacency().unwrap_or(Adjacency::ZeroOut),
        placement: policy.placement().unwrap_or(Placement::Distributed),
        epsilon: policy.job_limit().map(|loss| loss.epsilon),
        delta: policy.job_limit().map(|loss| loss.delta),
        clip_norm: policy.clip_norm(),
        rounds: policy.rounds(),
        max_attempts: 3,
        members: 1_000,
        cohort,
        min_contributors: policy.min_contributors() as usize,
        colluders,
        committee: None,
        threshold: default_threshold(cohort, colluders),
        backbone: [7; 32],
        task: "classification".into(),
        sampling_rate: None,
        author: Role::Researcher,
        at: Instant::EPOCH,
        encoder: "embedding".into(),
        metrics: policy.metrics().clone(),
    }
}

#[test]
fn each_document_is_read_and_admits_its_own_limit_and_nothing_beyond() {
    let documents = documents();
    let names: Vec<&str> = documents.iter().map(|(file, _)| file.as_str()).collect();
    assert_eq!(
        names,
        [
            "bank",
            "default",
            "hospital",
            "institution-research",
            "laboratory-no-privacy",
            "record-epsilon-8"
        ]
    );
    for (file, policy) in &documents {
        assert_eq!(policy.names().collect::<Vec<_>>(), [file]);
        let proposal = limit_of(policy);
        let admitted = policy
            .admit(&proposal)
            .unwrap_or_else(|refusal| panic!("{file}: {refusal}"));
        assert_eq!(admitted.policy_digest(), &policy.digest());
        let beyond = Proposal {
            rounds: policy.rounds() + 1,
            ..proposal
        };
        let refusal = policy.admit(&beyond).unwrap_err();
        assert_eq!(refusal.violations.len(), 1, "{file}: {refusal}");
        assert_eq!(refusal.violations[0].rule, "privacy.rounds");
    }
}

#[test]
fn each_explanation_says_the_promise_or_its_absence() {
    for (file, policy) in documents() {
        let said = policy.explain();
        match policy.job_limit() {
            Some(loss) => {
                assert!(
                    said.contains(&format!(
                        "One job may cost at most ε = {} at δ = {}.",
                        loss.epsilon, loss.delta
                    )),
                    "{said}"
                );
                assert!(!said.contains("NO DIFFERENTIAL PRIVACY"), "{file}: {said}");
            }
            None => assert!(said.contains("NO DIFFERENTIAL PRIVACY"), "{file}: {said}"),
        }
    }
}

#[test]
fn only_the_laboratory_goes_without_privacy() {
    for (file, policy) in documents() {
        assert_eq!(
            policy.unit() == Unit::None,
            file == "laboratory-no-privacy",
            "{file}"
        );
    }
}

#[test]
fn the_default_is_the_strictest_of_its_unit() {
    let documents = documents();
    let find = |name: &str| &documents.iter().find(|(file, _)| file == name).unwrap().1;
    let default = find("default");
    let research = find("institution-research");
    let merged = Policy::merge(&[default, research]).unwrap();
    assert_eq!(merged.job_limit(), default.job_limit());
    assert_eq!(merged.adjacency(), default.adjacency());
    assert_eq!(merged.min_contributors(), default.min_contributors());
    assert!(research.admit(&limit_of(default)).is_ok());
    assert!(default.admit(&limit_of(research)).is_err());
}

/// A file that is written from the table of keys; with CIPHERTUNE_BLESS set it is written, not compared.
fn holds(path: &std::path::Path, written: &str, expected: &str) {
    if std::env::var_os("CIPHERTUNE_BLESS").is_some() {
        std::fs::write(path, expected).unwrap();
        return;
    }
    assert!(
        written == expected,
        "{} is not what the table of keys (crates/policy/src/schema.rs) says: run this test with CIPHERTUNE_BLESS=1",
        path.display()
    );
}

#[test]
fn the_readmes_table_is_written_from_the_keys() {
    let path = folder().join("README.md");
    let readme = std::fs::read_to_string(&path).unwrap();
    let start = readme.find("| key | values |").unwrap();
    let length = readme[start..].find("\n\n").unwrap() + 1;
    let mut expected = readme.clone();
    expected.replace_range(start..start + length, &markdown_table());
    holds(&path, &readme, &expected);
}

#[test]
fn the_json_schema_is_written_from_the_keys() {
    let path = folder().join("policy.schema.json");
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    holds(&path, &written, &json_schema());
}

/// What the JSON Schema says of each document's keys, as far as it needs no library: each is known, in its place, and of
/// its type; the required ones are there.
#[test]
fn the_json_schema_fits_every_document() {
    let schema: serde_json::Value = serde_json::from_str(&json_schema()).unwrap();
    for (file, _) in documents() {
        let text = std::fs::read_to_string(folder().join(format!("{file}.toml"))).unwrap();
        let document: toml::Table = text.parse().unwrap();
        let document = serde_json::to_value(document).unwrap();
        fits(&schema, &document, &file);
        let required = if document["privacy"]["unit"] == "none" {
            assert!(document.get("budget").is_none());
            continue;
        } else {
            &schema["else"]["properties"]["privacy"]["required"]
        };
        for key in required.as_array().unwrap() {
            assert!(document["privacy"].get(key.as_str().unwrap()).is_some());
        }
    }
}

fn fits(schema: &serde_json::Value, value: &serde_json::Value, path: &str) {
    if let Some(words) = schema["enum"].as_array() {
        assert!(words.contains(value), "{path}: {value}");
    }
    if let Some(version) = schema.get("const") {
        assert_eq!(version, value, "{path}");
    }
    match schema["type"].as_str() {
        Some("object") => {
            for (name, inner) in value.as_object().unwrap() {
                let known = &schema["properties"][name];
                assert!(known.is_object(), "{path}.{name} is not in the schema");
                fits(known, inner, &format!("{path}.{name}"));
            }
            for name in schema["required"].as_array().unwrap() {
                assert!(
                    value.get(name.as_str().unwrap()).is_some(),
                    "{path} lacks {name}"
                );
            }
        }
        Some("array") => {
            for item in value.as_array().unwrap() {
                fits(&schema["items"], item, path);
            }
        }
        Some("integer") => {
            let (number, least) = (value.as_i64().unwrap(), schema["minimum"].as_i64().unwrap());
            assert!(number >= least && number <= schema["maximum"].as_i64().unwrap());
        }
        Some("string") => assert!(value.is_string(), "{path}"),
        _ => {}
    }
}

#[test]
fn each_pair_merges_or_says_what_its_officers_must_settle() {
    let documents = documents();
    let (mut merged, mut refused) = (0, 0);
    for (first, a) in &documents {
        for (second, b) in &documents {
            match Policy::merge(&[a, b]) {
                Ok(both) => {
                    merged += 1;
                    assert!(both.is_as_strict_as(a) && both.is_as_strict_as(b));
                    assert_eq!(both, Policy::merge(&[b, a]).unwrap());
                    assert!(!both.explain().is_empty());
                }
                Err(error) => {
                    refused += 1;
                    let said = error.to_string();
                    assert!(a.unit() != b.unit(), "{first}, {second}: {said}");
                    for part in [first.as_str(), second, "agree on one privacy.unit"] {
                        assert!(said.contains(part), "{said} does not say {part}");
                    }
                }
            }
        }
    }
    // Two documents hide institutions, three records, one nothing.
    assert_eq!((merged, refused), (36 - 2 * 2 * 3, 2 * 2 * 3));
}

#[test]
fn no_document_has_a_setting_that_cannot_work() {
    for (file, policy) in documents() {
        let found = policy.findings(Some(5), Instant::EPOCH);
        assert!(found.iter().all(|found| !found.fatal), "{file}: {found:?}");
    }
}

#[test]
fn an_encoder_that_nobody_has_is_found_and_hopeless_alone() {
    let text = std::fs::read_to_string(folder().join("hospital.toml")).unwrap();
    let found = |encoders: &str| {
        let line = "encoders = [\"embedding\", \"mlp\"]";
        assert!(text.contains(line));
        let text = text.replace(line, &format!("encoders = {encoders}"));
        let found = Policy::parse(&text).unwrap().findings(None, Instant::EPOCH);
        let of_encoders = found.into_iter().find(|it| it.key == "model.encoders");
        of_encoders.map(|it| (it.fatal, it.said))
    };
    assert_eq!(found("[\"any\"]"), None);
    let (fatal, said) = found("[\"mlp\", \"embeding\"]").unwrap();
    assert!(!fatal && said.contains("\"embeding\"") && said.contains("embedding, lstm, mlp"));
    assert!(found("[\"embeding\"]").unwrap().0);
}

#[test]
fn the_readme_lists_every_document() {
    let readme = std::fs::read_to_string(folder().join("README.md")).unwrap();
    for (file, _) in documents() {
        assert!(readme.contains(&format!("| `{file}.toml` |")), "{file}");
    }
}
