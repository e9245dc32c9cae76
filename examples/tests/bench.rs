//! The benchmark as its user sees it: it runs, its figures are there, and a wrong command line is refused.

use std::process::{Command, Output};

use ciphertune_examples::headlines;
use serde_json::Value;

fn bench(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_bench"))
        .args(arguments)
        .output()
        .unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

#[test]
fn every_figure_of_sealing_is_in_the_json() {
    let arguments = [
        "seal",
        "--parameters",
        "40000",
        "--members",
        "3",
        "--threads",
        "2",
        "--repeats",
        "2",
        "--json",
    ];
    let output = bench(&arguments);
    assert!(output.status.success(), "{}", said(&output));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    for phase in ["seal", "add", "check", "open", "open_fresh"] {
        let rate = report[format!("{phase}_per_second")].as_f64().unwrap();
        let seconds = &report[format!("{phase}_seconds")];
        assert!(
            rate > 0.0 && seconds["median"].as_f64().unwrap() > 0.0,
            "{phase}"
        );
        let samples = seconds["samples"].as_array().unwrap();
        assert!(samples.len() >= 2, "{phase}: {samples:?}");
    }
    // Three blocks of 16,384 values, and six sealed shares beside them.
    let up = report["bytes_per_parameter_up"].as_f64().unwrap();
    assert_eq!(up, (3.0 * 32_768.0 + 6.0 * (32_768.0 + 1136.0)) / 40_000.0);
    assert_eq!(report["bytes_per_parameter_down"].as_f64(), Some(up));
    assert_eq!(report["threads"], 2);
    assert_eq!(report["sum_equals_plaintext"], true);
    assert_eq!(report["parameter_set"], "ct1-n3-b11-d8-w14-k4");
    for party in ["seal", "add", "open"] {
        assert!(
            report["peak_memory"][party].as_u64().unwrap() > 1_000_000,
            "{party}"
        );
    }
    assert_eq!(report["peak_memory"]["vector"], 320_000);
    for reference in ["chacha12", "sha256", "memcpy", "fresh_memory"] {
        assert!(
            report["reference"][format!("{reference}_bytes_per_second")]
                .as_f64()
                .unwrap()
                > 1e6
        );
    }
}

#[test]
fn the_table_says_what_was_measured() {
    let output = bench(&[
        "seal",
        "--parameters",
        "1000",
        "--members",
        "5",
        "--repeats",
        "1",
    ]);
    let said = said(&output);
    assert!(output.status.success(), "{said}");
    for part in [
        "5 members × 1000 parameters",
        "seal",
        "add",
        "check",
        "open",
        "open fresh",
        "Peak memory",
        "ChaCha12",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
}

/// Three processes and a server, over sockets. Neither a body (40 kB) nor the memory of any of them is large here; that
/// every model is that of the plain vectors is held by the program itself.
#[test]
fn a_whole_federation_does_a_round_over_sockets_and_tells_what_it_took() {
    let arguments = ["sockets", "--parameters", "20000", "--members", "3"];
    let output = bench(&[&arguments[..], &["--json"]].concat());
    assert!(output.status.success(), "{}", said(&output));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    for step in ["privatise", "seal", "send", "wait", "open", "round"] {
        assert!(report["seconds"][step].as_f64().unwrap() > 0.0, "{step}");
    }
    // Two blocks of 16,384 values, and a foreign body beside the sum; shares, plans and TLS come on top.
    let bytes = |way: &str| {
        report[format!("bytes_per_parameter_{way}")]
            .as_f64()
            .unwrap()
    };
    let body = 2.0 * 32_768.0 / 20_000.0;
    assert!(bytes("up") > body && bytes("down") > 2.0 * body);
    for party in ["server", "member"] {
        assert!(
            report["peak_memory"][party].as_u64().unwrap() > 1_000_000,
            "{party}"
        );
    }
    assert_eq!(report["sum_equals_plaintext"], true);
    let words = bench(&arguments);
    assert!(said(&words).contains("mutual TLS"), "{}", said(&words));
}

/// Light members in two jobs at once; that every sum is the plain one is held by the program itself.
#[test]
fn a_load_of_light_members_tells_what_it_took_the_server_and_a_plain_copy() {
    let folder = tempfile::tempdir().unwrap();
    let chart = folder.path().join("load.svg");
    let arguments = ["load", "--members", "4,5", "--parameters", "2000"];
    let more = ["--committee", "4", "--colluding", "0", "--jobs", "2"];
    let chart_of = ["--chart", chart.to_str().unwrap(), "--json"];
    let output = bench(&[&arguments[..], &more, &chart_of].concat());
    assert!(output.status.success(), "{}", said(&output));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let load = &report["loads"][1];
    assert_eq!(
        (&load["members"], &load["holders"], &load["jobs"]),
        (&5.into(), &4.into(), &2.into())
    );
    assert_eq!(
        (&load["parameters"], &load["halved"]),
        (&2000.into(), &Value::Null)
    );
    assert_eq!(load["sum_equals_plaintext"], true);
    for phase in ["admit", "plan", "contribute", "roster", "open", "agree"] {
        let of = |rank: &str| load["seconds"]["phases"][phase][rank].as_f64().unwrap();
        assert!(of("p50") > 0.0 && of("p50") <= of("p99"), "{phase}");
    }
    // A block, and a share for each of four, from each of five, to each of two jobs.
    let contributions = 10.0 * (32_768.0 + 4.0 * (32_768.0 + 1136.0));
    assert_eq!(load["bytes"]["contributions"], contributions);
    assert!(load["bytes"]["up"].as_f64().unwrap() > contributions);
    assert!(load["bytes_per_second"]["ratio"].as_f64().unwrap() > 0.0);
    assert!(load["server"]["peak_memory"].as_u64().unwrap() > 1_000_000);
    assert!(load["server"]["peak_disk"].as_f64().unwrap() > contributions);
    let svg = std::fs::read_to_string(&chart).unwrap();
    assert!(svg.contains("<svg") && svg.contains("members"));
    let impossible = bench(&["load", "--members", "2"]);
    assert_eq!(impossible.status.code(), Some(2));
}

/// The server holds a few blocks, however many members there are: far less than one of their bodies.
#[test]
fn the_memory_of_the_server_does_not_grow_with_the_members() {
    let peak = |members: &str| {
        let arguments = [
            "seal",
            "--parameters",
            "2000000",
            "--value-bound",
            "1",
            "--repeats",
            "1",
            "--json",
        ];
        let output = bench(&[&arguments[..], &["--members", members]].concat());
        assert!(output.status.success(), "{}", said(&output));
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        let of = |party: &str| report["peak_memory"][party].as_u64().unwrap();
        // A member: its vector, and no second one beside it.
        let most = of("vector") + of("vector") / 2;
        assert!(
            of("seal") < most + BASE && of("open") < most + BASE,
            "{report}"
        );
        of("add")
    };
    let (few, many) = (peak("3"), peak("12"));
    assert!(
        many < few + 1_000_000,
        "{few} bytes for 3 members, {many} for 12"
    );
}

/// What a process holds before it does anything, amply.
const BASE: u64 = 12_000_000;

#[test]
fn a_cohort_that_cannot_be_is_a_usage_error() {
    assert_eq!(bench(&["seal", "--members", "1"]).status.code(), Some(2));
    assert_eq!(
        bench(&["seal", "--value-bound", "100"]).status.code(),
        Some(2)
    );
    assert_eq!(bench(&["seal", "--parameters", "0"]).status.code(), Some(2));
}

#[test]
fn seals_grow_with_the_members_times_those_that_hold_shares() {
    let arguments = [
        "committee",
        "--members",
        "6,12",
        "--committee",
        "6",
        "--colluding",
        "0",
        "--json",
    ];
    let output = bench(&arguments);
    assert!(output.status.success(), "{}", said(&output));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let of = |rows: &str, row: usize, figure: &str| report[rows][row][figure].as_f64().unwrap();
    for (rows, holders, seals) in [
        ("whole_cohort", [6.0, 12.0], [72.0, 288.0]),
        ("with_committee", [6.0, 6.0], [72.0, 144.0]),
    ] {
        for row in 0..2 {
            assert_eq!(of(rows, row, "holders"), holders[row]);
            assert_eq!(of(rows, row, "seals"), seals[row]);
            assert_eq!(of(rows, row, "threshold"), holders[row] / 2.0 + 1.0);
            for phase in ["contribute", "add", "release", "rebuild", "all"] {
                assert!(of(rows, row, &format!("{phase}_seconds")) > 0.0, "{phase}");
            }
        }
    }
    let share = 32_768.0 + 1136.0;
    assert_eq!(of("with_committee", 1, "bytes_of_holder"), 18.0 * share);
    assert_eq!(of("with_committee", 1, "bytes_of_others"), 6.0 * share);
}

#[test]
fn cohorts_that_are_left_out_are_named_and_impossible_ones_refused() {
    let arguments = [
        "committee",
        "--members",
        "4,8",
        "--committee",
        "4",
        "--colluding",
        "0",
        "--whole-up-to",
        "4",
    ];
    let output = bench(&arguments);
    let told = said(&output);
    assert!(output.status.success(), "{told}");
    assert!(told.contains("not measured for 8 members"), "{told}");
    assert!(told.contains("A committee of 4 holds the shares"), "{told}");
    assert_eq!(
        bench(&["committee", "--members", "1"]).status.code(),
        Some(2)
    );
    // Ten of a hundred collude: two of them are drawn more often than once in 2^40.
    assert_eq!(
        bench(&["committee", "--members", "100", "--committee", "2"])
            .status
            .code(),
        Some(2)
    );
}

#[test]
fn what_it_costs_to_make_an_update_private_is_told() {
    let arguments = [
        "privatise",
        "--parameters",
        "100000",
        "--repeats",
        "2",
        "--json",
    ];
    let output = bench(&arguments);
    assert!(output.status.success(), "{}", said(&output));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let number = |name: &str| report[name].as_f64().unwrap();
    assert!(number("seconds") > 0.0 && number("per_second") > 0.0);
    // z/√2 of a clip for each of three members, one of whom may subtract its own: √D2sq ≥ ½√d, and z·√d clips of noise.
    assert!(number("noise_standard_deviation") > 4.509 / 2_f64.sqrt() * 158.0);
    let ratio = number("noise_to_signal") / (4.509 * 100_000_f64.sqrt());
    assert!((ratio - 1.0).abs() < 1e-3, "{ratio}");
    assert!(number("zeroed_share") < 0.9);
    let refused = bench(&["privatise", "--noise-multiplier", "0"]);
    assert!(!refused.status.success());
    assert!(
        said(&refused).contains("noise_multiplier is 0"),
        "{}",
        said(&refused)
    );
}

#[test]
fn a_step_record_by_record_is_timed_beside_a_plain_one() {
    let folder = tempfile::tempdir().unwrap();
    let (model, data) = (
        folder.path().join("model"),
        folder.path().join("headlines.txt"),
    );
    headlines::write_model(&model).unwrap();
    std::fs::write(&data, headlines::HEADLINES).unwrap();
    let step = |batch: &str, more: &[&str]| {
        let (model, data) = (model.to_str().unwrap(), data.to_str().unwrap());
        let arguments = ["step", "--model", model, "--data", data, "--batch", batch];
        bench(&[&arguments[..], &["--repeats", "1", "--json"], more].concat())
    };
    let output = step("12", &[]);
    assert!(output.status.success(), "{}", said(&output));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        (&report["records"], &report["numbers"]),
        (&12.into(), &899.into())
    );
    let median = |name: &str| report[name]["median"].as_f64().unwrap();
    let aside = median("clip_and_noise_seconds");
    assert!(aside > 0.0 && aside < median("by_record_seconds"));
    assert!(report["ratio"].as_f64().unwrap() > 0.0);
    assert_eq!(step("100000", &[]).status.code(), Some(2));
    // In parameter space a gradient is as long as the encoder and the classifier.
    let output = step("12", &["--mlp", "16", "--in-parameter-space"]);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let perceptron = (128 * 16 + 16) + (16 * 16 + 16) + (16 * 128 + 128);
    assert_eq!(report["numbers"], 4 * 128 + perceptron + 3 * 129);
}

#[test]
fn a_p_tuning_step_is_timed_with_activations_kept_and_computed_again() {
    let arguments = ["tune", "--threads", "1,2", "--repeats", "1"];
    let shapes = ["--shapes", "tiny,minilm"];
    let output = bench(&[&arguments[..], &shapes, &["--json"]].concat());
    assert!(output.status.success(), "{}", said(&output));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["encoder"], "mlp");
    assert_eq!(report["skipped"][0], "minilm");
    let rows = report["rows"].as_array().unwrap();
    assert_eq!(rows.len(), 2);
    for (row, threads) in rows.iter().zip(1..) {
        assert_eq!(
            (&row["shape"], &row["threads"]),
            (&"tiny".into(), &threads.into())
        );
        for side in ["ours", "recompute"] {
            let side = &row[side];
            assert!(side["seconds"]["median"].as_f64().unwrap() > 0.0);
            // A model that knows nothing finds 64 tokens equally likely.
            let loss = side["loss"].as_f64().unwrap();
            assert!((loss - 64_f64.ln()).abs() < 0.5, "{loss}");
            assert!(side["loaded_bytes"].as_u64().unwrap() > 1_000_000);
            assert!(side["extra_bytes"].is_u64());
        }
        assert_eq!(row["ours"]["loss"], row["recompute"]["loss"]);
        assert!(row["tokens_per_second"].as_f64().unwrap() > 0.0 && row["torch"].is_null());
    }
    let words = said(&bench(&[&arguments[..], &shapes].concat()));
    assert!(
        words.contains("Tiny, 2 thread(s): 2 × (4 + 12) tokens"),
        "{words}"
    );
    assert!(words.contains("Minilm: SKIPPED"), "{words}");
}
