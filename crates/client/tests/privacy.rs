//! `ciphertune privacy`, as officers and scripts call it.

use std::process::{Command, Output};

fn privacy(arguments: &str) -> Output {
    Command::new(env!("CARGO_BIN_EXE_ciphertune"))
        .arg("privacy")
        .args(arguments.split_whitespace())
        .output()
        .unwrap()
}

fn json(arguments: &str) -> serde_json::Value {
    let output = privacy(&format!("{arguments} --json"));
    assert_eq!(output.stderr, b"", "{arguments}");
    serde_json::from_slice(&output.stdout).unwrap()
}

fn words(output: &Output) -> String {
    String::from_utf8([&output.stdout[..], &output.stderr[..]].concat()).unwrap()
}

const RECORDS: &str = "--sampling-rate 0.05333333333333334 --steps 937 --delta 1e-5";

#[test]
fn epsilon_is_that_of_dp_accounting() {
    let at = |accountant: &str| {
        json(&format!(
            "epsilon {RECORDS} --noise-multiplier 2.067 --accountant {accountant}"
        ))
    };
    let (rdp, pld) = (at("rdp"), at("pld"));
    let above =
        |value: &serde_json::Value, expected: f64| value["epsilon"].as_f64().unwrap() - expected;
    assert!(
        (0.0..1e-9).contains(&above(&rdp, 4.000176274651494)),
        "{rdp}"
    );
    assert!(
        (-1e-9..1e-6).contains(&above(&pld, 3.676786552228185)),
        "{pld}"
    );
    assert_eq!(
        (&rdp["order"], &rdp["proved"], &rdp["accountant"]),
        (&6.into(), &true.into(), &"rdp".into())
    );
    assert_eq!(pld["discretization"], 1e-4);
    assert!(rdp["rounding"].as_f64().unwrap() < 1e-10 && pld["rounding"].as_f64().unwrap() < 1e-6);
    let zcdp = json("epsilon --noise-multiplier 4.509 --steps 50 --delta 1e-5 --accountant zcdp");
    assert!(
        (7.99..=8.0).contains(&zcdp["epsilon"].as_f64().unwrap()),
        "{zcdp}"
    );
}

#[test]
fn calibration_gives_the_tables_multipliers_and_the_epsilon_they_reach() {
    for (arguments, multiplier) in [
        (format!("{RECORDS} --epsilon 8 --accountant rdp"), 1.289),
        (format!("{RECORDS} --epsilon 8 --accountant pld"), 1.218),
        (
            "--epsilon 8 --delta 1e-5 --steps 50 --accountant zcdp".into(),
            4.509,
        ),
        (
            "--epsilon 8 --delta 1e-5 --steps 50 --sampling-rate 1 --accountant pld".into(),
            4.244,
        ),
    ] {
        let value = json(&format!("calibrate {arguments}"));
        let found = value["noise_multiplier"].as_f64().unwrap();
        assert!((found - multiplier).abs() < 0.001 + 1e-9, "{value}");
        let epsilon = value["epsilon"].as_f64().unwrap();
        assert!((7.97..=8.0).contains(&epsilon), "{value}");
        let again = json(&format!(
            "epsilon {} --noise-multiplier {found}",
            arguments.replace("--epsilon 8", "")
        ));
        assert_eq!(again, value);
    }
}

#[test]
fn words_say_the_same_and_label_what_has_no_proof() {
    let output = privacy(&format!("epsilon {RECORDS} --noise-multiplier 2.067"));
    let said = words(&output);
    assert!(
        output.status.success() && said.starts_with("epsilon 4.0002 at delta 1e-5, zero-out\n"),
        "{said}"
    );
    assert!(
        said.contains("z = 2.067") && said.contains("937 steps") && said.contains("rdp: order 6"),
        "{said}"
    );
    let replaced = format!("epsilon {RECORDS} --noise-multiplier 2.067 --adjacency replace-one");
    assert!(words(&privacy(&replaced)).contains("no theorem is known"));
    assert_eq!(json(&replaced)["proved"], false);
    let frozen = words(&privacy(&format!(
        "epsilon {RECORDS} --noise-multiplier 2.067 --accountant pld"
    )));
    assert!(
        frozen.contains("fixed beforehand") && !frozen.contains("finer"),
        "{frozen}"
    );
    let coarse = "epsilon --sampling-rate 0.0001 --noise-multiplier 1 --steps 100 --delta 1e-5 --accountant pld";
    assert!(words(&privacy(coarse)).contains("finer --discretization"));
    let finer = json(&format!("{coarse} --discretization 1e-6"));
    assert!(
        finer["epsilon"].as_f64() < json(coarse)["epsilon"].as_f64(),
        "{finer}"
    );
    for command in ["epsilon", "calibrate"] {
        assert!(words(&privacy(&format!("{command} --help"))).contains("Example"));
    }
}

#[test]
fn what_has_no_answer_is_refused_in_words() {
    let rest = "--noise-multiplier 1 --steps 10";
    for (arguments, reason) in [
        (
            format!("epsilon --sampling-rate 0 {rest} --delta 1e-5"),
            "above 0 and up to 1",
        ),
        (
            format!("epsilon --sampling-rate 1.01 {rest} --delta 1e-5"),
            "above 0 and up to 1",
        ),
        (
            format!("epsilon {rest} --delta 0"),
            "delta lies strictly between 0 and 1",
        ),
        (
            format!("epsilon {rest} --delta 1"),
            "delta lies strictly between 0 and 1",
        ),
        (
            format!("epsilon --sampling-rate 0.5 {rest} --delta 1e-5 --accountant zcdp"),
            "zcdp gains nothing by sampling",
        ),
        (
            format!(
                "epsilon --sampling-rate 0.5 {rest} --delta 1e-5 --accountant pld --adjacency replace-one"
            ),
            "replace-one",
        ),
        (
            format!("epsilon {rest} --delta 1e-5 --accountant pld --discretization 1"),
            "grid interval",
        ),
        (
            "epsilon --noise-multiplier 0 --steps 1 --delta 1e-5".into(),
            "without noise",
        ),
        (
            "epsilon --noise-multiplier 1 --steps 0 --delta 1e-5".into(),
            "1 to 1000000",
        ),
        (
            "calibrate --epsilon 1e-9 --steps 1000000 --delta 1e-5".into(),
            "no noise multiplier",
        ),
        (
            "calibrate --epsilon 0 --steps 10 --delta 1e-5".into(),
            "epsilon above 0",
        ),
    ] {
        let output = privacy(&arguments);
        assert_eq!(
            output.status.code(),
            Some(1),
            "{arguments}: {}",
            words(&output)
        );
        assert!(
            words(&output).contains(reason),
            "{arguments}: {}",
            words(&output)
        );
        assert!(!words(&output).contains("refused: refused"), "{arguments}");
        let value = json(&arguments);
        assert!(
            value["exit_code"] == 1 && value["error"].as_str().unwrap().contains(reason),
            "{value}"
        );
    }
    for arguments in [
        format!("epsilon {rest} --delta five"),
        format!("epsilon {rest} --delta -1"),
        format!("epsilon {rest} --delta 1e-5 --accountant moments"),
        format!("epsilon {rest} --delta 1e-5 --adjacency neighbour"),
        format!("epsilon {rest} --delta 1e-5 --discretization 1e-3"),
        "epsilon --noise-multiplier 1 --steps 99999999999 --delta 1e-5".into(),
        "calibrate --epsilon 1 --delta 1e-5".into(),
    ] {
        let output = privacy(&arguments);
        assert_eq!(
            output.status.code(),
            Some(2),
            "{arguments}: {}",
            words(&output)
        );
    }
}
