//! A member's copy of a job's model: its state, the last finished round, and what was agreed on. One file, replaced whole.
//!
//! The state is θ, and at record level the moments of the optimiser that moves it after θ: members agree on all of it.

use std::{borrow::Cow, collections::HashMap, path::Path, sync::Arc};

use ciphertune_round::{Digest, Hasher, label};
use ciphertune_seal::AgreementKey;
use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use zeroize::Zeroizing;

use crate::{
    disk::{self, Disk},
    error::{Error, Result},
};

const TENSOR: &str = "state";
const KEY: &str = "agreement_key";
const ROUND: &str = "round";
const AGREED: &str = "agreed";

/// The state after a round.
pub struct Model {
    /// θ ∈ R^d; at record level, and the optimiser's moments.
    pub state: Vec<f32>,
    /// The last finished round; 0 before the first.
    pub round: u32,
    /// What the next plan must name: the job's first model before round 1, then the keyed digest agreed on.
    pub agreed: Digest,
    /// What keyed that digest, for a fellow member that missed the round; `None` before round 1.
    pub key: Option<Arc<AgreementKey>>,
}

impl Model {
    /// A job's first model.
    pub fn first(state: Vec<f32>) -> Self {
        Self {
            agreed: digest(&state),
            state,
            round: 0,
            key: None,
        }
    }

    /// Reads a model's file, or `None` if there is none.
    ///
    /// # Errors
    /// [`Error::Malformed`] if it is not such a file.
    pub fn read(path: &Path) -> Result<Option<Self>> {
        let Some(bytes) = disk::read(path)?.map(Zeroizing::new) else {
            return Ok(None);
        };
        let malformed =
            |detail: &dyn std::fmt::Display| Error::malformed(path.display().to_string(), detail);
        let (_, metadata) =
            SafeTensors::read_metadata(&bytes).map_err(|error| malformed(&error))?;
        let said = metadata.metadata().clone().unwrap_or_default();
        let field = |name: &str| {
            said.get(name)
                .ok_or_else(|| malformed(&format!("no {name}")))
        };
        let tensors = SafeTensors::deserialize(&bytes).map_err(|error| malformed(&error))?;
        let state = tensors.tensor(TENSOR).map_err(|error| malformed(&error))?;
        if state.dtype() != Dtype::F32 {
            return Err(malformed(&"state is not f32"));
        }
        Ok(Some(Self {
            state: state
                .data()
                .chunks_exact(4)
                .filter_map(|word| word.try_into().ok().map(f32::from_le_bytes))
                .collect(),
            round: field(ROUND)?.parse().map_err(|error| malformed(&error))?,
            agreed: Digest::from_hex(field(AGREED)?)?,
            key: match tensors.tensor(KEY) {
                Ok(key) => Some(Arc::new(AgreementKey::parse(key.data())?)),
                Err(_) => None,
            },
        }))
    }

    /// Writes the file durably.
    pub fn write(&self, disk: &Disk, path: &Path) -> Result<()> {
        let bytes = little_endian(&self.state);
        let failed = |error| Error::fault("writing the model", error);
        let state = TensorView::new(Dtype::F32, vec![self.state.len()], &bytes).map_err(failed)?;
        let mut tensors = vec![(TENSOR, state)];
        if let Some(key) = &self.key {
            let bytes = key.expose();
            let key = TensorView::new(Dtype::U8, vec![bytes.len()], bytes).map_err(failed)?;
            tensors.push((KEY, key));
        }
        let said = HashMap::from([
            (ROUND.to_owned(), self.round.to_string()),
            (AGREED.to_owned(), self.agreed.to_string()),
        ]);
        let file = safetensors::serialize(tensors, Some(said)).map_err(failed)?;
        disk.write(path, &Zeroizing::new(file))
    }
}

/// SHA-256(`ciphertune/1/model` ‖ 0x00 ‖ the state as little-endian f32).
pub fn digest(state: &[f32]) -> Digest {
    let mut hasher = Hasher::default();
    hasher.update(label::MODEL.as_bytes());
    hasher.update(&[0]);
    for part in state.chunks(16 << 10) {
        hasher.update(&little_endian(part));
    }
    hasher.finish()
}

/// A state as it is written: no copy where the machine's own order is that.
fn little_endian(state: &[f32]) -> Cow<'_, [u8]> {
    if cfg!(target_endian = "little") {
        Cow::Borrowed(bytemuck::cast_slice(state))
    } else {
        state.iter().flat_map(|x| x.to_le_bytes()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_survives_its_file_and_a_truncated_one_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.safetensors");
        assert!(Model::read(&path).unwrap().is_none());
        let mut model = Model::first(vec![0.5, -1.25, f32::MIN_POSITIVE]);
        model.round = 3;
        for key in [None, Some(Arc::new(AgreementKey::parse(&[7; 32]).unwrap()))] {
            model.key = key;
            model.write(&Disk::default(), &path).unwrap();
            let read = Model::read(&path).unwrap().unwrap();
            assert_eq!(read.state, model.state);
            assert_eq!((read.round, read.agreed), (3, model.agreed));
            let bytes = |model: &Model| model.key.as_ref().map(|key| key.expose().to_vec());
            assert_eq!(bytes(&read), bytes(&model));
        }
        let bytes = std::fs::read(&path).unwrap();
        std::fs::write(&path, &bytes[..bytes.len() - 1]).unwrap();
        assert!(matches!(Model::read(&path), Err(Error::Malformed { .. })));
    }
}
