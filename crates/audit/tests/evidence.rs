//! The objects that a log speaks of, each under the name of its bytes.

use std::{fs, path::Path};

use ciphertune_audit::{Error, Evidence};

#[test]
fn an_object_is_read_by_its_name_and_a_changed_or_missing_one_is_said_to_be() {
    let folder = tempfile::tempdir().unwrap();
    let evidence = Evidence::beside(&folder.path().join("audit.jsonl"));
    assert!(evidence.folder().ends_with("evidence"));
    fs::create_dir(evidence.folder()).unwrap();
    let name = Evidence::name_of(b"a plan");
    fs::write(evidence.place_of(&name), b"a plan").unwrap();
    assert_eq!(evidence.get(&name).unwrap(), b"a plan");

    fs::write(evidence.place_of(&name), b"another").unwrap();
    let said = |name: &str| match evidence.get(name) {
        Err(Error::Malformed(said)) => said,
        other => panic!("{other:?}"),
    };
    assert!(said(&name).contains("was changed"));
    fs::remove_file(evidence.place_of(&name)).unwrap();
    assert!(said(&name).contains("missing"));
    // What would never end is not read.
    let odd = Evidence::name_of(b"a folder");
    fs::create_dir(evidence.place_of(&odd)).unwrap();
    assert!(said(&odd).contains("no file"));
    // No name leads out of the folder.
    let outside = Path::new("..").join("audit.jsonl");
    assert!(said(&outside.to_string_lossy()).contains("not the SHA-256"));
    assert!(said(&name.to_uppercase()).contains("not the SHA-256"));
}
