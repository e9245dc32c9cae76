//! Parties as child processes: started, heard, ended.

use std::{collections::VecDeque, ffi::OsString, path::Path, process::Stdio};

use tokio::{
    io::{AsyncBufReadExt as _, AsyncRead, BufReader},
    process::{ChildStdin, Command},
    sync::{mpsc, oneshot},
};

use crate::{
    error::{Error, Result},
    party::PASSPHRASE_FILE,
};

/// Lines of a child's standard error that are kept for the case that it dies.
const LAST_LINES: usize = 8;

/// A running party.
pub struct Child {
    /// Its name.
    pub name: String,
    /// Its process.
    pub pid: u32,
    stdin: Option<ChildStdin>,
    kill: Option<oneshot::Sender<()>>,
}

/// What is heard of a child; `party` is the number that it was started with.
pub enum Heard {
    /// It said a line.
    Said {
        /// Which.
        party: usize,
        /// The line.
        line: String,
    },
    /// It is gone.
    Gone {
        /// Which.
        party: usize,
        /// Whether it ended with exit code 0.
        well: bool,
        /// How it ended, with the last lines of its standard error.
        how: String,
    },
}

impl Child {
    /// Starts this very program again as a party. It lives in a process group of its own, so that Ctrl-C reaches the
    /// parent alone, which then ends its children in order.
    pub fn start(
        party: usize,
        name: &str,
        passphrase: &Path,
        arguments: Vec<OsString>,
        environment: &[(&str, String)],
        heard: mpsc::UnboundedSender<Heard>,
    ) -> Result<Self> {
        let doing = format!("starting {name}");
        let own = std::env::current_exe().map_err(|error| Error::fault(&doing, error))?;
        let mut process = Command::new(own)
            .arg("party")
            .args(arguments)
            .env(PASSPHRASE_FILE, passphrase)
            .envs(
                environment
                    .iter()
                    .map(|(name, value)| (*name, value.as_str())),
            )
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| Error::fault(&doing, error))?;
        let missing = || Error::Fault(format!("{doing}: it has no pipes"));
        let pid = process.id().ok_or_else(missing)?;
        let stdin = process.stdin.take().ok_or_else(missing)?;
        let out = process.stdout.take().ok_or_else(missing)?;
        let err = process.stderr.take().ok_or_else(missing)?;
        let (kill, killed) = oneshot::channel();
        tokio::spawn(async move {
            let saying = async {
                let mut lines = BufReader::new(out).lines();
                while let Ok(Some(line)) = lines.next_line().await {
                    let _ = heard.send(Heard::Said { party, line });
                }
            };
            let listening = async { tokio::join!(saying, last_lines(err)).1 };
            let last = tokio::select! {
                last = listening => last,
                Ok(()) = killed => {
                    let _ = process.start_kill();
                    VecDeque::from(["killed: it did not end in time".to_owned()])
                }
            };
            let status = process.wait().await;
            let well = status.as_ref().is_ok_and(|status| status.success());
            let mut how =
                status.map_or_else(|error| error.to_string(), |status| status.to_string());
            for line in last {
                how.push_str("\n    ");
                how.push_str(&line);
            }
            let _ = heard.send(Heard::Gone { party, well, how });
        });
        Ok(Self {
            name: name.to_owned(),
            pid,
            stdin: Some(stdin),
            kill: Some(kill),
        })
    }

    /// Asks it to end: its standard input does.
    pub fn end(&mut self) {
        self.stdin = None;
    }

    /// Ends it at once.
    pub fn kill(&mut self) {
        if let Some(kill) = self.kill.take() {
            let _ = kill.send(());
        }
    }

    /// Most memory that it has held so far, bytes; `None` where the system does not say.
    pub fn peak_memory(&self) -> Option<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid)).ok()?;
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("VmHWM:"))?;
        let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
        Some(kilobytes * 1024)
    }
}

async fn last_lines(from: impl AsyncRead + Unpin) -> VecDeque<String> {
    let mut last = VecDeque::new();
    let mut lines = BufReader::new(from).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        if last.len() == LAST_LINES {
            last.pop_front();
        }
        last.push_back(line);
    }
    last
}
