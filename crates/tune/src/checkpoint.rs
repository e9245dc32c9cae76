//! A run's state as one file, replaced whole.

use std::path::Path;

use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use serde_json::Value;

use crate::file;
use crate::session::State;
use crate::{Error, Result};

const PARAMETERS: &str = "parameters";
const MOMENTS: &str = "moments";
const BEST: &str = "best";
const PLACE: &str = "place";
const RUN: &str = "run";

impl State {
    /// Writes the state durably. `run` is everything else that the rest of the run depends on (specification, digests of
    /// model and data), an object.
    ///
    /// # Errors
    /// [`Error::Fault`] if the file cannot be written; the one before it stays then.
    pub fn write(&self, path: &Path, run: &Value) -> Result<()> {
        let fault =
            |error: &dyn std::fmt::Display| Error::Fault(format!("{}: {error}", path.display()));
        let place = serde_json::to_string(&self.place).map_err(|error| fault(&error))?;
        let parts = [
            (PARAMETERS, &self.parameters),
            (MOMENTS, &self.moments),
            (BEST, &self.best),
        ];
        let bytes = parts.map(|(name, values)| (name, values.len(), little_endian(values)));
        let views = bytes.iter().map(|(name, length, bytes)| {
            let view = TensorView::new(Dtype::F32, vec![*length], bytes);
            view.map(|view| (*name, view))
                .map_err(|error| fault(&error))
        });
        let about = [(PLACE.to_owned(), place), (RUN.to_owned(), run.to_string())].into();
        let views = views.collect::<Result<Vec<_>>>()?;
        let file = safetensors::serialize(views, Some(about)).map_err(|error| fault(&error))?;
        file::replace(path, &file)
    }

    /// Reads a state back; none where there is no file.
    ///
    /// # Errors
    /// [`Error::Malformed`] for what is no such file; [`Error::Refused`] for one of another run, naming the first thing that
    /// differs.
    pub fn read(path: &Path, run: &Value) -> Result<Option<Self>> {
        let bytes = match std::fs::read(path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Error::Fault(format!("{}: {error}", path.display()))),
        };
        let malformed = |error: &dyn std::fmt::Display| {
            Error::Malformed(format!("{}: {error}", path.display()))
        };
        let (_, header) = SafeTensors::read_metadata(&bytes).map_err(|error| malformed(&error))?;
        let about = header.metadata().clone().unwrap_or_default();
        let said = |name: &str| (about.get(name)).ok_or_else(|| malformed(&format!("no {name}")));
        let other: Value = serde_json::from_str(said(RUN)?).map_err(|error| malformed(&error))?;
        if let Some(difference) = difference(&other, run, "") {
            return Err(Error::Refused(format!(
                "{} is of another run: {difference}; start afresh in another folder, or remove it",
                path.display()
            )));
        }
        let tensors = SafeTensors::deserialize(&bytes).map_err(|error| malformed(&error))?;
        let numbers = |name: &str| -> Result<Vec<f32>> {
            let tensor = tensors.tensor(name).map_err(|error| malformed(&error))?;
            if tensor.dtype() != Dtype::F32 {
                return Err(malformed(&format!("{name} is not f32")));
            }
            let (words, _) = tensor.data().as_chunks();
            Ok(words.iter().map(|word| f32::from_le_bytes(*word)).collect())
        };
        let state = Self {
            parameters: numbers(PARAMETERS)?,
            moments: numbers(MOMENTS)?,
            best: numbers(BEST)?,
            place: serde_json::from_str(said(PLACE)?).map_err(|error| malformed(&error))?,
        };
        let fits = state.best.is_empty() || state.best.len() == state.parameters.len();
        match fits
            && state
                .place
                .best
                .is_none_or(|at| at < state.place.history.len())
        {
            true => Ok(Some(state)),
            false => Err(malformed(&"its parts contradict one another")),
        }
    }
}

fn little_endian(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|x| x.to_le_bytes()).collect()
}

/// The first place where two values differ, in words.
fn difference(was: &Value, is: &Value, path: &str) -> Option<String> {
    if let (Value::Object(was), Value::Object(is)) = (was, is) {
        let keys = was
            .keys()
            .chain(is.keys().filter(|key| !was.contains_key(*key)));
        return keys.into_iter().find_map(|key| {
            let deeper = format!("{path}{}{key}", if path.is_empty() { "" } else { "." });
            let of = |values: &serde_json::Map<String, Value>| {
                values.get(key).cloned().unwrap_or(Value::Null)
            };
            difference(&of(was), &of(is), &deeper)
        });
    }
    (was != is).then(|| format!("{path} was {was}, is {is}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::Place;
    use serde_json::json;

    fn state() -> State {
        State {
            parameters: vec![0.5, -1.25],
            moments: vec![1.0, 2.0, 3.0, f32::MIN_POSITIVE],
            best: vec![0.25, 0.0],
            place: Place {
                steps: 7,
                epoch: 1,
                epoch_loss: 0.210_000_000_000_000_02,
                ..Place::default()
            },
        }
    }

    #[test]
    fn a_state_survives_its_file_bit_for_bit_and_another_runs_is_refused_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("checkpoint.safetensors");
        // A number that a reader of fewer digits would change.
        let run = json!({ "spec": { "seed": 1, "rate": 3.0 * 0.07 }, "data": "ab" });
        assert!(State::read(&path, &run).unwrap().is_none());
        state().write(&path, &run).unwrap();
        assert!(State::read(&path, &run).unwrap() == Some(state()));
        let other = json!({ "spec": { "seed": 2, "rate": 3.0 * 0.07 }, "data": "ab" });
        let error = State::read(&path, &other).err().unwrap().to_string();
        assert!(error.contains("spec.seed was 1, is 2"), "{error}");
        let bytes = std::fs::read(&path).unwrap();
        for end in [0, 3, 8, 40, bytes.len() / 2, bytes.len() - 1] {
            std::fs::write(&path, &bytes[..end]).unwrap();
            let cut = State::read(&path, &run);
            assert!(matches!(cut, Err(Error::Malformed(_))), "cut at {end}");
        }
    }
}
