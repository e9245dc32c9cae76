//! A server that dies and is started again: a process each time, on one folder and one socket. Whoever connects meanwhile waits.

use std::{
    net::TcpListener,
    os::fd::OwnedFd,
    path::PathBuf,
    process::{Child, Command, ExitStatus, Stdio},
};

use crate::{cut::Where, federation::until};

/// What every life has in common.
pub struct Lives {
    /// The program, `server` among this package's.
    pub program: PathBuf,
    /// The kit that it is started with.
    pub kit: PathBuf,
    /// Its key.
    pub key: PathBuf,
    /// Its data.
    pub data: PathBuf,
    /// Where it listens.
    pub socket: TcpListener,
}

impl Lives {
    /// Starts the next one, which ends at a durable write if it is to be cut.
    pub fn begin(&self, cut: Option<(usize, Where)>) -> Life {
        let socket = OwnedFd::from(self.socket.try_clone().unwrap());
        let mut command = Command::new(&self.program);
        command.args([&self.kit, &self.key, &self.data]);
        if let Some((step, place)) = cut {
            let place = match place {
                Where::Before => "before",
                Where::Within => "within",
                Where::After => "after",
            };
            command.args([&step.to_string(), place]);
        }
        let process = command.stdin(Stdio::from(socket)).spawn().unwrap();
        Life(process)
    }
}

/// One life.
pub struct Life(Child);

impl Life {
    /// Ends it at once, without a word.
    pub fn kill(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }

    /// How it ended, once it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.0.try_wait().unwrap()
    }

    /// Waits until it has ended.
    pub async fn end(&mut self) -> ExitStatus {
        let mut ended = None;
        until(|| {
            ended = self.ended();
            ended.is_some()
        })
        .await;
        ended.expect("it has ended")
    }
}

impl Drop for Life {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
