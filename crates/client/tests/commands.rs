//! The commands that the README shows, run as it shows them; and what they say to bad input.

use std::{
    path::Path,
    process::{Command, Output},
};

fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
}

fn ciphertune(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_ciphertune"))
        .current_dir(root())
        .args(arguments)
        .output()
        .unwrap()
}

fn said(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// The README's `ciphertune` lines, without their comments.
fn readme_lines() -> Vec<Vec<String>> {
    std::fs::read_to_string(root().join("README.md"))
        .unwrap()
        .lines()
        .filter_map(|line| line.strip_prefix("ciphertune "))
        .map(|line| line.split('#').next().unwrap_or_default())
        .map(|line| line.split_whitespace().map(str::to_owned).collect())
        .collect()
}

#[test]
fn the_readmes_commands_do_what_it_says() {
    let lines = readme_lines();
    assert!(
        lines.len() >= 5,
        "the README shows {} commands",
        lines.len()
    );
    for line in lines {
        let arguments: Vec<&str> = line.iter().map(String::as_str).collect();
        match arguments.as_slice() {
            ["policy" | "params", ..] => {
                let output = ciphertune(&arguments);
                assert!(
                    output.status.success(),
                    "{arguments:?}: {}",
                    said(&output.stderr)
                );
            }
            // These need a home or a federation: here only that the flags exist.
            [command, flags @ ..] => {
                let mut help: Vec<&str> = vec![command];
                help.extend(
                    flags
                        .iter()
                        .take_while(|word| !word.starts_with('-') && !word.contains('/')),
                );
                help.push("--help");
                let output = ciphertune(&help);
                assert!(
                    output.status.success(),
                    "{help:?}: {}",
                    said(&output.stderr)
                );
                let text = said(&output.stdout);
                for flag in flags.iter().filter(|word| word.starts_with("--")) {
                    assert!(text.contains(flag), "{command} has no {flag}");
                }
            }
            [] => panic!("an empty command in the README"),
        }
    }
}

#[test]
fn parameters_come_as_json_too() {
    let output = ciphertune(&[
        "params",
        "explain",
        "--members",
        "3",
        "--value-bound",
        "2047",
        "--json",
    ]);
    let value: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(value["name"], "ct1-n3-b11-d8-w14-k4");
    assert_eq!(value["bytes_per_parameter"], 2.0);
}

#[test]
fn a_cohort_of_one_is_refused() {
    let output = ciphertune(&[
        "params",
        "explain",
        "--members",
        "1",
        "--value-bound",
        "2047",
    ]);
    assert_eq!(output.status.code(), Some(1));
    assert!(said(&output.stderr).contains("error:"));
}

#[test]
fn an_unknown_key_in_a_policy_names_the_nearest_known_one() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("policy.toml");
    let text = std::fs::read_to_string(root().join("policies/default.toml")).unwrap();
    std::fs::write(&path, text.replace("clip_norm", "clip_nrom")).unwrap();
    let output = ciphertune(&["policy", "check", path.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1));
    let said = said(&output.stderr);
    assert!(
        said.contains("clip_nrom") && said.contains("clip_norm"),
        "{said}"
    );
}

#[test]
fn a_log_that_was_edited_is_not_verified() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit.jsonl");
    let mut log = ciphertune_audit::Log::open(&path).unwrap();
    for kind in ["plan", "charge"] {
        log.append(kind, serde_json::Map::new(), std::time::SystemTime::now())
            .unwrap();
    }
    drop(log);
    let path_text = path.to_str().unwrap();
    assert!(ciphertune(&["audit", "head", path_text]).status.success());
    let lines = std::fs::read_to_string(&path).unwrap();
    let second: Vec<&str> = lines.lines().skip(1).collect();
    std::fs::write(&path, format!("{}\n", second.join("\n"))).unwrap();
    assert_eq!(
        ciphertune(&["audit", "head", path_text]).status.code(),
        Some(1)
    );
}

#[test]
fn a_home_without_a_key_says_what_is_missing() {
    let folder = tempfile::tempdir().unwrap();
    let passphrase = folder.path().join("passphrase");
    std::fs::write(&passphrase, "correct horse battery staple\n").unwrap();
    std::fs::set_permissions(
        &passphrase,
        std::os::unix::fs::PermissionsExt::from_mode(0o600),
    )
    .unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_ciphertune"))
        .args(["--home", folder.path().to_str().unwrap(), "job", "status"])
        .env("CIPHERTUNE_PASSPHRASE_FILE", &passphrase)
        .output()
        .unwrap();
    assert!(!output.status.success());
    assert!(
        said(&output.stderr).contains("key.pem"),
        "{}",
        said(&output.stderr)
    );
}
