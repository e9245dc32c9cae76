//! The table of token embeddings, and how long a sequence may be.

use candle_core::{DType, Tensor};

use crate::error::{Error, Result};

/// Rows `[vocabulary, H]`, as stored.
pub(super) struct Tokens(pub(super) Tensor);

impl Tokens {
    pub(super) fn vocabulary(&self) -> usize {
        self.0.dims()[0]
    }

    pub(super) fn hidden(&self) -> usize {
        self.0.dims()[1]
    }

    /// ids `[B, T]` → f32 rows `[B, T, H]`.
    pub(super) fn embed(&self, ids: &Tensor) -> Result<Tensor> {
        let (examples, width) = ids.dims2().map_err(|_| {
            Error::Misuse(format!("token ids of shape {:?}, not [B, T]", ids.dims()))
        })?;
        let (vocabulary, hidden) = self.0.dims2()?;
        let flat = ids.flatten_all()?.to_dtype(DType::U32)?;
        let values = flat.to_vec1::<u32>()?;
        if let Some(id) = values.iter().find(|&&id| id as usize >= vocabulary) {
            return Err(Error::Misuse(format!(
                "token id {id} in a vocabulary of {vocabulary}"
            )));
        }
        let rows = self.0.index_select(&flat, 0)?.to_dtype(DType::F32)?;
        Ok(rows.reshape((examples, width, hidden))?)
    }
}

/// Refuses a sequence that, after `past` positions, is longer than the model's.
pub(super) fn check_length(
    embeds: &Tensor,
    hidden: usize,
    past: usize,
    positions: usize,
) -> Result<()> {
    match embeds.dims3() {
        Ok((_, width, columns)) if columns == hidden && past + width <= positions => Ok(()),
        Ok((_, width, columns)) if columns == hidden => Err(Error::Misuse(format!(
            "a sequence of {} positions; the model computes {positions}",
            past + width
        ))),
        _ => Err(Error::Misuse(format!(
            "embeddings {:?}, not [B, T, {hidden}]",
            embeds.dims()
        ))),
    }
}
