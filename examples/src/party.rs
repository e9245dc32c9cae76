//! What a child process does: one party, by the functions that its own command calls in production.
//!
//! It says on standard output what happens, one JSON object a line, and ends when its standard input does: whatever
//! becomes of the process that started it, nothing is left running.

use std::{
    fs,
    io::{self, Read as _, Write as _},
    net::SocketAddr,
    num::NonZeroU32,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
    time::{Duration, SystemTime},
};

use ciphertune_client::{
    learner::Learner,
    member::{self, Options},
    report::Happening,
    site::Site,
    tuning::Tuner,
};
use ciphertune_identity::{Home, Kit, Passphrase, SigningKey, watch::Watched};
use ciphertune_server::Config;
use ciphertune_tune::device::Device;
use tokio::{
    net::TcpListener,
    sync::{oneshot, watch},
};

use crate::{
    bench::{load::copy, vectors::Vectors},
    error::{Error, Result},
    federation::KIT,
    options::Party,
};

/// The variable that names the file with a party's pass-phrase.
pub const PASSPHRASE_FILE: &str = "CIPHERTUNE_PASSPHRASE_FILE";
/// What the server says once it listens.
pub const LISTENING: &str = "listening";

/// How often, and with which pauses, a port that is taken is tried again.
const BIND_TRIES: u32 = 20;
const BIND_PAUSE: Duration = Duration::from_millis(250);
/// How long threads of training may take to notice that they were stopped.
const FAREWELL: Duration = Duration::from_secs(5);

/// Plays a party to its end.
pub fn play(party: Party) -> ExitCode {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("warn"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(false)
        .init();
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => return failed(&Error::fault("starting", error)),
    };
    let played = runtime.block_on(async {
        match party {
            Party::Server { home } => serve(&Home::new(home)).await,
            Party::Receiver { home } => copy::receive(&Home::new(home)).await,
            Party::Vectors {
                home,
                number,
                threads,
            } => {
                let options = Options {
                    dataset: "vectors".into(),
                    one_job: true,
                    threads,
                    measure_every: NonZeroU32::MIN,
                    dangerous_plaintext: None,
                };
                take_part(home, Vectors::of(number), options).await
            }
            Party::Member {
                home,
                model,
                training,
                validation,
                dataset,
                threads,
                measure_every,
                dangerous_plaintext,
            } => match load(model, training, validation).await {
                Ok(tuner) => {
                    let options = Options {
                        dataset,
                        one_job: true,
                        threads,
                        measure_every,
                        dangerous_plaintext: Some(dangerous_plaintext),
                    };
                    take_part(home, tuner, options).await
                }
                Err(error) => Err(error),
            },
        }
    });
    runtime.shutdown_timeout(FAREWELL);
    match played {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failed(&error),
    }
}

fn failed(error: &Error) -> ExitCode {
    let _ = writeln!(io::stderr(), "error: {error}");
    ExitCode::from(error.exit_code())
}

async fn serve(home: &Home) -> Result<()> {
    let kit = Kit::read(&home.root().join(KIT))?;
    let key = SigningKey::load(&home.key(), &passphrase()?)?;
    let data = home.root().join("data");
    fs::create_dir_all(&data)
        .map_err(|error| Error::fault("creating the server's folder", error))?;
    let config = Config {
        credentials: watch::channel(kit.credentials).1,
        key,
        manifest: kit.manifest,
        policy: kit.policy,
        data,
        outside: None,
        keep_free: 0,
        disk: Watched::default(),
        clock: Arc::new(SystemTime::now),
    };
    let listener = bind(SocketAddr::from(([127, 0, 0, 1], kit.address.port()))).await?;
    say(&serde_json::json!({ "event": LISTENING }));
    ciphertune_server::run(listener, config, ended_from_outside())
        .await
        .map_err(|error| Error::Fault(error.to_string()))
}

/// Binds the port that the manifest names. It was free a moment ago.
pub(crate) async fn bind(address: SocketAddr) -> Result<TcpListener> {
    let mut tries = 1;
    loop {
        match TcpListener::bind(address).await {
            Ok(listener) => return Ok(listener),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && tries < BIND_TRIES => {
                tries += 1;
                tokio::time::sleep(BIND_PAUSE).await;
            }
            Err(error) => return Err(Error::fault(format_args!("listening on {address}"), error)),
        }
    }
}

async fn take_part(home: PathBuf, learner: impl Learner, options: Options) -> Result<()> {
    let site = Site::open(Home::new(home), &passphrase()?)?;
    let observer = Box::new(|happening: &Happening| say(happening));
    let outcome = member::run(
        site,
        Box::new(learner),
        options,
        observer,
        ended_from_outside(),
    )
    .await?;
    if outcome.completed {
        Ok(())
    } else {
        Err(Error::Refused(outcome.reason))
    }
}

async fn load(model: PathBuf, training: PathBuf, validation: Option<PathBuf>) -> Result<Tuner> {
    tokio::task::spawn_blocking(move || {
        Tuner::load(&model, &Device::Cpu, &training, validation.as_deref())
    })
    .await
    .map_err(|error| Error::fault("loading the model", error))?
    .map_err(Error::from)
}

pub(crate) fn passphrase() -> Result<Passphrase> {
    let path = std::env::var_os(PASSPHRASE_FILE)
        .ok_or_else(|| Error::Usage(format!("{PASSPHRASE_FILE} is not set")))?;
    Ok(Passphrase::read(Path::new(&path))?)
}

/// Nobody listening is no reason to fail: then standard input ends too.
pub(crate) fn say(what: &impl serde::Serialize) {
    if let Ok(line) = serde_json::to_string(what) {
        let mut out = io::stdout().lock();
        let _ = writeln!(out, "{line}").and_then(|()| out.flush());
    }
}

/// Ready when standard input ends. A thread of its own waits for it: a blocking read must not hold the runtime.
pub(crate) async fn ended_from_outside() {
    let (ended, end) = oneshot::channel();
    std::thread::spawn(move || {
        let mut byte = [0];
        while matches!(io::stdin().read(&mut byte), Ok(1)) {}
        let _ = ended.send(());
    });
    let _ = end.await;
}
