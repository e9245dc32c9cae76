//! The program itself.

mod common;

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{TcpListener, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
    time::{SystemTime, UNIX_EPOCH},
};

use common::{Federation, POLICY};
use serde_json::Value;

const PROGRAM: &str = env!("CARGO_BIN_EXE_ciphertune-server");

#[test]
fn the_program_serves_until_it_is_told_to_end_and_ends_cleanly() {
    let federation = Federation::new(3, POLICY);
    let mut program = Command::new(PROGRAM)
        .arg("--json")
        .arg("--config")
        .arg(federation.write_configuration())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut log = BufReader::new(program.stderr.take().unwrap());
    let mut line = String::new();
    while !line.contains("serving") {
        line.clear();
        assert!(
            log.read_line(&mut line).unwrap() > 0,
            "it ended before it served"
        );
    }
    let told = Command::new("kill")
        .arg(program.id().to_string())
        .status()
        .unwrap();
    assert!(told.success());
    let mut rest = String::new();
    log.read_to_string(&mut rest).unwrap();
    assert!(rest.contains("shutting down"), "{rest}");
    assert_eq!(program.wait().unwrap().code(), Some(0));
    assert!(federation.data().join("server.sqlite").exists());
}

#[test]
fn a_configuration_with_an_unknown_key_is_refused_by_name() {
    let federation = Federation::new(3, POLICY);
    let path = federation.write_configuration();
    let text = std::fs::read_to_string(&path).unwrap() + "liste = 1\n";
    std::fs::write(&path, text).unwrap();
    let output = Command::new(PROGRAM)
        .arg("--config")
        .arg(path)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(3));
    assert!(String::from_utf8_lossy(&output.stderr).contains("liste"));
}

/// Starts the program, and waits until it serves: the program, where it is seen from outside, and what it logged.
fn start(configuration: &Path) -> (Child, String, Vec<Value>) {
    let mut program = Command::new(PROGRAM)
        .arg("--json")
        .arg("--config")
        .arg(configuration)
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut log = BufReader::new(program.stderr.take().unwrap());
    let (mut address, mut events) = (String::new(), Vec::new());
    let mut line = String::new();
    while !line.contains("\"serving\"") {
        line.clear();
        assert!(log.read_line(&mut line).unwrap() > 0, "it ended before");
        let event: Value = serde_json::from_str(&line).unwrap();
        if event["fields"]["message"] == "seen from outside" {
            address = event["fields"]["address"].as_str().unwrap().to_owned();
        }
        events.push(event);
    }
    (program, address, events)
}

fn ask(address: &str, request: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    let request = format!("{request} HTTP/1.1\r\nHost: localhost\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    let mut reply = String::new();
    stream.read_to_string(&mut reply).unwrap();
    reply
}

/// What the program says when it does not start.
fn complaint(configuration: &Path) -> String {
    let output = Command::new(PROGRAM)
        .arg("--config")
        .arg(configuration)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(3));
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn metrics_say_when_certificate_and_revocation_list_end() {
    let federation = Federation::new(3, POLICY);
    let (mut program, address, _) = start(&federation.write_configuration());
    let reply = ask(&address, "GET /metrics");
    assert!(reply.starts_with("HTTP/1.1 200"), "{reply}");
    let value = |name: &str| -> u64 {
        let line = reply.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap_or_else(|| panic!("no {name}: {reply}"))
            .trim()
            .parse()
            .unwrap()
    };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    for name in ["certificate", "revocation_list"] {
        let ends = value(&format!("ciphertune_{name}_expiry_timestamp_seconds "));
        let left = ends - now.as_secs();
        assert!(
            (29 * 86_400..=30 * 86_400).contains(&left),
            "{name}: {left}"
        );
    }
    assert_eq!(value("ciphertune_revocation_list_number "), 1);
    assert_eq!(value("ciphertune_revoked_certificates "), 0);
    assert_eq!(value("ciphertune_members "), 3);
    assert_eq!(value("ciphertune_members_present "), 0);
    assert_eq!(value("ciphertune_ready "), 1);
    program.kill().unwrap();
    program.wait().unwrap();
}

#[test]
fn where_it_is_seen_from_outside_is_this_machine_alone_unless_it_is_off() {
    let federation = Federation::new(3, POLICY);
    let path = federation.write_configuration();
    let text = std::fs::read_to_string(&path).unwrap();
    let (mut program, address, _) = start(&path);
    assert!(address.starts_with("127.0.0.1:"), "{address}");
    program.kill().unwrap();
    program.wait().unwrap();
    let off = text.replace("outside = \"127.0.0.1:0\"", "outside = \"off\"");
    assert!(off != text);
    std::fs::write(&path, off).unwrap();
    let (mut program, address, _) = start(&path);
    assert_eq!(address, "");
    program.kill().unwrap();
    program.wait().unwrap();
}

#[test]
fn an_old_key_and_a_port_in_use_are_told_with_the_key_to_change() {
    let federation = Federation::new(3, POLICY);
    let path = federation.write_configuration();
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, text.clone() + "metrics = \"127.0.0.1:9464\"\n").unwrap();
    let said = complaint(&path);
    assert!(
        said.contains("`metrics` is called `outside` now") && said.contains("outside = \"off\""),
        "{said}"
    );
    let held = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = held.local_addr().unwrap().to_string();
    for key in ["listen", "outside"] {
        let line = format!("{key} = \"127.0.0.1:0\"");
        assert!(text.contains(&line));
        std::fs::write(&path, text.replace(&line, &format!("{key} = \"{taken}\""))).unwrap();
        let said = complaint(&path);
        assert!(
            said.contains(&taken) && said.contains(&format!("set `{key}`")),
            "{said}"
        );
    }
}

#[test]
fn all_that_the_program_logs_as_json_are_fields_of_a_list() {
    let list = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/leaves.toml");
    let list: toml::Table = toml::from_str(&std::fs::read_to_string(list).unwrap()).unwrap();
    let listed = list["server_prints"].as_array().unwrap();
    let federation = Federation::new(3, POLICY);
    let (mut program, _, events) = start(&federation.write_configuration());
    program.kill().unwrap();
    program.wait().unwrap();
    assert!(events.len() >= 3, "{events:?}");
    for event in events {
        for field in event["fields"].as_object().unwrap().keys() {
            let is_listed = listed.iter().any(|it| it.as_str() == Some(field));
            assert!(is_listed, "{field} in {event}");
        }
    }
}
