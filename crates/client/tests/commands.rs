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

/// The `ciphertune` lines of the README and the policies' own, without their comments.
fn readme_lines() -> Vec<Vec<String>> {
    ["README.md", "policies/README.md"]
        .map(|readme| std::fs::read_to_string(root().join(readme)).unwrap())
        .concat()
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
            ["params" | "privacy", ..] | ["policy", "check" | "explain" | "diff" | "merge", ..] => {
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

/// `params explain` with `arguments`, in words or as JSON.
fn explain(members: &str, bound: &str, more: &[&str]) -> Output {
    let mut arguments = vec![
        "params",
        "explain",
        "--members",
        members,
        "--value-bound",
        bound,
    ];
    arguments.extend(more);
    ciphertune(&arguments)
}

fn explained(members: &str, bound: &str, more: &[&str]) -> serde_json::Value {
    let more = [more, &["--json"]].concat();
    serde_json::from_slice(&explain(members, bound, &more).stdout).unwrap()
}

#[test]
fn parameters_come_as_json_too() {
    let value = explained("3", "2047", &["--parameters", "25200000"]);
    assert_eq!(value["name"], "ct1-n3-b11-d8-w14-k4");
    assert_eq!(value["bytes_per_parameter"], 2.0);
    assert_eq!(value["overflow"]["largest_sum"], "6141");
    assert_eq!(value["overflow"]["word_limit"], "9223372034707292160");
    assert_eq!(value["security"]["standard"][0]["classical_bits"], 192);
    assert_eq!(
        value["security"]["core_svp"][1]["primal"]["classical_bits"],
        213.4
    );
    assert_eq!(value["decoding"]["coefficient_log2"], -57.4);
    // 1,539 blocks of 32 KiB; 6 shares of 1,120 + 32,768 + 16 bytes each way.
    let round = &value["round"];
    assert_eq!(round["body_bytes"], 1539 * 32_768);
    assert_eq!(round["up_bytes"], 1539 * 32_768 + 6 * 33_904);
    assert_eq!(round["down_bytes"], 2 * 1539 * 32_768 + 6 * 33_904);
    assert_eq!(round["failure_log2"], -34.8);
    assert!(explained("3", "2047", &[])["round"].is_null());
}

/// Every number in the words is a value of the JSON object (or in one of its strings), to the places that are printed;
/// but for those of formulas.
#[test]
fn json_holds_every_number_that_is_printed() {
    let formulas = [0.0, 1.0, 2.0, 8.0, 9.0, 32.0, 64.0, 81.0, 2018.0];
    for (members, bound) in [
        ("3", "2047"),
        ("2", "9007199254740991"),
        ("1000", "1"),
        ("64", "4095"),
    ] {
        let more = ["--parameters", "1234567", "--committee", "2"];
        let mut held = Vec::new();
        collect_numbers(&explained(members, bound, &more), &mut held);
        let words = said(&explain(members, bound, &more).stdout);
        let printed = numbers(&words);
        assert!(printed.len() > 60, "{} numbers in {words}", printed.len());
        for (number, places) in printed {
            let unit = 0.1_f64.powi(places);
            let found = held
                .iter()
                .any(|held| (held.abs() - number).abs() <= unit / 2.0 + 1e-9);
            assert!(
                found || formulas.contains(&number),
                "{number} is not in the JSON: {words}"
            );
        }
    }
    // The check can fail.
    assert_eq!(
        numbers("2^-57.4 of 12, n3"),
        [(2.0, 0), (57.4, 1), (12.0, 0), (3.0, 0)]
    );
}

/// The unsigned numbers of a text, each with how many decimal places it has.
fn numbers(text: &str) -> Vec<(f64, i32)> {
    text.split(|c: char| !c.is_ascii_digit() && c != '.')
        .map(|word| word.trim_matches('.'))
        .filter(|word| !word.is_empty())
        .map(|word| {
            let places = word.split_once('.').map_or(0, |(_, places)| places.len());
            (word.parse().unwrap(), places as i32)
        })
        .collect()
}

fn collect_numbers(value: &serde_json::Value, held: &mut Vec<f64>) {
    match value {
        serde_json::Value::Number(number) => held.extend(number.as_f64()),
        serde_json::Value::String(text) => {
            held.extend(numbers(text).iter().map(|(number, _)| number))
        }
        serde_json::Value::Array(values) => {
            values.iter().for_each(|value| collect_numbers(value, held))
        }
        serde_json::Value::Object(values) => values
            .values()
            .for_each(|value| collect_numbers(value, held)),
        serde_json::Value::Bool(_) | serde_json::Value::Null => {}
    }
}

#[test]
fn parameters_out_of_range_are_refused_with_what_would_fit() {
    let cases: [(&str, &str, &[&str]); 5] = [
        ("1", "2047", &["2 to 1000 members"]),
        ("1001", "2047", &["2 to 1000 members"]),
        (
            "1000",
            "9007199254740991",
            &["2^41 - 1 = 2199023255551", "at most 3 members"],
        ),
        (
            "4",
            "9007199254740992",
            &["at most 53", "with 4 members B may be at most 2^52 - 1"],
        ),
        (
            "4",
            "18446744073709551615",
            &["64 bits", "4503599627370495"],
        ),
    ];
    for (members, bound, would_fit) in cases {
        let output = explain(members, bound, &[]);
        assert_eq!(output.status.code(), Some(1), "{members} {bound}");
        let words = said(&output.stderr);
        assert!(words.starts_with("error: refused: "), "{words}");
        for what in would_fit {
            assert!(words.contains(what), "{words}");
        }
        let value = explained(members, bound, &[]);
        assert_eq!(value["exit_code"], 1);
        assert!(
            value["error"].as_str().unwrap().contains(would_fit[0]),
            "{value}"
        );
    }
    // And what is said to fit does.
    for (members, bound) in [
        ("1000", "2199023255551"),
        ("3", "9007199254740991"),
        ("4", "4503599627370495"),
    ] {
        assert!(
            explain(members, bound, &[]).status.success(),
            "{members} {bound}"
        );
    }
    assert_eq!(
        explain("3", "2047", &["--parameters", "0"]).status.code(),
        Some(2)
    );
}

#[test]
fn a_cohort_whose_roster_fits_no_message_is_told_so() {
    let note = |members, more: &[&str]| {
        said(&explain(members, "2047", more).stdout).contains("does not fit a message")
    };
    assert!(!note("494", &[]));
    assert!(note("495", &[]));
    assert!(note("1000", &[]));
    assert!(!note("1000", &["--committee", "200"]));
}

#[test]
fn a_committee_is_explained_with_the_odds_of_a_bad_one() {
    let committee = ["--committee", "100", "--colluders", "100"];
    let value = explained("1000", "2047", &committee);
    let drawn = &value["committee"];
    for (figure, expected) in [
        ("manifest", 1000.0),
        ("size", 100.0),
        ("colluders_within", 34.0),
        ("threshold", 68.0),
        ("may_be_missing", 32.0),
        ("bad_log2", -41.9),
        ("bad_at_most_log2", -40.0),
    ] {
        assert_eq!(drawn[figure].as_f64(), Some(expected), "{figure}");
    }
    assert_eq!(value["shares"]["seals"], 200_000);
    assert_eq!(value["shares"]["bytes_each_way"], 1100 * 33_904);
    assert_eq!(value["shares"]["bytes_each_way_of_others"], 100 * 33_904);
    let words = said(&explain("1000", "2047", &committee).stdout);
    for part in [
        "more are drawn with probability at most 2^-41.9",
        "t = 68 of the k open a sum; 32 may be missing",
        "for the 900 members outside the committee",
    ] {
        assert!(words.contains(part), "{words}");
    }
    assert!(explained("1000", "2047", &[])["committee"].is_null());
    // Of a larger federation than the cohort.
    let value = explained(
        "300",
        "2047",
        &[
            "--committee",
            "100",
            "--colluders",
            "100",
            "--manifest",
            "1000",
        ],
    );
    assert_eq!(value["committee"]["colluders_within"], 34);
    // Every size of cohort.
    for members in ["2", "3", "10", "64", "245", "1000"] {
        assert!(
            explain(members, "1", &["--committee", "2"])
                .status
                .success(),
            "{members}"
        );
    }
    for (arguments, code, words) in [
        (
            vec!["--committee", "1001"],
            1,
            "a committee of 1001 cannot be drawn among 1000 members",
        ),
        (
            vec!["--committee", "1"],
            1,
            "a committee of 1 cannot be drawn",
        ),
        (
            vec!["--committee", "20", "--colluders", "900"],
            1,
            "may consist of colluders alone",
        ),
        (
            vec!["--committee", "20", "--manifest", "999"],
            2,
            "a cohort of 1000 in a federation of 999",
        ),
        (vec!["--colluders", "3"], 2, "--committee"),
    ] {
        let output = explain("1000", "2047", &arguments);
        let told = said(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {told}");
        assert!(told.contains(words), "{told:?} does not say {words:?}");
    }
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
