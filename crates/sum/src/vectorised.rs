//! The widest vectors of the processor at hand, chosen at run time.

/// Runs `kernel` as compiled for AVX-512, for AVX2 or for every processor of the target, whichever
/// is the best that this one has. No compiler flag, no `unsafe` of ours: `pulp` finds out and
/// calls.
///
/// `kernel` is a closure marked `#[inline(always)]`, as is every function that it calls: what is
/// not inlined stays compiled for the baseline. The loops are the same source on every path and
/// hold integers only, so every path gives the same bits.
#[inline(always)]
pub fn vectorised<R>(kernel: impl FnOnce() -> R) -> R {
    pulp::Arch::new().dispatch(kernel)
}
