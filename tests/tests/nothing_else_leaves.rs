//! All that leaves a member is on a written list (`tests/leaves.toml`): every field of every call, read from the bytes
//! that were sent, and every field of what the server's log keeps of them. What is on the list is sent by somebody here.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::{Mutex, PoisonError},
};

use ciphertune_client::report::Happening;
use ciphertune_seal::SEALED_SHARE_BYTES;
use ciphertune_tests::{
    federation::{Federation, INSTITUTION, LABORATORY, RECORD, Server, Wish},
    learner::{Gate, Vectors},
    tap::{Call, Tap, fields},
};
use tracing::{Event, Metadata, Subscriber, span};

const DIMENSION: usize = 5_000;
/// The last field of a release, which is never empty.
const LEDGER_HEAD: u64 = 5;

type Section = BTreeMap<String, toml::Table>;

/// The fields of all that the server prints in this process.
static PRINTED: Mutex<BTreeSet<&str>> = Mutex::new(BTreeSet::new());

/// Hears the server print.
struct Ear;

impl Subscriber for Ear {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target().starts_with("ciphertune_server")
    }

    fn event(&self, event: &Event<'_>) {
        let fields = event.fields().map(|field| field.name());
        PRINTED
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .extend(fields);
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}
    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}
    fn enter(&self, _: &span::Id) {}
    fn exit(&self, _: &span::Id) {}
}

/// `tests/leaves.toml`.
struct List {
    headers: BTreeMap<String, String>,
    server_prints: BTreeSet<String>,
    member_prints: BTreeSet<String>,
    calls: Section,
    signed: Section,
    server_log: BTreeMap<String, BTreeSet<String>>,
    /// What was seen: section, entry, field.
    seen: BTreeSet<[String; 3]>,
}

impl List {
    fn read() -> Self {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("leaves.toml");
        let text = std::fs::read_to_string(path).unwrap();
        let mut list: toml::Table = toml::from_str(&text).unwrap();
        let mut part = |name: &str| list.remove(name).unwrap();
        Self {
            headers: part("headers").try_into().unwrap(),
            server_prints: part("server_prints").try_into().unwrap(),
            member_prints: part("member_prints").try_into().unwrap(),
            calls: part("calls").try_into().unwrap(),
            signed: part("signed").try_into().unwrap(),
            server_log: part("server_log").try_into().unwrap(),
            seen: BTreeSet::new(),
        }
    }

    /// Holds a call to the list.
    fn hold(&mut self, call: &Call) {
        let Call {
            method,
            headers,
            messages,
            ..
        } = call;
        for (name, value) in headers {
            let listed = self.headers.get(name);
            let says = listed.is_some_and(|listed| match listed.strip_suffix('*') {
                None => value == listed,
                Some(start) => value.strip_prefix(start).is_some_and(|rest| {
                    rest.len() < 12 && rest.bytes().all(|b| b.is_ascii_digit() || b == b'.')
                }),
            });
            assert!(says, "{method}: header {name}: {value}");
        }
        assert!(
            self.calls.contains_key(method),
            "{method} is not on the list"
        );
        self.saw("calls", method, "");
        for message in messages {
            self.hold_message("calls", method, message);
        }
    }

    fn hold_message(&mut self, section: &str, entry: &str, message: &[u8]) {
        for (number, value) in fields(message).unwrap() {
            let at = format!("{section}.{entry}.{number}");
            let listed = match section {
                "calls" => &self.calls,
                _ => &self.signed,
            };
            let listed = listed
                .get(entry)
                .and_then(|entry| entry.get(&number.to_string()));
            let listed =
                listed.unwrap_or_else(|| panic!("{at} ({} bytes) is not on the list", value.len()));
            let is = listed["is"].as_str().unwrap().to_owned();
            assert!(!listed["why"].as_str().unwrap().is_empty(), "{at}");
            self.saw(section, entry, &number.to_string());
            let length = value.len();
            match is.as_str() {
                "digest" => assert_eq!(length, 32, "{at}"),
                "signature" => assert_eq!(length, 64, "{at}"),
                "key" => assert_eq!(length, 1_216, "{at}"),
                "check" => assert!(length == 16 || length == 0, "{at}: {length}"),
                "number" => assert!(length <= 10, "{at}: {length}"),
                "checkpoint" => assert!(length <= 1_024, "{at}: {length}"),
                "share" => assert_eq!(length, SEALED_SHARE_BYTES, "{at}"),
                "sealed" => {}
                "words" if entry == "Envelope" => {}
                "words" => assert!(std::str::from_utf8(&value).is_ok(), "{at}"),
                is => {
                    let kinds = is
                        .strip_prefix("signed ")
                        .unwrap_or_else(|| panic!("{at}: {is}"));
                    self.hold_signed(kinds, &value);
                }
            }
        }
    }

    /// An envelope, and the object in it: a release, if it may be one, when it goes on to a ledger's head, as every one does.
    fn hold_signed(&mut self, kinds: &str, envelope: &[u8]) {
        if envelope.is_empty() {
            return; // no policy of its own, or a later message of a stream
        }
        self.hold_message("signed", "Envelope", envelope);
        let payload = fields(envelope).unwrap().swap_remove(0).1;
        let last = fields(&payload)
            .unwrap()
            .last()
            .map_or(0, |(number, _)| *number);
        let kind = match kinds.split_once(" or ") {
            Some((header, _)) if last < LEDGER_HEAD => header,
            Some((_, release)) => release,
            None => kinds,
        };
        self.hold_message("signed", kind, &payload);
    }

    fn saw(&mut self, section: &str, entry: &str, field: &str) {
        self.seen.insert([section, entry, field].map(str::to_owned));
    }

    /// Holds the server's log, and what it printed, to the list.
    fn hold_log(&mut self, server: &Server) {
        let printed = PRINTED.lock().unwrap();
        assert!(printed.len() > 2, "{printed:?}");
        for field in printed.iter() {
            assert!(self.server_prints.contains(*field), "printed: {field}");
        }
        let text = server.log();
        assert!(text.lines().count() > 5);
        for line in text.lines() {
            let line: serde_json::Value = serde_json::from_str(line).unwrap();
            let kind = line["kind"].as_str().unwrap();
            let listed = self.server_log.get(kind);
            let listed = listed
                .unwrap_or_else(|| panic!("{kind} is not on the list: {line}"))
                .clone();
            let fields = line["fields"].as_object().unwrap().keys();
            for field in fields.filter(|field| *field != "number") {
                assert!(
                    listed.contains(field),
                    "{kind}.{field} is not on the list: {line}"
                );
            }
        }
    }

    /// Nothing is on the list that nobody sends.
    fn expect_all_seen(&self) {
        let mut listed = BTreeSet::new();
        for (section, entries) in [("calls", &self.calls), ("signed", &self.signed)] {
            for (entry, fields) in entries {
                if section == "calls" {
                    listed.insert([section, entry, ""].map(str::to_owned));
                }
                let always = fields
                    .iter()
                    .filter(|(_, field)| field.get("resumed").is_none());
                listed.extend(always.map(|(field, _)| [section, entry, field].map(str::to_owned)));
            }
        }
        let unseen: Vec<_> = listed.difference(&self.seen).collect();
        assert!(
            unseen.is_empty(),
            "on the list, and sent by nobody: {unseen:?}"
        );
    }
}

/// Four members, of whom one misses round 1 and gets its model from a fellow; one has a policy of its own, another refuses
/// the second job.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_that_a_member_sends_is_on_the_list_and_nothing_is_on_it_in_vain() {
    tracing::subscriber::set_global_default(Ear).unwrap();
    let sites = [None, None, None, Some(LABORATORY)];
    let mut federation = Federation::found_with(LABORATORY, &sites).await;
    let (server, tap) = federation.serve_tapped().await;
    let (first, second) = (Gate::default(), Gate::default());
    let mut late = federation.join(Vectors::of(1, DIMENSION).behind(&first));
    let mut others: Vec<_> = [0, 2, 3]
        .map(|member| federation.join(Vectors::of(member, DIMENSION).behind_in(2, &second)))
        .into();
    let wish = Wish {
        rounds: 2,
        seconds: [5, 60, 3],
        ..Wish::of(4, DIMENSION)
    };
    federation.submit(&Wish::of(4, DIMENSION + 1)).await; // for another vector: refused by all
    federation.submit(&wish).await;
    for other in &others {
        let finished = |happening: &Happening| matches!(happening, Happening::Finished(_));
        other.waits_for(finished).await;
    }
    first.open();
    let planned = |happening: &Happening| {
        matches!(
            happening,
            Happening::Planned {
                round: 2,
                cohort: 4,
                ..
            }
        )
    };
    late.waits_for(planned).await;
    second.open();
    for run in others.iter_mut().chain([&mut late]) {
        assert!(run.end().await.unwrap().completed, "{:?}", run.voided());
    }
    let mut list = List::read();
    let members: Vec<_> = (0..4)
        .map(|member| federation.fingerprint(member))
        .collect();
    let calls = tap.calls();
    for call in calls.iter().filter(|call| members.contains(&call.by)) {
        list.hold(call);
    }
    list.hold_log(&server);
    list.expect_all_seen();
    server.stop().await;
}

/// What a call looks like from outside, and how long each field is.
type Shape = (String, BTreeMap<String, String>, Vec<Vec<(u64, usize)>>);

fn shapes(tap: &Tap, federation: &Federation, member: usize) -> Vec<Shape> {
    let by = federation.fingerprint(member);
    let calls = tap.calls().into_iter().filter(|call| call.by == by);
    let mut shapes: Vec<Shape> = calls
        .map(|call| {
            let lengths = |message: &Vec<u8>| {
                let fields = fields(message).unwrap().into_iter();
                fields
                    .map(|(number, value)| (number, value.len()))
                    .collect()
            };
            let messages = call.messages.iter().map(lengths).collect();
            (call.method, call.headers, messages)
        })
        .collect();
    shapes.sort();
    shapes
}

/// A round of three members, of whom this is the first.
async fn sent_by(first: Vectors, wish: &Wish, policy: &str) -> Vec<Shape> {
    let mut federation = Federation::found(3, policy).await;
    let (server, tap) = federation.serve_tapped().await;
    let others = [1, 2].map(|member| Vectors::of(member, DIMENSION));
    let learners = [first].into_iter().chain(others);
    let mut runs: Vec<_> = learners.map(|learner| federation.join(learner)).collect();
    federation.submit(wish).await;
    for run in &mut runs {
        assert!(run.end().await.unwrap().completed, "{:?}", run.voided());
    }
    server.stop().await;
    shapes(&tap, &federation, 0)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_members_data_changes_neither_which_calls_it_makes_nor_the_length_of_any_field() {
    let (first, wish) = (Vectors::of(0, DIMENSION), Wish::of(3, DIMENSION));
    let nothing = sent_by(first.clone().long(0.0), &wish, INSTITUTION).await;
    let much = sent_by(first.clone().long(1e6), &wish, INSTITUTION).await;
    let no_number = sent_by(first.clone().long(f64::NAN), &wish, INSTITUTION).await;
    let refuses = Vectors {
        refuses: true,
        ..first
    };
    let no_update = sent_by(refuses, &wish, INSTITUTION).await;
    assert!(nothing.len() > 10);
    assert_eq!(nothing, much);
    assert_eq!(nothing, no_number);
    assert_eq!(nothing, no_update);
}

/// How many records a member has, and so how many are in a batch, is its own affair: one record, or forty.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batchs_size_changes_neither_which_calls_a_member_makes_nor_the_length_of_any_field() {
    let (first, wish) = (Vectors::of(0, DIMENSION), Wish::of_batches(3, DIMENSION));
    let one = sent_by(first.clone().with_records(1), &wish, RECORD).await;
    let forty = sent_by(first.clone().with_records(40), &wish, RECORD).await;
    let no_numbers = sent_by(first.with_records(40).long(f64::NAN), &wish, RECORD).await;
    assert!(one.len() > 10);
    assert_eq!(one, forty);
    assert_eq!(one, no_numbers);
}

/// The arguments of each call of a tracing macro in a source text: what stands between its parentheses.
fn logged(source: &str) -> Vec<&str> {
    let mut calls = Vec::new();
    for level in ["error", "warn", "info", "debug", "trace"] {
        let begin = format!("tracing::{level}!(");
        for (at, _) in source.match_indices(&begin) {
            let rest = &source[at + begin.len()..];
            let (mut depth, mut quoted, mut before) = (1, false, ' ');
            let end = rest.find(|c| {
                match c {
                    '"' if before != '\\' => quoted = !quoted,
                    '(' | '[' | '{' if !quoted => depth += 1,
                    ')' | ']' | '}' if !quoted => depth -= 1,
                    _ => {}
                }
                before = c;
                depth == 0
            });
            calls.push(&rest[..end.expect("a macro that ends")]);
        }
    }
    calls
}

/// The fields of such a call, and what is put into its words.
fn fields_of(arguments: &str) -> Vec<String> {
    let (mut parts, mut part) = (Vec::new(), String::new());
    let (mut depth, mut quoted, mut before) = (0, false, ' ');
    for c in arguments.chars() {
        match c {
            '"' if before != '\\' => quoted = !quoted,
            '(' | '[' | '{' if !quoted => depth += 1,
            ')' | ']' | '}' if !quoted => depth -= 1,
            _ => {}
        }
        before = c;
        if c == ',' && depth == 0 && !quoted {
            parts.push(std::mem::take(&mut part));
        } else {
            part.push(c);
        }
    }
    parts.push(part);
    let mut fields = Vec::new();
    for part in parts
        .iter()
        .map(|part| part.trim())
        .filter(|it| !it.is_empty())
    {
        if let Some(words) = part.strip_prefix('"') {
            let put = words
                .split('{')
                .skip(1)
                .filter_map(|it| it.split('}').next());
            fields.extend(put.map(str::to_owned));
        } else {
            let name = part.split('=').next().unwrap_or_default();
            fields.push(name.trim().trim_start_matches(['%', '?']).to_owned());
        }
    }
    fields
}

fn sources(folder: &Path, found: &mut Vec<String>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|it| it == "rs") {
            found.push(std::fs::read_to_string(path).unwrap());
        }
    }
}

#[test]
fn no_line_of_a_log_has_a_field_that_is_not_listed() {
    let list = List::read();
    let crates = Path::new(env!("CARGO_MANIFEST_DIR")).join("../crates");
    for (crate_, listed) in [
        ("server", &list.server_prints),
        ("client", &list.member_prints),
    ] {
        let mut texts = Vec::new();
        sources(&crates.join(crate_).join("src"), &mut texts);
        let calls: Vec<&str> = texts.iter().flat_map(|text| logged(text)).collect();
        assert!(calls.len() > 5, "{crate_}: {calls:?}");
        for call in calls {
            for field in fields_of(call) {
                assert!(listed.contains(&field), "{crate_}: {field:?} in {call}");
            }
        }
        // No other way to the log: spans carry fields, too, and an import would hide the macro's name.
        for other in ["#[instrument", "_span!(", "use tracing::"] {
            assert!(
                !texts.iter().any(|text| text.contains(other)),
                "{crate_}: {other}"
            );
        }
    }
    let words = fields_of("%error, path = %path.display(), \"{given} is, older {held}\"");
    assert_eq!(words, ["error", "path", "given", "held"]);
}
