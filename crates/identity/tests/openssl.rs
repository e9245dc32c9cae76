//! OpenSSL as a second opinion on everything that we write: chain, request, revocation list, key file.

use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    process::{Command, Output},
    time::{Duration, SystemTime},
};

use ciphertune_identity::{
    Authority, Name, Passphrase, Reason, Request, Revocation, Role, SigningKey, Validity,
};

const DAY: Duration = Duration::from_secs(86_400);
const PASSPHRASE: &str = "correct horse battery staple";

/// Runs openssl in a folder; `None`, said aloud, where there is none.
fn openssl(folder: &Path, arguments: &[&str]) -> Option<Output> {
    match Command::new("openssl")
        .current_dir(folder)
        .args(arguments)
        .output()
    {
        Ok(output) => Some(output),
        Err(error) => {
            eprintln!("SKIPPED: openssl does not run here ({error})");
            None
        }
    }
}

fn text(output: &Output) -> String {
    let (out, err) = (&output.stdout, &output.stderr);
    format!(
        "{}{}",
        String::from_utf8_lossy(out),
        String::from_utf8_lossy(err)
    )
}

fn days(days: u32) -> Validity {
    Validity::days(SystemTime::now() - DAY, days).unwrap()
}

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

#[test]
fn openssl_verifies_our_chain_our_request_and_our_revocation_list() {
    let folder = tempfile::tempdir().unwrap();
    let put = |file: &str, text: &str| fs::write(folder.path().join(file), text).unwrap();
    let authority = Authority::create(&name("lab"), days(365)).unwrap();
    put("ca.pem", authority.certificate_pem());
    let key = SigningKey::generate().unwrap();
    let request = Request::new(&name("north"), &key).unwrap();
    put("north.csr", request.pem());
    let north = authority
        .issue(&request, Role::Member, &[], days(90))
        .unwrap();
    put("north.pem", north.pem());
    let request = Request::new(&name("hub"), &SigningKey::generate().unwrap()).unwrap();
    let hub = authority
        .issue(&request, Role::Server, &[], days(90))
        .unwrap();
    put("hub.pem", hub.pem());
    let other = Authority::create(&name("lab"), days(365)).unwrap();
    put("other.pem", other.certificate_pem());
    let none = authority.revoke(&BTreeMap::new(), 1, days(7)).unwrap();
    put("none.crl", none.pem());
    let entry = Revocation {
        at: days(7).not_before(),
        reason: Reason::KeyCompromise,
    };
    let revoked = BTreeMap::from([(north.peer().serial.clone(), entry)]);
    let list = authority.revoke(&revoked, 2, days(7)).unwrap();
    put("north.crl", list.pem());

    let verify = ["verify", "-x509_strict", "-CAfile"];
    for (arguments, succeeds) in [
        (vec!["ca.pem", "-purpose", "sslclient", "north.pem"], true),
        (vec!["ca.pem", "-purpose", "sslserver", "north.pem"], false),
        (
            vec![
                "ca.pem",
                "-purpose",
                "sslserver",
                "-verify_hostname",
                "localhost",
                "hub.pem",
            ],
            true,
        ),
        (
            vec![
                "ca.pem",
                "-purpose",
                "sslserver",
                "-verify_ip",
                "127.0.0.1",
                "hub.pem",
            ],
            true,
        ),
        (
            vec![
                "ca.pem",
                "-purpose",
                "sslserver",
                "-verify_hostname",
                "x.example",
                "hub.pem",
            ],
            false,
        ),
        (vec!["ca.pem", "-purpose", "sslclient", "hub.pem"], false),
        (vec!["other.pem", "north.pem"], false),
        (
            vec!["ca.pem", "-crl_check", "-CRLfile", "none.crl", "north.pem"],
            true,
        ),
        (
            vec!["ca.pem", "-crl_check", "-CRLfile", "north.crl", "north.pem"],
            false,
        ),
        (
            vec!["ca.pem", "-crl_check", "-CRLfile", "north.crl", "hub.pem"],
            true,
        ),
    ] {
        let all: Vec<&str> = verify.into_iter().chain(arguments).collect();
        let Some(output) = openssl(folder.path(), &all) else {
            return;
        };
        assert_eq!(
            output.status.success(),
            succeeds,
            "{all:?}: {}",
            text(&output)
        );
    }
    let Some(output) = openssl(
        folder.path(),
        &["req", "-in", "north.csr", "-verify", "-noout"],
    ) else {
        return;
    };
    assert!(output.status.success(), "{}", text(&output));
    let Some(output) = openssl(
        folder.path(),
        &["x509", "-in", "north.pem", "-noout", "-text"],
    ) else {
        return;
    };
    let shown = text(&output);
    for expected in [
        "URI:ciphertune://lab/member/north",
        "CA:FALSE",
        "TLS Web Client Authentication",
        "ED25519",
    ] {
        assert!(shown.contains(expected), "{expected}: {shown}");
    }
}

#[test]
fn openssl_opens_our_key_file_and_we_open_openssls() {
    let folder = tempfile::tempdir().unwrap();
    let passphrase = Passphrase::new(PASSPHRASE).unwrap();
    fs::write(folder.path().join("passphrase"), PASSPHRASE).unwrap();
    let ours = folder.path().join("ours.pem");
    let key = SigningKey::generate().unwrap();
    key.save(&ours, &passphrase).unwrap();
    let read = [
        "pkey",
        "-in",
        "ours.pem",
        "-passin",
        "file:passphrase",
        "-pubout",
        "-outform",
        "DER",
    ];
    let Some(output) = openssl(folder.path(), &read) else {
        return;
    };
    assert!(output.status.success(), "{}", text(&output));
    use ciphertune_round::Signer;
    assert!(output.stdout.ends_with(key.verifying_key().as_bytes()));

    let write = [
        "genpkey",
        "-algorithm",
        "ed25519",
        "-aes-256-cbc",
        "-pass",
        "file:passphrase",
        "-out",
        "theirs.pem",
    ];
    let Some(output) = openssl(folder.path(), &write) else {
        return;
    };
    assert!(output.status.success(), "{}", text(&output));
    let read = [
        "pkey",
        "-in",
        "theirs.pem",
        "-passin",
        "file:passphrase",
        "-pubout",
        "-outform",
        "DER",
    ];
    let Some(output) = openssl(folder.path(), &read) else {
        return;
    };
    let theirs = SigningKey::load(&folder.path().join("theirs.pem"), &passphrase).unwrap();
    assert!(output.stdout.ends_with(theirs.verifying_key().as_bytes()));
}
