//! An auditor's side over the network: the server's log, and what it rests on, for whom the policy lets read it.

use std::{fs::OpenOptions, io::Write as _, path::Path};

use ciphertune_audit::{Evidence, Reader};
use ciphertune_wire::{Client, Meter, proto};
use tokio_stream::StreamExt as _;

use crate::{
    disk::Disk,
    error::{Error, Result},
    site::Site,
    transfer::retry_a_while,
};

/// The largest object that is taken.
const OBJECT_BYTES: usize = 4 << 20;

/// What was fetched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fetched {
    /// Entries of the log that are here now.
    pub entries: u64,
    /// Of these, new ones.
    pub new: u64,
    /// Objects that came.
    pub objects: u64,
}

/// Gets what is new of the server's log, and of what it rests on, into a folder that `audit verify` reads. What is here already stays as
/// it is: a server that has rewritten it meanwhile shows.
///
/// # Errors
/// [`Error::Server`] when the policy does not let this party; [`Error::Refused`] when what comes is no continuation of what is here;
/// nothing of that is kept.
pub async fn fetch(
    site: &Site,
    folder: &Path,
    progress: &mut dyn FnMut(&Fetched),
) -> Result<Fetched> {
    let client = site.connect(Meter::default()).await?;
    let disk = Disk::default();
    let path = folder.join("audit.jsonl");
    let evidence = Evidence::beside(&path);
    disk.folder(evidence.folder())?;
    let (before, bytes) = standing(&path)?;
    let mut log = OpenOptions::new()
        .create(true)
        .append(true)
        .open(&path)
        .map_err(|error| Error::fault(format_args!("opening {}", path.display()), error))?;
    let fault = |error| Error::fault(format_args!("writing {}", path.display()), error);
    log.set_len(bytes).map_err(fault)?;
    let request = proto::GetLogRequest { offset: bytes };
    let mut stream = retry_a_while(|| {
        let (mut client, request) = (client.clone(), request);
        async move { client.get_log(request).await }
    })
    .await?
    .into_inner();
    while let Some(chunk) = stream.next().await {
        log.write_all(&chunk?.data).map_err(fault)?;
    }
    log.sync_all().map_err(fault)?;
    let mut fetched = Fetched {
        entries: before,
        new: 0,
        objects: 0,
    };
    match follow(&client, &disk, &path, &mut fetched, progress).await {
        Err(error @ Error::Refused(_)) => {
            log.set_len(bytes).map_err(fault)?;
            Err(error)
        }
        outcome => outcome.map(|()| fetched),
    }
}

/// Reads what is here to its end, and gets each object that is missing.
async fn follow(
    client: &Client,
    disk: &Disk,
    path: &Path,
    fetched: &mut Fetched,
    progress: &mut dyn FnMut(&Fetched),
) -> Result<()> {
    let evidence = Evidence::beside(path);
    let refused = |error: ciphertune_audit::Error| Error::Refused(error.to_string());
    let mut reader = Reader::open(path).map_err(refused)?;
    let before = fetched.entries;
    while let Some(record) = reader.next().map_err(refused)? {
        for name in record.evidence() {
            let place = evidence.place_of_any(name);
            let place = place.ok_or_else(|| {
                Error::Refused(format!(
                    "entry {} names no object: {name:?}",
                    record.sequence
                ))
            })?;
            if !place.exists() {
                disk.write(&place, &object(client, name).await?)?;
                fetched.objects += 1;
            }
        }
        fetched.entries = reader.size();
        fetched.new = fetched.entries.saturating_sub(before);
        progress(fetched);
    }
    Ok(())
}

async fn object(client: &Client, name: &str) -> Result<Vec<u8>> {
    let request = proto::GetEvidenceRequest {
        name: name.to_owned(),
    };
    let mut stream = retry_a_while(|| {
        let (mut client, request) = (client.clone(), request.clone());
        async move { client.get_evidence(request).await }
    })
    .await?
    .into_inner();
    let mut object = Vec::new();
    while let Some(chunk) = stream.next().await {
        object.extend_from_slice(&chunk?.data);
        if object.len() > OBJECT_BYTES {
            return Err(Error::Refused(format!("object {name} is larger than any")));
        }
    }
    match Evidence::name_of(&object) == name {
        true => Ok(object),
        false => Err(Error::Refused(format!(
            "what the server sent for object {name} is another one"
        ))),
    }
}

/// Whole entries that are here, and their bytes.
fn standing(path: &Path) -> Result<(u64, u64)> {
    if !path.exists() {
        return Ok((0, 0));
    }
    let refused = |error: ciphertune_audit::Error| Error::Refused(error.to_string());
    let mut reader = Reader::open(path).map_err(refused)?;
    reader.finish().map_err(refused)?;
    Ok((reader.size(), reader.bytes()))
}
