//! Many members at once: what the server takes for a round of light members, beside a plain copy over the same TLS.
//!
//! Read [`shape`] (how many send how much), [`room`] (whether it fits this machine), [`scene`] (who takes part), [`bodies`] (what
//! is sent), [`member`] (a light member's round) and [`board`] (what it hears), [`copy`] (what it is held to), [`child`] (the
//! process that is measured), then [`phases`], [`report`] and [`chart`] (what is told).

pub mod board;
pub mod bodies;
pub mod chart;
pub mod child;
pub mod copy;
pub mod member;
pub mod phases;
pub mod report;
pub mod room;
pub mod scene;
pub mod shape;

use std::{
    fs,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use ciphertune_round::{Digest, Job, Signed};
use ciphertune_wire::{Meter, connect, proto::SubmitJobRequest};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::{Barrier, Semaphore},
    task::JoinSet,
};

use super::options::LoadOptions;
use crate::{Error, Result};
use bodies::Bodies;
use child::{Disk, Process};
use copy::DIALLING;
use member::{Cast, Light};
use phases::Timed;
use report::{Load, Loads};
use scene::Scene;
use shape::Shape;

/// How long each phase of a round may take.
const PATIENCE: Duration = Duration::from_secs(3600);
/// Tries at deleting what a killed process may still write to.
const SWEEPS: u32 = 20;

/// Runs every load that is asked for; fails unless each sum is the plain one.
pub fn measure(options: &LoadOptions) -> Result<Loads> {
    let root = tempfile::Builder::new()
        .prefix("ciphertune-load-")
        .tempdir()
        .map_err(|error| Error::fault("making a temporary folder", error))?;
    let runtime =
        tokio::runtime::Runtime::new().map_err(|error| Error::fault("starting", error))?;
    let measured = runtime.block_on(async {
        tokio::select! {
            measured = all(options, root.path()) => measured,
            stopped = stopped() => Err(stopped),
        }
    });
    // With the runtime its processes go: nothing is written any more when the folder is deleted.
    drop(runtime);
    for _ in 0..SWEEPS {
        if fs::remove_dir_all(root.path()).is_ok() {
            break;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    let loads = measured?;
    if let Some(path) = &options.chart {
        chart::draw(&loads, path)?;
    }
    Ok(loads)
}

async fn stopped() -> Error {
    let Ok(mut terminated) = signal(SignalKind::terminate()) else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        _ = terminated.recv() => {}
    }
    Error::Stopped
}

async fn all(options: &LoadOptions, root: &Path) -> Result<Loads> {
    let mut loads = Vec::new();
    for members in &options.members {
        room::descriptors(*members)?;
        let mut shape = Shape::of(options, *members)?;
        let asked = shape.length;
        let halved = room::fit(&mut shape, root)?;
        if let Some(said) = &halved {
            note(said);
        }
        let folder = root.join(members.to_string());
        let mut load = one(&shape, &folder).await?;
        (load.asked_parameters, load.halved) = (asked, halved);
        loads.push(load);
        fs::remove_dir_all(&folder).map_err(|error| Error::fault("deleting a load", error))?;
    }
    Ok(Loads { loads })
}

/// The plain copy, then the round.
async fn one(shape: &Shape, folder: &Path) -> Result<Load> {
    note(format_args!(
        "{} members × {} parameters, {} job(s): founding",
        shape.members, shape.length, shape.jobs
    ));
    let scene = Scene::found(folder, shape)?;
    let bodies = Arc::new(Bodies::new(shape.members, shape.body_bytes()?));
    let cast = Arc::new(Cast {
        scene,
        bodies,
        jobs: shape.jobs,
        begin: Barrier::new(shape.members * shape.jobs),
        board: Default::default(),
    });
    let megabytes = shape.upload_bytes()? as f64 / 1e6;
    note(format_args!("a plain copy of {megabytes:.0} MB"));
    settle(folder)?;
    let copy_seconds = copy::measure(&cast, shape).await?;
    let _ = fs::remove_dir_all(cast.scene.server.root().join("copies"));
    settle(folder)?;
    note(format_args!(
        "copied in {copy_seconds:.2} s; the same as rounds"
    ));
    let mut load = rounds(&cast, shape).await?;
    load.copy_seconds = copy_seconds;
    Ok(load)
}

/// Every job at once, from the first that is submitted to the last that ends.
async fn rounds(cast: &Arc<Cast>, shape: &Shape) -> Result<Load> {
    let jobs = (0..shape.jobs)
        .map(|number| cast.scene.job(shape, number))
        .collect::<Result<Vec<_>>>()?;
    let digests: Vec<Digest> = jobs.iter().map(Signed::digest).collect();
    let mut server = Process::start("server", cast).await?;
    let disk = Disk::watch(cast.scene.data());
    let at = Instant::now();
    let members = server.beside(connect_all(cast, shape, &digests)).await?;
    let connect_seconds = at.elapsed().as_secs_f64();
    let connected_memory = server.peak_memory();
    note(format_args!("{} members are connected", members.len()));
    let meters: Vec<Meter> = members.iter().map(|member| member.meter.clone()).collect();
    let cpu_before = server.cpu_seconds();
    let began = Instant::now();
    let playing = async {
        let mut parts = JoinSet::new();
        for member in members {
            parts.spawn(member.play());
        }
        submit(cast, &jobs).await?;
        let mut timed: Vec<Timed> = Vec::new();
        let mut told = Instant::now();
        while let Some(played) = parts.join_next().await {
            timed.extend(played.map_err(|error| Error::fault("a member", error))??);
            if told.elapsed() > Duration::from_secs(5) {
                told = Instant::now();
                note(format_args!("{} members' rounds are over", timed.len()));
            }
        }
        Ok(timed)
    };
    let timed = server.beside(playing).await?;
    let seconds = began.elapsed().as_secs_f64();
    disk.look();
    let load = Load {
        shape: shape.clone(),
        asked_parameters: shape.length,
        halved: None,
        connect_seconds,
        seconds,
        copy_seconds: f64::NAN,
        timed,
        bytes_up: meters.iter().map(Meter::up).sum(),
        bytes_down: meters.iter().map(Meter::down).sum(),
        connected_memory,
        peak_memory: server.peak_memory(),
        peak_disk: disk.most(),
        cpu_seconds: server
            .cpu_seconds()
            .zip(cpu_before)
            .map(|(after, before)| after - before),
    };
    server.end().await;
    Ok(load)
}

async fn connect_all(cast: &Arc<Cast>, shape: &Shape, jobs: &[Digest]) -> Result<Vec<Light>> {
    let dialling = Arc::new(Semaphore::new(DIALLING));
    let mut connecting = JoinSet::new();
    for number in 0..shape.members {
        let (cast, dialling) = (Arc::clone(cast), Arc::clone(&dialling));
        let jobs = jobs.to_vec();
        connecting.spawn(async move {
            let _permit = dialling.acquire_owned().await;
            Light::connect(cast, number, &jobs).await
        });
    }
    let mut members = Vec::new();
    while let Some(connected) = connecting.join_next().await {
        members.push(connected.map_err(|error| Error::fault("connecting", error))??);
    }
    Ok(members)
}

async fn submit(cast: &Cast, jobs: &[Signed<Job>]) -> Result<()> {
    let address = cast.scene.address.to_string();
    let tls = Arc::clone(&cast.scene.researcher.tls);
    let client = connect(&address, tls, Meter::default()).await;
    let mut client = client.map_err(|error| Error::fault("the researcher", error))?;
    for job in jobs {
        let request = SubmitJobRequest { job: job.encode() };
        let submitted = client.submit_job(request).await;
        submitted.map_err(|status| Error::Client(status.into()))?;
    }
    Ok(())
}

/// What was written before is on the disk: nobody waits for another's.
fn settle(folder: &Path) -> Result<()> {
    fs::File::open(folder)
        .and_then(|folder| Ok(rustix::fs::syncfs(folder)?))
        .map_err(|error| Error::fault("syncing the disk", error))
}

fn note(what: impl std::fmt::Display) {
    eprintln!("{what}");
}
