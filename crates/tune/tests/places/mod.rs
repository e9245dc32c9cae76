//! Where tests run backbones.

use candle_core::Device;
use ciphertune_tune::backbone::Options;
use ciphertune_tune::device;

/// Where a backbone runs, and how.
pub type Place = (Device, Options);

/// The CPU's kernels, candle's operations on the CPU and, where there is one, a GPU.
pub fn places() -> Vec<Place> {
    let portable = Options {
        portable: true,
        ..Options::default()
    };
    let mut places = vec![(Device::Cpu, Options::default()), (Device::Cpu, portable)];
    match device::find("cuda") {
        Ok(gpu) => places.push((gpu, Options::default())),
        Err(error) if cfg!(feature = "cuda") => eprintln!("SKIPPED on a GPU: {error}"),
        Err(_) => {}
    }
    places
}
