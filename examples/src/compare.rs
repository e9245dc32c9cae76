//! Holds the opened sums to plain ones: the integers that each member wrote down before it sealed them, added here,
//! against what each member wrote down after opening. Independent of everything that seals.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use crate::error::{Error, Result};

/// Whether every opener's sum is, integer for integer, the sum of the contributors' integers.
///
/// # Errors
/// [`Error::Fault`] for a file that is missing or cut short.
pub fn sums_equal(
    folder: &Path,
    (round, attempt): (u32, u32),
    contributors: &[u16],
    openers: &[u16],
) -> Result<bool> {
    let mut plain: Vec<i64> = Vec::new();
    for (position, seat) in contributors.iter().enumerate() {
        let values = read(&folder.join(format!("{round}-{attempt}-{seat}.i64")))?;
        if position == 0 {
            plain = values;
            continue;
        }
        if values.len() != plain.len() {
            return Ok(false);
        }
        for (sum, value) in plain.iter_mut().zip(values) {
            match sum.checked_add(value) {
                Some(added) => *sum = added,
                None => return Ok(false),
            }
        }
    }
    for seat in openers {
        if read(&folder.join(format!("{round}-{attempt}-sum-by-{seat}.i64")))? != plain {
            return Ok(false);
        }
    }
    Ok(!plain.is_empty() && !openers.is_empty())
}

/// Removes what the rounds up to `round` left.
pub fn forget(folder: &Path, round: u32) -> Result<()> {
    let failed =
        |error: io::Error| Error::fault(format_args!("clearing {}", folder.display()), error);
    for entry in fs::read_dir(folder).map_err(failed)? {
        let path: PathBuf = entry.map_err(failed)?.path();
        let of = path
            .file_name()
            .and_then(|name| name.to_str())
            .and_then(|name| name.split('-').next()?.parse::<u32>().ok());
        if of.is_some_and(|of| of <= round) {
            fs::remove_file(&path).map_err(failed)?;
        }
    }
    Ok(())
}

fn read(path: &Path) -> Result<Vec<i64>> {
    let bytes = fs::read(path)
        .map_err(|error| Error::fault(format_args!("reading {}", path.display()), error))?;
    let (words, rest) = bytes.as_chunks::<8>();
    if !rest.is_empty() {
        return Err(Error::Fault(format!("{} is cut short", path.display())));
    }
    Ok(words.iter().copied().map(i64::from_le_bytes).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(folder: &Path, name: &str, values: &[i64]) {
        let bytes: Vec<u8> = values
            .iter()
            .flat_map(|value| value.to_le_bytes())
            .collect();
        fs::write(folder.join(name), bytes).unwrap();
    }

    #[test]
    fn one_integer_off_by_one_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        put(folder, "2-1-1.i64", &[1, -5, 7]);
        put(folder, "2-1-3.i64", &[10, 5, i64::from(i32::MAX)]);
        let sum = [11, 0, i64::from(i32::MAX) + 7];
        put(folder, "2-1-sum-by-1.i64", &sum);
        put(folder, "2-1-sum-by-2.i64", &[11, 1, sum[2]]);
        let equal = |contributors: &[u16], openers: &[u16]| {
            sums_equal(folder, (2, 1), contributors, openers).unwrap()
        };
        assert!(equal(&[1, 3], &[1]));
        assert!(!equal(&[1, 3], &[1, 2]));
        assert!(!equal(&[1], &[1]));
        assert!(!equal(&[1, 3], &[]));
        assert!(sums_equal(folder, (2, 1), &[1, 2], &[1]).is_err());
        forget(folder, 1).unwrap();
        assert!(folder.join("2-1-1.i64").exists());
        forget(folder, 2).unwrap();
        assert_eq!(fs::read_dir(folder).unwrap().count(), 0);
    }
}
