//! Copies of what nodes keep, for whoever would rewrite history: lines changed as they stand, or a whole log written anew by its owner,
//! with its own key.

use std::{fs, path::PathBuf, time::SystemTime};

use ciphertune_audit::{Checkpoint, Evidence, Note, verify_file};
use ciphertune_client::verify::{Audit, Finding, Rule};
use ciphertune_identity::SigningKey;
use ciphertune_round::{Envelope, Object, Signed};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::federation::Federation;

/// The folders of all nodes of a federation that has stopped: members in their order, then the server.
pub struct Copies {
    folder: TempDir,
    members: usize,
    keys: Vec<SigningKey>,
}

/// An entry, as it is to be written.
pub type Line = Value;

impl Copies {
    /// Of a federation whose runs have ended.
    pub async fn of(federation: &Federation, members: usize) -> Self {
        let copies = Self {
            folder: tempfile::tempdir().unwrap(),
            members,
            keys: (0..members)
                .map(|member| federation.member(member).key())
                .chain([federation.server_key()])
                .collect(),
        };
        for member in 0..members {
            let home = &federation.member(member).home;
            copies.take(member, home.root().to_owned());
            if home.ledger().exists() {
                let ledger = federation.copy_of_ledger(member).await;
                for part in fs::read_dir(ledger.path()).unwrap() {
                    let part = part.unwrap();
                    fs::copy(part.path(), copies.node(member).join(part.file_name())).unwrap();
                }
            }
        }
        copies.take(members, federation.data());
        copies
    }

    fn take(&self, node: usize, from: PathBuf) {
        let to = self.node(node);
        fs::create_dir_all(to.join("evidence")).unwrap();
        fs::copy(from.join("audit.jsonl"), to.join("audit.jsonl")).unwrap();
        for object in fs::read_dir(from.join("evidence")).unwrap() {
            let object = object.unwrap();
            fs::copy(object.path(), to.join("evidence").join(object.file_name())).unwrap();
        }
    }

    /// The server's place among the nodes.
    pub fn server(&self) -> usize {
        self.members
    }

    /// A node's folder.
    pub fn node(&self, node: usize) -> PathBuf {
        let name = match node < self.members {
            true => format!("member-{node}"),
            false => "server".into(),
        };
        self.folder.path().join(name)
    }

    /// All folders.
    pub fn folders(&self) -> Vec<PathBuf> {
        (0..=self.members).map(|node| self.node(node)).collect()
    }

    /// What an auditor finds in these folders.
    pub async fn audit(&self, folders: &[PathBuf]) -> Audit {
        self.audit_at(folders, SystemTime::now()).await
    }

    /// The same at another time.
    pub async fn audit_at(&self, folders: &[PathBuf], now: SystemTime) -> Audit {
        Audit::of(folders, None, now, &mut |_, _| {}).await.unwrap()
    }

    /// What an auditor of all of them finds first.
    pub async fn first_wrong(&self) -> Finding {
        let audit = self.audit(&self.folders()).await;
        let first = audit.findings.first().cloned();
        first.expect("something is wrong, and was not found")
    }

    /// Whether an auditor of all of them finds this rule broken, in words with these in them.
    pub async fn finds(&self, rule: Rule, words: &str) -> Finding {
        let audit = self.audit(&self.folders()).await;
        let found = audit.findings.iter();
        let mut found = found.filter(|it| it.rule == rule && it.detail.contains(words));
        found.next().cloned().unwrap_or_else(|| {
            panic!("no {rule}: {words:?} among {:#?}", audit.findings);
        })
    }

    /// A log's lines.
    pub fn lines(&self, node: usize) -> Vec<Line> {
        let text = fs::read_to_string(self.node(node).join("audit.jsonl")).unwrap();
        text.lines()
            .map(|it| serde_json::from_str(it).unwrap())
            .collect()
    }

    /// Where the first entry of a kind stands.
    pub fn place_of(&self, node: usize, kind: &str) -> usize {
        let lines = self.lines(node);
        let place = lines.iter().position(|line| line["kind"] == kind);
        place.unwrap_or_else(|| panic!("no {kind}"))
    }

    /// Writes a log's lines as they are.
    pub fn write(&self, node: usize, lines: &[Line]) {
        let text: String = lines.iter().map(|line| text_of(line) + "\n").collect();
        fs::write(self.node(node).join("audit.jsonl"), text).unwrap();
    }

    /// Changes a log's lines, with nobody's key: the numbers stay right where `numbered`.
    pub fn tamper(&self, node: usize, numbered: bool, change: impl FnOnce(&mut Vec<Line>)) {
        let mut lines = self.lines(node);
        change(&mut lines);
        if numbered {
            number(&mut lines);
        }
        self.write(node, &lines);
    }

    /// Writes a log anew as its owner could: numbers right, every checkpoint signed again.
    pub fn rewrite(&self, node: usize, change: impl FnOnce(&mut Vec<Line>)) {
        let mut lines = self.lines(node);
        change(&mut lines);
        number(&mut lines);
        let path = self.node(node).join("audit.jsonl");
        let mut text = String::new();
        for line in &mut lines {
            if line["kind"] == "checkpoint" {
                fs::write(&path, &text).unwrap();
                let (size, root) = verify_file(&path).unwrap();
                let said = Note::parse(line["fields"]["note"].as_str().unwrap()).unwrap();
                let origin = said.unverified().origin().to_owned();
                let checkpoint = Checkpoint::new(&origin, size, root).unwrap();
                line["fields"]["note"] = Note::sign(checkpoint, &self.keys[node]).to_text().into();
            }
            text += &(text_of(line) + "\n");
        }
        fs::write(&path, text).unwrap();
    }

    /// Puts an object beside a node's log, and returns its name.
    pub fn keep(&self, node: usize, object: &[u8]) -> String {
        let name = Evidence::name_of(object);
        fs::write(self.node(node).join("evidence").join(&name), object).unwrap();
        name
    }

    /// The object that an entry rests on.
    pub fn object(&self, node: usize, line: &Line) -> Vec<u8> {
        let name = line["fields"]["evidence"][0].as_str().unwrap();
        Evidence::beside(&self.node(node).join("audit.jsonl"))
            .get(name)
            .unwrap()
    }

    /// What an entry's signed object says.
    pub fn said<T: Object>(&self, node: usize, line: &Line) -> T {
        let envelope = Envelope::decode(&self.object(node, line)).unwrap();
        T::parse(envelope.payload()).unwrap()
    }

    /// Puts another object in the place of the one that an entry rests on; a field that names it follows.
    pub fn put<T: Object>(
        &self,
        node: usize,
        line: &mut Line,
        field: Option<&str>,
        signed: &Signed<T>,
    ) {
        let name = self.keep(node, &signed.encode());
        line["fields"]["evidence"] = json!([name]);
        if let Some(field) = field {
            line["fields"][field] = signed.digest().to_string().into();
        }
    }

    /// A node's key.
    pub fn key(&self, node: usize) -> &SigningKey {
        &self.keys[node]
    }
}

fn number(lines: &mut [Line]) {
    for (place, line) in lines.iter_mut().enumerate() {
        line["sequence"] = place.into();
    }
}

/// As a log writes it.
fn text_of(line: &Line) -> String {
    format!(
        r#"{{"sequence":{},"time":{},"kind":{},"fields":{}}}"#,
        line["sequence"], line["time"], line["kind"], line["fields"]
    )
}
