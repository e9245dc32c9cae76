//! The flags that say which backbone, and where it runs.

use std::path::PathBuf;

use ciphertune_client::{Result, tuned::Opened};
use ciphertune_tune::{
    backbone::Options,
    device::{self, Device},
};
use clap::Args;

/// The frozen backbone, and where it runs.
#[derive(Args)]
pub struct BackboneFlags {
    /// The frozen backbone: a Hugging Face folder.
    #[arg(long, value_name = "DIR")]
    pub model: PathBuf,
    /// Where it runs: auto (a GPU, where this build can use one and there is one), cpu, cuda or cuda:N.
    #[arg(
        long,
        value_name = "DEVICE",
        default_value = "auto",
        env = "CIPHERTUNE_DEVICE"
    )]
    device: String,
}

impl BackboneFlags {
    pub fn device(&self) -> Result<Device> {
        Ok(device::find(&self.device)?)
    }

    /// Opens it.
    pub fn open(&self, options: Options) -> Result<Opened> {
        Opened::open(&self.model, &self.device()?, options)
    }
}
