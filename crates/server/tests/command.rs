//! The program itself.

mod common;

use std::{
    io::{BufRead as _, BufReader, Read as _},
    process::{Command, Stdio},
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
