//! `ciphertune policy`: an officer signs, anybody verifies, compares, checks.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Command, Output},
    time::{Duration, SystemTime},
};

use ciphertune_identity::{
    Authority, Home, Manifest, Name, Party, Passphrase, Request, Role, SigningKey, Validity,
};
use ciphertune_policy::Policy;
use ciphertune_round::{Digest, Signer as _};

const PASSPHRASE: &str = "correct horse battery staple";

fn policies() -> PathBuf {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../policies")).to_owned()
}

fn file(name: &str) -> String {
    policies().join(name).display().to_string()
}

/// A federation's authority, and parties with homes.
struct Office {
    folder: tempfile::TempDir,
    authority: Authority,
    parties: Vec<Party>,
}

impl Office {
    fn new() -> Self {
        let authority = Authority::create(&name("lab"), validity(365)).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("passphrase");
        fs::write(&path, PASSPHRASE).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        fs::write(
            folder.path().join("ca.pem"),
            authority.certificate_pem().as_bytes(),
        )
        .unwrap();
        Self {
            folder,
            authority,
            parties: Vec::new(),
        }
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    /// A party with a home as its kit leaves it, but for manifest and policy.
    fn party(&mut self, party: &str, role: Role, validity: Validity) -> Home {
        let home = Home::new(self.folder.path().join(party));
        home.create().unwrap();
        let key = SigningKey::generate().unwrap();
        key.save(&home.key(), &Passphrase::new(PASSPHRASE).unwrap())
            .unwrap();
        let request = Request::new(&name(party), &key).unwrap();
        let certificate = self.authority.issue(&request, role, &[], validity).unwrap();
        fs::write(home.certificate(), certificate.pem()).unwrap();
        fs::write(home.authority(), self.authority.certificate_pem()).unwrap();
        self.parties.push(Party {
            name: name(party),
            role,
            key: key.verifying_key(),
        });
        home
    }

    /// The manifest of all parties so far and a server, in a file.
    fn manifest(&self) -> String {
        let mut parties = self.parties.clone();
        parties.push(Party {
            name: name("hub"),
            role: Role::Server,
            key: SigningKey::generate().unwrap().verifying_key(),
        });
        let address = "localhost:4711".parse().unwrap();
        let manifest = Manifest::new(name("lab"), 1, SystemTime::now(), parties, address).unwrap();
        let path = self.path("manifest.bin");
        let signed = self.authority.sign_manifest(manifest).unwrap();
        fs::write(&path, signed.encode()).unwrap();
        path
    }

    fn run(&self, home: &Home, arguments: &[&str]) -> (Option<i32>, String, String) {
        let output = Command::new(env!("CARGO_BIN_EXE_ciphertune"))
            .env("CIPHERTUNE_HOME", home.root())
            .env("CIPHERTUNE_PASSPHRASE_FILE", self.path("passphrase"))
            .arg("policy")
            .args(arguments)
            .output()
            .unwrap();
        said(&output)
    }
}

fn said(output: &Output) -> (Option<i32>, String, String) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (
        output.status.code(),
        text(&output.stdout),
        text(&output.stderr),
    )
}

/// A command that needs no home.
fn policy(arguments: &[&str]) -> (Option<i32>, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_ciphertune"))
        .arg("policy")
        .args(arguments)
        .output()
        .unwrap();
    said(&output)
}

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

fn validity(days: u64) -> Validity {
    let start = SystemTime::now() - Duration::from_secs(3_600);
    Validity::between(start, start + Duration::from_secs(days * 86_400)).unwrap()
}

fn digest_of(file: &str) -> String {
    let policy = Policy::parse(&fs::read_to_string(file).unwrap()).unwrap();
    Digest::from_bytes(policy.digest()).to_string()
}

#[test]
fn an_officer_signs_and_anybody_verifies_with_its_certificate_or_the_manifest() {
    let mut office = Office::new();
    let olga = office.party("olga", Role::Officer, validity(90));
    let member = office.party("north", Role::Member, validity(90));
    let text = file("hospital.toml");
    let (signed, digest) = (office.path("hospital.signed"), digest_of(&text));

    let (code, out, err) = office.run(&olga, &["sign", &text, "--out", &signed]);
    assert_eq!(code, Some(0), "{err}");
    assert!(out.contains(&digest) && out.contains("next: ciphertune policy verify"));
    assert!(!out.contains(PASSPHRASE));

    let certificate = olga.certificate().display().to_string();
    let ca = office.path("ca.pem");
    let by_certificate = [
        "verify",
        &signed,
        "--certificate",
        &certificate,
        "--authority",
        &ca,
    ];
    let (code, out, err) = office.run(&member, &by_certificate);
    assert_eq!(code, Some(0), "{err}");
    let words = "policy \"hospital\" of federation lab, signed by officer olga (";
    assert!(out.contains(words) && out.contains(&digest), "{out}");

    let manifest = office.manifest();
    let by_manifest = ["verify", &signed, "--manifest", &manifest];
    let with = |more: &[&str]| office.run(&member, &[&by_manifest[..], more].concat());
    assert_eq!(with(&[]).0, Some(0));
    let json: serde_json::Value = serde_json::from_str(&with(&["--json"]).1).unwrap();
    assert_eq!(
        (&json["verified"], &json["officer"], &json["digest"]),
        (&true.into(), &"olga".into(), &digest.as_str().into())
    );
    assert_eq!(with(&["--digest", &digest]).0, Some(0));
    let other = digest_of(&file("bank.toml"));
    let (code, _, err) = with(&["--digest", &other]);
    assert_eq!(code, Some(1));
    assert!(err.contains(&digest) && err.contains(&other), "{err}");
    // What was signed is what was written, to the byte.
    let shown = with(&["--show"]).1;
    assert_eq!(shown, fs::read_to_string(&text).unwrap());

    // A second signature never takes the place of the first.
    let (code, _, err) = office.run(&olga, &["sign", &text, "--out", &signed]);
    assert_eq!(code, Some(2));
    assert!(err.contains("cannot write"), "{err}");
}

#[test]
fn only_an_officer_whose_certificate_holds_signs_and_only_a_policy() {
    let mut office = Office::new();
    let text = file("default.toml");
    let out = office.path("out.signed");
    let north = office.party("north", Role::Member, validity(90));
    let (code, _, err) = office.run(&north, &["sign", &text, "--out", &out]);
    assert_eq!(code, Some(1));
    assert!(
        err.contains("north is a member of lab: officers alone sign policies"),
        "{err}"
    );
    let past = Validity::between(
        SystemTime::now() - Duration::from_secs(1_800),
        SystemTime::now() - Duration::from_secs(60),
    );
    let olga = office.party("olga", Role::Officer, past.unwrap());
    let (code, _, err) = office.run(&olga, &["sign", &text, "--out", &out]);
    assert_eq!(code, Some(1));
    assert!(
        err.contains("the certificate of officer olga holds from")
            && err.contains("have the authority issue a new one"),
        "{err}"
    );
    let anna = office.party("anna", Role::Officer, validity(90));
    let broken = office.path("broken.toml");
    fs::write(&broken, "schema = 1\nepsilon = \"1\"\n").unwrap();
    let (code, _, err) = office.run(&anna, &["sign", &broken, "--out", &out]);
    assert_eq!(code, Some(1));
    assert!(
        err.contains("broken.toml") && err.contains("line 2, column 1: unknown key `epsilon`"),
        "{err}"
    );
    assert!(!Path::new(&out).exists());
    // Another's key under an officer's certificate.
    fs::copy(north.key(), anna.key()).unwrap();
    let (code, _, err) = office.run(&anna, &["sign", &text, "--out", &out]);
    assert_eq!(code, Some(1));
    assert!(err.contains("is for another key than"), "{err}");
}

#[test]
fn what_an_officer_of_this_federation_did_not_sign_is_not_verified() {
    let (mut ours, mut theirs) = (Office::new(), Office::new());
    let olga = ours.party("olga", Role::Officer, validity(90));
    let other = theirs.party("olga", Role::Officer, validity(90));
    let north = ours.party("north", Role::Member, validity(90));
    let manifest = ours.manifest();
    let text = file("default.toml");
    let (good, bad) = (ours.path("good"), theirs.path("bad"));
    assert_eq!(ours.run(&olga, &["sign", &text, "--out", &good]).0, Some(0));
    assert_eq!(
        theirs.run(&other, &["sign", &text, "--out", &bad]).0,
        Some(0)
    );
    let verify = |arguments: &[&str]| {
        let (code, out, err) = ours.run(&north, &[&["verify"], arguments].concat());
        assert_eq!(out, "");
        (code, err)
    };
    // Signed by somebody of the same name, under another authority.
    let (code, err) = verify(&[&bad, "--manifest", &manifest]);
    assert_eq!(code, Some(1), "{err}");
    let theirs_certificate = other.certificate().display().to_string();
    let (code, err) = verify(&[&bad, "--certificate", &theirs_certificate]);
    assert_eq!(code, Some(1));
    assert!(err.contains("not signed by this authority"), "{err}");
    // The right certificate, and another's signature.
    let certificate = olga.certificate().display().to_string();
    assert_eq!(verify(&[&bad, "--certificate", &certificate]).0, Some(1));
    // One bit.
    let mut bytes = fs::read(&good).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    let changed = ours.path("changed");
    fs::write(&changed, bytes).unwrap();
    assert_eq!(verify(&[&changed, "--manifest", &manifest]).0, Some(1));
    // No signed object at all; nothing to hold it to.
    let (code, err) = verify(&[&text, "--manifest", &manifest]);
    assert_eq!(code, Some(1));
    assert!(err.contains("`ciphertune policy sign` makes one"), "{err}");
    assert_ne!(verify(&[&good]).0, Some(0));
    // A member's certificate, though the signature were right.
    let members = north.certificate().display().to_string();
    let (code, err) = verify(&[&good, "--certificate", &members]);
    assert_eq!(code, Some(1));
    assert!(err.contains("officers alone"), "{err}");
}

#[test]
fn a_policy_that_is_over_is_not_verified() {
    let mut office = Office::new();
    let olga = office.party("olga", Role::Officer, validity(90));
    let text = fs::read_to_string(policies().join("default.toml")).unwrap();
    let path = office.path("old.toml");
    let certificate = olga.certificate().display().to_string();
    for (line, words) in [
        (
            "valid_until = \"2020-12-31T23:59:59Z\"",
            "held until 2020-12-31T23:59:59Z",
        ),
        (
            "valid_from = \"9000-01-01T00:00:00Z\"",
            "holds from 9000-01-01T00:00:00Z",
        ),
    ] {
        fs::write(&path, format!("{text}\n[time]\n{line}\n")).unwrap();
        let signed = office.path(words);
        assert_eq!(
            office.run(&olga, &["sign", &path, "--out", &signed]).0,
            Some(0)
        );
        let (code, _, err) = office.run(&olga, &["verify", &signed, "--certificate", &certificate]);
        assert_eq!(code, Some(1));
        assert!(err.contains(words), "{err}");
    }
}

#[test]
fn check_says_what_cannot_work_and_what_the_noise_comes_to() {
    let (code, out, err) = policy(&["check", &file("default.toml")]);
    assert_eq!(code, Some(0), "{err}");
    for words in [
        "valid, digest ",
        "a job of all 50 rounds: noise multiplier ",
        "a dataset's budget lasts for 1 such job",
        "note: privacy.epsilon: after 50 rounds at this ε the noise of each is",
        "note: aggregation.colluders: with the fewest 4 members",
    ] {
        assert!(out.contains(words), "{out} does not say {words:?}");
    }
    let record = file("record-epsilon-8.toml");
    let more = [
        "--sampling-rate",
        "0.1",
        "--nominal-batch",
        "180",
        "--dimension",
        "2691",
    ];
    let (code, out, _) = policy(&[&["check", &record, "--json"], &more[..]].concat());
    assert_eq!(code, Some(0));
    let json: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(
        (&json["works"], &json["outlook"]["jobs"]),
        (&true.into(), &1.into())
    );
    let noise = json["outlook"]["noise_clips"].as_f64().unwrap();
    let multiplier = json["outlook"]["noise_multiplier"].as_f64().unwrap();
    assert!((noise - multiplier * 2691_f64.sqrt()).abs() < 1e-9);
    // No job fits where the federation is too small.
    let (code, out, _) = policy(&["check", &file("bank.toml"), "--members", "3"]);
    assert_eq!(code, Some(1));
    let words =
        "cannot work: aggregation.min_cohort: a round needs 4 members, and the federation has 3";
    assert!(out.contains(words), "{out}");
}

#[test]
fn diff_says_of_each_change_which_way_and_its_exit_code_whether_the_second_is_as_strict() {
    let (record, hospital) = (file("record-epsilon-8.toml"), file("hospital.toml"));
    let (code, out, err) = policy(&["diff", &record, &hospital]);
    assert_eq!(code, Some(1), "{err}");
    for words in [
        "privacy.epsilon: 1 instead of 8: stricter",
        "privacy.max_sampling_rate: 0.25 instead of any: stricter",
        "aggregation.colluders: 1 instead of 0: stricter",
        "roles.abort_job: member, officer instead of member: weaker",
        "allows what",
    ] {
        assert!(out.contains(words), "{out} does not say {words:?}");
    }
    let folder = tempfile::tempdir().unwrap();
    let tighter = folder.path().join("tighter.toml");
    let text = fs::read_to_string(&hospital).unwrap();
    fs::write(&tighter, text.replace("rounds = 1000", "rounds = 10")).unwrap();
    let tighter = tighter.display().to_string();
    let (code, out, _) = policy(&["diff", &hospital, &tighter, "--json"]);
    assert_eq!(code, Some(0));
    let json: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(json["as_strict"], true);
    let change = serde_json::json!({
        "key": "privacy.rounds", "from": "1000", "to": "10", "direction": "stricter"
    });
    assert_eq!(json["changes"], serde_json::json!([change]));
    assert_eq!(policy(&["diff", &tighter, &hospital]).0, Some(1));
    let (code, out, _) = policy(&["diff", &hospital, &hospital]);
    assert_eq!((code, out.as_str()), (Some(0), "no difference\n"));
}

#[test]
fn merge_explains_the_strictest_or_says_what_to_settle() {
    let (code, out, err) = policy(&["merge", &file("hospital.toml"), &file("bank.toml")]);
    assert_eq!(code, Some(0), "{err}");
    assert!(
        out.starts_with("Policy: bank + hospital.") && out.contains("ε = 1 at δ = 1e-6"),
        "{out}"
    );
    let (code, _, err) = policy(&["merge", &file("hospital.toml"), &file("default.toml")]);
    assert_eq!(code, Some(1));
    assert!(
        err.contains("default.toml: policy \"hospital\" protects the unit \"record\"")
            && err.contains("must agree on one privacy.unit"),
        "{err}"
    );
}

#[test]
fn the_schema_and_the_table_are_the_files_that_the_repository_keeps() {
    let kept = fs::read_to_string(policies().join("policy.schema.json")).unwrap();
    assert_eq!(policy(&["schema"]).1, kept);
    let readme = fs::read_to_string(policies().join("README.md")).unwrap();
    let (code, table, _) = policy(&["schema", "--table"]);
    assert_eq!(code, Some(0));
    assert!(table.lines().count() > 20 && readme.contains(&table));
}
