//! Sizes that hold on both sides, before anything is allocated.

/// The largest message: sealed shares for a hundred seats, or a plan of a thousand, fit.
pub const MESSAGE_BYTES: usize = 8 << 20;

/// Bytes of a body or sum in one message of a stream. A multiple of a word, and of a block of 4,096 words.
pub const CHUNK_BYTES: usize = 256 << 10;

/// One-time keys that one call may add.
pub const KEYS_A_CALL: usize = 256;

/// One-time keys that the server holds for one member.
pub const KEY_STOCK: usize = 1_024;
