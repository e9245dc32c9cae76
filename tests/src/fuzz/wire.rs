//! The service's messages, as both ends decode them, and what a peer is told.

use ciphertune_wire::{Refusal, proto};
use prost::Message;
use tonic::{Code, Status};

use super::text;

fn decoded<M: Message + Default + PartialEq>(data: &[u8]) -> bool {
    let Ok(message) = M::decode(data) else {
        return false;
    };
    let bytes = message.encode_to_vec();
    assert!(M::decode(bytes.as_slice()).unwrap() == message);
    true
}

/// Any message of the service: the first byte says which.
pub fn message(data: &[u8]) -> bool {
    let decoders = [
        decoded::<proto::DirectoryReply>,
        decoded::<proto::SubmitJobRequest>,
        decoded::<proto::SubmitJobReply>,
        decoded::<proto::AbortJobRequest>,
        decoded::<proto::JobStatusRequest>,
        decoded::<proto::JobStatusReply>,
        decoded::<proto::AdmitRequest>,
        decoded::<proto::PutOneTimeKeysRequest>,
        decoded::<proto::PutOneTimeKeysReply>,
        decoded::<proto::EventsRequest>,
        decoded::<proto::Event>,
        decoded::<proto::PutSharesRequest>,
        decoded::<proto::GetSharesRequest>,
        decoded::<proto::SealedShare>,
        decoded::<proto::BodyChunk>,
        decoded::<proto::BodyOffsetRequest>,
        decoded::<proto::PutBodyReply>,
        decoded::<proto::GetBodyRequest>,
        decoded::<proto::GetSumRequest>,
        decoded::<proto::Chunk>,
        decoded::<proto::PutSignedRequest>,
    ];
    match data.split_first() {
        Some((kind, rest)) => decoders[usize::from(*kind) % decoders.len()](rest),
        None => false,
    }
}

/// A status from a server: a code, then its sentence.
pub fn refusal(data: &[u8]) -> bool {
    let Some((code, sentence)) = data.split_first() else {
        return false;
    };
    let Some(sentence) = text(sentence) else {
        return false;
    };
    let status = Status::new(Code::from(i32::from(*code)), sentence);
    let Some(refusal) = Refusal::of(&status) else {
        return false;
    };
    assert_eq!(
        (refusal.code(), refusal.sentence()),
        (status.code(), sentence)
    );
    true
}
