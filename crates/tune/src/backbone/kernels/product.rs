//! Products of matrices that fit into the nearest cache, in registers.

use pulp::{Arch, Simd, WithSimd};

/// Widths are multiples of this: two of the longest registers.
pub(super) const COLUMNS: usize = 32;

/// Rows of C that one block covers, two registers wide: eight sums, as many as two fused
/// multiply-adds a cycle keep busy while each takes four.
const ROWS: usize = 4;

/// C `[m, width]` = A·B `[inner, width]`, `width` a multiple of [`COLUMNS`]. Row i of A starts
/// at i·`step`.
pub(super) fn product(
    a: &[f32],
    step: usize,
    inner: usize,
    b: &[f32],
    c: &mut [f32],
    width: usize,
) {
    Arch::new().dispatch(Product {
        a,
        step,
        inner,
        b,
        c,
        width,
    });
}

/// C `[m, width]` = Aᵀ·B with A `[inner, step]` and B `[inner, width]`; m ≤ `step`, a multiple
/// of four.
pub(super) fn product_transposed(
    a: &[f32],
    step: usize,
    inner: usize,
    b: &[f32],
    c: &mut [f32],
    width: usize,
) {
    Arch::new().dispatch(ProductTransposed(Product {
        a,
        step,
        inner,
        b,
        c,
        width,
    }));
}

struct Product<'a> {
    a: &'a [f32],
    step: usize,
    inner: usize,
    b: &'a [f32],
    c: &'a mut [f32],
    width: usize,
}

impl WithSimd for Product<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self {
            a, step, inner, b, ..
        } = self;
        let registers = self.width / S::F32_LANES;
        let b = S::as_simd_f32s(b).0.chunks_exact(registers).take(inner);
        for (index, c) in self.c.chunks_mut(ROWS * self.width).enumerate() {
            let row = |r: usize| a[(ROWS * index + r) * step..][..inner].iter();
            if c.len() == ROWS * self.width {
                let rows = row(0).zip(row(1)).zip(row(2)).zip(row(3));
                let rows = rows.map(|(((a, b), c), d)| [*a, *b, *c, *d]);
                block(simd, rows.zip(b.clone()), c, registers);
            } else {
                for (r, c) in c.chunks_exact_mut(self.width).enumerate() {
                    block(simd, row(r).map(|a| [*a]).zip(b.clone()), c, registers);
                }
            }
        }
    }
}

struct ProductTransposed<'a>(Product<'a>);

impl WithSimd for ProductTransposed<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Product {
            a,
            step,
            inner,
            b,
            c,
            width,
        } = self.0;
        let registers = width / S::F32_LANES;
        let b = S::as_simd_f32s(b).0.chunks_exact(registers).take(inner);
        for (index, c) in c.chunks_mut(ROWS * width).enumerate() {
            let column = |row: &[f32]| {
                let at = ROWS * index;
                [row[at], row[at + 1], row[at + 2], row[at + 3]]
            };
            let columns = a.chunks_exact(step).map(column);
            block(simd, columns.zip(b.clone()), c, registers);
        }
    }
}

/// `R` rows of C, two registers at a time, from each step of the sum: the numbers of these rows
/// of A, and a row of B.
#[inline(always)]
fn block<'b, S: Simd, const R: usize>(
    simd: S,
    steps: impl Iterator<Item = ([f32; R], &'b [S::f32s])> + Clone,
    c: &mut [f32],
    registers: usize,
) {
    let c = S::as_mut_simd_f32s(c).0;
    for at in (0..registers).step_by(2) {
        let mut sums = [[simd.splat_f32s(0.0); 2]; R];
        for (a, b) in steps.clone() {
            let b = [b[at], b[at + 1]];
            for (sums, a) in sums.iter_mut().zip(a) {
                let a = simd.splat_f32s(a);
                sums[0] = simd.mul_add_e_f32s(a, b[0], sums[0]);
                sums[1] = simd.mul_add_e_f32s(a, b[1], sums[1]);
            }
        }
        for (c, sums) in c.chunks_exact_mut(registers).zip(sums) {
            c[at..at + 2].copy_from_slice(&sums);
        }
    }
}
