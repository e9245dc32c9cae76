//! What each party holds at most, in a process of its own with its bodies in files.

use std::{
    fs::File,
    io::{BufReader, BufWriter, Write as _},
    path::Path,
    process::Command,
};

use ciphertune_round::{Digest, ShareIndex};
use ciphertune_seal::{
    KeySum, KeySumShare, SealedContribution, SealingKey, check_value, contribute, every_seat, open,
    sum_shares,
};
use ciphertune_sum::add_bodies;
use serde::Serialize;

use super::{
    options::{Child, Part, Shape},
    round::{fresh_context, one_time_keys, seat},
    values::values,
};
use crate::{Error, Result};

/// Bytes resident at most; `None` where the system does not say.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct PeakMemory {
    /// A member that seals, its vector included.
    pub seal: Option<u64>,
    /// A server that adds the bodies of all members.
    pub add: Option<u64>,
    /// A member that opens, the opened vector included.
    pub open: Option<u64>,
    /// One vector: 8 bytes a parameter.
    pub vector: u64,
}

/// Starts this program once for each party.
pub fn measure(shape: &Shape) -> Result<PeakMemory> {
    let folder = tempfile::tempdir().map_err(|error| Error::fault("a temporary folder", error))?;
    let of = |part: Part, name: &str| peak_of(part, name, shape, folder.path());
    Ok(PeakMemory {
        seal: of(Part::Seal, "seal")?,
        add: of(Part::Add, "add")?,
        open: of(Part::Open, "open")?,
        vector: 8 * shape.length as u64,
    })
}

fn peak_of(part: Part, name: &str, shape: &Shape, folder: &Path) -> Result<Option<u64>> {
    let program =
        std::env::current_exe().map_err(|error| Error::fault("this program's path", error))?;
    let output = Command::new(program)
        .args(["child", "--part", name])
        .args(["--parameters", &shape.length.to_string()])
        .args(["--members", &shape.members().to_string()])
        .args(["--value-bound", &shape.parameters.value_bound().to_string()])
        .arg("--folder")
        .arg(folder)
        .output()
        .map_err(|error| Error::fault(format_args!("starting {part:?}"), error))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        return Err(Error::fault(
            format_args!("{part:?} in a process of its own"),
            said,
        ));
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().parse().ok())
}

/// Plays a party and prints its peak.
pub fn play(child: &Child) -> Result<()> {
    let shape = Shape::new(child.parameters, child.members, child.value_bound)?;
    match child.part {
        Part::Seal => {
            seal_into(
                &shape,
                &child.folder.join("body"),
                &fresh_context()?,
                &one_time_keys(shape.members())?.1,
            )?;
        }
        Part::Add => add(&shape, &child.folder)?,
        Part::Open => open_own(&shape, &child.folder)?,
    }
    if let Some(peak) = peak() {
        println!("{peak}");
    }
    Ok(())
}

fn seal_into(
    shape: &Shape,
    path: &Path,
    context: &ciphertune_round::Context,
    seats: &[SealingKey],
) -> Result<SealedContribution> {
    let file = File::create(path).map_err(|error| Error::fault("creating a body", error))?;
    let mut file = BufWriter::with_capacity(1 << 20, file);
    let mut mine = Vec::with_capacity(shape.length);
    mine.extend(values(0, shape.length, shape.parameters.value_bound()));
    let (parameters, threshold) = (&shape.parameters, shape.threshold());
    let sealed = contribute(
        parameters,
        context,
        seat(0)?,
        threshold,
        &every_seat(seats).map_err(|error| Error::fault("the holders of shares", error))?,
        &mine,
        &mut file,
    )
    .map_err(|error| Error::fault("sealing", error))?;
    file.flush()
        .map_err(|error| Error::fault("writing a body", error))?;
    Ok(sealed)
}

/// One body, read as often as there are members: the sum of it with itself.
fn add(shape: &Shape, folder: &Path) -> Result<()> {
    let open = |_| File::open(folder.join("body")).map(BufReader::new);
    let mut bodies = (0..shape.members())
        .map(open)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| Error::fault("opening a body", error))?;
    let sum = File::create(folder.join("sum"))
        .map_err(|error| Error::fault("creating the sum", error))?;
    let mut sum = BufWriter::new(sum);
    add_bodies(&shape.parameters, shape.length, &mut bodies, &mut sum)
        .map_err(|error| Error::fault("adding", error))?;
    sum.flush()
        .map_err(|error| Error::fault("writing the sum", error))
}

/// A round in which one member alone contributed, so that one process can open it: an opening reads one sum, whoever
/// added what to it.
fn open_own(shape: &Shape, folder: &Path) -> Result<()> {
    let (keys, seats) = one_time_keys(shape.members())?;
    let (context, roster) = (
        fresh_context()?,
        Digest::sha256(b"the roster of a benchmark"),
    );
    let path = folder.join("own");
    let sealed = seal_into(shape, &path, &context, &seats)?;
    let read = || {
        File::open(&path)
            .map(BufReader::new)
            .map_err(|error| Error::fault("opening a body", error))
    };

    let first = seat(0)?;
    let share = |at: usize| -> Result<(ShareIndex, KeySumShare)> {
        let from_first = (first, sealed.sealed_shares[at].clone());
        sum_shares(&keys[at], &context, seat(at)?, &[from_first])
            .map_err(|error| Error::fault("a share", error))
            .and_then(|share| Ok((seat(at)?, share)))
    };
    let shares = (0..shape.threshold()).map(share).collect::<Result<_>>()?;
    let key = KeySum::rebuild(&shape.parameters, shares, shape.threshold(), 1)
        .map_err(|error| Error::fault("rebuilding the key", error))?;
    let check = check_value(&shape.parameters, shape.length, &roster, read()?)
        .map_err(|error| Error::fault("checking", error))?;
    let (parameters, length) = (&shape.parameters, shape.length);
    let digest = sealed.body_sha256;
    let (opened, _) = open(
        parameters,
        length,
        &context,
        &roster,
        &key,
        1,
        &[check],
        &digest,
        read()?,
    )
    .map_err(|error| Error::fault("opening", error))?;
    if opened
        .into_values()
        .into_iter()
        .eq(values(0, length, parameters.value_bound()))
    {
        Ok(())
    } else {
        Err(Error::Refused("the opened sum is not the plain sum".into()))
    }
}

/// VmHWM of this process, bytes.
pub fn peak() -> Option<u64> {
    status("VmHWM:")
}

/// VmRSS of this process, bytes.
pub fn resident() -> Option<u64> {
    status("VmRSS:")
}

/// The peak starts from what is resident now, where the system lets it.
pub fn forget_peak() {
    let _ = std::fs::write("/proc/self/clear_refs", "5");
}

fn status(key: &str) -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(key))?;
    let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kilobytes * 1024)
}
