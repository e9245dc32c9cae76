//! The right edge of a Merkle tree: all that is needed to append to it and to say its root.

use sha2::{Digest as _, Sha256};

/// A hash of the tree.
pub(crate) type Hash = [u8; 32];

/// The roots of the perfect subtrees that a tree of so many leaves is made of, largest first (RFC 6962, section 2.1): log₂ n
/// hashes, however long the log.
#[derive(Clone, Debug, Default)]
pub(crate) struct Frontier {
    size: u64,
    subtrees: Vec<Hash>,
}

impl Frontier {
    /// Appends a leaf's hash.
    pub(crate) fn push(&mut self, leaf: Hash) {
        self.size += 1;
        let mut root = leaf;
        // A bit that carries is two subtrees of one size that become one.
        for _ in 0..self.size.trailing_zeros() {
            if let Some(left) = self.subtrees.pop() {
                root = node(&left, &root);
            }
        }
        self.subtrees.push(root);
    }

    /// Becomes the same as another, in the memory that it has.
    pub(crate) fn copy_from(&mut self, other: &Self) {
        self.size = other.size;
        self.subtrees.clone_from(&other.subtrees);
    }

    /// How many leaves there are.
    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    /// The root of the tree over them.
    pub(crate) fn root(&self) -> Hash {
        let mut subtrees = self.subtrees.iter().rev();
        let Some(last) = subtrees.next() else {
            return Sha256::digest([]).into();
        };
        subtrees.fold(*last, |right, left| node(left, &right))
    }
}

/// SHA-256(0x00 ‖ line).
pub(crate) fn leaf(line: &[u8]) -> Hash {
    Sha256::new_with_prefix([0])
        .chain_update(line)
        .finalize()
        .into()
}

/// SHA-256(0x01 ‖ left ‖ right).
fn node(left: &Hash, right: &Hash) -> Hash {
    Sha256::new_with_prefix([1])
        .chain_update(left)
        .chain_update(right)
        .finalize()
        .into()
}
