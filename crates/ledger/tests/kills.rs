//! A ledger whose process is killed, at any time and often, shares its file with another process, or finds the disk full:
//! no charge that was returned is ever lost, and no more than the budget is ever granted.
//!
//! The other process is this program again, told by [`ROLE`] what to do; it says each charge on standard output once it
//! has been returned. `CIPHERTUNE_KILLS` sets how often one is killed (200 unless that is set).

use std::collections::BTreeSet;
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ciphertune_dp::{FrozenSchedule, SamplingRate, rdp::Curve};
use ciphertune_ledger::{Budget, Cost, Error, Ledger, Settlement};
use ciphertune_policy::{Adjacency, Loss};
use sha2::{Digest, Sha256};
use tempfile::TempDir;

const JOB: [u8; 32] = [1; 32];
/// What the other process does: a word, the first of its contexts and how many, and the file.
const ROLE: &str = "CIPHERTUNE_LEDGER_ROLE";
/// Enough for every charge of a life.
const MANY: u32 = 1_000_000;

fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_700_000_000)
}

fn place() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ledger.sqlite");
    (folder, path)
}

/// A round with a noise multiplier.
fn cost(multiplier: &str) -> Cost {
    let multiplier = multiplier.parse().unwrap();
    let round =
        FrozenSchedule::planned(SamplingRate::WHOLE, &multiplier, 1, Adjacency::ZeroOut).unwrap();
    Cost::of(&Curve::of(&round)).unwrap()
}

/// Of which hundreds of thousands fit.
fn small() -> Cost {
    cost("3000")
}

/// Of which a hundred and a half fit.
fn large() -> Cost {
    cost("8")
}

fn context(number: u32) -> [u8; 32] {
    Sha256::digest(number.to_be_bytes()).into()
}

async fn open(path: &Path) -> Result<Ledger, Error> {
    let budget = Budget::Private(Loss {
        epsilon: "8".parse().unwrap(),
        delta: "1e-5".parse().unwrap(),
    });
    Ledger::open(path, "wards", budget, &[], now()).await
}

/// Charges one context after the other until one is refused or fails, and settles every third. Says what was returned.
async fn work(role: &str) {
    let mut words = role.splitn(4, ' ');
    let mut word = || words.next().unwrap();
    let cost = match word() {
        "small" => small(),
        _ => large(),
    };
    let (first, count): (u32, u32) = (word().parse().unwrap(), word().parse().unwrap());
    let say = |said: String| {
        let mut out = std::io::stdout().lock();
        writeln!(out, "{said}").unwrap();
        out.flush().unwrap();
    };
    let ledger = match open(Path::new(word())).await {
        Ok(ledger) => ledger,
        Err(error) => return say(format!("unopened {error:?}")),
    };
    for number in first..first.saturating_add(count) {
        match ledger.charge(JOB, context(number), &cost, now()).await {
            Ok(_) => say(format!("charged {number}")),
            Err(Error::Refused(_)) => say(format!("refused {number}")),
            Err(error) => return say(format!("failed {error:?}")),
        }
        if number % 3 == 0 {
            let settlement = Settlement {
                cost: cost.clone(),
                roster: context(number),
                certificate: [8; 32],
            };
            match ledger.settle(context(number), &settlement, now()).await {
                Ok(_) => say(format!("settled {number}")),
                Err(Error::Refused(_)) => {}
                Err(error) => return say(format!("failed {error:?}")),
            }
        }
    }
}

/// Not a test of its own: what the other process runs.
#[tokio::test]
#[ignore = "run by the others"]
async fn another_process() {
    if let Ok(role) = std::env::var(ROLE) {
        work(&role).await;
    }
}

/// Starts this program again; `limit` is the most that a file of its may grow to, in units of 512 bytes.
fn start(role: String, limit: Option<u32>) -> Child {
    let program = std::env::current_exe().unwrap();
    let arguments = ["--exact", "another_process", "--ignored", "--nocapture"];
    let mut command = match limit {
        None => Command::new(program),
        Some(limit) => {
            // The signal ignored, a write beyond the limit fails as on a full disk.
            let script = format!("trap '' XFSZ; ulimit -f {limit}; exec \"$0\" \"$@\"");
            let mut shell = Command::new("sh");
            shell.args(["-c", &script]).arg(program);
            shell
        }
    };
    command
        .args(arguments)
        .env(ROLE, role)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// What it said of `what`, in numbers.
fn said(lines: &[String], what: &str) -> BTreeSet<u32> {
    lines
        .iter()
        .filter_map(|line| line.strip_prefix(what)?.trim().parse().ok())
        .collect()
}

fn lines_of(child: &mut Child) -> Vec<String> {
    let out = child.stdout.take().unwrap();
    BufReader::new(out).lines().map_while(Result::ok).collect()
}

/// From 0 to below `limit`.
fn random(limit: u64) -> u64 {
    RandomState::new().build_hasher().finish() % limit
}

/// Everything that was returned is there: charging or settling it again adds no entry.
async fn holds(ledger: &Ledger, cost: &Cost, charged: &BTreeSet<u32>, settled: &BTreeSet<u32>) {
    let head = ledger.head().await.unwrap();
    for number in charged {
        ledger
            .charge(JOB, context(*number), cost, now())
            .await
            .unwrap();
    }
    for number in settled {
        let settlement = Settlement {
            cost: cost.clone(),
            roster: context(*number),
            certificate: [8; 32],
        };
        ledger
            .settle(context(*number), &settlement, now())
            .await
            .unwrap();
    }
    assert_eq!(ledger.head().await.unwrap(), head, "something was lost");
}

#[tokio::test]
async fn a_ledger_whose_process_is_killed_at_any_time_forgets_nothing_that_it_returned() {
    let kills = std::env::var("CIPHERTUNE_KILLS").map_or(200, |kills| kills.parse().unwrap());
    let (mut in_file, mut next, mut lives_with_charges) = (None, 0, 0);
    let cost = small();
    for life in 0..kills {
        // A chain is read whole at every call: begin anew before that takes long.
        if life % 20 == 0 {
            in_file = Some((place(), BTreeSet::new(), BTreeSet::new()));
        }
        let ((_, path), charged, settled) = in_file.as_mut().unwrap();
        let mut child = start(format!("small {next} {MANY} {}", path.display()), None);
        std::thread::sleep(Duration::from_millis(5 + random(60)));
        child.kill().unwrap();
        child.wait().unwrap();
        let lines = lines_of(&mut child);
        assert!(
            !lines
                .iter()
                .any(|line| line.contains("failed") || line.contains("unopened")),
            "{lines:?}"
        );
        let returned = said(&lines, "charged ");
        lives_with_charges += usize::from(!returned.is_empty());
        next = returned.last().map_or(next, |last| last + 1);
        charged.extend(returned);
        settled.extend(said(&lines, "settled "));

        let ledger = open(path).await.unwrap();
        holds(&ledger, &cost, charged, settled).await;
        // At most the one charge that was on its way is there beyond what was returned.
        let spent = ledger.spent().await.unwrap();
        let all = charged.len() as u64;
        if spent != cost.times(all) {
            assert_eq!(spent, cost.times(all + 1));
            charged.insert(next);
            next += 1;
        }
    }
    println!("{kills} kills, {lives_with_charges} of them after a charge, {next} charges");
    assert!(
        lives_with_charges > kills / 4,
        "killed too early to mean anything"
    );
}

/// A write-ahead log that ends anywhere beyond what was returned, as a power cut leaves it.
#[tokio::test]
async fn a_write_that_is_cut_short_anywhere_loses_nothing_that_was_returned() {
    let (folder, path) = place();
    let wal = folder.path().join("ledger.sqlite-wal");
    let ledger = open(&path).await.unwrap();
    let cost = large();
    let mut lengths = Vec::new();
    for number in 0..4 {
        ledger
            .charge(JOB, context(number), &cost, now())
            .await
            .unwrap();
        lengths.push(std::fs::metadata(&wal).unwrap().len());
    }
    let (database, log) = (std::fs::read(&path).unwrap(), std::fs::read(&wal).unwrap());
    for (returned, pair) in (1..).zip(lengths.windows(2)) {
        let step = ((pair[1] - pair[0]) / 24).max(1) as usize;
        for end in (pair[0]..pair[1]).step_by(step) {
            let (folder, path) = place();
            std::fs::write(&path, &database).unwrap();
            let torn = &log[..end as usize];
            std::fs::write(folder.path().join("ledger.sqlite-wal"), torn).unwrap();
            let ledger = open(&path).await.unwrap();
            assert_eq!(ledger.spent().await.unwrap(), cost.times(returned), "{end}");
        }
    }
}

#[tokio::test]
async fn two_processes_that_charge_at_once_are_granted_no_more_than_the_budget() {
    let (_folder, path) = place();
    drop(open(&path).await.unwrap());
    let mut children =
        [0_u32, 1000].map(|first| start(format!("large {first} 90 {}", path.display()), None));
    let lines: Vec<Vec<String>> = children.iter_mut().map(lines_of).collect();
    for child in &mut children {
        assert!(child.wait().unwrap().success());
    }
    let granted: Vec<BTreeSet<u32>> = lines.iter().map(|lines| said(lines, "charged ")).collect();
    assert!(
        granted.iter().all(|granted| !granted.is_empty()),
        "{granted:?}"
    );
    let ledger = open(&path).await.unwrap();
    let standing = ledger.standing().await.unwrap();
    let (limit, count) = (standing.limit.unwrap(), granted[0].len() + granted[1].len());
    assert_eq!(standing.spent, large().times(count as u64));
    assert_eq!(
        count as u64,
        limit.units() / limit.cost_of(&large()),
        "all of it, and no more"
    );
    let all = granted.into_iter().flatten().collect();
    holds(&ledger, &large(), &all, &BTreeSet::new()).await;
}

#[tokio::test]
async fn a_full_disk_refuses_the_charge_and_loses_none() {
    for limit in [40, 64, 200, 401] {
        let (_folder, path) = place();
        let role = format!("small 0 {MANY} {}", path.display());
        let mut child = start(role, Some(limit));
        let lines = lines_of(&mut child);
        child.wait().unwrap();
        let end = lines
            .iter()
            .find(|line| line.contains("failed ") || line.contains("unopened "));
        assert!(
            end.is_some_and(|end| end.contains("Fault(")),
            "{limit}: {lines:?}"
        );
        let (charged, settled) = (said(&lines, "charged "), said(&lines, "settled "));
        // There is room again: all of it is there, and the work goes on.
        let ledger = open(&path).await.unwrap();
        holds(&ledger, &small(), &charged, &settled).await;
        let after = charged.len() as u64;
        assert_eq!(
            ledger.spent().await.unwrap(),
            small().times(after),
            "{limit}"
        );
        ledger.charge(JOB, [9; 32], &small(), now()).await.unwrap();
        println!("{limit} blocks: {after} charges");
    }
}
