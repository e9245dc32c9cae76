//! Everything that is trained, as one vector: what federated averaging adds up.

use std::collections::HashMap;
use std::path::Path;

use candle_core::{Device, Tensor, Var};

use crate::encoder::Encoder;
use crate::error::{Error, Result};
use crate::head::Classifier;
use crate::{file, tensors};

/// The trainable parameters θ by name, in one fixed order: the encoder's, in the order its
/// [`Encoder::parameters`] states (that of PEFT's `state_dict`), then the classifier's weight
/// and bias. Each tensor is laid out row-major. Two members with the same encoder kind and
/// shape have the same order, so their vectors may be added.
///
/// The `Var`s are shared with the encoder and the classifier: assigning here moves them.
#[derive(Clone)]
pub struct Trainable {
    names: Vec<String>,
    variables: Vec<Var>,
}

impl Trainable {
    /// The parameters of `encoder`, then of `classifier`.
    pub fn gather(encoder: &dyn Encoder, classifier: Option<&Classifier>) -> Self {
        let mut named = encoder.parameters();
        named.extend(classifier.map(Classifier::parameters).unwrap_or_default());
        let (names, variables) = named.into_iter().unzip();
        Self { names, variables }
    }

    /// Parameter names, in order.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// The variables, in order.
    pub fn variables(&self) -> &[Var] {
        &self.variables
    }

    /// Total number of parameters |θ|.
    pub fn dimension(&self) -> usize {
        self.variables
            .iter()
            .map(|variable| variable.elem_count())
            .sum()
    }

    /// θ as one vector of [`Trainable::dimension`] entries.
    ///
    /// # Errors
    /// [`Error::Fault`] if a tensor cannot be read.
    pub fn flatten(&self) -> Result<Vec<f32>> {
        let variables = self.variables.iter().map(Var::as_detached_tensor);
        tensors::joined(&variables.collect::<Vec<_>>())
    }

    /// Sets θ from one vector.
    ///
    /// # Errors
    /// [`Error::Misuse`] for a length other than [`Trainable::dimension`]; nothing changes
    /// then.
    pub fn assign(&self, flat: &[f32]) -> Result<()> {
        if flat.len() != self.dimension() {
            return Err(Error::Misuse(format!(
                "{} values for {} parameters",
                flat.len(),
                self.dimension()
            )));
        }
        let mut rest = flat;
        for variable in &self.variables {
            let (head, tail) = rest.split_at(variable.elem_count());
            tensors::assign(variable, head)?;
            rest = tail;
        }
        Ok(())
    }

    /// Writes θ to a safetensors file, each parameter under its name; the file appears whole, or not at all.
    ///
    /// # Errors
    /// [`Error::Fault`] if the file cannot be written.
    pub fn save(&self, path: &Path) -> Result<()> {
        let tensors: HashMap<String, Tensor> = self
            .names
            .iter()
            .cloned()
            .zip(
                self.variables
                    .iter()
                    .map(|variable| variable.as_tensor().clone()),
            )
            .collect();
        let bytes = safetensors::serialize(&tensors, None)
            .map_err(|error| Error::Fault(format!("{}: {error}", path.display())))?;
        file::replace(path, &bytes)
    }

    /// Sets θ from a safetensors file that [`Trainable::save`] (or Python) wrote. Further
    /// tensors in the file are ignored.
    ///
    /// # Errors
    /// [`Error::Fault`] if the file cannot be read; [`Error::Malformed`] for a file that is
    /// not safetensors, a parameter that is missing or has another shape. Nothing changes
    /// then.
    pub fn load(&self, path: &Path) -> Result<()> {
        let name = path.display();
        let bytes =
            std::fs::read(path).map_err(|error| Error::Fault(format!("{name}: {error}")))?;
        let tensors = candle_core::safetensors::load_buffer(&bytes, &Device::Cpu)
            .map_err(|error| Error::Malformed(format!("{name}: {error}")))?;
        let mut flat = Vec::with_capacity(self.dimension());
        for (key, variable) in self.names.iter().zip(&self.variables) {
            let tensor = tensors
                .get(key)
                .ok_or_else(|| Error::Malformed(format!("{name}: no tensor {key}")))?;
            if tensor.shape() != variable.shape() {
                return Err(Error::Malformed(format!(
                    "{name}: {key} has shape {:?}, not {:?}",
                    tensor.dims(),
                    variable.dims()
                )));
            }
            let tensor = tensor.to_dtype(candle_core::DType::F32)?;
            flat.extend(tensor.flatten_all()?.to_vec1::<f32>()?);
        }
        self.assign(&flat)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::encoder::mlp::{Depth, Mlp};

    fn trainable(seed: u64) -> (Mlp, Trainable) {
        let encoder = Mlp::random(3, 8, 5, Depth::Peft, seed, &Device::Cpu).expect("an encoder");
        let classifier = Classifier::zeros(2, 8, &Device::Cpu).expect("a classifier");
        let all = Trainable::gather(&encoder, Some(&classifier));
        (encoder, all)
    }

    #[test]
    fn flatten_and_assign_are_inverse_and_move_the_encoder() {
        let (from, theta) = trainable(1);
        let (to, other) = trainable(2);
        assert_eq!(
            theta.dimension(),
            3 * 8 + (8 * 5 + 5) + (5 * 5 + 5) + (5 * 8 + 8) + 2 * 9
        );
        assert_eq!(
            theta.names().last().map(String::as_str),
            Some("classifier.bias")
        );
        let flat = theta.flatten().expect("flat");
        assert_ne!(flat, other.flatten().expect("flat"));
        other.assign(&flat).expect("assigned");
        assert_eq!(flat, other.flatten().expect("flat"));
        let prompts = |encoder: &Mlp| {
            encoder
                .forward()
                .and_then(|p| Ok(p.embeddings().to_vec2::<f32>()?))
                .expect("prompts")
        };
        assert_eq!(prompts(&from), prompts(&to));
    }

    #[test]
    fn a_vector_of_another_length_is_refused() {
        let (_, theta) = trainable(1);
        let short = vec![0.0; theta.dimension() - 1];
        assert!(matches!(theta.assign(&short), Err(Error::Misuse(_))));
    }

    #[test]
    fn saved_parameters_come_back_and_a_wrong_shape_is_named() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("theta.safetensors");
        let (_, theta) = trainable(1);
        theta.save(&path).expect("saved");
        let (_, other) = trainable(2);
        other.load(&path).expect("loaded");
        assert_eq!(
            theta.flatten().expect("flat"),
            other.flatten().expect("flat")
        );

        let narrow = Mlp::random(3, 8, 4, Depth::Peft, 1, &Device::Cpu).expect("an encoder");
        let refused = Trainable::gather(&narrow, None).load(&path);
        assert!(
            matches!(&refused, Err(Error::Malformed(text)) if text.contains("mlp_head.0.weight")),
            "{refused:?}"
        );
        std::fs::write(&path, [1, 2, 3]).expect("written");
        assert!(matches!(other.load(&path), Err(Error::Malformed(_))));
    }
}
