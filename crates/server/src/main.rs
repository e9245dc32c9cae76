//! `ciphertune-server --config server.toml`

use std::{
    fs,
    io::IsTerminal as _,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
    time::{Duration, SystemTime},
};

use anyhow::{Context as _, Result, bail};
use ciphertune_identity::{Credentials, Kit, Passphrase, SigningKey, watch::Watched};
use ciphertune_server::{Config, Outside, run};
use clap::Parser;
use serde::Deserialize;
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
    sync::watch,
};
use tracing_subscriber::EnvFilter;

/// The server of a Ciphertune federation: it adds what it cannot open.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// Configuration, TOML.
    #[arg(long)]
    config: PathBuf,
    /// Log as JSON, a line an event.
    #[arg(long)]
    json: bool,
}

/// The configuration's keys. Paths are relative to the file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    /// Address to listen on, for example `0.0.0.0:4711`.
    listen: String,
    /// The kit that the authority handed out: ca.pem, cert.pem, crl.pem, manifest.bin, policy.bin, address.txt. Certificate and
    /// revocation list are looked at every two seconds and may be replaced while the server runs; the rest needs a restart.
    kit: PathBuf,
    /// The encrypted key.
    key: PathBuf,
    /// Where the server keeps its data.
    data: PathBuf,
    /// The file with the key's pass-phrase; `CIPHERTUNE_PASSPHRASE_FILE` when absent.
    passphrase_file: Option<PathBuf>,
    /// Where the server is seen from outside: health, metrics and a page over plain HTTP, which anybody may read who can reach
    /// it. [`OUTSIDE`] when absent, nowhere with [`OFF`].
    outside: Option<String>,
    /// What `outside` was called.
    metrics: Option<toml::Value>,
    /// Mebibytes of the data's disk that are left free: with less, the server pauses until there is room again. 256 when absent.
    keep_free_mib: Option<u64>,
}

/// Where the server is seen from outside unless the configuration says otherwise: on this machine alone.
const OUTSIDE: &str = "127.0.0.1:9464";

/// The configuration's word for nowhere.
const OFF: &str = "off";

/// For a database and a log that go on a while when everything else has stopped.
const KEEP_FREE_MIB: u64 = 256;

/// How often the kit's folder is looked at.
const LOOK: Duration = Duration::from_secs(2);

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr);
    if arguments.json {
        log.json().init();
    } else {
        log.init();
    }
    match serve(&arguments.config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            if arguments.json {
                tracing::error!(error = format!("{error:#}"), "ended");
            } else {
                eprintln!("error: {error:#}");
            }
            ExitCode::from(3)
        }
    }
}

#[tokio::main]
async fn serve(path: &Path) -> Result<()> {
    let Read {
        listen,
        outside,
        kit,
        changing,
        mut config,
    } = read(path)?;
    let listener = bind(&listen, "set `listen` in the configuration").await?;
    if outside != OFF {
        let said = "set `outside` in the configuration to another address, or to \"off\"";
        config.outside = Some(see(bind(&outside, said).await?, &outside)?);
    }
    tracing::info!(address = %listener.local_addr()?, "listening");
    let mut terminate = signal(SignalKind::terminate())?;
    let shutdown = async move {
        tokio::select! {
            _ = tokio::signal::ctrl_c() => {}
            _ = terminate.recv() => {}
        }
    };
    let watched = tokio::spawn(watch_kit(kit, changing));
    let served = run(listener, config, shutdown).await;
    watched.abort();
    Ok(served?)
}

/// Hands on what changes of certificate and list in the kit's folder. What cannot be read, half a copy perhaps, is logged
/// once and looked at again.
async fn watch_kit(folder: PathBuf, credentials: watch::Sender<Credentials>) {
    let mut said = String::new();
    loop {
        tokio::time::sleep(LOOK).await;
        match Credentials::read(&folder) {
            Ok(read) => {
                said.clear();
                credentials.send_if_modified(|held| {
                    let changed = *held != read;
                    *held = read;
                    changed
                });
            }
            Err(error) if error.to_string() != said => {
                said = error.to_string();
                tracing::error!(kit = %folder.display(), error = said, "the kit cannot be read; the last one stays");
            }
            Err(_) => {}
        }
    }
}

async fn bind(address: &str, hint: &str) -> Result<TcpListener> {
    TcpListener::bind(address)
        .await
        .with_context(|| format!("cannot listen on {address}: {hint}"))
}

fn see(listener: TcpListener, asked: &str) -> Result<Outside> {
    let address = listener.local_addr()?;
    tracing::info!(%address, "seen from outside");
    if !address.ip().is_loopback() {
        tracing::warn!(
            %address,
            "whoever reaches this address can read who takes part in what, over plain HTTP and without a password"
        );
    }
    let host = asked.rsplit_once(':').map(|(host, _)| host.to_owned());
    Ok(Outside {
        listener,
        name: host,
    })
}

/// A configuration, read.
struct Read {
    listen: String,
    outside: String,
    /// The kit's folder, and where what changes in it goes.
    kit: PathBuf,
    changing: watch::Sender<Credentials>,
    config: Config,
}

fn read(path: &Path) -> Result<Read> {
    let text =
        fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let file: File = toml::from_str(&text)
        .with_context(|| format!("{} is not a server's configuration", path.display()))?;
    if file.metrics.is_some() {
        bail!(
            "{}: the key `metrics` is called `outside` now (health, metrics and a page): write outside = \"{OUTSIDE}\", or outside = \"{OFF}\"",
            path.display()
        );
    }
    let beside = |other: &Path| path.parent().unwrap_or(Path::new("")).join(other);
    let passphrase = match file.passphrase_file {
        Some(path) => beside(&path),
        None => std::env::var_os("CIPHERTUNE_PASSPHRASE_FILE")
            .map(PathBuf::from)
            .context("set CIPHERTUNE_PASSPHRASE_FILE, or passphrase_file in the configuration, to the file with the key's pass-phrase")?,
    };
    let folder = beside(&file.kit);
    let kit = Kit::read(&folder)?;
    let key = SigningKey::load(&beside(&file.key), &Passphrase::read(&passphrase)?)?;
    let (changing, credentials) = watch::channel(kit.credentials);
    let config = Config {
        credentials,
        key,
        manifest: kit.manifest,
        policy: kit.policy,
        data: beside(&file.data),
        outside: None,
        keep_free: (file.keep_free_mib.unwrap_or(KEEP_FREE_MIB))
            .checked_mul(1 << 20)
            .context("keep_free_mib: more bytes than there are")?,
        disk: Watched::default(),
        clock: Arc::new(SystemTime::now),
    };
    Ok(Read {
        listen: file.listen,
        outside: file.outside.unwrap_or_else(|| OUTSIDE.into()),
        kit: folder,
        changing,
        config,
    })
}
