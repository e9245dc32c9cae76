//! The arithmetic candle leaves scalar on a CPU, in plain Rust that vectorises.
//!
//! Each function of [`vectorised!`] is compiled once for every instruction set that `pulp`
//! knows and the fastest one the processor has is taken at run time: no `unsafe`, no
//! compiler flags. `FMA` says whether a fused multiply-add is one instruction there.

pub(crate) mod activation;
pub(super) mod attention;
pub(super) mod norm;
mod product;
pub(super) mod rope;
pub(crate) mod row;
pub(super) mod softmax;

use rayon::prelude::*;

/// Rows one thread takes at a time: enough to pay for handing them out, few enough to share
/// evenly.
const ROWS: usize = 32;

/// Compiles a function for every instruction set and calls the best at run time.
macro_rules! vectorised {
    ($(#[$meta:meta])* $vis:vis fn $name:ident<'a>($($arg:ident: $ty:ty),* $(,)?) $body:block) => {
        $(#[$meta])*
        $vis fn $name<'a>($($arg: $ty),*) {
            struct Job<'a> { $($arg: $ty),* }
            impl<'a> pulp::WithSimd for Job<'a> {
                type Output = ();
                #[inline(always)]
                fn with_simd<S: pulp::Simd>(self, _: S) {
                    let Self { $($arg),* } = self;
                    if size_of::<S::f32s>() >= 32 {
                        run::<true>($($arg),*);
                    } else {
                        run::<false>($($arg),*);
                    }
                }
            }
            #[inline(always)]
            #[allow(clippy::extra_unused_lifetimes, clippy::needless_lifetimes, clippy::too_many_arguments)]
            fn run<'a, const FMA: bool>($($arg: $ty),*) $body
            pulp::Arch::new().dispatch(Job { $($arg),* });
        }
    };
}
pub(crate) use vectorised;

/// a·b + c, fused where that is one instruction.
#[inline(always)]
pub(crate) fn fma<const FMA: bool>(a: f32, b: f32, c: f32) -> f32 {
    if FMA { a.mul_add(b, c) } else { a * b + c }
}

/// Σ f(aᵢ, bᵢ) in sixteen partial sums.
#[inline(always)]
pub(crate) fn sum2(a: &[f32], b: &[f32], f: impl Fn(f32, f32) -> f32) -> f32 {
    let mut lanes = [0f32; 16];
    let (a16, a_rest) = a.as_chunks::<16>();
    let (b16, b_rest) = b.as_chunks::<16>();
    for (a, b) in a16.iter().zip(b16) {
        for ((lane, &a), &b) in lanes.iter_mut().zip(a).zip(b) {
            *lane += f(a, b);
        }
    }
    let rest: f32 = a_rest.iter().zip(b_rest).map(|(&a, &b)| f(a, b)).sum();
    lanes.iter().sum::<f32>() + rest
}

/// The largest of `values`, −∞ of none; NaN is passed over.
#[inline(always)]
pub(super) fn largest(values: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; 16];
    let (chunks, rest) = values.as_chunks::<16>();
    for chunk in chunks {
        for (lane, &value) in lanes.iter_mut().zip(chunk) {
            *lane = if value > *lane { value } else { *lane };
        }
    }
    let all = lanes.iter().chain(rest);
    all.fold(
        f32::NEG_INFINITY,
        |top, &value| if value > top { value } else { top },
    )
}

vectorised! {
    fn add_bias_rows<'a>(values: &'a mut [f32], bias: &'a [f32]) {
        for row in values.chunks_exact_mut(bias.len()) {
            for (value, bias) in row.iter_mut().zip(bias) {
                *value += bias;
            }
        }
    }
}

vectorised! {
    fn add_rows<'a>(values: &'a mut [f32], other: &'a [f32]) {
        for (value, other) in values.iter_mut().zip(other) {
            *value += other;
        }
    }
}

/// x ← x + b on every row of width `bias.len()`.
pub(super) fn add_bias(values: &mut [f32], bias: &[f32]) {
    values
        .par_chunks_mut(ROWS * bias.len())
        .for_each(|rows| add_bias_rows(rows, bias));
}

/// x ← x + y.
pub(super) fn add(values: &mut [f32], other: &[f32]) {
    let step = 16_384;
    values
        .par_chunks_mut(step)
        .zip(other.par_chunks(step))
        .for_each(|(values, other)| add_rows(values, other));
}
