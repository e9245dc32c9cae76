//! The program itself.

mod common;

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::TcpStream,
    process::{Command, Stdio},
    time::{SystemTime, UNIX_EPOCH},
};

use common::{Federation, POLICY};

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

#[test]
fn metrics_say_when_certificate_and_revocation_list_end_and_nothing_else_is_served_there() {
    let federation = Federation::new(3, POLICY);
    let path = federation.write_configuration();
    let text = std::fs::read_to_string(&path).unwrap() + "metrics = \"127.0.0.1:0\"\n";
    std::fs::write(&path, text).unwrap();
    let mut program = Command::new(PROGRAM)
        .arg("--json")
        .arg("--config")
        .arg(path)
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut log = BufReader::new(program.stderr.take().unwrap());
    let mut address = String::new();
    let mut line = String::new();
    while !line.contains("\"serving\"") {
        line.clear();
        assert!(log.read_line(&mut line).unwrap() > 0, "it ended before");
        let event: serde_json::Value = serde_json::from_str(&line).unwrap();
        if event["fields"]["message"] == "metrics" {
            address = event["fields"]["address"].as_str().unwrap().to_owned();
        }
    }
    let ask = |request: &str| {
        let mut stream = TcpStream::connect(&address).unwrap();
        stream
            .write_all(format!("{request} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes())
            .unwrap();
        let mut reply = String::new();
        stream.read_to_string(&mut reply).unwrap();
        reply
    };
    let reply = ask("GET /metrics");
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
    assert!(ask("GET /").starts_with("HTTP/1.1 404"));
    assert!(ask("POST /metrics").starts_with("HTTP/1.1 405"));
    program.kill().unwrap();
    program.wait().unwrap();
}
