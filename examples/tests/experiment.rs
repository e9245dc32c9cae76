//! The experiments as their user sees them: cells that are kept, a table, an exit code.

use std::{
    fs,
    path::Path,
    process::{Command, Output},
    time::SystemTime,
};

use serde_json::Value;

fn run(out: &Path, arguments: &[&str]) -> Output {
    let (what, rest) = arguments.split_first().unwrap();
    Command::new(env!("CARGO_BIN_EXE_experiment"))
        .arg(what)
        .arg("--out")
        .arg(out)
        .args(rest)
        .output()
        .unwrap()
}

fn table(output: &Output) -> Vec<Value> {
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{said}");
    let last = String::from_utf8_lossy(&output.stdout);
    let table: Value = serde_json::from_str(last.lines().last().unwrap()).unwrap();
    table["cells"].as_array().unwrap().clone()
}

fn finished_at(cell: &Path) -> SystemTime {
    fs::metadata(cell.join("cell.json"))
        .unwrap()
        .modified()
        .unwrap()
}

#[test]
fn finished_cells_are_kept_unfinished_ones_begun_anew_and_other_options_refused() {
    let folder = tempfile::tempdir().unwrap();
    let arguments = [
        "privacy",
        "--epsilon",
        "8,inf",
        "--seeds",
        "1",
        "--rounds",
        "2",
        "--json",
    ];
    let cells = table(&run(folder.path(), &arguments));
    assert_eq!(cells.len(), 2);
    let spent = cells[0]["epsilon_spent"].as_f64().unwrap();
    assert!(spent > 7.0 && spent <= 8.0, "{spent}");
    assert!(cells[1]["epsilon_spent"].is_null());
    assert_eq!(cells[1]["noise_multiplier"], "0");
    assert!(
        cells
            .iter()
            .all(|cell| cell["accuracy"].as_f64().unwrap() > 0.0)
    );
    let markdown = fs::read_to_string(folder.path().join("table.md")).unwrap();
    assert!(markdown.contains("| ∞ |"), "{markdown}");

    // One cell was interrupted: it alone is run again.
    let of = |level: &str| folder.path().join(format!("epsilon-{level}-seed-1"));
    let kept = finished_at(&of("8"));
    fs::remove_file(of("inf").join("cell.json")).unwrap();
    fs::write(of("inf").join("left over"), "").unwrap();
    let again = table(&run(folder.path(), &arguments));
    assert_eq!(again[0], cells[0]);
    assert_eq!(finished_at(&of("8")), kept);
    assert!(!of("inf").join("left over").exists());

    let other = ["privacy", "--epsilon", "8", "--seeds", "1", "--rounds", "3"];
    let refused = run(folder.path(), &other);
    let said = String::from_utf8_lossy(&refused.stderr);
    assert_eq!(refused.status.code(), Some(2), "{said}");
    assert!(said.contains("other options"), "{said}");
}

#[test]
fn canaries_are_guessed_from_the_final_model_and_their_coins_are_kept() {
    let folder = tempfile::tempdir().unwrap();
    let arguments = [
        "canaries",
        "--epsilon",
        "1",
        "--canaries",
        "60",
        "--rounds",
        "3",
        "--json",
    ];
    let cells = table(&run(folder.path(), &arguments));
    let cell = &cells[0];
    assert_eq!(
        (&cell["canaries"], &cell["guessed"]),
        (&60.into(), &20.into())
    );
    let at_least = cell["epsilon_at_least"].as_f64().unwrap();
    assert!(at_least <= cell["epsilon_spent"].as_f64().unwrap());
    let coins = fs::read_to_string(folder.path().join("epsilon-1/canaries.jsonl")).unwrap();
    let coins: Vec<Value> = coins
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(coins.len(), 60);
    let present = coins.iter().filter(|coin| coin["present"] == true).count();
    // All of 60 coins alike, or nearly: below 10⁻⁹.
    assert!((8..=52).contains(&present), "{present}");
    let words = |coin: &Value| coin["fields"]["sentence"].as_str().unwrap().to_owned();
    let distinct: std::collections::BTreeSet<String> = coins.iter().map(words).collect();
    assert_eq!(distinct.len(), 60);

    let too_many = run(folder.path(), &["canaries", "--canaries", "9999"]);
    assert_ne!(too_many.status.code(), Some(0));
}
