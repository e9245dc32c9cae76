//! Whether a load fits this machine: its disk, and the descriptors that a process may have.

use std::path::Path;

use rustix::{
    fs::statvfs,
    process::{Resource, Rlimit, getrlimit, setrlimit},
};

use super::shape::Shape;
use crate::{Error, Result};

/// Left free beside what a load writes.
const MARGIN: u64 = 1 << 30;
/// Descriptors of a process beside those that grow with members: database, log, pipes.
const BESIDE: u64 = 128;
/// A server's for one member: its connection, and its file while it is written or added.
const EACH: u64 = 2;

/// Halves the vectors until twice the bodies of all members fit the free disk under `folder`; says so if it did.
pub fn fit(shape: &mut Shape, folder: &Path) -> Result<Option<String>> {
    let free = statvfs(folder).map_err(|error| Error::fault("asking for the free disk", error))?;
    fit_into(shape, free.f_bavail * free.f_frsize, folder)
}

fn fit_into(shape: &mut Shape, free: u64, folder: &Path) -> Result<Option<String>> {
    let asked = shape.length;
    while 2 * shape.upload_bytes()? + MARGIN > free {
        if shape.length <= 1 {
            return Err(Error::Usage(format!(
                "{} of {} free under {} do not hold the shares of {} members: make room, set TMPDIR to a folder with more, \
                 or take fewer members",
                gigabytes(2 * shape.upload_bytes()? + MARGIN),
                gigabytes(free),
                folder.display(),
                shape.members
            )));
        }
        shape.length /= 2;
    }
    Ok((shape.length < asked).then(|| {
        format!(
            "{} members × {asked} parameters do not fit twice into the {} that are free under {}: halved to {} parameters",
            shape.members,
            gigabytes(free),
            folder.display(),
            shape.length
        )
    }))
}

fn gigabytes(bytes: u64) -> String {
    format!("{:.1} GB", bytes as f64 / 1e9)
}

/// Lets this process, and those that it starts, have as many descriptors as the load takes.
pub fn descriptors(members: usize) -> Result<()> {
    let wanted = BESIDE + EACH * members as u64;
    let limit = getrlimit(Resource::Nofile);
    let soft = limit.current.unwrap_or(u64::MAX);
    let hard = limit.maximum.unwrap_or(u64::MAX);
    if soft >= wanted {
        return Ok(());
    }
    if hard < wanted {
        return Err(Error::Usage(format!(
            "{members} connections and their files take {wanted} descriptors, and a process may have {hard} here: raise the limit \
             (`ulimit -Hn {wanted}` as root, LimitNOFILE in a unit of systemd), or take fewer members"
        )));
    }
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    setrlimit(Resource::Nofile, raised)
        .map_err(|error| Error::fault("raising the limit of descriptors", error))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape() -> Shape {
        Shape {
            members: 10,
            jobs: 2,
            length: 1_000_000,
            value_bits: 12,
            colluders: 0,
            committee: None,
        }
    }

    #[test]
    fn a_load_that_does_not_fit_the_disk_is_halved_and_says_so() {
        let folder = Path::new("/tmp");
        let mut fits = shape();
        assert_eq!(fit_into(&mut fits, 1 << 40, folder).unwrap(), None);
        assert_eq!(fits.length, 1_000_000);
        let mut halved = shape();
        let free = MARGIN + 2 * shape().upload_bytes().unwrap() - 1;
        let said = fit_into(&mut halved, free, folder).unwrap().unwrap();
        assert!(said.contains("halved to 500000 parameters"), "{said}");
        assert_eq!(halved.length, 500_000);
        assert!(fit_into(&mut shape(), MARGIN, folder).is_err());
    }
}
