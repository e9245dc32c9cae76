//! Where a backbone runs.

pub use candle_core::Device;
use candle_core::DeviceLocation;

use crate::error::{Error, Result};

/// The device of a name: `cpu`; `cuda` or `cuda:N`, the first or the N-th NVIDIA GPU, counted from 0;
/// `auto`, the first GPU where this build can use one and there is one, else the CPU.
///
/// # Errors
/// [`Error::Misuse`] for another name; [`Error::Refused`] for a GPU that this build cannot use or
/// that is not there.
pub fn find(name: &str) -> Result<Device> {
    match name.split_once(':') {
        None if name == "cpu" => Ok(Device::Cpu),
        None if name == "cuda" => cuda(0),
        None if name == "auto" && cfg!(feature = "cuda") => Ok(cuda(0).unwrap_or(Device::Cpu)),
        None if name == "auto" => Ok(Device::Cpu),
        Some(("cuda", number)) => match number.parse() {
            Ok(number) => cuda(number),
            Err(_) => Err(unknown(name)),
        },
        _ => Err(unknown(name)),
    }
}

/// The name by which [`find`] finds a device.
pub fn name(device: &Device) -> String {
    match device.location() {
        DeviceLocation::Cpu => "cpu".into(),
        DeviceLocation::Cuda { gpu_id } => format!("cuda:{gpu_id}"),
        DeviceLocation::Metal { gpu_id } => format!("metal:{gpu_id}"),
    }
}

fn cuda(number: usize) -> Result<Device> {
    if cfg!(not(feature = "cuda")) {
        return Err(Error::Refused(
            "this program was built without CUDA: build it with `--features cuda`, or use the device cpu".into(),
        ));
    }
    Device::new_cuda(number)
        .map_err(|error| Error::Refused(format!("GPU number {number} cannot be used: {error}")))
}

fn unknown(name: &str) -> Error {
    Error::Misuse(format!("device {name:?}; known: auto, cpu, cuda, cuda:N"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_is_found_by_its_name() {
        let cpu = find("cpu").expect("a device");
        assert!(cpu.is_cpu() && name(&cpu) == "cpu");
        assert!(find("auto").is_ok());
        for name in ["", "gpu", "cuda:", "cuda:x", "cpu:0", "CUDA"] {
            assert!(
                matches!(find(name), Err(Error::Misuse(text)) if text.contains("cuda:N")),
                "{name}"
            );
        }
        // There are never a thousand of them.
        let refused = find("cuda:1000").map(drop);
        assert!(
            matches!(refused, Err(Error::Refused(text)) if text.contains("cpu") || text.contains("1000"))
        );
    }
}
