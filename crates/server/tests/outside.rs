//! The server seen from outside, over a real socket: its routes, what they refuse, and what they say, held to the audit log.

mod common;

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use ciphertune_audit::{Reader, Record};
use ciphertune_identity::Validity;
use ciphertune_round::{Deadlines, Ended, Job, Plan, Roster, Signed};
use ciphertune_wire::proto::{DirectoryRequest, EventKind};
use common::{Federation, Member, POLICY, Server};
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    sync::watch,
};

/// A name as hostile as a job's may be.
const NAME: &str = "<script>alert('x')</script> \"&{{ 7 * 7 }}\u{202e}";
/// A reason, likewise.
const REASON: &str = "<img src=x onerror=alert(1)>\nour policy says no";

struct Reply {
    status: u16,
    head: String,
    body: String,
}

impl Reply {
    fn read(bytes: &[u8]) -> Self {
        let text = String::from_utf8(bytes.to_vec()).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
        let status = head.split(' ').nth(1).and_then(|code| code.parse().ok());
        Self {
            status: status.unwrap_or(0),
            head: head.to_ascii_lowercase(),
            body: body.to_owned(),
        }
    }
}

async fn send(address: SocketAddr, request: &[u8]) -> Reply {
    let mut stream = TcpStream::connect(address).await.unwrap();
    // A request that is refused at its beginning may not be taken whole.
    let _ = stream.write_all(request).await;
    let mut bytes = Vec::new();
    let _ = stream.read_to_end(&mut bytes).await;
    Reply::read(&bytes)
}

async fn ask_as(address: SocketAddr, host: &str, line: &str) -> Reply {
    send(
        address,
        format!("{line} HTTP/1.1\r\nHost: {host}\r\n\r\n").as_bytes(),
    )
    .await
}

async fn ask(address: SocketAddr, line: &str) -> Reply {
    ask_as(address, "localhost", line).await
}

async fn get(address: SocketAddr, path: &str) -> String {
    let reply = ask(address, &format!("GET {path}")).await;
    assert_eq!(reply.status, 200, "{path}: {}", reply.body);
    reply.body
}

async fn status(address: SocketAddr) -> Value {
    serde_json::from_str(&get(address, "/status.json").await).unwrap()
}

fn log_of(federation: &Federation) -> Vec<Record> {
    let mut reader = Reader::open(federation.data().join("audit.jsonl")).unwrap();
    let mut records = Vec::new();
    while let Some(record) = reader.next().unwrap() {
        records.push(record);
    }
    records
}

/// A job of some rounds, from its plan to its end, everybody at work.
async fn finish(members: &mut [Member<'_>], mut plan: Signed<Plan>, rounds: u32) {
    for round in 1..=rounds {
        let everybody = round % 2 == 1;
        for member in members.iter_mut().skip(usize::from(!everybody)) {
            member.contribute(&plan).await;
        }
        if !everybody {
            members[0].contribute(&plan).await;
        }
        let roster = members[0].next::<Roster>(EventKind::Roster).await;
        for member in members.iter_mut() {
            member.echo(&roster).await.unwrap();
        }
        for member in members.iter_mut() {
            member.release(&plan, &roster).await.unwrap();
        }
        for member in members.iter_mut() {
            let model = format!("model {round}");
            member.agree(&plan, model.as_bytes()).await.unwrap();
        }
        if round < rounds {
            plan = members[0].next::<Plan>(EventKind::Plan).await;
        }
    }
}

/// A federation with a past: a job of two rounds, one that a member declined, one that was void, one that is under way.
async fn past(federation: &Federation, server: &Server) -> Vec<Signed<Job>> {
    let job = federation.job(|job| {
        job.name = NAME.into();
        job.rounds = 2;
    });
    let (mut members, plan) = federation.begin(server, &job).await;
    finish(&mut members, plan, 2).await;
    members[0].next::<Ended>(EventKind::Ended).await;

    let declined = federation.job(|job| job.nonce = [8; 32]);
    federation.submit(server, &declined).await.unwrap();
    members[0].admit(&declined, None).await.unwrap();
    members[1].admit(&declined, Some(REASON)).await.unwrap();
    // And then it changes its mind: a second, different answer.
    members[1].admit(&declined, None).await.unwrap_err();
    members[2].admit(&declined, None).await.unwrap();
    members[0].next::<Ended>(EventKind::Ended).await;

    let hasty = federation.job(|job| {
        job.nonce = [9; 32];
        job.name = "hasty".into();
        job.max_attempts = 1;
        job.deadlines = Deadlines {
            contribute: Duration::from_secs(1),
            ..job.deadlines
        };
    });
    federation.submit(server, &hasty).await.unwrap();
    for member in &mut members {
        member.admit(&hasty, None).await.unwrap();
    }
    let plan = members[0].next::<Plan>(EventKind::Plan).await;
    members[2].contribute(&plan).await;
    members[0].next::<Ended>(EventKind::Ended).await;

    let running = federation.job(|job| {
        job.nonce = [10; 32];
        job.name = "headlines, third quarter".into();
        job.rounds = 8;
    });
    federation.submit(server, &running).await.unwrap();
    for member in &mut members {
        member.admit(&running, None).await.unwrap();
    }
    let plan = members[0].next::<Plan>(EventKind::Plan).await;
    members[0].contribute(&plan).await;
    let body = members[1].body();
    members[1].put_header(&plan, &body).await.unwrap();
    // They stay connected as long as the test's runtime lives.
    std::mem::forget(members);
    vec![job, declined, hasty, running]
}

#[tokio::test(flavor = "multi_thread")]
async fn every_route_is_read_only_and_nothing_else_is_there() {
    let federation = Federation::new(3, POLICY);
    let (server, address) = federation.serve_seen(|_| ());
    for (path, format) in [
        ("/", "text/html; charset=utf-8"),
        ("/healthz", "text/plain; charset=utf-8"),
        ("/readyz", "text/plain; charset=utf-8"),
        ("/metrics", "text/plain; version=0.0.4; charset=utf-8"),
        ("/status.json", "application/json"),
        ("/status.json?x=1", "application/json"),
    ] {
        let reply = ask(address, &format!("GET {path}")).await;
        assert_eq!(reply.status, 200, "{path}: {}", reply.body);
        for header in [
            &format!("content-type: {format}"),
            "cache-control: no-store",
            "content-security-policy: default-src 'none'; style-src 'unsafe-inline'",
            "x-content-type-options: nosniff",
        ] {
            assert!(
                reply.head.contains(header),
                "{path}: {header}: {}",
                reply.head
            );
        }
        let head = ask(address, &format!("HEAD {path}")).await;
        assert_eq!((head.status, head.body.as_str()), (200, ""), "{path}");
        assert!(head.head.contains("content-length: "), "{}", head.head);
        for method in ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "BREW"] {
            let refused = ask(address, &format!("{method} {path}")).await;
            assert_eq!(refused.status, 405, "{method} {path}");
            assert!(
                refused.head.contains("allow: get, head"),
                "{}",
                refused.head
            );
        }
    }
    for path in [
        "/metrics/",
        "/audit.jsonl",
        "/../server.sqlite",
        "//",
        "/%2e%2e/",
    ] {
        let reply = ask(address, &format!("GET {path}")).await;
        assert_eq!(reply.status, 404, "{path}");
        assert!(reply.body.contains("/status.json"), "it says what there is");
    }
    assert_eq!(get(address, "/healthz").await, "ok\n");
    server.stop().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn who_asks_for_another_host_gets_nothing() {
    let federation = Federation::new(3, POLICY);
    let (_server, address) = federation.serve_seen(|_| ());
    let port = address.port();
    for host in [
        "localhost",
        "127.0.0.1",
        "[::1]",
        "hub.example",
        "192.0.2.1",
    ] {
        let reply = ask_as(address, &format!("{host}:{port}"), "GET /readyz").await;
        assert_eq!(reply.status, 200, "{host}");
    }
    for host in ["evil.example", "localhost.evil.example", "x"] {
        let reply = ask_as(address, &format!("{host}:{port}"), "GET /status.json").await;
        assert_eq!(reply.status, 421, "{host}");
        assert!(!reply.body.contains("lab"), "{}", reply.body);
    }
    assert_eq!(send(address, b"GET / HTTP/1.1\r\n\r\n").await.status, 400);
    let two = b"GET / HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n";
    assert_eq!(send(address, two).await.status, 400);
    let proxied = b"GET http://evil.example/ HTTP/1.1\r\nHost: localhost\r\n\r\n";
    assert_eq!(send(address, proxied).await.status, 421);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_without_end_is_refused_and_a_slow_reader_cut_off_while_calls_are_served() {
    let federation = Federation::new(3, POLICY);
    let (server, address) = federation.serve_seen(|_| ());
    let long = format!(
        "GET /{} HTTP/1.1\r\nHost: localhost\r\n\r\n",
        "x".repeat(60_000)
    );
    let reply = send(address, long.as_bytes()).await;
    assert!(matches!(reply.status, 414 | 431 | 0), "{}", reply.status);
    let fields = format!(
        "GET / HTTP/1.1\r\nHost: localhost\r\n{}\r\n",
        "X: y\r\n".repeat(100)
    );
    assert_eq!(send(address, fields.as_bytes()).await.status, 431);
    // As many as there are places, none of which finishes its request.
    let started = Instant::now();
    let mut slow = Vec::new();
    for _ in 0..8 {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream
            .write_all(b"GET / HTTP/1.1\r\nHost: loc")
            .await
            .unwrap();
        slow.push(stream);
    }
    tokio::time::sleep(Duration::from_millis(200)).await;
    // Members are served all the same.
    let mut member = federation.member(&server, 0).await;
    assert_eq!(member.put_keys(2).await, 2);
    assert!(started.elapsed() < Duration::from_secs(4));
    // The ninth waits until they are cut off, and is answered.
    assert_eq!(get(address, "/readyz").await, "ok\n");
    let waited = started.elapsed();
    assert!(
        waited > Duration::from_secs(4) && waited < Duration::from_secs(15),
        "{waited:?}"
    );
    for mut stream in slow {
        let mut rest = Vec::new();
        let ended = tokio::time::timeout(Duration::from_secs(5), stream.read_to_end(&mut rest));
        let _ = ended.await.expect("cut off");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_ready_as_long_as_certificate_and_list_hold_and_alive_all_the_while() {
    let federation = Federation::new(3, POLICY);
    for (days, expected) in [
        (50, "the server's certificate does not hold now"),
        (30, "the revocation list"),
    ] {
        let start = SystemTime::now() - Duration::from_secs(3600);
        let number = if days == 50 { 1 } else { 2 };
        let list = federation.list_of(number, &[], Validity::days(start, days).unwrap());
        let credentials = watch::channel(federation.server_credentials(&list)).1;
        let (server, address) = federation.serve_seen(|config| {
            config.credentials = credentials;
            let late = if days == 50 { 31 } else { 0 };
            config.clock = Arc::new(move || SystemTime::now() + Duration::from_secs(late * 86_400));
        });
        if days == 30 {
            assert_eq!(get(address, "/readyz").await, "ok\n");
            server.stop().unwrap();
            continue;
        }
        let reply = ask(address, "GET /readyz").await;
        assert_eq!(reply.status, 503);
        assert!(reply.body.contains(expected), "{}", reply.body);
        assert_eq!(get(address, "/healthz").await, "ok\n");
        let page = get(address, "/").await;
        assert!(
            page.contains("not ready") && page.contains("does not hold now"),
            "{page}"
        );
        assert_eq!(status(address).await["ready"], false);
        assert!(
            get(address, "/metrics")
                .await
                .contains("\nciphertune_ready 0\n")
        );
        server.stop().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_strangers_wrote_is_text_on_the_page() {
    let federation = Federation::new(3, POLICY);
    let (server, address) = federation.serve_seen(|_| ());
    past(&federation, &server).await;
    let page = get(address, "/").await;
    assert!(page.contains("&lt;script&gt;alert("), "{page}");
    assert!(page.contains("{{ 7 * 7 }}") && page.contains("&lt;img src=x onerror="));
    for forbidden in [
        "<script",
        "<img",
        "<link",
        "<iframe",
        "onerror=alert(1)>",
        "src=\"",
        "href=",
        "url(",
        "http://",
        "https://",
        "@import",
    ] {
        assert!(!page.contains(forbidden), "{forbidden}");
    }
    // A metric has no word of a peer's in it.
    let metrics = get(address, "/metrics").await;
    assert!(
        !metrics.contains("script") && !metrics.contains("headlines") && !metrics.contains("m1")
    );
    assert_eq!(status(address).await["rounds"][1]["name"], NAME);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_seen_is_what_the_log_says_before_and_after_a_restart() {
    let federation = Federation::new(3, POLICY);
    let (server, address) = federation.serve_seen(|_| ());
    let jobs = past(&federation, &server).await;
    // A checkpoint is of a log that has everything in it: what members have an answer to may be on its way there.
    let mut researcher = federation.connect(&server, &federation.researcher).await;
    researcher.directory(DirectoryRequest {}).await.unwrap();
    let (seen, log) = settled(address, &federation).await;
    let metrics = get(address, "/metrics").await;
    assert_eq!(seen["schema"], 1);
    hold_to_the_log(&seen, &log);
    hold_metrics(&metrics, &seen);

    // The job under way, as its members see it.
    let running = &seen["jobs"].as_array().unwrap()[..];
    let [running] = running else {
        panic!("{running:?}")
    };
    assert_eq!(running["job"], jobs[3].digest().to_string());
    assert_eq!(
        (&running["phase"], &running["round"]),
        (&"contributing".into(), &1.into())
    );
    let progress: Vec<_> = running["members"].as_array().unwrap().iter().collect();
    let progress: Vec<_> = progress
        .iter()
        .map(|it| it["progress"].as_str().unwrap())
        .collect();
    assert_eq!(progress, ["done", "partial", "none"]);
    let left = running["seconds_left"].as_f64().unwrap();
    assert!((1.0..=60.0).contains(&left), "{left}");
    let present = seen["members"].as_array().unwrap().iter();
    assert!(present.clone().all(|member| member["present"] == true));

    server.stop().unwrap();
    let (server, address) = federation.serve_seen(|_| ());
    let (again, log) = settled(address, &federation).await;
    for part in ["rounds", "refusals", "ended"] {
        assert_eq!(again[part], seen[part], "{part}");
    }
    let mut totals = seen["totals"].clone();
    totals["starts"] = 2.into();
    assert_eq!(again["totals"], totals);
    hold_to_the_log(&again, &log);
    server.stop().unwrap();
}

/// What is seen, and the log, once both have the same entries: they are written behind the steps that they tell of.
async fn settled(address: SocketAddr, federation: &Federation) -> (Value, Vec<Record>) {
    for _ in 0..200 {
        let (seen, log) = (status(address).await, log_of(federation));
        if seen["log"]["entries"] == log.len() {
            return (seen, log);
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("what is seen never is what the log says");
}

/// Everything that is said of the past follows from the entries, by another way than the server's.
fn hold_to_the_log(seen: &Value, log: &[Record]) {
    let of = |kind: &str| -> Vec<&Record> { log.iter().filter(|it| it.kind == kind).collect() };
    let with = |kind: &str, context: &str| -> Vec<&Record> {
        let all = of(kind).into_iter();
        all.filter(|it| it.text("context") == Some(context))
            .collect()
    };
    assert_eq!(seen["log"]["entries"], log.len());
    assert_eq!(seen["log"]["last"], log.last().unwrap().when());
    let totals = &seen["totals"];
    for (total, kind) in [
        ("starts", "started"),
        ("jobs", "job"),
        ("rounds_completed", "complete"),
        ("attempts", "plan"),
        ("attempts_void", "void"),
        ("contributions", "contribution"),
        ("bodies", "body"),
    ] {
        assert_eq!(totals[total], of(kind).len(), "{total}");
    }
    // Two blocks of 4096 words of eight bytes: as long as every body of these jobs is.
    let body = 2 * 4096 * 8;
    assert_eq!(totals["body_bytes"], of("body").len() * body);
    assert_eq!(totals["sum_bytes"], of("agreement").len() * body);
    let declined = of("admission").into_iter();
    let declined: Vec<_> = declined
        .filter(|it| it.fields["accepted"] == false)
        .collect();
    assert_eq!(totals["jobs_declined"], declined.len());

    let rounds = seen["rounds"].as_array().unwrap();
    assert_eq!(rounds.len(), 3);
    let outcomes: Vec<_> = rounds
        .iter()
        .map(|it| it["outcome"].as_str().unwrap())
        .collect();
    assert_eq!(outcomes, ["void", "complete", "complete"]);
    for round in rounds {
        let context = round["context"].as_str().unwrap();
        let [plan] = with("plan", context)[..] else {
            panic!("{context}")
        };
        assert_eq!(round["planned"], plan.when());
        for field in ["job", "round", "attempt", "cohort", "threshold"] {
            assert_eq!(round[field], plan.fields[field], "{field}");
        }
        assert_eq!(round["contributions"], with("contribution", context).len());
        assert_eq!(round["received_bytes"], with("body", context).len() * body);
        let seconds = &round["seconds"];
        let span = |from: u64, to: u64| Value::from((to - from) as f64 / 1000.0);
        if round["outcome"] == "void" {
            let [void] = with("void", context)[..] else {
                panic!("{context}")
            };
            assert_eq!(
                (&round["over"], &round["reason"]),
                (&void.when().into(), &void.fields["reason"])
            );
            assert_eq!(seconds["contributing"], span(plan.time, void.time));
            assert!(round["contributors"].is_null() && seconds["opening"].is_null());
            continue;
        }
        let [roster] = with("roster", context)[..] else {
            panic!("{context}")
        };
        let complete = of("complete")
            .into_iter()
            .find(|it| it.fields["job"] == round["job"] && it.fields["round"] == round["round"]);
        let complete = complete.unwrap();
        assert_eq!(round["over"], complete.when());
        assert_eq!(round["contributors"], roster.fields["contributors"]);
        assert_eq!(
            round["contributor_names"],
            serde_json::json!(["m0", "m1", "m2"])
        );
        let last_body = with("body", context)
            .iter()
            .map(|it| it.time)
            .max()
            .unwrap();
        assert_eq!(seconds["contributing"], span(plan.time, last_body));
        assert_eq!(seconds["closing"], span(last_body, roster.time));
        let opened = with("release", context)[plan.number("threshold").unwrap() as usize - 1];
        assert_eq!(seconds["opening"], span(roster.time, opened.time));
        assert_eq!(seconds["agreeing"], span(opened.time, complete.time));
    }

    let refusals = seen["refusals"].as_array().unwrap();
    let [conflict, decline] = &refusals[..] else {
        panic!("{refusals:?}")
    };
    let [noted] = of("refused")[..] else { panic!() };
    assert_eq!(
        (&conflict["at"], &conflict["reason"]),
        (&noted.when().into(), &noted.fields["reason"])
    );
    assert_eq!(
        (&conflict["what"], &conflict["party"]),
        (&noted.fields["what"], &noted.fields["by"])
    );
    assert_eq!(
        (&decline["at"], &decline["reason"]),
        (&declined[0].when().into(), &declined[0].fields["reason"])
    );
    assert_eq!(decline["party"], declined[0].fields["member"]);
    assert_eq!(
        (&decline["reason"], &decline["name"]),
        (&REASON.into(), &"m1".into())
    );

    let ended = seen["ended"].as_array().unwrap().iter().rev();
    let entries = of("ended");
    assert_eq!(ended.len(), entries.len());
    for (end, entry) in ended.zip(entries) {
        assert_eq!(end["at"], entry.when());
        for field in ["job", "completed", "rounds", "reason"] {
            assert_eq!(end[field], entry.fields[field], "{field}");
        }
    }
}

/// The text format, and the same numbers.
fn hold_metrics(text: &str, seen: &Value) {
    let mut kinds = std::collections::BTreeMap::new();
    let mut helped = std::collections::BTreeSet::new();
    let mut samples = std::collections::BTreeMap::new();
    for line in text.lines() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            let (name, words) = help.split_once(' ').unwrap();
            assert!(words.ends_with('.') && helped.insert(name), "{line}");
        } else if let Some(kind) = line.strip_prefix("# TYPE ") {
            let (name, kind) = kind.split_once(' ').unwrap();
            assert!(
                helped.contains(name) && kinds.insert(name, kind).is_none(),
                "{line}"
            );
            assert_eq!(kind == "counter", name.ends_with("_total"), "{line}");
        } else {
            let (series, value) = line.rsplit_once(' ').unwrap();
            let name = series.split('{').next().unwrap();
            assert!(
                kinds.contains_key(name) && name.starts_with("ciphertune_"),
                "{line}"
            );
            let value: f64 = value.parse().unwrap();
            assert!(samples.insert(series, value).is_none(), "twice: {series}");
        }
    }
    let totals = &seen["totals"];
    for (series, expected) in [
        ("jobs{phase=\"contributing\"}", 1.into()),
        ("jobs{phase=\"admitting\"}", 0.into()),
        (
            "jobs_ended_total{completed=\"true\"}",
            totals["jobs_completed"].clone(),
        ),
        (
            "jobs_ended_total{completed=\"false\"}",
            totals["jobs_failed"].clone(),
        ),
        ("rounds_completed_total", totals["rounds_completed"].clone()),
        ("attempts_void_total", totals["attempts_void"].clone()),
        ("contributions_total", totals["contributions"].clone()),
        ("body_received_bytes_total", totals["body_bytes"].clone()),
        ("sum_opened_bytes_total", totals["sum_bytes"].clone()),
        ("refused_objects_total{what=\"admission\"}", 1.into()),
        ("refused_objects_total{what=\"other\"}", 0.into()),
        (
            "last_round_phase_seconds{phase=\"opening\"}",
            seen["rounds"][1]["seconds"]["opening"].clone(),
        ),
        (
            "last_round_contributors",
            seen["rounds"][1]["contributors"].clone(),
        ),
        ("events_total", totals["events"].clone()),
        ("log_entries_total", seen["log"]["entries"].clone()),
        ("members_present", 3.into()),
    ] {
        let value = samples.get(format!("ciphertune_{series}").as_str());
        assert_eq!(value.copied(), expected.as_f64(), "{series}");
    }
    assert!(samples.contains_key("ciphertune_uptime_seconds"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_browser_shows_the_page_and_runs_nothing() {
    let Some(browser) = ["chromium", "chromium-browser", "google-chrome"]
        .into_iter()
        .find(|it| {
            Command::new(it)
                .arg("--version")
                .output()
                .is_ok_and(|it| it.status.success())
        })
    else {
        eprintln!("SKIPPED: no chromium, chromium-browser or google-chrome is installed");
        return;
    };
    let federation = Federation::new(3, POLICY);
    let (server, address) = federation.serve_seen(|_| ());
    past(&federation, &server).await;
    let folder = tempfile::tempdir().unwrap();
    // To look at: CIPHERTUNE_SCREENSHOTS=DIR
    let shots = std::env::var_os("CIPHERTUNE_SCREENSHOTS").map(PathBuf::from);
    let shots = shots.unwrap_or_else(|| folder.path().to_owned());
    std::fs::create_dir_all(&shots).unwrap();
    let profile = folder.path().join("profile");
    let run = |arguments: Vec<String>| {
        let (browser, profile) = (browser.to_owned(), profile.clone());
        let url = format!("http://{address}/");
        tokio::task::spawn_blocking(move || {
            let output = Command::new(browser)
                .args([
                    "--headless",
                    "--no-sandbox",
                    "--disable-gpu",
                    "--disable-dev-shm-usage",
                    "--hide-scrollbars",
                ])
                .arg(format!("--user-data-dir={}", profile.display()))
                .args(arguments)
                .arg(url)
                .output()
                .unwrap();
            assert!(
                output.status.success(),
                "{}",
                String::from_utf8_lossy(&output.stderr)
            );
            String::from_utf8_lossy(&output.stdout).into_owned()
        })
    };
    let dom = run(vec!["--dump-dom".into()]).await.unwrap();
    // As the browser read it: the name is text, and there is nothing that runs or loads.
    assert!(
        dom.contains("<bdi>&lt;script&gt;alert('x')&lt;/script&gt;"),
        "{dom}"
    );
    assert!(!dom.contains("<script") && !dom.contains("<img"));
    for words in [
        "ready",
        "contributing",
        "model agreed",
        "void",
        "our policy says no",
        "headlines, third quarter",
        "m1",
        "65.5 kB",
    ] {
        assert!(dom.contains(words), "{words}: {dom}");
    }
    for (width, dark) in [(1000, false), (1000, true), (400, false), (400, true)] {
        let name = format!("{width}-{}.png", if dark { "dark" } else { "light" });
        let shot = shots.join(name);
        let mut arguments = vec![
            format!(
                "--window-size={width},{}",
                if width == 400 { 3200 } else { 1900 }
            ),
            format!("--screenshot={}", shot.display()),
        ];
        if dark {
            arguments.push("--blink-settings=preferredColorScheme=0".into());
        } else {
            arguments.push("--blink-settings=preferredColorScheme=1".into());
        }
        run(arguments).await.unwrap();
        expect_a_picture(&shot, width);
    }
    let pdf = shots.join("print.pdf");
    run(vec![
        "--no-pdf-header-footer".into(),
        format!("--print-to-pdf={}", pdf.display()),
    ])
    .await
    .unwrap();
    assert!(std::fs::read(pdf).unwrap().starts_with(b"%PDF"));
}

/// A PNG of this width, with something on it.
fn expect_a_picture(path: &Path, width: u32) {
    let bytes = std::fs::read(path).unwrap();
    assert!(
        bytes.starts_with(b"\x89PNG") && bytes.len() > 10_000,
        "{}",
        bytes.len()
    );
    assert_eq!(bytes[16..20], width.to_be_bytes());
}
