//! The walk-through of docs/federation.md, every command as it stands there.

use std::{
    fs,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use ciphertune_examples::headlines;

/// The `sh` blocks of the page, in order.
fn script(page: &str) -> String {
    let mut script = String::new();
    let mut inside = false;
    for line in page.lines() {
        match line {
            "```sh" => inside = true,
            "```" => inside = false,
            line if inside => {
                script.push_str(line);
                script.push('\n');
            }
            _ => {}
        }
    }
    script
}

/// Where cargo put the programs of the workspace.
fn programs() -> PathBuf {
    let demo = Path::new(env!("CARGO_BIN_EXE_demo"));
    demo.parent().unwrap().to_owned()
}

#[test]
fn the_walk_through_ends_with_a_model_and_a_revoked_member() {
    let root = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
    let page = fs::read_to_string(root.join("docs/federation.md")).unwrap();
    for program in ["ciphertune", "ciphertune-server"] {
        let path = programs().join(program);
        assert!(
            path.exists(),
            "{} is not built: cargo test --workspace",
            path.display()
        );
    }
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("model");
    headlines::write_model(&model).unwrap();
    let data = folder.path().join("data");
    fs::create_dir(&data).unwrap();
    let lines: Vec<&str> = headlines::HEADLINES.lines().collect();
    for (name, part) in ["north", "east", "west"].iter().zip(lines.chunks(120)) {
        fs::write(data.join(format!("{name}.txt")), part.join("\n") + "\n").unwrap();
    }
    let port = TcpListener::bind("127.0.0.1:0").unwrap();
    let number = port.local_addr().unwrap().port().to_string();
    drop(port);
    let desk = folder.path().join("desk");
    fs::create_dir(&desk).unwrap();
    let path = std::env::var("PATH").unwrap();
    let output = Command::new("bash")
        .args(["-euo", "pipefail", "-c"])
        // Whatever it leaves running ends with it, or this test would wait for it.
        .arg(format!(
            "trap 'kill $(jobs -p) 2>/dev/null || true' EXIT\nmembers=\n{}",
            script(&page)
        ))
        .current_dir(&desk)
        .env("PATH", format!("{}:{path}", programs().display()))
        .env("MODEL", &model)
        .env("DATA", &data)
        .env("POLICIES", root.join("policies"))
        .env("PORT", number)
        .env("RUST_LOG", "info")
        .env_remove("CIPHERTUNE_HOME")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let log = |name: &str| fs::read_to_string(desk.join(name)).unwrap_or_default();
    assert!(
        output.status.success(),
        "{said}\n{}\nserver: {}\nnorth: {}\nrefused: {}",
        String::from_utf8_lossy(&output.stderr),
        log("server.log"),
        log("north.log"),
        log("refused.log"),
    );
    for name in ["north", "east", "west"] {
        let log = log(&format!("{name}.log"));
        assert!(log.contains("round 2 done"), "{name}: {log}");
    }
    for expected in [
        "completed",
        "manifest 2 of lab: 5 parties",
        "- west",
        "\"reason\":\"key-compromise\"",
        "cert.pem: OK",
        "everything holds",
    ] {
        assert!(said.contains(expected), "{expected}: {said}");
    }
    assert!(desk.join("tuned/ciphertune.json").exists());
    // What only a run can know is on the page: each roster, and the model that was agreed on.
    let report = fs::read_to_string(desk.join("job.json")).unwrap();
    let report: serde_json::Value = serde_json::from_str(&report).unwrap();
    let page = fs::read_to_string(desk.join("job.html")).unwrap();
    let rounds = report["rounds"].as_array().unwrap();
    assert_eq!(rounds.len(), 2);
    for round in rounds {
        for digest in ["roster", "agreed", "context", "policy"] {
            assert!(page.contains(round[digest].as_str().unwrap()), "{digest}");
        }
    }
}
