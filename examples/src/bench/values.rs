//! Values to seal: anybody can repeat them, and so add them up in clear.

/// Values over the whole of −B..=B, others for every member: SplitMix64 of the place.
pub fn values(member: usize, length: usize, bound: u64) -> impl Iterator<Item = i64> {
    let start = (member as u64 + 1).wrapping_mul(0x632B_E59B_D9B4_E019);
    (0..length as u64).map(move |place| {
        let drawn = u128::from(mixed(start.wrapping_add(place)));
        (((2 * u128::from(bound) + 1) * drawn) >> 64) as i64 - bound as i64
    })
}

/// Σ over members, in clear.
pub fn plain_sum(members: usize, length: usize, bound: u64) -> Vec<i64> {
    let mut sum = vec![0; length];
    for member in 0..members {
        for (sum, value) in sum.iter_mut().zip(values(member, length, bound)) {
            *sum += value;
        }
    }
    sum
}

fn mixed(state: u64) -> u64 {
    let z = state.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_reach_both_bounds_and_never_leave_them() {
        let drawn: Vec<i64> = values(0, 10_000, 15).collect();
        assert_eq!(drawn.iter().max(), Some(&15));
        assert_eq!(drawn.iter().min(), Some(&-15));
        let mean = drawn.iter().sum::<i64>() as f64 / 10_000.0;
        assert!(mean.abs() < 0.5, "{mean}");
        assert!(values(1, 10_000, 15).ne(drawn));
    }
}
