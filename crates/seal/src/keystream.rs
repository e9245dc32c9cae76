//! ChaCha12 by the kilobyte: the stream that masks and h are read from.

use rand_chacha::ChaCha12Rng;
use rand_core::{Rng, SeedableRng};

/// Words that one step of the wide kernel makes: 16 blocks of 64 bytes.
const STEP: usize = 128;

/// A ChaCha12 stream (64-bit counter from 0, 64-bit stream number) as little-endian u64, in order.
///
/// With AVX-512 sixteen blocks are computed at once, one in each lane; elsewhere `rand_chacha`
/// makes the stream, and it is what the wide kernel is held to.
pub(crate) enum KeyStream {
    #[cfg(target_arch = "x86_64")]
    Wide(Box<wide::Stream>),
    Portable(Box<ChaCha12Rng>),
}

impl KeyStream {
    pub(crate) fn new(key: &[u8; 32], stream: u64) -> Self {
        #[cfg(target_arch = "x86_64")]
        if let Some(simd) = pulp::x86::V4::try_new() {
            return Self::Wide(Box::new(wide::Stream::new(simd, key, stream)));
        }
        Self::portable(key, stream)
    }

    pub(crate) fn portable(key: &[u8; 32], stream: u64) -> Self {
        let mut rng = ChaCha12Rng::from_seed(*key);
        rng.set_stream(stream);
        Self::Portable(Box::new(rng))
    }

    /// The next `out.len()` words.
    pub(crate) fn fill(&mut self, out: &mut [u64]) {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Wide(stream) => stream.fill(out),
            Self::Portable(rng) => fill_from(rng.as_mut(), out),
        }
    }
}

/// Fills `out` with a generator's bytes as little-endian u64.
pub(crate) fn fill_from(rng: &mut impl Rng, out: &mut [u64]) {
    let mut bytes = zeroize::Zeroizing::new([0_u8; 8 * STEP]);
    for chunk in out.chunks_mut(STEP) {
        let bytes = &mut bytes[..8 * chunk.len()];
        rng.fill_bytes(bytes);
        for (word, bytes) in chunk.iter_mut().zip(bytes.as_chunks::<8>().0) {
            *word = u64::from_le_bytes(*bytes);
        }
    }
}

#[cfg(target_arch = "x86_64")]
pub(crate) mod wide {
    use pulp::x86::V4;
    use pulp::{cast, u32x16, u64x8};

    use super::STEP;

    /// Row i holds word i of each of sixteen blocks.
    type Rows = [u32x16; 16];

    pub(crate) struct Stream {
        simd: V4,
        /// Key and stream number as words 4 to 11 and 14 to 15 of the state.
        key: [u32; 8],
        stream: [u32; 2],
        /// The number of the next block.
        counter: u64,
        /// The last step's words, of which the first `taken` were given out.
        buffer: [u64; STEP],
        taken: usize,
    }

    impl Stream {
        pub(crate) fn new(simd: V4, key: &[u8; 32], stream: u64) -> Self {
            let mut words = [0; 8];
            for (word, bytes) in words.iter_mut().zip(key.as_chunks::<4>().0) {
                *word = u32::from_le_bytes(*bytes);
            }
            Self {
                simd,
                key: words,
                stream: [stream as u32, (stream >> 32) as u32],
                counter: 0,
                buffer: [0; STEP],
                taken: STEP,
            }
        }

        pub(crate) fn fill(&mut self, out: &mut [u64]) {
            let held = (STEP - self.taken).min(out.len());
            let (head, rest) = out.split_at_mut(held);
            head.copy_from_slice(&self.buffer[self.taken..self.taken + held]);
            self.taken += held;
            let (steps, tail) = rest.as_chunks_mut::<STEP>();
            for step in steps {
                self.step(step);
            }
            if !tail.is_empty() {
                let mut buffer = [0; STEP];
                self.step(&mut buffer);
                tail.copy_from_slice(&buffer[..tail.len()]);
                (self.buffer, self.taken) = (buffer, tail.len());
            }
        }

        fn step(&mut self, out: &mut [u64; STEP]) {
            let simd = self.simd;
            let (key, stream, counter) = (self.key, self.stream, self.counter);
            simd.vectorize(
                #[inline(always)]
                || sixteen_blocks(simd, &key, stream, counter, out),
            );
            self.counter += 16;
        }
    }

    #[inline(always)]
    fn sixteen_blocks(
        simd: V4,
        key: &[u32; 8],
        stream: [u32; 2],
        counter: u64,
        out: &mut [u64; STEP],
    ) {
        let mut initial = [simd.splat_u32x16(0); 16];
        // "expand 32-byte k"
        for (row, word) in
            initial
                .iter_mut()
                .zip([0x6170_7865, 0x3320_646e, 0x7962_2d32, 0x6b20_6574])
        {
            *row = simd.splat_u32x16(word);
        }
        for (row, word) in initial[4..12].iter_mut().zip(key) {
            *row = simd.splat_u32x16(*word);
        }
        let (mut low, mut high) = ([0; 16], [0; 16]);
        for (block, (low, high)) in (counter..).zip(low.iter_mut().zip(&mut high)) {
            (*low, *high) = (block as u32, (block >> 32) as u32);
        }
        initial[12] = cast(low);
        initial[13] = cast(high);
        initial[14] = simd.splat_u32x16(stream[0]);
        initial[15] = simd.splat_u32x16(stream[1]);

        let mut rows = initial;
        for _ in 0..6 {
            quarter(simd, &mut rows, 0, 4, 8, 12);
            quarter(simd, &mut rows, 1, 5, 9, 13);
            quarter(simd, &mut rows, 2, 6, 10, 14);
            quarter(simd, &mut rows, 3, 7, 11, 15);
            quarter(simd, &mut rows, 0, 5, 10, 15);
            quarter(simd, &mut rows, 1, 6, 11, 12);
            quarter(simd, &mut rows, 2, 7, 8, 13);
            quarter(simd, &mut rows, 3, 4, 9, 14);
        }
        for (row, initial) in rows.iter_mut().zip(initial) {
            *row = simd.wrapping_add_u32x16(*row, initial);
        }
        let blocks = transpose(simd, rows);
        for (place, block) in out.as_chunks_mut::<8>().0.iter_mut().zip(blocks) {
            *place = cast(block);
        }
    }

    #[inline(always)]
    fn quarter(simd: V4, rows: &mut Rows, a: usize, b: usize, c: usize, d: usize) {
        half_quarter::<16, 12>(simd, rows, a, b, c, d);
        half_quarter::<8, 7>(simd, rows, a, b, c, d);
    }

    #[inline(always)]
    fn half_quarter<const D: i32, const B: i32>(
        simd: V4,
        rows: &mut Rows,
        a: usize,
        b: usize,
        c: usize,
        d: usize,
    ) {
        rows[a] = simd.wrapping_add_u32x16(rows[a], rows[b]);
        rows[d] = rotate::<D>(simd, simd.xor_u32x16(rows[d], rows[a]));
        rows[c] = simd.wrapping_add_u32x16(rows[c], rows[d]);
        rows[b] = rotate::<B>(simd, simd.xor_u32x16(rows[b], rows[c]));
    }

    #[inline(always)]
    fn rotate<const BITS: i32>(simd: V4, x: u32x16) -> u32x16 {
        cast(simd.avx512f._mm512_rol_epi32::<BITS>(cast(x)))
    }

    /// Rows (word i of every block) into blocks (every word of block j): 16 × 16 words.
    #[inline(always)]
    fn transpose(simd: V4, rows: Rows) -> [u64x8; 16] {
        let f = simd.avx512f;
        let rows = rows.map(cast);
        // Within each quarter of 128 bits: pairs of words, then fours.
        let mut fours = rows;
        for group in 0..4 {
            let at = 4 * group;
            let [a, b, c, d] = [rows[at], rows[at + 1], rows[at + 2], rows[at + 3]];
            let (ab_low, ab_high) = (f._mm512_unpacklo_epi32(a, b), f._mm512_unpackhi_epi32(a, b));
            let (cd_low, cd_high) = (f._mm512_unpacklo_epi32(c, d), f._mm512_unpackhi_epi32(c, d));
            fours[at] = f._mm512_unpacklo_epi64(ab_low, cd_low);
            fours[at + 1] = f._mm512_unpackhi_epi64(ab_low, cd_low);
            fours[at + 2] = f._mm512_unpacklo_epi64(ab_high, cd_high);
            fours[at + 3] = f._mm512_unpackhi_epi64(ab_high, cd_high);
        }
        // fours[4·g + i], quarter j: words 4·g to 4·g + 3 of block 4·j + i. Now the quarters.
        let mut blocks = [simd.splat_u64x8(0); 16];
        for i in 0..4 {
            let [a, b, c, d] = [fours[i], fours[i + 4], fours[i + 8], fours[i + 12]];
            let ab_even = f._mm512_shuffle_i32x4::<0b10_00_10_00>(a, b);
            let ab_odd = f._mm512_shuffle_i32x4::<0b11_01_11_01>(a, b);
            let cd_even = f._mm512_shuffle_i32x4::<0b10_00_10_00>(c, d);
            let cd_odd = f._mm512_shuffle_i32x4::<0b11_01_11_01>(c, d);
            blocks[i] = cast(f._mm512_shuffle_i32x4::<0b10_00_10_00>(ab_even, cd_even));
            blocks[i + 4] = cast(f._mm512_shuffle_i32x4::<0b10_00_10_00>(ab_odd, cd_odd));
            blocks[i + 8] = cast(f._mm512_shuffle_i32x4::<0b11_01_11_01>(ab_even, cd_even));
            blocks[i + 12] = cast(f._mm512_shuffle_i32x4::<0b11_01_11_01>(ab_odd, cd_odd));
        }
        blocks
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_widest_kernel_gives_the_words_of_rand_chacha() {
        let key = std::array::from_fn(|i| 7 * i as u8 + 1);
        for stream in [0, 1, 5, u64::from(u32::MAX), 1 << 32, u64::MAX] {
            let (mut fast, mut plain) = (
                KeyStream::new(&key, stream),
                KeyStream::portable(&key, stream),
            );
            // Pieces that begin and end inside a step, at its edge and beyond it.
            for length in [1, 126, 1, 128, 129, 4096, 0, 3, 300] {
                let (mut a, mut b) = (vec![0; length], vec![1; length]);
                fast.fill(&mut a);
                plain.fill(&mut b);
                assert_eq!(a, b, "stream {stream}, {length} words");
            }
        }
    }
}
