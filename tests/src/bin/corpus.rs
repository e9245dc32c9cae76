//! Writes the valid inputs of `tests/corpus/`: one folder a fuzz target. To be run again when a format changes; what
//! the fuzzers found beside them stays.
//!
//! `cargo run -p ciphertune-tests --bin corpus`

use std::{collections::BTreeSet, fs, path::Path};

use ciphertune_audit::Log;
use ciphertune_client::{disk::Disk, draft::Draft, model::Model, tuning::Tuning};
use ciphertune_dp::{FrozenSchedule, SamplingRate, rdp::Curve};
use ciphertune_identity::{Kit, Request, Role};
use ciphertune_ledger::{Cost, Data, Ledger, Settlement};
use ciphertune_policy::{Adjacency, Metric};
use ciphertune_round::{Digest, Envelope, Fingerprint, Signed};
use ciphertune_server::{phase::Input, storage::Entry};
use ciphertune_sum::{BLOCK_BYTES, Q};
use ciphertune_tests::{
    fuzz::{
        corpora, joined, named,
        records::{budget, now},
    },
    keys,
    vectors::{self, Vectors, text},
};
use ciphertune_tune::{
    backbone::random::{small_llama, write_random_llama},
    encoder::mlp::{Depth, Mlp},
    parameters::Trainable,
    spec::TrainingSpec,
    task::Route,
    tokenizer::word_level,
};
use ciphertune_wire::{Refusal, proto};
use prost::Message as _;
use safetensors::{Dtype, tensor::TensorView};

fn main() {
    signed_objects();
    sealed();
    policies();
    identities();
    logs();
    ledger();
    journal();
    messages();
    client();
    data_files();
    models();
}

/// Keeps an input that its target takes.
fn keep(target: &str, name: &str, data: &[u8]) {
    assert!((named(target).run)(data), "{target} refuses {name}");
    let folder = corpora().join(target);
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join(format!("valid-{name}")), data).unwrap();
}

fn signed_objects() {
    let vectors = Vectors::read();
    for object in vectors.objects() {
        let name = text(&object["name"]).replace(' ', "-");
        let target = match text(&object["label"]).rsplit('/').next().unwrap() {
            "policy" => "policy_document".to_owned(),
            label => label.replace('-', "_"),
        };
        let first_of_its_kind = !name.ends_with("south") && !name.ends_with("west")
            || matches!(target.as_str(), "admission" | "parcel_request");
        if first_of_its_kind {
            keep(&target, &name, &vectors::bytes(&object["payload"]));
        }
    }
    for name in ["echo of north", "job", "plan"] {
        keep(
            "envelope",
            &name.replace(' ', "-"),
            &vectors.envelope(name).encode(),
        );
    }
    keep("digest", "bytes", Digest::sha256(b"a").as_bytes());
    keep(
        "digest",
        "text",
        Digest::sha256(b"a").to_string().as_bytes(),
    );
}

fn sealed() {
    let words: Vec<u8> = [0, 1, Q - 1]
        .iter()
        .flat_map(|word: &u64| word.to_le_bytes())
        .collect();
    keep("words", "three", &words);
    let vectors = Vectors::read();
    let offer = vectors::bytes(&vectors.object("one-time key of north")["payload"]);
    keep(
        "sealing_key",
        "north",
        &offer[offer.len() - ciphertune_round::PUBLIC_KEY_BYTES..],
    );
    keep("stored_key", "north", &[7; 32]);
    let share = fs::read(vectors::folder().join("seal/north-to-south.share")).unwrap();
    keep("sealed_share", "north-to-south", &share);
    keep("body", "zeros", &[0; BLOCK_BYTES]);
    keep("sum", "unchanged", &[]);
    let record = |place: u16, word: u64| [&place.to_le_bytes()[..], &word.to_le_bytes()].concat();
    keep("sum", "a-value-less", &record(0, Q - (1 << 8)));
    keep(
        "sum",
        "an-error-more",
        &[record(7, 1), record(4095, Q - 1)].concat(),
    );
}

fn policies() {
    for entry in fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("../policies")).unwrap() {
        let path = entry.unwrap().path();
        if path
            .extension()
            .is_some_and(|extension| extension == "toml")
        {
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            keep("policy", &name, &fs::read(&path).unwrap());
        }
    }
    for (name, decimal) in [
        ("whole", "8"),
        ("fraction", "0.000001"),
        ("exponent", "12.5E-7"),
    ] {
        keep("decimal", name, decimal.as_bytes());
    }
    for setting in ["institution", "zero-out", "distributed"] {
        keep("setting", setting, setting.as_bytes());
    }
}

fn identities() {
    let folder = tempfile::tempdir().unwrap();
    let authority = keys::authority("lab");
    let north = keys::Holder::new(&authority, folder.path(), "north", Role::Member);
    // First what the targets hold mutations against.
    for (target, name, pem) in [
        ("authority_pem", "valid-ca.pem", authority.certificate_pem()),
        (
            "certificate_pem",
            "valid-member.pem",
            north.certificate.pem(),
        ),
    ] {
        fs::create_dir_all(corpora().join(target)).unwrap();
        fs::write(corpora().join(target).join(name), pem).unwrap();
    }
    keep(
        "authority_pem",
        "ca.pem",
        authority.certificate_pem().as_bytes(),
    );
    keep(
        "certificate_pem",
        "member.pem",
        north.certificate.pem().as_bytes(),
    );
    keep("certificate", "member.der", north.certificate.der());
    keep(
        "serial",
        "member",
        north.certificate.peer().serial.as_bytes(),
    );
    let request = Request::new(&north.party.name, &north.key()).unwrap();
    keep("request", "north.pem", request.pem().as_bytes());
    let serial = north.certificate.peer().serial.clone();
    let revoked = ciphertune_identity::Revocation {
        at: north.certificate.validity().not_before(),
        reason: ciphertune_identity::Reason::KeyCompromise,
    };
    let revoked = [(serial, revoked)].into_iter().collect();
    let revoked = (authority.revoke(&revoked, 3, *north.certificate.validity())).unwrap();
    keep("revocations", "one.pem", revoked.pem().as_bytes());
    keep("name", "north", b"north-2");
    for (name, endpoint) in [
        ("dns", "hub.example:4711"),
        ("v4", "10.0.0.1:443"),
        ("v6", "[::1]:1"),
    ] {
        keep("endpoint", name, endpoint.as_bytes());
    }
    keep("passphrase", "line", b"correct horse battery\n");
    keep(
        "key_file",
        "openssl.pem",
        &fs::read(north.home.key()).unwrap(),
    );
    let scrypt = keys::cheap_scrypt_key();
    keep("key_file", "scrypt.pem", scrypt.as_bytes());

    let hub = keys::Holder::new(&authority, folder.path(), "hub", Role::Server);
    let officer = keys::Holder::new(&authority, folder.path(), "olga", Role::Officer);
    let address: ciphertune_identity::Endpoint = "hub.example:4711".parse().unwrap();
    let parties = [&hub, &officer, &north]
        .map(|holder| holder.party.clone())
        .to_vec();
    let manifest = ciphertune_identity::Manifest::new(
        authority.federation().clone(),
        1,
        now(),
        parties,
        address.clone(),
    );
    let policy = ciphertune_round::PolicyDocument {
        federation: "lab".into(),
        toml: include_str!("../../../policies/laboratory-no-privacy.toml").into(),
    };
    let kit = Kit {
        credentials: north.credentials(&authority, &keys::empty_list(&authority, 4)),
        manifest: authority
            .sign_manifest(manifest.unwrap())
            .unwrap()
            .envelope()
            .clone(),
        policy: Signed::sign(policy, &officer.key()).envelope().clone(),
        address,
    };
    let at = folder.path().join("kit");
    kit.write(&at).unwrap();
    let files = [
        "ca.pem",
        "cert.pem",
        "crl.pem",
        "manifest.bin",
        "policy.bin",
        "address.txt",
    ];
    let files = files.map(|name| fs::read(at.join(name)).unwrap());
    keep(
        "kit",
        "north",
        &joined(&files.each_ref().map(Vec::as_slice)),
    );
}

fn logs() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit.jsonl");
    let mut log = Log::open(&path).unwrap();
    for round in 1..=3 {
        let fields = serde_json::json!({ "round": round, "job": "ab" });
        log.append("plan.accepted", fields.as_object().unwrap().clone(), now())
            .unwrap();
    }
    keep("audit_log", "three-lines", &fs::read(&path).unwrap());
    keep("audit_log", "empty", b"");
    keep(
        "checkpoint",
        "three",
        &log.checkpoint("north.example/audit").unwrap().to_bytes(),
    );
}

fn ledger() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ledger.sqlite");
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let ledger = Ledger::open(&path, "records", budget(), &[], now())
            .await
            .unwrap();
        let ledger = ledger.on_data(Some(Data {
            salt: [6; 32],
            sha256: [5; 32],
        }));
        let whole = SamplingRate::WHOLE;
        let step =
            FrozenSchedule::planned(whole, &"8".parse().unwrap(), 1, Adjacency::ZeroOut).unwrap();
        let cost = Cost::of(&Curve::of(&step)).unwrap();
        ledger.reserve([1; 32], &cost, 2, now()).await.unwrap();
        ledger.charge([1; 32], [2; 32], &cost, now()).await.unwrap();
        let settlement = Settlement {
            cost: Cost::ZERO,
            roster: [3; 32],
            certificate: [4; 32],
        };
        ledger.settle([2; 32], &settlement, now()).await.unwrap();
        ledger.end([1; 32], now()).await.unwrap();
    });
    // Closing happens behind one's back: it ends with the write-ahead log gone into the file.
    drop(runtime);
    while folder.path().join("ledger.sqlite-wal").exists() {
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    keep("ledger", "six-entries", &fs::read(&path).unwrap());
}

fn journal() {
    let vectors = Vectors::read();
    let keys = vectors.keys();
    let keyring = |fingerprint: &Fingerprint| keys.get(fingerprint).copied();
    let keyring = &keyring;
    let plan: Signed<ciphertune_round::Plan> =
        Signed::verify(vectors.envelope("plan"), keyring).unwrap();
    let (context, member) = (plan.context(), plan.seats[0].member);
    let said = |name: &str| -> Envelope { vectors.envelope(name) };
    let present = ciphertune_server::phase::Present {
        member,
        one_time_key: Some(said("one-time key of north")),
    };
    let digest = Digest::sha256(b"a");
    for (name, input) in [
        (
            "admission",
            Input::Admission(Signed::verify(said("admission of north"), keyring).unwrap()),
        ),
        (
            "poll",
            Input::Poll {
                present: vec![present],
                nonce: [3; 32],
                list: ciphertune_server::phase::ListInForce {
                    number: 3,
                    digest,
                    issued_at: ciphertune_policy::Instant::EPOCH,
                },
            },
        ),
        ("revoked", Input::Revoked { member }),
        (
            "header",
            Input::Header(Signed::verify(said("header of north"), keyring).unwrap()),
        ),
        (
            "body",
            Input::Body {
                context,
                member,
                digest,
            },
        ),
        (
            "summed",
            Input::Summed {
                context,
                sum: digest,
            },
        ),
        ("sum-failed", Input::SumFailed { context }),
        (
            "echo",
            Input::Echo(Signed::verify(said("echo of north"), keyring).unwrap()),
        ),
        (
            "release",
            Input::Release(Signed::verify(said("release of north"), keyring).unwrap()),
        ),
        (
            "agreement",
            Input::Agreement(Signed::verify(said("agreement of north"), keyring).unwrap()),
        ),
        (
            "parcel-request",
            Input::ParcelRequest(Signed::verify(said("parcel request of west"), keyring).unwrap()),
        ),
        (
            "parcel",
            Input::Parcel(Signed::verify(said("parcel of north"), keyring).unwrap()),
        ),
        (
            "abort",
            Input::Abort(Signed::verify(said("abort"), keyring).unwrap()),
        ),
        ("deadline", Input::Deadline),
        (
            "held",
            Input::Held {
                since: ciphertune_server::Moment::from_millis(1_700_000_000_000),
            },
        ),
        ("resumed", Input::Resumed),
        ("restarted", Input::Restarted),
    ] {
        keep("journal", name, &Entry::of(&input).encode_to_vec());
    }
}

fn messages() {
    let vectors = Vectors::read();
    let (context, envelope) = (vec![5; 32], vectors.envelope("echo of north").encode());
    let event = proto::Event {
        sequence: 9,
        kind: proto::EventKind::Echo.into(),
        envelope: envelope.clone(),
    };
    let member = proto::MemberState {
        name: "north".into(),
        admission: "refused".into(),
        refusal: "our data is away".into(),
        present: true,
        progress: "none".into(),
        waited_for: true,
    };
    let status = proto::JobStatusReply {
        jobs: vec![proto::JobState {
            job: context.clone(),
            name: "a job".into(),
            phase: "opening".into(),
            round: 2,
            attempt: 1,
            rounds: 5,
            members: vec![member],
            reason: String::new(),
            seconds: 600,
            seconds_left: 60,
            paused: "the disk is full".into(),
        }],
    };
    let shares = proto::PutSharesRequest {
        context: context.clone(),
        kind: proto::ShareKind::Key.into(),
        signed: envelope,
        shares: vec![vec![1; 40]; 3],
    };
    let chunk = proto::BodyChunk {
        context: context.clone(),
        offset: 32_768,
        data: vec![0; 64].into(),
    };
    let range = proto::GetBodyRequest {
        context,
        seat: 3,
        offset: 1 << 40,
    };
    // The first byte is the message's place in the target's list.
    for (name, kind, bytes) in [
        ("event", 10, event.encode_to_vec()),
        ("job-status", 5, status.encode_to_vec()),
        ("shares", 11, shares.encode_to_vec()),
        ("body-chunk", 14, chunk.encode_to_vec()),
        ("get-body", 17, range.encode_to_vec()),
    ] {
        keep("message", name, &[&[kind], bytes.as_slice()].concat());
    }
    let status = tonic::Status::from(Refusal::Late);
    keep(
        "refusal",
        "late",
        &[&[status.code() as u8], status.message().as_bytes()].concat(),
    );
}

fn client() {
    let tuning = Tuning {
        template: "{sentence}".into(),
        labels: vec!["down".into(), "up".into()],
        route: Route::Classifier,
        tokenizer: None,
        training: TrainingSpec::default(),
    };
    keep(
        "tuning",
        "default.json",
        tuning.to_json().unwrap().as_bytes(),
    );
    let draft = Draft {
        name: "a job".into(),
        rounds: 5,
        max_attempts: 2,
        members: 3,
        committee: None,
        value_bits: 16,
        sampling_rate: None,
        nominal_batch: None,
        max_examples: None,
        metrics: BTreeSet::new(),
        contribute_seconds: 600,
        open_seconds: 60,
        agree_seconds: 60,
        tuning,
    };
    let in_batches = Draft {
        name: "a job at record level".into(),
        sampling_rate: Some("0.1".parse().unwrap()),
        nominal_batch: Some(180),
        max_examples: Some(600),
        metrics: [Metric::TrainingAccuracy].into(),
        ..draft.clone()
    };
    for (name, draft) in [
        ("job.toml", draft),
        ("job-at-record-level.toml", in_batches),
    ] {
        keep("draft", name, toml::to_string(&draft).unwrap().as_bytes());
    }
    let vectors = Vectors::read();
    let said = ["plan", "roster", "echo of north", "echo of south"];
    let certificate: Vec<u8> = said
        .iter()
        .map(|name| vectors.envelope(name).encode())
        .flat_map(|one| [&(one.len() as u32).to_be_bytes()[..], &one].concat())
        .collect();
    keep("quorum", "two-echoes", &certificate);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    Model::first(vec![0.5, -1.25, f32::MIN_POSITIVE])
        .write(&Disk::default(), &path)
        .unwrap();
    keep("model", "three.safetensors", &fs::read(&path).unwrap());
}

fn data_files() {
    keep(
        "csv",
        "quoted.csv",
        "sentence, label,n\r\n\"a, \"\"b\"\"\nc\",x,1\r\nd ä,y,2\r\n".as_bytes(),
    );
    let lines = "{\"context\":\"c ä\",\"n\":2,\"label\":1}\r\n\n{\"label\":\"x\",\"n\":true,\"context\":\"d\"}";
    keep("json_lines", "two.jsonl", lines.as_bytes());
    keep(
        "sentence_label",
        "latin-1.txt",
        b"Yhti\xF6 grew @positive\r\nflat@b.fi@neutral\r\n",
    );
    keep(
        "template",
        "answer.txt",
        b"{{a}} {sentence} sentiment: {label}",
    );
    let sentences = ["Sales rose.", "sales fell sharply.", "Profit rose 3 %"];
    keep(
        "tokenizer",
        "words.json",
        word_level(&sentences, 8).unwrap().json(),
    );
    let byte_pairs = serde_json::json!({
        "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": [{ "id": 0, "content": "<s>", "single_word": false, "lstrip": false, "rstrip": false,
                           "normalized": false, "special": true }],
        "normalizer": { "type": "NFC" },
        "pre_tokenizer": { "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true },
        "post_processor": { "type": "TemplateProcessing", "single": [
            { "SpecialToken": { "id": "<s>", "type_id": 0 } }, { "Sequence": { "id": "A", "type_id": 0 } }],
            "pair": [{ "Sequence": { "id": "A", "type_id": 0 } }, { "Sequence": { "id": "B", "type_id": 0 } }],
            "special_tokens": { "<s>": { "id": "<s>", "ids": [0], "tokens": ["<s>"] } } },
        "decoder": { "type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true },
        "model": { "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
                   "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false,
                   "vocab": { "<s>": 0, "r": 1, "o": 2, "s": 3, "e": 4, "ro": 5, "se": 6, "rose": 7 },
                   "merges": [["r", "o"], ["s", "e"], ["ro", "se"]] },
    });
    keep(
        "tokenizer",
        "byte-pairs.json",
        byte_pairs.to_string().as_bytes(),
    );
    let pieces = serde_json::json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [],
        "normalizer": { "type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true,
                        "strip_accents": null, "lowercase": true },
        "pre_tokenizer": { "type": "BertPreTokenizer" },
        "post_processor": { "type": "BertProcessing", "sep": ["[SEP]", 1], "cls": ["[CLS]", 0] },
        "decoder": { "type": "WordPiece", "prefix": "##", "cleanup": true },
        "model": { "type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
                   "max_input_chars_per_word": 100,
                   "vocab": { "[CLS]": 0, "[SEP]": 1, "[UNK]": 2, "profit": 3, "ro": 4, "##se": 5 } },
    });
    keep(
        "tokenizer",
        "word-pieces.json",
        pieces.to_string().as_bytes(),
    );
}

fn models() {
    let folder = tempfile::tempdir().unwrap();
    write_random_llama(folder.path(), &small_llama(4, 8, 1), 1).unwrap();
    let read = |name: &str| fs::read(folder.path().join(name)).unwrap();
    let (config, weights) = (read("config.json"), read("model.safetensors"));
    keep("backbone", "llama", &joined(&[&config, b"", &weights]));
    let index = br#"{"weight_map":{"model.norm.weight":"shard.safetensors"}}"#;
    keep(
        "backbone",
        "llama-in-shards",
        &joined(&[&config, index, &weights]),
    );
    let config = br#"{"model_type":"bert","vocab_size":4,"hidden_size":4,"intermediate_size":4,
        "num_hidden_layers":1,"num_attention_heads":2,"max_position_embeddings":8,"type_vocab_size":2,
        "layer_norm_eps":1e-12,"hidden_act":"gelu"}"#;
    keep("backbone", "bert", &joined(&[config, b"", &tiny_bert()]));
    let path = folder.path().join("adapter.safetensors");
    let encoder = Mlp::random(2, 4, 3, Depth::Peft, 9, &candle_core::Device::Cpu).unwrap();
    Trainable::gather(&encoder, None).save(&path).unwrap();
    keep("adapter", "mlp.safetensors", &fs::read(&path).unwrap());
}

/// The weights of a BERT with one layer of width 4.
fn tiny_bert() -> Vec<u8> {
    let mut shapes = vec![
        ("embeddings.word_embeddings.weight".to_owned(), vec![4, 4]),
        (
            "embeddings.position_embeddings.weight".to_owned(),
            vec![8, 4],
        ),
        (
            "embeddings.token_type_embeddings.weight".to_owned(),
            vec![2, 4],
        ),
    ];
    let layer = "encoder.layer.0.";
    for (name, is_norm) in [
        ("embeddings.LayerNorm".to_owned(), true),
        (format!("{layer}attention.self.query"), false),
        (format!("{layer}attention.self.key"), false),
        (format!("{layer}attention.self.value"), false),
        (format!("{layer}attention.output.dense"), false),
        (format!("{layer}attention.output.LayerNorm"), true),
        (format!("{layer}intermediate.dense"), false),
        (format!("{layer}output.dense"), false),
        (format!("{layer}output.LayerNorm"), true),
    ] {
        shapes.push((
            format!("{name}.weight"),
            if is_norm { vec![4] } else { vec![4, 4] },
        ));
        shapes.push((format!("{name}.bias"), vec![4]));
    }
    let data: Vec<Vec<u8>> = (shapes.iter())
        .map(|(_, shape)| 0.25_f32.to_le_bytes().repeat(shape.iter().product()))
        .collect();
    let tensors = shapes
        .into_iter()
        .zip(&data)
        .map(|((name, shape), data)| (name, TensorView::new(Dtype::F32, shape, data).unwrap()));
    safetensors::serialize(tensors, None).unwrap()
}
