//! Compiles the service without a system protoc.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    let descriptors = protox::compile(["proto/federation.proto"], ["proto"])?;
    tonic_prost_build::configure()
        .bytes(".ciphertune.wire.Chunk.data")
        .bytes(".ciphertune.wire.BodyChunk.data")
        .bytes(".ciphertune.wire.ParcelChunk.data")
        .compile_fds(descriptors)?;
    Ok(())
}
