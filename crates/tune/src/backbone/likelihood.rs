//! How likely a model finds what was said.

use candle_core::Tensor;

use super::Options;
use super::frozen::apply_rows;
use super::operations::on;
use crate::error::{Error, Result};

/// log softmax of each row of `logits` `[R, C]` at its column of `columns`: `[R]`,
/// differentiable in `logits`. One pass over them each way, where operations of their own would
/// make six.
///
/// # Errors
/// [`Error::Misuse`] for another number of columns than rows, or a column beyond C.
pub(crate) fn log_likelihood(logits: &Tensor, columns: &[u32]) -> Result<Tensor> {
    let (rows, width) = logits.dims2()?;
    if columns.len() != rows || columns.iter().any(|&column| column as usize >= width) {
        return Err(Error::Misuse(format!(
            "{} columns to be picked from logits {rows} × {width}",
            columns.len()
        )));
    }
    let (operations, columns) = (on(logits.device(), Options::default()), columns.to_vec());
    apply_rows(logits, |logits| {
        let (picked, sums) = operations.log_likelihood(logits, &columns)?;
        let logits = logits.clone();
        let vjp =
            move |grad: &Tensor| operations.log_likelihood_vjp(&logits, &columns, &sums, grad);
        Ok((picked, vjp))
    })
}
