//! `ciphertune-server --config server.toml`

use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
    time::SystemTime,
};

use anyhow::{Context as _, Result};
use ciphertune_identity::{Kit, Passphrase, SigningKey};
use ciphertune_server::{Config, run};
use clap::Parser;
use serde::Deserialize;
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
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
    /// The kit that the authority handed out: ca.pem, cert.pem, manifest.bin, policy.bin, address.txt.
    kit: PathBuf,
    /// The encrypted key.
    key: PathBuf,
    /// Where the server keeps its data.
    data: PathBuf,
    /// The file with the key's pass-phrase; `CIPHERTUNE_PASSPHRASE_FILE` when absent.
    passphrase_file: Option<PathBuf>,
    /// Revocation lists, PEM.
    revocations: Option<PathBuf>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    if arguments.json {
        log.json().init();
    } else {
        log.init();
    }
    match serve(&arguments.config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(3)
        }
    }
}

#[tokio::main]
async fn serve(path: &Path) -> Result<()> {
    let (listen, config) = read(path)?;
    let listener = TcpListener::bind(&listen)
        .await
        .with_context(|| format!("cannot listen on {listen}"))?;
    tracing::info!(address = %listener.local_addr()?, "listening");
    let mut terminate = signal(SignalKind::terminate())?;
    let shutdown = async move {
        tokio::select! {
            _ = tokio::signal::ctrl_c() => {}
            _ = terminate.recv() => {}
        }
    };
    Ok(run(listener, config, shutdown).await?)
}

fn read(path: &Path) -> Result<(String, Config)> {
    let text =
        fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let file: File = toml::from_str(&text)
        .with_context(|| format!("{} is not a server's configuration", path.display()))?;
    let beside = |other: &Path| path.parent().unwrap_or(Path::new("")).join(other);
    let passphrase = match file.passphrase_file {
        Some(path) => beside(&path),
        None => std::env::var_os("CIPHERTUNE_PASSPHRASE_FILE")
            .map(PathBuf::from)
            .context("set CIPHERTUNE_PASSPHRASE_FILE, or passphrase_file in the configuration, to the file with the key's pass-phrase")?,
    };
    let kit = Kit::read(&beside(&file.kit))?;
    let key = SigningKey::load(&beside(&file.key), &Passphrase::read(&passphrase)?)?;
    let crls_pem = match file.revocations {
        Some(path) => {
            let path = beside(&path);
            Some(
                fs::read_to_string(&path)
                    .with_context(|| format!("cannot read {}", path.display()))?,
            )
        }
        None => None,
    };
    let config = Config {
        ca_pem: kit.authority.pem().to_owned(),
        cert_pem: kit.certificate.pem().to_owned(),
        key,
        crls_pem,
        manifest: kit.manifest,
        policy: kit.policy,
        data: beside(&file.data),
        clock: Arc::new(SystemTime::now),
    };
    Ok((file.listen, config))
}
