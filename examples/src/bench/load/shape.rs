//! How many members send how much, and who holds the shares.

use ciphertune_seal::SEALED_SHARE_BYTES;
use ciphertune_sum::{CohortSize, Parameters, ValueBound};

use crate::{Error, Result, bench::options::LoadOptions};

/// One load.
#[derive(Clone, Debug)]
pub struct Shape {
    /// All of the federation; everybody takes part in every job.
    pub members: usize,
    /// Jobs side by side, a round each.
    pub jobs: usize,
    /// Values in a vector.
    pub length: usize,
    /// Bits for one integer, sign included.
    pub value_bits: u32,
    /// c.
    pub colluders: usize,
    /// k, where not everybody holds shares.
    pub committee: Option<usize>,
}

impl Shape {
    /// The load of so many members that was asked for.
    pub fn of(options: &LoadOptions, members: usize) -> Result<Self> {
        let length = usize::try_from(options.parameters)
            .map_err(|error| Error::Usage(format!("--parameters: {error}")))?;
        let shape = Self {
            members,
            jobs: options.jobs,
            length,
            value_bits: options.value_bits,
            colluders: members.checked_div(options.colluding).unwrap_or(0),
            committee: (options.committee < members).then_some(options.committee),
        };
        shape.parameters()?;
        Ok(shape)
    }

    /// B.
    pub fn value_bound(&self) -> u64 {
        (1 << (self.value_bits.clamp(2, 50) - 1)) - 1
    }

    /// The parameter set that the server will derive.
    pub fn parameters(&self) -> Result<Parameters> {
        CohortSize::new(self.members)
            .and_then(|size| Parameters::derive(size, ValueBound::new(self.value_bound())?))
            .map_err(|error| Error::Usage(error.to_string()))
    }

    /// Bytes of one body.
    pub fn body_bytes(&self) -> Result<u64> {
        Ok(self.parameters()?.body_bytes(self.length))
    }

    /// How many hold shares.
    pub fn holders(&self) -> usize {
        self.committee.unwrap_or(self.members)
    }

    /// What a member sends to contribute to one job: its body, and a sealed share for each holder.
    pub fn contribution_bytes(&self) -> Result<u64> {
        Ok(self.body_bytes()? + (self.holders() * SEALED_SHARE_BYTES) as u64)
    }

    /// All contributions to all jobs.
    pub fn upload_bytes(&self) -> Result<u64> {
        Ok(self.contribution_bytes()? * (self.members * self.jobs) as u64)
    }

    /// Below it nothing is summed: without noise at least three.
    pub fn min_contributors(&self) -> usize {
        (self.colluders + 2).max(3)
    }

    /// The federation's policy. Without noise: there is nothing to hide.
    pub fn policy(&self) -> String {
        let committee = self
            .committee
            .map(|size| format!("committee = {size}\n"))
            .unwrap_or_default();
        format!(
            "schema = 1\nname = \"load\"\n[privacy]\nunit = \"none\"\nclip_norm = \"1\"\nrounds = 1\n\
             [aggregation]\nmin_contributors = {}\ncolluders = {}\n{committee}\
             [model]\nbackbones = [\"any\"]\nencoders = [\"embedding\"]\ntasks = [\"classification\"]\n\
             [releases]\nmetrics = []\n",
            self.min_contributors(),
            self.colluders,
        )
    }
}
