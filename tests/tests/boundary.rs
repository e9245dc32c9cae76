//! Who may depend on whom: the table of crates, held against the dependency graph that cargo resolves.
//!
//! Security lines are crates, never features: the server's graph holds no code that could open a body or a share.

use std::{collections::BTreeSet, process::Command};

/// Crate, ours that it may depend on (directly or not), and what its graph must never hold (`*` ends a prefix).
const TABLE: &[(&str, &[&str], &[&str])] = &[
    (
        "policy",
        &[],
        &[
            "tokio",
            "tonic",
            "rand*",
            "tfhe*",
            "candle*",
            "sqlx*",
            "opendp",
            "ring",
            "getrandom",
        ],
    ),
    ("sum", &[], &["tfhe*", "rand*", "tokio", "getrandom"]),
    (
        "round",
        &["policy", "sum"],
        &[
            "tokio",
            "tonic",
            "tfhe*",
            "rand",
            "rand_core",
            "rand_chacha",
            "candle*",
        ],
    ),
    ("gauss", &[], &["tokio", "tfhe*", "candle*"]),
    (
        "seal",
        &["sum", "round", "policy", "gauss"],
        &["tokio", "tonic", "candle*", "opendp"],
    ),
    (
        "dp",
        &["policy", "gauss"],
        &["tokio", "tonic", "candle*", "tfhe*"],
    ),
    ("tune", &[], &["tokio", "tonic", "tfhe*"]),
    (
        "ledger",
        &["policy", "gauss", "dp"],
        &["tonic", "candle*", "tfhe*"],
    ),
    (
        "audit",
        &["policy", "sum", "round"],
        &["tonic", "candle*", "tfhe*", "tokio"],
    ),
    (
        "identity",
        &["round", "policy", "sum"],
        &["candle*", "tfhe*", "hpke"],
    ),
    (
        "wire",
        &["policy", "sum", "round"],
        &["tfhe*", "hpke", "opendp", "candle*"],
    ),
    (
        "server",
        &["policy", "sum", "round", "wire", "audit", "identity"],
        &["tfhe*", "hpke", "opendp", "candle*", "rand_chacha"],
    ),
    (
        "client",
        &[
            "policy", "sum", "round", "gauss", "seal", "dp", "tune", "ledger", "audit", "identity",
            "wire",
        ],
        &["aws-lc-rs", "openssl"],
    ),
];

const OURS: &str = "ciphertune-";

#[test]
fn no_crate_reaches_what_it_must_not() {
    let mut wrong = Vec::new();
    for (name, allowed, forbidden) in TABLE {
        let graph = graph(name);
        for dependency in &graph {
            if let Some(ours) = dependency.strip_prefix(OURS) {
                if ours != *name && !allowed.contains(&ours) {
                    wrong.push(format!("{name} depends on our {ours}"));
                }
            } else if forbidden.iter().any(|pattern| matches(pattern, dependency)) {
                wrong.push(format!("{name} reaches {dependency}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_crate_is_in_the_table() {
    let folders: BTreeSet<String> =
        std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/../crates"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
    let table: BTreeSet<String> = TABLE.iter().map(|(name, ..)| (*name).to_owned()).collect();
    assert_eq!(folders, table);
}

/// The check itself must be able to fail: the client's graph holds everything that the server's must not.
#[test]
fn the_graph_shows_what_a_crate_does_reach() {
    let graph = graph("client");
    for reached in ["tfhe", "hpke", "opendp", "candle-core", "ciphertune-seal"] {
        assert!(
            graph.contains(reached),
            "{reached} is not in the client's graph"
        );
    }
}

/// No product target names the deterministic generator that exists for tests.
#[test]
fn no_product_code_names_the_insecure_entropy() {
    let root = std::path::Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
    let mut files = Vec::new();
    for folder in ["crates", "examples"] {
        rust_files(&root.join(folder), &mut files);
    }
    assert!(files.len() > 100, "{} files found", files.len());
    let mut seen = 0;
    for path in files {
        let source = std::fs::read_to_string(&path).unwrap();
        // Test modules stand last in a file.
        let product = source.split("#[cfg(test)]").next().unwrap_or_default();
        let code: String = product
            .lines()
            .filter(|line| !line.trim_start().starts_with("//"))
            .collect::<Vec<_>>()
            .join("\n");
        let in_tests = path
            .components()
            .any(|part| matches!(part.as_os_str().to_str(), Some("tests" | "benches")));
        if path.ends_with("gauss/src/insecure.rs") {
            seen += usize::from(code.contains("InsecureEntropy"));
        } else if !in_tests {
            assert!(
                !code.contains("InsecureEntropy"),
                "{} names InsecureEntropy",
                path.display()
            );
        }
    }
    assert_eq!(seen, 1, "gauss/src/insecure.rs was not looked at");
}

fn rust_files(folder: &std::path::Path, found: &mut Vec<std::path::PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            rust_files(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

fn matches(pattern: &str, name: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(prefix) => name.starts_with(prefix),
        None => name == pattern,
    }
}

/// The names of everything that a crate is linked with.
fn graph(name: &str) -> BTreeSet<String> {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".into());
    let output = Command::new(cargo)
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
        .args([
            "tree",
            "--offline",
            "--locked",
            "--edges",
            "normal",
            "--prefix",
            "none",
            "--format",
            "{p}",
        ])
        .args(["--package", &format!("{OURS}{name}")])
        .output()
        .expect("cargo runs");
    assert!(
        output.status.success(),
        "cargo tree: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout)
        .expect("names are UTF-8")
        .lines()
        .filter_map(|line| line.split_whitespace().next())
        .map(ToOwned::to_owned)
        .collect()
}
