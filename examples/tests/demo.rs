//! The demonstration as its user sees it: a program, its folder, its exit code.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    time::{Duration, Instant},
};

use ciphertune_client::{
    desk::KeptJob,
    tuned::{Opened, Origin, Tuned},
};
use serde_json::Value;

fn demo(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_demo"));
    command.args(arguments);
    command
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn run(arguments: &[&str]) -> Output {
    demo(arguments).output().unwrap()
}

fn run_into(out: &Path, arguments: &[&str]) -> (Output, Value) {
    let output = run(&[&["--json", "--out", text(out)], arguments].concat());
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{said}");
    let summary = fs::read_to_string(out.join("summary.json")).unwrap();
    (output, serde_json::from_str(&summary).unwrap())
}

/// Exit code and standard error of a run that must not begin: nothing is left behind.
fn refused(arguments: &[&str]) -> (Option<i32>, String) {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let output = run(&[&["--out", text(&out)], arguments].concat());
    let left = fs::read_dir(&out).map_or(0, Iterator::count);
    assert_eq!(left, 0, "a refused run left something behind");
    (
        output.status.code(),
        String::from_utf8_lossy(&output.stderr).into_owned(),
    )
}

#[test]
fn every_opened_sum_is_the_plain_sum_and_every_figure_is_in_the_summary() {
    let folder = tempfile::tempdir().unwrap();
    let (output, summary) = run_into(folder.path(), &["--rounds", "2", "--seed", "1"]);
    assert_eq!(summary["completed"], true);
    let rounds = summary["rounds"].as_array().unwrap();
    assert_eq!(rounds.len(), 2);
    for round in rounds {
        assert_eq!(round["sum_equals_plaintext"], true);
        assert_eq!(round["contributors"], 3);
        for key in [
            "validation_loss",
            "validation_accuracy",
            "training_loss",
            "bytes_up",
            "bytes_down",
        ] {
            assert!(round[key].as_f64().unwrap() > 0.0, "{key}");
        }
        for key in ["train", "privatise", "seal", "send", "wait", "open"] {
            assert!(
                round["seconds"][key].as_f64().unwrap() > 0.0,
                "seconds.{key}"
            );
        }
        assert_eq!(round["members"].as_object().unwrap().len(), 3);
    }
    assert_eq!(summary["privacy"]["unit"], "none");
    assert!(summary["privacy"]["epsilon"].is_null());
    assert!(
        summary["privacy"]["said"]
            .as_str()
            .unwrap()
            .contains("NO DIFFERENTIAL PRIVACY")
    );
    for party in ["server", "member"] {
        assert!(summary["peak_memory"][party].as_u64().unwrap() > 1_000_000);
    }
    assert_eq!(summary["backbone"]["kind"], "llama");
    for key in [
        "job",
        "parameters",
        "majority_class",
        "seconds",
        "data",
        "sealing",
    ] {
        assert!(!summary[key].is_null(), "{key}");
    }

    let events: Vec<Value> = String::from_utf8(output.stdout)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).expect("one JSON object a line"))
        .collect();
    assert_eq!(events.last().unwrap()["event"], "summary");
    assert_eq!(events.last().unwrap()["summary"], summary);
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("SMOKE RUN") && said.contains("WITHOUT DIFFERENTIAL PRIVACY"));
    assert!(said.contains("sum = plain"));
    assert!(!folder.path().join("plaintext").exists());
    let home = folder.path().join("parties/member-2");
    assert!(home.join("audit.jsonl").exists() && home.join("ledger.sqlite").exists());
}

#[test]
fn the_training_loss_falls_for_three_seeds() {
    for seed in ["1", "2", "3"] {
        let folder = tempfile::tempdir().unwrap();
        let (_, summary) = run_into(folder.path(), &["--rounds", "3", "--seed", seed]);
        let losses: Vec<f64> = summary["rounds"]
            .as_array()
            .unwrap()
            .iter()
            .map(|round| round["training_loss"].as_f64().unwrap())
            .collect();
        assert!(
            losses.len() == 3 && losses.is_sorted_by(|a, b| a > b),
            "seed {seed}: {losses:?}"
        );
    }
}

#[test]
fn a_private_policy_is_paid_for_round_by_round() {
    let folder = tempfile::tempdir().unwrap();
    let policy = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../policies/institution-research.toml"
    );
    let out = folder.path().join("out");
    let (_, summary) = run_into(
        &out,
        &["--rounds", "2", "--members", "4", "--policy", policy],
    );
    let spent: Vec<f64> = summary["rounds"]
        .as_array()
        .unwrap()
        .iter()
        .map(|round| round["epsilon"].as_f64().unwrap())
        .collect();
    assert!(0.0 < spent[0] && spent[0] < spent[1], "{spent:?}");
    assert_eq!(summary["privacy"]["epsilon"].as_f64().unwrap(), spent[1]);
    let limit: f64 = summary["privacy"]["job_epsilon"]
        .as_str()
        .unwrap()
        .parse()
        .unwrap();
    assert!(
        spent[1] <= limit && spent[1] > 0.9 * limit,
        "{spent:?} of {limit}"
    );
    assert!(
        summary["rounds"]
            .as_array()
            .unwrap()
            .iter()
            .all(|round| round["sum_equals_plaintext"] == true)
    );
}

#[test]
fn a_policy_that_hides_records_takes_one_step_a_round() {
    let folder = tempfile::tempdir().unwrap();
    let policy = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../policies/record-epsilon-8.toml"
    );
    let (output, summary) = run_into(
        &folder.path().join("out"),
        &["--rounds", "3", "--policy", policy],
    );
    let rounds = summary["rounds"].as_array().unwrap();
    assert_eq!(rounds.len(), 3);
    for round in rounds {
        assert_eq!(round["sum_equals_plaintext"], true);
        assert!((0.0..=1.0).contains(&round["clipped_share"].as_f64().unwrap()));
        assert!(round["zeroed_share"].as_f64().unwrap() < 0.9);
    }
    assert_eq!(summary["privacy"]["unit"], "record");
    let spent = summary["privacy"]["epsilon"].as_f64().unwrap();
    assert!(0.9 * 8.0 < spent && spent <= 8.0, "{spent}");
    // Four virtual tokens and a classifier of three labels.
    assert_eq!(summary["parameters"], 4 * 128 + 3 * (128 + 1));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("gradients"), "{said}");
    // The same with metrics in the sums: the policy must allow them.
    let measured = folder.path().join("measured.toml");
    let metrics = ["training-accuracy", "training-loss"];
    let unmeasured = fs::read_to_string(policy).unwrap();
    let allowed = unmeasured.replace("metrics = []", &format!("metrics = {metrics:?}"));
    fs::write(&measured, allowed).unwrap();
    let joined = metrics.join(",");
    let asked = ["--rounds", "2", "--metrics", &joined, "--policy"];
    let with = [&asked[..], &[text(&measured)]].concat();
    let (_, summary) = run_into(&folder.path().join("measured"), &with);
    assert_eq!(summary["parameters"], 4 * 128 + 3 * (128 + 1) + 2);
    for round in summary["rounds"].as_array().unwrap() {
        assert_eq!(round["sum_equals_plaintext"], true);
        let released = round["released"].as_object().unwrap();
        assert!(metrics.iter().all(|metric| released[*metric].is_f64()));
    }
    let (code, said) = refused(&[&asked[..], &[policy]].concat());
    assert!(
        code == Some(1) && said.contains("releases.metrics"),
        "{said}"
    );
    let research = policy.replace("record-epsilon-8", "institution-research");
    let (code, said) = refused(&["--sampling-rate", "0.1", "--policy", &research]);
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("institution"), "{said}");
}

#[test]
fn a_malformed_line_is_named_with_its_file() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("bank.txt");
    fs::write(
        &data,
        "sales rose@positive\nsales fell@negative\nno label here\n",
    )
    .unwrap();
    let (code, said) = refused(&["--data", text(&data)]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("bank.txt, line 3"), "{said}");
    let (code, said) = refused(&["--data", "/no/such/file.csv"]);
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("/no/such/file.csv"), "{said}");
}

#[test]
fn a_model_folder_that_lacks_a_file_or_is_of_an_unknown_architecture_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let model: PathBuf = folder.path().join("model");
    let (code, said) = refused(&["--model", text(&model)]);
    assert_eq!(code, Some(2), "{said}");
    ciphertune_examples::headlines::write_model(&model).unwrap();
    for name in ["tokenizer.json", "model.safetensors", "config.json"] {
        let path = model.join(name);
        let kept = fs::read(&path).unwrap();
        fs::remove_file(&path).unwrap();
        let (code, said) = refused(&["--model", text(&model)]);
        assert!(code == Some(1) || code == Some(3), "{name}: {code:?}");
        assert!(said.contains(name), "{name}: {said}");
        fs::write(&path, kept).unwrap();
    }
    fs::write(model.join("config.json"), r#"{"model_type": "perceiver"}"#).unwrap();
    let (code, said) = refused(&["--model", text(&model)]);
    assert_eq!(code, Some(1), "{said}");
    assert!(
        said.contains("perceiver") && said.contains("llama"),
        "{said}"
    );
}

#[test]
fn a_job_beyond_its_policy_and_an_unknown_key_are_refused_in_words() {
    let (code, said) = refused(&["--rounds", "101"]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("101") && said.contains("100"), "{said}");
    let (code, said) = refused(&["--members", "2"]);
    assert_eq!(code, Some(1), "{said}");
    let folder = tempfile::tempdir().unwrap();
    let policy = folder.path().join("policy.toml");
    fs::write(&policy, "schema = 1\nnaem = \"x\"\n").unwrap();
    let (code, said) = refused(&["--policy", text(&policy)]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("naem"), "{said}");
}

#[test]
fn a_folder_that_is_in_use_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("mine"), "precious").unwrap();
    let output = run(&["--out", text(folder.path())]);
    assert_eq!(output.status.code(), Some(2));
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}

/// Process numbers of the parties that run for `out`.
fn parties(out: &Path) -> Vec<u32> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let Some(pid) = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok())
        else {
            continue;
        };
        let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        if line.contains(" party ") && line.contains(text(out)) {
            found.push(pid);
        }
    }
    found
}

fn until(what: &str, holds: impl Fn() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(
            start.elapsed() < Duration::from_secs(90),
            "{what}: not within a minute"
        );
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Starts a long run and returns it once its first round is over.
fn under_way(out: &Path, more: &[&str]) -> std::process::Child {
    let mut child = demo(&["--rounds", "100", "--json", "--out", text(out)])
        .args(more)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().contains("\"compared\"")));
    std::thread::spawn(move || lines.for_each(drop));
    child
}

fn signal(name: &str, pid: u32) {
    let sent = Command::new("kill")
        .args([name, &pid.to_string()])
        .status()
        .unwrap();
    assert!(sent.success());
}

#[test]
fn ctrl_c_and_even_a_killed_parent_leave_no_process_behind() {
    let folder = tempfile::tempdir().unwrap();
    for (name, code) in [("-INT", Some(3)), ("-KILL", None)] {
        let out = fs::canonicalize(folder.path()).unwrap().join(&name[1..]);
        let mut child = under_way(&out, &[]);
        assert_eq!(parties(&out).len(), 4);
        signal(name, child.id());
        assert_eq!(child.wait().unwrap().code(), code);
        until("the parties' end", || parties(&out).is_empty());
    }
}

#[test]
fn a_member_that_is_killed_does_not_hang_the_others_past_the_deadline() {
    let folder = tempfile::tempdir().unwrap();
    let out = fs::canonicalize(folder.path()).unwrap().join("out");
    // Long enough for a round on a machine that is busy with other tests.
    let mut child = under_way(&out, &["--deadline", "20"]);
    let of_member = |pid: &u32| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&line).contains("member-2/")
    };
    let victim = parties(&out).into_iter().find(of_member).unwrap();
    signal("-KILL", victim);
    let start = Instant::now();
    assert_eq!(child.wait().unwrap().code(), Some(1));
    assert!(
        start.elapsed() < Duration::from_secs(60),
        "{:?}",
        start.elapsed()
    );
    let summary: Value =
        serde_json::from_str(&fs::read_to_string(out.join("summary.json")).unwrap()).unwrap();
    assert_eq!(summary["completed"], false);
    assert!(parties(&out).is_empty());
}

#[test]
fn real_sentences_and_a_real_model_are_tuned() {
    let shared = concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared");
    let data = format!("{shared}/data/phrasebank/Sentences_AllAgree.txt");
    let model = format!("{shared}/models/all-MiniLM-L6-v2");
    if !Path::new(&data).exists() || !Path::new(&model).exists() {
        eprintln!("SKIPPED: no sentences or model under {shared}");
        return;
    }
    // A few sentences alone, so that measuring does not take longer than everything else.
    let bytes = fs::read(&data).unwrap();
    let few: Vec<&[u8]> = bytes.split(|byte| *byte == b'\n').step_by(20).collect();
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("few.txt");
    fs::write(&data, few.join(&b'\n')).unwrap();
    let out = folder.path().join("out");
    let arguments = [
        "--rounds",
        "1",
        "--per-member",
        "20",
        "--model",
        &model,
        "--data",
        text(&data),
    ];
    let (_, summary) = run_into(&out, &arguments);
    assert_eq!(summary["backbone"]["kind"], "bert");
    assert_eq!(summary["smoke_run"], false);
    assert_eq!(summary["rounds"][0]["sum_equals_plaintext"], true);
}

#[test]
fn members_move_their_models_alike_whatever_the_aggregation_and_what_they_agree_on_is_ready_to_use()
{
    for (aggregation, moments) in [("fedavgm", 1), ("fedadam", 2)] {
        let folder = tempfile::tempdir().unwrap();
        let wish = ["--rounds", "2", "--aggregation", aggregation];
        let (_, summary) = run_into(folder.path(), &wish);
        for round in summary["rounds"].as_array().unwrap() {
            assert_eq!(round["sum_equals_plaintext"], true);
        }
        let mut agreed: Vec<KeptJob> = Vec::new();
        for member in 1..=3 {
            let jobs = folder.path().join(format!("parties/member-{member}/jobs"));
            let job = fs::read_dir(jobs).unwrap().next().unwrap().unwrap().path();
            agreed.push(KeptJob::read(&job).unwrap().expect("a job with its model"));
        }
        let dimension = agreed[0].job.dimension as usize;
        assert_eq!(agreed[0].model.state.len(), dimension * (1 + moments));
        assert!(agreed[0].model.state[dimension..].iter().any(|m| *m != 0.0));
        assert!(agreed.iter().all(|it| it.model.round == 2));
        assert!(
            agreed
                .iter()
                .all(|it| it.model.state == agreed[0].model.state)
        );

        let opened = Opened::open(
            &folder.path().join("model"),
            &ciphertune_tune::device::Device::Cpu,
            Default::default(),
        )
        .unwrap();
        let (tuned, _) = Tuned::read(&folder.path().join("tuned"), &opened).unwrap();
        assert_eq!(tuned.parameters, agreed[0].model.state[..dimension]);
        let origin = Origin::Job {
            job: agreed[0].digest.to_string(),
            rounds: 2,
        };
        assert_eq!(tuned.about.origin, origin);
    }
    let (code, said) = refused(&["--aggregation", "fedadam", "--sampling-rate", "0.1"]);
    assert!(code == Some(1) && said.contains("aggregation"), "{said}");
}
