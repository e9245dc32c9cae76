//! `ciphertune identity`: what each command says to whoever does it wrong.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::{Command, Output, Stdio},
};

use serde_json::Value;

const PASSPHRASE: &str = "correct horse battery staple";

/// A folder with homes side by side.
struct Desk(tempfile::TempDir);

/// What one command came to.
#[derive(Debug)]
struct Said {
    code: Option<i32>,
    out: String,
    err: String,
}

impl Desk {
    fn new() -> Self {
        let desk = Self(tempfile::tempdir().unwrap());
        desk.write("passphrase", PASSPHRASE, 0o600);
        desk.write("wrong", "correct horse battery stable", 0o600);
        desk
    }

    /// With an authority.
    fn founded() -> Self {
        let desk = Self::new();
        desk.done("--home ca identity init --authority lab");
        desk
    }

    /// With an authority, a server, an officer and two members whose certificates are issued, and a policy.
    fn staffed() -> Self {
        let desk = Self::founded();
        for (name, role) in [
            ("hub", "server"),
            ("olga", "officer"),
            ("north", "member"),
            ("east", "member"),
        ] {
            desk.ask(name, role);
            desk.done(&format!("--home ca identity approve {name}.request --yes"));
        }
        desk.done("--home ca identity issue-manifest --address localhost:4711");
        desk.done("--home ca identity kit --for olga --out first");
        desk.done("--home olga identity install first");
        let policy = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../policies/hospital.toml");
        let sign = format!("--home olga policy sign {} --out signed", policy.display());
        desk.done(&sign);
        desk
    }

    /// A party makes a key and a request.
    fn ask(&self, name: &str, role: &str) {
        self.done(&format!("--home {name} identity init"));
        self.done(&format!(
            "--home {name} identity request --federation lab --name {name} --role {role}"
        ));
    }

    fn write(&self, name: &str, text: &str, mode: u32) {
        let path = self.path(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.0.path().join(name)
    }

    fn run(&self, passphrase: &str, line: &str) -> Said {
        let output = Command::new(env!("CARGO_BIN_EXE_ciphertune"))
            .current_dir(self.0.path())
            .env("CIPHERTUNE_PASSPHRASE_FILE", self.path(passphrase))
            .args(line.split_whitespace())
            .stdin(Stdio::null())
            .output()
            .unwrap();
        said(&output)
    }

    /// Runs a line that must succeed.
    fn done(&self, line: &str) -> String {
        let said = self.run("passphrase", line);
        assert_eq!(said.code, Some(0), "{line}: {said:?}");
        said.out
    }

    fn json(&self, line: &str) -> Vec<Value> {
        let out = self.done(&format!("--json {line}"));
        (out.lines())
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    /// Runs a line that must fail with this code and these words.
    fn refused(&self, line: &str, code: i32, words: &str) {
        let said = self.run("passphrase", line);
        assert_eq!(said.code, Some(code), "{line}: {said:?}");
        assert!(said.err.contains(words), "{line}: {words}: {said:?}");
    }
}

fn said(output: &Output) -> Said {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    Said {
        code: output.status.code(),
        out: text(&output.stdout),
        err: text(&output.stderr),
    }
}

#[test]
fn a_key_is_made_once_and_only_its_owner_with_its_pass_phrase_uses_it() {
    let desk = Desk::new();
    desk.done("--home north identity init");
    let key = desk.path("north/identity/key.pem");
    let before = fs::read(&key).unwrap();
    assert_eq!(
        fs::metadata(&key).unwrap().permissions().mode() & 0o777,
        0o600
    );
    desk.refused("--home north identity init", 1, "never overwritten");
    assert_eq!(fs::read(&key).unwrap(), before);
    let request = "--home north identity request --federation lab --name north --role member";
    let said = desk.run("wrong", request);
    assert_eq!(said.code, Some(1), "{said:?}");
    assert!(said.err.contains("pass-phrase"), "{said:?}");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
    desk.refused(request, 1, "chmod 600");
    let shown = desk.run("passphrase", "identity show north/identity/key.pem");
    assert_eq!(shown.code, Some(1), "{shown:?}");
    assert!(
        shown.out.contains("OTHERS: it is not used; chmod 600"),
        "{shown:?}"
    );
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    desk.done(request);
    desk.refused(request, 2, "cannot write");
}

#[test]
fn only_the_key_that_its_owner_read_out_gets_a_certificate() {
    let desk = Desk::founded();
    desk.ask("north", "member");
    desk.refused(
        "--home ca identity approve north.request",
        2,
        "--fingerprint",
    );
    let wrong = "0".repeat(64);
    let line = format!("--home ca identity approve north.request --fingerprint {wrong}");
    desk.refused(&line, 1, "somebody sent another request");
    assert_eq!(
        fs::read_dir(desk.path("ca/register/issued"))
            .unwrap()
            .count(),
        0
    );
    let fingerprint = desk.json("identity show north.request")[0]["fingerprint"].clone();
    let fingerprint = fingerprint.as_str().unwrap();
    let line = format!("--home ca identity approve north.request --fingerprint {fingerprint}");
    let issued = desk.json(&line);
    assert_eq!(issued[0]["fingerprint"].as_str(), Some(fingerprint));
    assert_eq!(issued[0]["role"].as_str(), Some("member"));
}

#[test]
fn a_request_for_another_federation_name_or_role_is_refused() {
    let desk = Desk::founded();
    desk.done("--home north identity init");
    for (federation, out) in [("ward", "ward.request"), ("lab", "north.request")] {
        desk.done(&format!(
            "--home north identity request --federation {federation} --name north --role member --out {out}"
        ));
    }
    desk.refused(
        "--home ca identity approve ward.request --yes",
        1,
        "this is the authority of lab",
    );
    desk.done("--home ca identity approve north.request --yes");
    // The same key in another role, another key for the same name, the same key under another name.
    desk.refused(
        "--home ca identity approve north.request --role officer --yes",
        1,
        "is a member already",
    );
    desk.done("--home thief identity init");
    desk.done("--home thief identity request --federation lab --name north --role member --out thief.request");
    desk.refused(
        "--home ca identity approve thief.request --yes",
        1,
        "has a certificate for another key",
    );
    desk.done("--home north identity request --federation lab --name south --role member");
    desk.refused(
        "--home ca identity approve south.request --yes",
        1,
        "is north's",
    );
    let again = desk.done("--home ca identity approve north.request --yes");
    assert!(again.contains("certificate of member north"), "{again}");
    desk.refused(
        "--home north identity approve north.request --yes",
        1,
        "no authority's home",
    );
}

#[test]
fn of_a_request_that_openssl_made_only_name_and_key_reach_the_certificate() {
    let desk = Desk::founded();
    let config = "[req]\nprompt=no\ndistinguished_name=dn\nreq_extensions=ext\n[dn]\nCN=north\nO=other\n[ext]\n\
                  basicConstraints=critical,CA:TRUE\nkeyUsage=keyCertSign,cRLSign\nextendedKeyUsage=serverAuth\n\
                  subjectAltName=DNS:evil.example,URI:ciphertune://lab/server/north\n";
    desk.write("openssl.cnf", config, 0o600);
    let openssl = |line: &str| {
        let run = Command::new("openssl")
            .current_dir(desk.0.path())
            .args(line.split_whitespace())
            .output();
        run.inspect_err(|error| eprintln!("SKIPPED: openssl does not run: {error}"))
            .ok()
    };
    let made = openssl(
        "req -new -newkey ed25519 -nodes -keyout k.pem -out north.request -config openssl.cnf",
    );
    let Some(made) = made else { return };
    assert!(made.status.success(), "{}", said(&made).err);
    let issued = desk.json("--home ca identity approve north.request --role member --yes");
    assert_eq!(issued[0]["role"].as_str(), Some("member"));
    let path = issued[0]["certificate"].as_str().unwrap();
    let shown = openssl(&format!("x509 -in {path} -noout -text")).unwrap();
    let shown = said(&shown).out;
    assert!(
        shown.contains("CA:FALSE") && shown.contains("URI:ciphertune://lab/member/north"),
        "{shown}"
    );
    for smuggled in [
        "CA:TRUE",
        "evil.example",
        "Certificate Sign",
        "Server Authentication",
        "other",
    ] {
        assert!(!shown.contains(smuggled), "{smuggled}: {shown}");
    }
    desk.refused("identity show k.pem", 1, "private key in clear");
}

#[test]
fn a_kit_is_packed_in_its_order_and_fits_its_owner_alone() {
    let desk = Desk::founded();
    desk.refused(
        "--home ca identity kit --for north",
        1,
        "approve its request first",
    );
    desk.ask("north", "member");
    desk.done("--home ca identity approve north.request --yes");
    desk.refused(
        "--home ca identity kit --for north",
        1,
        "have an officer sign one",
    );
    desk.refused(
        "--home ca identity issue-manifest",
        2,
        "--address HOST:PORT",
    );
    desk.refused(
        "--home ca identity issue-manifest --address localhost:1",
        1,
        "no server",
    );

    let desk = Desk::staffed();
    desk.done("--home ca identity kit --for north --policy signed --out north.kit");
    desk.refused(
        "--home ca identity kit --for north --out north.kit",
        2,
        "is there already",
    );
    desk.done("--home ca identity kit --for east --out east.kit");
    desk.refused(
        "--home east identity install north.kit",
        1,
        "for another key",
    );
    let other = "f".repeat(64);
    let line = format!("--home north identity install north.kit --authority {other}");
    desk.refused(&line, 1, "somebody packed another one");
    let installed = desk.done("--home north identity install north.kit");
    assert!(installed.contains("hospital"), "{installed}");
    // A file of another kit in it.
    fs::copy(
        desk.path("east.kit/cert.pem"),
        desk.path("north.kit/cert.pem"),
    )
    .unwrap();
    desk.refused(
        "--home north identity install north.kit",
        1,
        "for another key",
    );
    // A policy that a member signed is none.
    let policy = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../policies/hospital.toml");
    let line = format!("--home north policy sign {} --out mine", policy.display());
    desk.refused(&line, 1, "officers alone sign policies");
}

#[test]
fn who_is_revoked_is_in_the_list_and_in_no_further_kit_or_manifest() {
    let desk = Desk::staffed();
    desk.refused(
        "--home ca identity revoke nobody",
        1,
        "no certificate that could be revoked",
    );
    desk.refused(
        "--home ca identity revoke east --reason whim",
        2,
        "key-compromise",
    );
    let renewed = desk.json("--home ca identity renew east --days 30");
    let revoked = desk.json("--home ca identity revoke east --reason key-compromise");
    assert_eq!(revoked[0]["number"].as_u64(), Some(2));
    assert_eq!(
        revoked[0]["revoked_now"].as_array().unwrap().len(),
        2,
        "the renewed one too"
    );
    let serial = renewed[0]["serial"].as_str().unwrap();
    assert!(revoked[0]["revoked_now"].to_string().contains(serial));
    desk.refused("--home ca identity renew east", 1, "is revoked");
    desk.refused(
        "--home ca identity kit --for east --policy signed",
        1,
        "no certificate",
    );
    // The key is known to be somebody else's, too: it gets no new certificate.
    desk.refused(
        "--home ca identity approve east.request --yes",
        1,
        "revoked as compromised",
    );
    let manifest = desk.json("--home ca identity issue-manifest");
    assert_eq!(manifest[0]["removed"].to_string(), "[\"east\"]");
    assert_eq!(manifest[0]["serial"].as_u64(), Some(2));
    let list = desk.json("--home ca identity crl --days 9");
    assert_eq!(
        (list[0]["number"].as_u64(), list[0]["revoked"].as_u64()),
        (Some(3), Some(2))
    );
    let shown = desk.done("identity show ca/register/crl.pem --authority ca/identity/ca.pem");
    assert!(
        shown.contains("key-compromise") && shown.contains(serial),
        "{shown}"
    );
}

#[test]
fn show_says_what_an_auditor_needs_of_every_file() {
    let desk = Desk::staffed();
    desk.done("--home ca identity kit --for north --policy signed --out north.kit");
    let files = desk.json("identity show north.kit");
    let kinds: Vec<&str> = files
        .iter()
        .map(|file| file["kind"].as_str().unwrap())
        .collect();
    assert_eq!(
        kinds,
        [
            "authority's certificate",
            "certificate",
            "revocation list",
            "manifest",
            "policy"
        ]
    );
    let ca = files[0]["fingerprint"].as_str().unwrap();
    let certificate = &files[1];
    assert_eq!(certificate["revoked"], false);
    assert_eq!(
        (&certificate["verified"], &certificate["holds"]),
        (&true.into(), &true.into())
    );
    for (field, expected) in [
        ("federation", "lab"),
        ("name", "north"),
        ("role", "member"),
        ("revocation", "not in list 1"),
    ] {
        assert_eq!(certificate[field].as_str(), Some(expected), "{certificate}");
    }
    assert_eq!(certificate["signature"], format!("by the authority {ca}"));
    let left = certificate["seconds_left"].as_u64().unwrap();
    assert!((89 * 86_400..=90 * 86_400).contains(&left), "{left}");
    let parties = files[3]["parties"].as_array().unwrap();
    assert_eq!(parties.len(), 4);
    assert!(
        parties
            .iter()
            .any(|it| it["fingerprint"] == certificate["fingerprint"])
    );
    // In words, one list of fields.
    let words = desk.done("identity show north.kit north.request");
    assert!(
        words.contains("role          member") && words.contains("by this key"),
        "{words}"
    );
    // Without the authority at hand nothing is believed.
    fs::copy(desk.path("north.kit/cert.pem"), desk.path("alone.pem")).unwrap();
    let alone = &desk.json("--home nowhere identity show alone.pem")[0];
    assert!(
        alone["signature"]
            .as_str()
            .unwrap()
            .starts_with("not verified"),
        "{alone}"
    );
    fs::copy(desk.path("north.kit/manifest.bin"), desk.path("alone.bin")).unwrap();
    desk.refused(
        "--home nowhere identity show alone.bin",
        2,
        "--authority PEM",
    );
    // Another authority's word does not count.
    desk.done("--home other identity init --authority lab");
    let other = "--json identity show alone.pem --authority other/identity/ca.pem";
    let other = desk.run("passphrase", other);
    assert_eq!(other.code, Some(1), "{other:?}");
    assert!(
        other.out.contains("DOES NOT HOLD") && other.out.contains("\"verified\":false"),
        "{other:?}"
    );
    desk.refused(
        "identity show alone.bin --authority other/identity/ca.pem",
        1,
        "signature",
    );
    desk.write("junk", "junk", 0o600);
    desk.refused("identity show junk", 1, "neither a certificate");
    desk.refused("--home nowhere identity show", 2, "cannot read");
}

#[test]
fn half_a_kit_is_refused_and_a_kit_may_be_older_than_the_list_at_home() {
    let desk = Desk::staffed();
    desk.done("--home ca identity kit --for north --policy signed --out north.kit");
    for missing in ["manifest.bin", "policy.bin", "address.txt"] {
        fs::rename(desk.path("north.kit").join(missing), desk.path(missing)).unwrap();
        desk.refused(
            "--home north identity install north.kit",
            1,
            "the kit is not whole",
        );
        fs::rename(desk.path(missing), desk.path("north.kit").join(missing)).unwrap();
    }
    desk.done("--home north identity install north.kit");
    desk.done("--home ca identity renew north");
    desk.done("--home ca identity kit --for north --out second.kit");
    desk.done("--home ca identity crl");
    fs::copy(
        desk.path("ca/register/crl.pem"),
        desk.path("north/identity/crl.pem"),
    )
    .unwrap();
    desk.done("--home north identity install second.kit");
    let home = desk.json("--home north identity show");
    let list = home
        .iter()
        .find(|it| it["kind"] == "revocation list")
        .unwrap();
    assert_eq!(list["number"].as_u64(), Some(2), "the later list stays");
    for stripped in ["manifest.bin", "policy.bin", "address.txt"] {
        fs::remove_file(desk.path("second.kit").join(stripped)).unwrap();
    }
    desk.refused("--home north identity install second.kit", 1, "half a kit");
}

#[test]
fn an_officers_key_can_be_replaced_and_its_policy_is_signed_again() {
    let desk = Desk::staffed();
    desk.done("--home ca identity kit --for north --policy signed --out north.kit");
    desk.done("--home ca identity revoke olga --reason key-compromise");
    fs::rename(desk.path("olga"), desk.path("olga-old")).unwrap();
    fs::rename(desk.path("olga.request"), desk.path("old.request")).unwrap();
    desk.ask("olga", "officer");
    desk.done("--home ca identity approve olga.request --yes");
    desk.done("--home ca identity issue-manifest");
    desk.refused(
        "--home ca identity kit --for north --out n2",
        1,
        "have an officer sign one",
    );
    desk.done("--home ca identity kit --for olga --out o2");
    desk.done("--home olga identity install o2");
    let policy = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../policies/hospital.toml");
    desk.done(&format!(
        "--home olga policy sign {} --out again",
        policy.display()
    ));
    desk.done("--home ca identity kit --for north --policy again --out n2");
    desk.done("--home north identity install n2");
}

#[test]
fn a_servers_certificate_is_for_where_the_manifest_says_it_is() {
    let desk = Desk::staffed();
    let elsewhere = "--home ca identity issue-manifest --address hub.example:4711";
    desk.refused(
        elsewhere,
        1,
        "approve its request again with --host hub.example",
    );
    desk.done("--home ca identity approve hub.request --host hub.example --yes");
    desk.done(elsewhere);
    // A renewal is for the same hosts, by either command.
    desk.done("--home ca identity approve hub.request --yes");
    desk.done(elsewhere);
    let renewed = desk.json("--home ca identity renew hub");
    desk.done(elsewhere);
    let path = renewed[0]["certificate"].as_str().unwrap();
    let shown = &desk.json(&format!("identity show {path}"))[0];
    assert!(
        shown["hosts"].as_str().unwrap().contains("hub.example"),
        "{shown}"
    );
    assert_eq!(
        shown["verified"],
        Value::Null,
        "no authority beside it, nor at home"
    );
}

#[test]
fn an_authority_that_was_made_half_is_finished_and_is_no_party() {
    let desk = Desk::founded();
    fs::remove_dir_all(desk.path("ca/register")).unwrap();
    desk.refused(
        "--home ca identity init --authority ward",
        1,
        "is of lab, not of ward",
    );
    desk.done("--home ca identity init --authority lab");
    desk.refused(
        "--home ca identity init --authority lab",
        1,
        "never overwritten",
    );
    let request = "--home ca identity request --federation lab --name ca --role member";
    desk.refused(request, 1, "is an authority's home");
}
