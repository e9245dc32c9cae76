//! Small, repeatable damage to kept inputs.

/// Numbers that lengths, counts and edges are lied with.
const EDGES: [u64; 12] = [
    0,
    1,
    0x7F,
    0x80,
    0xFF,
    0x7FFF,
    0xFFFF,
    0x7FFF_FFFF,
    0xFFFF_FFFF,
    0x7FFF_FFFF_FFFF_FFFF,
    0xFFFF_FFFF_0000_0001, // q
    u64::MAX,
];

/// Pieces of the texts that are parsed here.
const WORDS: [&[u8]; 22] = [
    b"\"",
    b"{",
    b"}",
    b"[",
    b"]",
    b",",
    b":",
    b"\n",
    b"\r\n",
    b"\\u0000",
    b"null",
    b"-1",
    b"0",
    b"1e999",
    b"18446744073709551616",
    b"9999999999999999",
    b"=",
    b"@",
    b"\xEF\xBB\xBF",
    "é".as_bytes(),
    b"\xFF",
    b"\x00",
];

/// No mutation grows beyond this, or beyond its seed where that is longer.
const MOST: usize = 64 << 10;

/// A stream of mutations: the same for the same name, on every machine.
pub struct Mutator {
    /// SplitMix64's.
    state: u64,
}

impl Mutator {
    /// The stream of this name.
    pub fn new(name: &str) -> Self {
        // FNV-1a: any spreading will do.
        let state = name.bytes().fold(0xCBF2_9CE4_8422_2325, |hash: u64, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01B3)
        });
        Self { state }
    }

    /// One of `seeds`, damaged in one to four places.
    pub fn mutation(&mut self, seeds: &[Vec<u8>]) -> Vec<u8> {
        let mut data = seeds[self.below(seeds.len())].clone();
        let most = data.len().max(MOST);
        for _ in 0..=self.below(4) {
            self.damage(&mut data, seeds);
        }
        data.truncate(most);
        data
    }

    fn damage(&mut self, data: &mut Vec<u8>, seeds: &[Vec<u8>]) {
        if data.is_empty() {
            data.extend_from_slice(WORDS[self.below(WORDS.len())]);
            return;
        }
        let at = self.below(data.len());
        let end = at + 1 + self.below((data.len() - at).min(64));
        match self.below(11) {
            0 | 1 => data[at] ^= 1 << self.below(8),
            2 => data[at] = self.next() as u8,
            3 => data.truncate(at),
            4 => drop(data.drain(at..end)),
            5 => {
                let again = data[at..end].to_vec();
                drop(data.splice(at..at, again));
            }
            6 => {
                // The tail of another input.
                let other = &seeds[self.below(seeds.len())];
                data.truncate(at);
                data.extend_from_slice(&other[self.below(other.len() + 1)..]);
            }
            7 => drop(data.splice(at..at, WORDS[self.below(WORDS.len())].iter().copied())),
            8 => drop(data.splice(at..end, WORDS[self.below(WORDS.len())].iter().copied())),
            9 => {
                // A number of 1, 2, 4 or 8 bytes, either way round.
                let edge = EDGES[self.below(EDGES.len())];
                let width = (1 << self.below(4)).min(data.len() - at);
                let bytes = match self.below(2) {
                    0 => edge.to_le_bytes()[..width].to_vec(),
                    _ => edge.to_be_bytes()[8 - width..].to_vec(),
                };
                data[at..at + width].copy_from_slice(&bytes);
            }
            _ => self.lie_with_a_varint(data, at),
        }
    }

    /// Protobuf's lengths and tags are varints.
    fn lie_with_a_varint(&mut self, data: &mut Vec<u8>, at: usize) {
        let mut number = EDGES[self.below(EDGES.len())];
        let mut varint = Vec::new();
        while number > 0x7F {
            varint.push(number as u8 | 0x80);
            number >>= 7;
        }
        varint.push(number as u8);
        drop(data.splice(at..=at, varint));
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mutations_repeat_by_name_and_differ_from_their_seed() {
        let seeds = [b"{\"a\": 12}".to_vec(), vec![7; 300]];
        let draw = |name| {
            let mut mutator = Mutator::new(name);
            (0..500)
                .map(|_| mutator.mutation(&seeds))
                .collect::<Vec<_>>()
        };
        let one = draw("one");
        assert_eq!(one, draw("one"));
        assert_ne!(one, draw("two"));
        let unchanged = one.iter().filter(|data| seeds.contains(data)).count();
        assert!(unchanged < 25, "{unchanged} of 500 are unchanged");
        assert!(one.iter().any(|data| data.len() < 9) && one.iter().any(|data| data.len() > 320));
    }
}
