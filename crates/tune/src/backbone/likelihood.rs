//! How likely a model finds what was said.

use candle_core::Tensor;

use super::frozen::apply_rows;
use super::kernels::softmax::{log_softmax_vjp, log_sum_exp};
use super::tensors::{floats, fresh};
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
    let columns = columns.to_vec();
    apply_rows(logits, |logits| {
        let mut sums = vec![(0f32, 0f32); rows];
        let picked: Vec<f32> = {
            let (storage, layout) = logits.storage_and_layout();
            let values = floats(&storage, layout)?;
            log_sum_exp(values, width, &mut sums);
            let picked = values.chunks_exact(width).zip(&columns).zip(&sums);
            picked
                .map(|((row, column), (top, sum))| (row[*column as usize] - top) - sum)
                .collect()
        };
        let (logits, device) = (logits.clone(), logits.device());
        let result = Tensor::from_vec(picked, rows, device)?;
        let vjp = move |grad: &Tensor| {
            let (x, xl) = logits.storage_and_layout();
            let (g, gl) = grad.storage_and_layout();
            let (x, g) = (floats(&x, xl)?, floats(&g, gl)?);
            fresh(rows, width, &logits, |out| {
                log_softmax_vjp(x, &sums, &columns, g, out);
            })
        };
        Ok((result, vjp))
    })
}
