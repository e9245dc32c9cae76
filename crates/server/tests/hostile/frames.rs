//! Attacks in gRPC's frames and in protobuf: lengths that lie, what is cut short, what is no message, what would grow.

use ciphertune_wire::{
    limits::REQUEST_BYTES,
    proto::{DirectoryRequest, PutOneTimeKeysRequest},
};
use tonic::Code;

use crate::{
    raw::{Answer, frame, framed, http2},
    siege::{ATTACKER, PROMPTLY, begin, bytes_under, completes, federation, is_answered},
};

const METHODS: [&str; 20] = [
    "Directory",
    "SubmitJob",
    "AbortJob",
    "JobStatus",
    "Admit",
    "PutOneTimeKeys",
    "Events",
    "PutShares",
    "GetShares",
    "PutBody",
    "BodyOffset",
    "GetBody",
    "GetSum",
    "PutEcho",
    "PutAgreement",
    "PutParcelRequest",
    "PutParcel",
    "GetParcel",
    "GetLog",
    "GetEvidence",
];

/// A length that no message may have is refused when it is read: nothing is waited for, nothing allocated.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_oversized_length_is_refused_before_its_bytes() {
    let federation = federation();
    let server = federation.serve();
    let (members, plan) = begin(&federation, &server).await;
    let http2 = http2(&server, &federation, &federation.members[ATTACKER]).await;
    for length in [REQUEST_BYTES as u32 + 1, u32::MAX] {
        for method in METHODS {
            // Its end never comes.
            let (frames, answer) = http2.open(method);
            frames.send(framed(0, length, &[]).into()).await.unwrap();
            let answer = tokio::time::timeout(PROMPTLY, answer).await;
            let answer = answer.expect("it waits for the bytes").unwrap();
            // A stream's handler says in its own words that there was no first message.
            let expected = matches!(
                answer.code(),
                Some(Code::OutOfRange | Code::InvalidArgument)
            );
            assert!(expected, "{method}: {answer:?}");
            drop(frames);
        }
    }
    completes(&federation, members, &plan).await;
}

/// Lengths within bounds that are not those of what follows: too long, too short, and likewise inside of the message.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lying_length_is_refused() {
    let federation = federation();
    let server = federation.serve();
    let (mut members, plan) = begin(&federation, &server).await;
    let mut http2 = http2(&server, &federation, &federation.members[ATTACKER]).await;
    let context = [&[0x0A, 32], plan.context().as_bytes().as_slice()].concat();
    let short = context.len() as u32 - 1;
    let frames = [
        framed(0, REQUEST_BYTES as u32, &context),
        framed(0, short, &context),
        // A field of 2⁶² bytes, one that ends behind the message, and a number of eleven bytes.
        framed(
            0,
            10,
            &[0x0A, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0x3F],
        ),
        framed(0, 3, &[0x0A, 0x7F, 0]),
        framed(
            0,
            12,
            &[
                0x08, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0x01,
            ],
        ),
    ];
    for method in METHODS {
        for bytes in &frames {
            let answer = http2.call(method, bytes.clone(), &[]).await;
            assert_ne!(answer.code(), Some(Code::Ok), "{method}: {bytes:?}");
        }
        is_answered(&mut members[0]).await;
    }
    completes(&federation, members, &plan).await;
}

/// Headers of a frame without the frame, half a message, none: the stream ends, or its connection does.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_truncated_frame_is_refused_and_leaves_nothing() {
    let federation = federation();
    let server = federation.serve();
    let (members, plan) = begin(&federation, &server).await;
    let data = federation.data().join("contexts");
    let before = bytes_under(&data);
    let whole = frame(&PutOneTimeKeysRequest {
        keys: vec![vec![7; 1000]; 3],
    });
    for cut in [0, 1, 4, 5, 6, 500, whole.len() - 1] {
        let mut ends = http2(&server, &federation, &federation.members[ATTACKER]).await;
        for method in ["PutOneTimeKeys", "PutBody", "PutShares", "PutParcel"] {
            let answer = ends.call(method, whole[..cut].to_vec(), &[]).await;
            assert_ne!(answer.code(), Some(Code::Ok), "{method}, {cut} bytes");
            let (frames, answer) = ends.open(method);
            frames.send(whole[..cut].to_vec().into()).await.unwrap();
            answer.abort(); // with a reset
        }
        drop(ends); // and the connection
    }
    assert_eq!(bytes_under(&data), before);
    completes(&federation, members, &plan).await;
}

/// Pseudo-random messages to every method.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_protobuf_is_refused_by_every_method() {
    let federation = federation();
    let server = federation.serve();
    let (mut members, plan) = begin(&federation, &server).await;
    let mut http2 = http2(&server, &federation, &federation.members[ATTACKER]).await;
    let mut state = 0x2545_F491_4F6C_DD1D_u64;
    let mut random = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    for method in METHODS {
        for _ in 0..12 {
            let length = random() % 300;
            let mut bytes: Vec<u8> = (0..length).map(|_| random() as u8).collect();
            // Half of them begin as a first field of bytes does, which gets further.
            if random() & 1 == 0 && bytes.len() > 2 {
                (bytes[0], bytes[1]) = (0x0A, (bytes.len() as u8 - 2).min(127));
            }
            let answer = http2.call(method, framed(0, bytes.len() as u32, &bytes), &[]);
            // Fields that a message does not have are passed over, so this may be one; never is it a fault.
            let answer = tokio::time::timeout(PROMPTLY, answer).await.expect(method);
            let is_fault =
                matches!(&answer, Answer::Status(Code::Internal, said) if said.contains("fault"));
            assert!(!is_fault, "{method}: {answer:?}");
        }
        is_answered(&mut members[0]).await;
    }
    completes(&federation, members, &plan).await;
}

/// A gzip of zeros, a thousand times smaller than they: no compression is agreed on, so none is undone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_compression_bomb_is_refused_unread() {
    // gzip of 10 MB of zeros begins so; it need not be whole.
    let bomb = [
        [0x1F, 0x8B, 8, 0, 0, 0, 0, 0, 2, 3, 0xEC, 0xC1, 1, 1].as_slice(),
        &[0; 9_000],
    ]
    .concat();
    let federation = federation();
    let server = federation.serve();
    let (members, plan) = begin(&federation, &server).await;
    let mut http2 = http2(&server, &federation, &federation.members[ATTACKER]).await;
    let length = bomb.len() as u32;
    for encoding in ["gzip", "deflate", "zstd", "br"] {
        for method in METHODS {
            let headers = [("grpc-encoding", encoding)];
            let answer = http2.call(method, framed(1, length, &bomb), &headers).await;
            assert_eq!(
                answer.code(),
                Some(Code::Unimplemented),
                "{method}: {answer:?}"
            );
        }
    }
    // The flag alone; the stream's handlers say in their own words that there was no first message.
    for method in METHODS {
        let answer = http2.call(method, framed(1, length, &bomb), &[]).await;
        let expected = matches!(answer.code(), Some(Code::Internal | Code::InvalidArgument));
        assert!(expected, "{method}: {answer:?}");
    }
    let answer = http2
        .call("Directory", frame(&DirectoryRequest {}), &[])
        .await;
    assert_eq!(answer.code(), Some(Code::Ok), "{answer:?}");
    completes(&federation, members, &plan).await;
}
