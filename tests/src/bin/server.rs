//! A server, as a process of its own that a test can kill: `server KIT KEY DATA [STEP PLACE]`, listening on the socket that is its
//! standard input. With STEP it aborts at its STEP-th durable write: before it, within it, or after it.

use std::{os::fd::AsFd as _, path::Path, process::ExitCode, sync::Arc, time::SystemTime};

use ciphertune_identity::{Kit, SigningKey, watch::Watched};
use ciphertune_tests::{
    cut::{Cut, End, Where},
    keys::passphrase,
};
use tokio::{net::TcpListener, sync::watch};

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [kit, key, data, cut @ ..] = arguments.as_slice() else {
        eprintln!("usage: server KIT KEY DATA [STEP PLACE]");
        return ExitCode::from(2);
    };
    let disk = match cut {
        [step, place] => {
            let place = match place.as_str() {
                "before" => Where::Before,
                "within" => Where::Within,
                _ => Where::After,
            };
            let step = step.parse().expect("a number");
            Watched::by(Arc::new(Cut::at(step, place, End::Aborts)))
        }
        _ => Watched::default(),
    };
    let socket = std::io::stdin().as_fd().try_clone_to_owned();
    let listener = std::net::TcpListener::from(socket.expect("a socket"));
    listener.set_nonblocking(true).expect("a socket");
    let kit = Kit::read(Path::new(kit)).expect("a kit");
    let config = ciphertune_server::Config {
        credentials: watch::channel(kit.credentials).1,
        key: SigningKey::load(Path::new(key), &passphrase()).expect("a key"),
        manifest: kit.manifest,
        policy: kit.policy,
        data: data.into(),
        outside: None,
        keep_free: 0,
        disk,
        clock: Arc::new(SystemTime::now),
    };
    let listener = TcpListener::from_std(listener).expect("a socket");
    let ran = ciphertune_server::run(listener, config, std::future::pending()).await;
    eprintln!("{ran:?}");
    ExitCode::from(3)
}
