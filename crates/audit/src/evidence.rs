//! The signed objects that a log speaks of: a folder of files, each named by what is in it.

use std::{
    fs::File,
    io::{ErrorKind, Read as _},
    path::{Path, PathBuf},
};

use sha2::{Digest as _, Sha256};

use crate::error::{Error, Result};

/// The largest object: a plan of a thousand seats fits.
const OBJECT_BYTES: u64 = 4 << 20;

/// A folder of objects. A file's name is the SHA-256 of its bytes, in hexadecimal: `sha256sum *` checks the folder. An entry of the
/// log names in its field [`EVIDENCE`](Evidence::FIELD) what it rests on; a file is there before the entry is.
#[derive(Clone, Debug)]
pub struct Evidence {
    folder: PathBuf,
}

impl Evidence {
    /// The log's field: the names of the objects that an entry rests on, in the order that its kind has.
    pub const FIELD: &str = "evidence";

    /// Of the log in the same folder.
    #[must_use]
    pub fn beside(log: &Path) -> Self {
        Self {
            folder: log.with_file_name("evidence"),
        }
    }

    /// The folder, which whoever writes to it makes.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The name of an object.
    #[must_use]
    pub fn name_of(object: &[u8]) -> String {
        hex::encode(Sha256::digest(object))
    }

    /// Where an object stands, or belongs.
    #[must_use]
    pub fn place_of(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Where an object stands, or would, of a name that a stranger gave; `None` for what is no name.
    #[must_use]
    pub fn place_of_any(&self, name: &str) -> Option<PathBuf> {
        is_name(name).then(|| self.place_of(name))
    }

    /// Reads an object, and holds it to its name.
    ///
    /// # Errors
    /// `Malformed` where it is missing, or is another one; `Fault` from the disk.
    pub fn get(&self, name: &str) -> Result<Vec<u8>> {
        if !is_name(name) {
            return Err(Error::Malformed(
                "evidence: a name that is not the SHA-256 of an object, in hexadecimal".into(),
            ));
        }
        let wrong = |what: &str| Error::Malformed(format!("evidence {name}: {what}"));
        let path = self.place_of(name);
        if path.exists() && !path.is_file() {
            return Err(wrong("it is no file"));
        }
        let file = match File::open(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                return Err(wrong("the object is missing"));
            }
            file => file.map_err(|error| fault(&path, &error))?,
        };
        let mut object = Vec::new();
        file.take(OBJECT_BYTES + 1)
            .read_to_end(&mut object)
            .map_err(|error| fault(&path, &error))?;
        if object.len() as u64 > OBJECT_BYTES {
            return Err(wrong("larger than any object"));
        }
        if Self::name_of(&object) == name {
            Ok(object)
        } else {
            Err(wrong("the object was changed: its SHA-256 is another"))
        }
    }
}

fn is_name(name: &str) -> bool {
    name.len() == 64
        && name
            .bytes()
            .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

fn fault(path: &Path, error: &std::io::Error) -> Error {
    Error::Fault(format!("{}: {error}", path.display()))
}
