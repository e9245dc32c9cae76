//! `ciphertune tune|eval|predict|generate|export|import`, as a member's engineer runs them: on a small model made from a seed.

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    time::{Duration, Instant},
};

use ciphertune_tune::{
    backbone::random::{small_llama, write_random_llama},
    tokenizer::word_level,
};
use serde_json::Value;
use tempfile::TempDir;

/// A folder with a model, and three data files.
struct Desk(TempDir);

const SUBJECTS: [&str; 6] = [
    "sales",
    "exports of pulp",
    "profits",
    "orders at the yard",
    "margins",
    "deliveries",
];
const MOODS: [(&str, [&str; 4]); 2] = [
    ("positive", ["rose", "improved", "doubled", "recovered"]),
    ("negative", ["fell", "shrank", "halved", "collapsed"]),
];

impl Desk {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let desk = Self(folder);
        let mut sentences = String::new();
        let mut questions = String::new();
        for subject in SUBJECTS {
            for (label, verbs) in MOODS {
                for verb in verbs {
                    sentences += &format!("{subject} {verb}@{label}\n");
                    let line = serde_json::json!({
                        "context": format!("{subject} {verb}."),
                        "question": format!("what {verb}?"),
                        "answer": subject,
                    });
                    questions += &format!("{line}\n");
                }
            }
        }
        sentences += "sales rose@positive\n";
        fs::write(desk.path("headlines.txt"), &sentences).unwrap();
        fs::write(desk.path("questions.jsonl"), &questions).unwrap();
        let csv = "text,label\nsales rose,positive\nmargins fell,negative\n";
        fs::write(desk.path("few.csv"), csv).unwrap();
        let model = desk.path("model");
        let words = format!("{sentences} {questions} Label: Answer: sentiment: @");
        let tokenizer = word_level(&[words], 128).unwrap();
        write_random_llama(&model, &small_llama(tokenizer.vocab_size(), 32, 2), 1).unwrap();
        tokenizer.save(&model.join("tokenizer.json")).unwrap();
        desk
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ciphertune"));
        command
            .current_dir(self.0.path())
            .env("CIPHERTUNE_HOME", self.path("home"))
            .args(arguments);
        command
    }

    fn run(&self, line: &str) -> Output {
        self.command(&words(line)).output().unwrap()
    }

    /// What a command that must succeed said on standard output.
    fn said(&self, line: &str) -> String {
        let output = self.run(line);
        assert!(output.status.success(), "{line}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// The objects of `--json`.
    fn objects(&self, line: &str) -> Vec<Value> {
        let said = self.said(&format!("{line} --json"));
        said.lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    /// What a command that must fail said, and its exit code.
    fn refusal(&self, line: &str) -> (i32, String) {
        let output = self.run(line);
        let said = String::from_utf8(output.stderr).unwrap();
        (output.status.code().unwrap(), said)
    }

    fn answered(&self, line: &str, input: &str) -> String {
        let mut command = self.command(&words(line));
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = command.spawn().unwrap();
        process
            .stdin
            .take()
            .unwrap()
            .write_all(input.as_bytes())
            .unwrap();
        let output = process.wait_with_output().unwrap();
        assert!(output.status.success(), "{line}");
        String::from_utf8(output.stdout).unwrap()
    }
}

/// Arguments, single quotes around those with spaces.
fn words(line: &str) -> Vec<&str> {
    let mut words = Vec::new();
    for (at, part) in line.split('\'').enumerate() {
        match at % 2 {
            0 => words.extend(part.split_whitespace()),
            _ => words.push(part),
        }
    }
    words
}

const TUNE: &str =
    "tune --model model --data headlines.txt --encoder mlp --batch 8 --hold-out 0.25 --seed 3";

#[test]
fn a_run_says_what_it_trains_on_and_leaves_a_folder_that_answers() {
    let desk = Desk::new();
    let said = desk.said(&format!("{TUNE} --epochs 6 --rate 0.05 --out tuned"));
    for part in [
        "36 records to train on, 12 held out; 1 duplicates left out",
        "template {sentence} Label: {label}",
        "validation loss",
        "macro F1",
        "predicted",
        "PeftModel.from_pretrained loads it",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
    let found = desk
        .objects("eval --adapter tuned --model model --data headlines.txt")
        .remove(0);
    let confusion = found["evaluation"]["confusion"].as_array().unwrap();
    let right = confusion[0][0].as_u64().unwrap() + confusion[1][1].as_u64().unwrap();
    assert_eq!(
        (
            found["evaluation"]["examples"].as_u64(),
            found["duplicates"].as_u64()
        ),
        (Some(48), Some(1))
    );
    assert_eq!(
        found["evaluation"]["accuracy"].as_f64(),
        Some(right as f64 / 48.0)
    );
    assert!(found["evaluation"]["macro_f1"].as_f64().unwrap() > 0.0);

    // On the command line, from standard input in batches, and from JSON: the same answers.
    let few = desk.said("predict --adapter tuned --model model 'sales rose' 'margins fell'");
    assert_eq!(few.lines().count(), 2);
    let lines = "sales rose\n\n{\"sentence\": \"margins fell\"}\n";
    let piped = desk.answered("predict --adapter tuned --model model --batch 1", lines);
    // The empty line keeps its place.
    assert_eq!(piped, few.replacen('\n', "\n\n", 1));
    let each = desk
        .objects("predict --adapter tuned --model model 'sales rose'")
        .remove(0);
    let sum: f64 = ["negative", "positive"]
        .map(|it| each["probabilities"][it].as_f64().unwrap())
        .iter()
        .sum();
    assert!((sum - 1.0).abs() < 1e-9);
    // Latin-1 is read, an empty line keeps its place, and what was asked before a bad line is answered.
    let mut command = desk.command(&words("predict --adapter tuned --model model"));
    let mut process = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let input = b"sales rose in Helsingb\xE5l\n\nmargins fell\n{\"text\": 1}\n";
    process.stdin.take().unwrap().write_all(input).unwrap();
    let output = process.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    let answers = String::from_utf8(output.stdout).unwrap();
    let answers: Vec<bool> = answers.lines().map(str::is_empty).collect();
    assert_eq!(answers, [false, true, false]);
    let (code, said) =
        desk.refusal("predict --adapter tuned --model model '{\"text\": \"sales rose\"}'");
    assert!(
        code == 2 && said.contains("text 1") && said.contains("sentence"),
        "{said}"
    );
}

#[test]
fn a_run_that_was_killed_goes_on_to_the_same_digest() {
    let desk = Desk::new();
    let command = format!("{TUNE} --epochs 40 --evaluate-every 5");
    let digest = |out: &str| {
        let last = desk
            .objects(&format!("{command} --out {out}"))
            .pop()
            .unwrap();
        last["digest"].as_str().unwrap().to_owned()
    };
    let straight = digest("straight");
    let mut process = desk.command(&words(&format!("{command} --out killed --json")));
    let mut process = process.stdout(Stdio::null()).spawn().unwrap();
    let checkpoint = desk.path("killed/checkpoint.safetensors");
    let start = Instant::now();
    while !checkpoint.exists() && start.elapsed() < Duration::from_secs(60) {
        std::thread::sleep(Duration::from_millis(2));
    }
    process.kill().unwrap();
    process.wait().unwrap();
    assert!(
        !desk.path("killed/ciphertune.json").exists(),
        "it had ended before it was killed"
    );
    let first = desk.objects(&format!("{command} --out killed")).remove(0);
    assert!(first["steps_before"].as_u64().unwrap() > 0, "{first}");
    assert_eq!(digest("killed"), straight);

    let (code, said) = desk.refusal(&format!("{command} --rate 0.02 --out killed"));
    assert!(
        code == 1 && said.contains("classifier_rate was 0.03, is 0.06"),
        "{said}"
    );
    // What only changes how it is computed gives the same bits, or is refused.
    let checkpointed = desk
        .objects(&format!("{command} --recompute --out recomputed"))
        .pop()
        .unwrap();
    assert_eq!(checkpointed["digest"].as_str(), Some(straight.as_str()));
    let (code, said) = desk.refusal(&format!("{command} --at-a-time 3 --out killed"));
    assert!(
        code == 1 && said.contains("at_a_time was null, is 3"),
        "{said}"
    );
}

#[test]
fn a_prompt_that_answers_in_words_writes_them() {
    let desk = Desk::new();
    let tune = "tune --model model --data questions.jsonl --template '{context} {question} Answer: {answer}' --epochs 12 --rate \
                0.05 --virtual-tokens 8 --batch 8 --out answers";
    let last = desk.objects(tune).pop().unwrap();
    let (before, after) = (&last["before"], &last["validation"]);
    assert!(after["loss"].as_f64() < before["loss"].as_f64(), "{last}");
    assert!(after["token_accuracy"].as_f64().is_some() && after["macro_f1"].is_null());
    let question = "generate --adapter answers --model model --most-tokens 3 '{\"context\": \"sales rose.\", \"question\": \"what rose?\"}'";
    let greedy = desk.said(question);
    assert!(
        greedy.split_whitespace().count() <= 3 && !greedy.trim().is_empty(),
        "{greedy:?}"
    );
    assert_eq!(desk.said(question), greedy);
    let drawn = |seed: u64| {
        desk.said(&format!(
            "{question} --temperature 2 --top-p 0.95 --seed {seed}"
        ))
    };
    assert_eq!(drawn(1), drawn(1));
    assert!((2..12).any(|seed| drawn(seed) != drawn(1)));
    let told = desk.objects(question).remove(0);
    assert_eq!(
        (told["text"].as_str(), told["ending"].as_str()),
        (Some(greedy.trim()), Some("most-tokens"))
    );
    let (code, said) = desk.refusal("generate --adapter answers --model model 'sales rose'");
    assert!(code == 2 && said.contains("several columns"), "{said}");
    let (code, said) = desk.refusal("generate --adapter answers --model model --top-p 1.5 x");
    assert!(code == 2 && said.contains("top_p"), "{said}");
}

#[test]
fn what_is_exported_comes_back_and_is_continued_on_other_data_beside_it() {
    let desk = Desk::new();
    desk.said(&format!("{TUNE} --epochs 2 --out tuned"));
    desk.said("export --adapter tuned --model model --out exported");
    for file in ["adapter_config.json", "adapter_model.safetensors"] {
        let read = |folder: &str| fs::read(desk.path(folder).join(file)).unwrap();
        assert_eq!(read("exported"), read("tuned"), "{file}");
    }
    let import = "import exported --model model --template '{sentence} Label: {label}' --labels negative,positive --out imported";
    desk.said(import);
    let found = |folder: &str| {
        let line = format!("eval --adapter {folder} --model model --data headlines.txt");
        desk.objects(&line).remove(0)["evaluation"].clone()
    };
    // P(θ) of a network, and P itself: the same prompt, met in batches of other sizes.
    let same = || {
        let (imported, tuned) = (found("imported"), found("tuned"));
        let loss = |it: &Value| it["loss"].as_f64().unwrap();
        imported["confusion"] == tuned["confusion"] && (loss(&imported) - loss(&tuned)).abs() < 1e-5
    };
    assert!(same());

    let further = "tune --model model --from imported --data few.csv --validation headlines.txt --epochs 1 --out mine";
    let (code, said) = desk.refusal(further);
    assert!(code == 2 && said.contains("\"sentence\""), "{said}");
    let further =
        "tune --model model --from imported --data headlines.txt --epochs 3 --rate 0.05 --out mine";
    let last = desk.objects(further).pop().unwrap();
    let about: Value =
        serde_json::from_slice(&fs::read(desk.path("mine/ciphertune.json")).unwrap()).unwrap();
    let before: Value =
        serde_json::from_slice(&fs::read(desk.path("imported/ciphertune.json")).unwrap()).unwrap();
    assert_eq!(about["origin"]["continued"], before["digest"]);
    assert_ne!(last["digest"], before["digest"]);
    assert!(last["validation"]["loss"].as_f64() <= last["before"]["loss"].as_f64());
    let (code, said) =
        desk.refusal("tune --model model --from imported --data headlines.txt --out imported");
    assert!(code == 1 && said.contains("would replace"), "{said}");
    let (code, said) = desk.refusal("export --adapter mine --model model --out imported");
    assert!(code == 1 && said.contains("holds another"), "{said}");
    // The one it came from is as it was.
    assert!(same());
}

#[test]
fn early_stop_keeps_the_best_model() {
    let desk = Desk::new();
    let line = format!("{TUNE} --epochs 200 --rate 1 --evaluate-every 1 --patience 3 --out tuned");
    let objects = desk.objects(&line);
    let losses: Vec<f64> = (objects.iter())
        .filter_map(|it| {
            it["validation"]["loss"]
                .as_f64()
                .filter(|_| !it["step"].is_null())
        })
        .collect();
    assert!(losses.len() < 100, "{} evaluations", losses.len());
    let best = losses.iter().copied().fold(f64::INFINITY, f64::min);
    assert_eq!(
        objects.last().unwrap()["validation"]["loss"].as_f64(),
        Some(best)
    );
    assert_eq!(
        losses.iter().position(|it| *it == best),
        Some(losses.len() - 4)
    );
}

#[test]
fn mistakes_are_told_and_nothing_is_written() {
    let desk = Desk::new();
    fs::write(desk.path("empty.csv"), "").unwrap();
    fs::write(desk.path("one.txt"), "sales rose@positive\n").unwrap();
    let other = desk.path("other");
    write_random_llama(&other, &small_llama(128, 32, 1), 2).unwrap();
    fs::copy(
        desk.path("model/tokenizer.json"),
        other.join("tokenizer.json"),
    )
    .unwrap();
    desk.said(&format!("{TUNE} --epochs 1 --out tuned"));
    for (line, code, part) in [
        (
            "tune --model model --data empty.csv --out x",
            1,
            "holds no record",
        ),
        ("tune --model model --data gone.csv --out x", 3, "gone.csv"),
        (
            "tune --model gone --data headlines.txt --out x",
            1,
            "config.json is missing",
        ),
        (
            "tune --model model --data one.txt --labels positive,negative --out x",
            2,
            "none is left to train on",
        ),
        (
            "tune --model model --data headlines.txt --template '{title} {label}' --out x",
            2,
            "no column \"title\"; the columns are",
        ),
        (
            "tune --model model --data headlines.txt --labels positive,neutral --out x",
            1,
            "unknown label \"negative\"",
        ),
        (
            "tune --model model --data headlines.txt --virtual-tokens 600 --out x",
            2,
            "leave no room",
        ),
        (
            "tune --model model --data headlines.txt --hold-out 1 --out x",
            2,
            "a share of 1",
        ),
        (
            "tune --model model --data headlines.txt --hold-out 0 --patience 2 --out x",
            2,
            "--patience",
        ),
        (
            "tune --model model --data headlines.txt --validation headlines.txt --out x",
            2,
            "48 texts are in both",
        ),
        (
            "tune --model model --data questions.jsonl --route generation --out x",
            2,
            "--template says",
        ),
        (
            "eval --adapter tuned --model other --data headlines.txt",
            1,
            "was tuned before the backbone",
        ),
        (
            "eval --adapter tuned --model model --data questions.jsonl",
            1,
            "no column \"label\"",
        ),
        (
            "eval --adapter gone --model model --data headlines.txt",
            2,
            "gone/ciphertune.json",
        ),
        (
            "predict --adapter model --model model x",
            2,
            "ciphertune.json",
        ),
        (
            "import model --model model --template '{sentence}' --out x",
            1,
            "adapter_config.json is missing",
        ),
    ] {
        let (found, said) = desk.refusal(line);
        assert!(
            found == code && said.contains(part),
            "{line}: {found} {said}"
        );
        assert!(
            !Path::new(&desk.path("x")).join("ciphertune.json").exists(),
            "{line}"
        );
    }
}

#[test]
fn the_commands_of_the_guide_run() {
    let desk = Desk::new();
    let guide =
        fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/tuning.md")).unwrap();
    let mut ran = 0;
    for line in guide
        .lines()
        .filter_map(|line| line.strip_prefix("ciphertune "))
    {
        desk.said(line);
        ran += 1;
    }
    assert!(ran >= 9, "{ran}");
}
