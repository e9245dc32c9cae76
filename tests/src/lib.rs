//! What the tests of whole federations share.
//!
//! [`federation`]: a whole federation on this machine, by the functions that production calls, over real sockets with
//! mutual TLS. [`keys`]: its parties' keys and certificates. [`learner`]: members that "train" by giving plain vectors.
//! [`plaintext`]: what the sealed path must come to, worked out anew. [`front`]: a malicious server, as a front before
//! the honest one. [`tap`]: every byte that a member sends. [`network`]: a
//! network that delays, stalls and cuts what it carries. [`cut`]: a disk that ends a run at a chosen write. [`lives`]: a server that
//! dies and is started again. [`forge`]: copies of what nodes keep, to rewrite history in. [`witness`]: what must hold whatever
//! ended a member's run, and when. [`vectors`]: the known-answer vectors of signed objects. [`fuzz`]: every parser of
//! bytes from outside, as a plain function.

pub mod cut;
pub mod federation;
pub mod forge;
pub mod front;
pub mod fuzz;
pub mod keys;
pub mod learner;
pub mod lives;
pub mod network;
pub mod plaintext;
pub mod tap;
pub mod vectors;
pub mod witness;
