//! The widest vectors of the processor at hand, chosen at run time.

/// Runs `kernel` as compiled for AVX-512, for AVX2 or for every processor of the target, whichever
/// is the best that this one has. No compiler flag, no `unsafe` of ours: `pulp` finds out and
/// calls.
///
/// `kernel` is a closure marked `#[inline(always)]`, as is every function that it calls: what is
/// not inlined stays compiled for the baseline. (A closure of more than a few dozen instructions is better a structure
/// with `#[inline(always)] fn call`: the compiler may make one function of a large closure for all paths, and that is
/// the baseline's.) The loops are the same source on every path and hold integers only, so every path gives the same
/// bits.
#[inline(always)]
pub fn vectorised<K: pulp::NullaryFnOnce>(kernel: K) -> K::Output {
    pulp::Arch::new().dispatch(kernel)
}
