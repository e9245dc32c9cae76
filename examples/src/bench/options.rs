//! The command line.

use std::{num::NonZeroU8, path::PathBuf};

use ciphertune_policy::Decimal;
use ciphertune_sum::{CohortSize, Parameters, ValueBound};
use clap::{Args, Parser, Subcommand};

use super::tune::shape::{EncoderKind, Shape as TuneShape};
use crate::{
    Error, Result,
    options::{Party, members},
};

/// What the parts of a round cost on this machine, by the functions that production calls.
#[derive(Debug, Parser)]
#[command(name = "bench", version)]
pub struct Arguments {
    /// What to measure.
    #[command(subcommand)]
    pub command: Command,
}

/// What to measure.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Sealed aggregation: seal, add, check, open.
    ///
    /// One round of members with random values, bodies in memory: no disk and no network is measured. The opened sum
    /// is held to the plain one. It is opened in a vector that held values before, as a member opens it in the one that
    /// it sealed from; the figure with a fresh one stands beside it. Every figure counts parameters of one vector a
    /// second and a member's whole call (digests, shares and checks included), but for `add`, which counts the
    /// parameters of every body that it reads: members × parameters in each sum.
    Seal(SealOptions),
    /// A whole federation for one round: server and members in processes of their own, mutual TLS on loopback, bodies
    /// and sums on disk.
    ///
    /// Everything that production does is in it but training: the members send pseudo-random vectors, and every new
    /// model is held to the plain ones. No differential privacy: its noise would cost time that is not the sum's.
    Sockets(SocketOptions),
    /// Hundreds of light members at once: what the server takes, beside a plain copy over the same TLS.
    ///
    /// The server is a process of its own; the members are tasks of this one, each with a certificate, a connection with mutual
    /// TLS and an event stream. They say all that a member says in a round, but seal nothing: bodies are words below q, shares
    /// are random bytes, signatures of other members are not verified. Every sum is held to the plain one. Before each load as
    /// much is copied plainly, over as many connections with the same TLS, into files of another process.
    Load(LoadOptions),
    /// Sharing keys among a whole cohort and among a committee, as the cohort grows.
    ///
    /// A contributor's shares, a holder's sum of shares and its release, and rebuilding the sum of keys, one of each timed;
    /// what all members do together follows from these. Vectors are small: bodies are what `seal` measures.
    Committee(CommitteeOptions),
    /// The privacy accountants: seconds to find the noise that an epsilon needs, and to account for it.
    Account(AccountOptions),
    /// Making an update private: clip and quantise, then noise, on one thread.
    Privatise(PrivatiseOptions),
    /// What hiding single records costs a training step.
    Step(StepOptions),
    /// What an auditor's computer needs for a long log.
    ///
    /// A server's log of whole rounds, every object signed and beside it, a checkpoint a round; and one whose entries rest on
    /// nothing, a checkpoint every hundred, where the chain is all there is. Writing them takes longer than verifying: every entry is
    /// synced (TMPDIR=/dev/shm is quicker).
    Audit(AuditOptions),
    /// A p-tuning step, beside PyTorch + PEFT on the same model and tokens.
    ///
    /// Forward, loss on the answers alone, backward through the frozen backbone to the encoder's gradient, and a step of
    /// AdamW: what a member's own training does. Every side is a process of its own, and they take their steps in turn. Extra
    /// memory is what is resident at most while steps are taken beyond what is when the model is loaded. Llamas have
    /// random weights.
    Tune(TuneOptions),
    /// Takes p-tuning steps when it is told to.
    #[command(hide = true)]
    TuneWorker(TuneWorker),
    /// Verifies a log in a process of its own.
    #[command(hide = true)]
    AuditWorker(AuditWorker),
    /// One party in a process of its own, its bodies in files.
    #[command(hide = true)]
    Child(Child),
    /// Plays one party of a federation; started by the benchmark itself.
    #[command(hide = true)]
    Party {
        /// Which.
        #[command(subcommand)]
        party: Party,
    },
}

/// `bench seal`.
#[derive(Args, Clone, Debug)]
pub struct SealOptions {
    /// Parameters of the model: values in each member's vector.
    #[arg(long, value_name = "N", default_value_t = 16_000_000, value_parser = clap::value_parser!(u64).range(1..=1 << 32))]
    pub parameters: u64,
    /// Members, who all contribute.
    #[arg(long, value_name = "N", default_value_t = 3)]
    pub members: usize,
    /// B: every value lies in -B..=B; 2^b - 1.
    #[arg(long, value_name = "B", default_value_t = 2047)]
    pub value_bound: u64,
    /// Threads of a member that seals, checks or opens.
    #[arg(long, value_name = "N", default_value = "1")]
    pub threads: NonZeroU8,
    /// Samples of each phase at least (seal: one a member at least); the median is what is told.
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    pub repeats: u32,
    /// Seconds that each phase is sampled for at least.
    #[arg(long, value_name = "SECONDS", default_value_t = 0.0)]
    pub seconds: f64,
    /// One JSON object on standard output instead of a table.
    #[arg(long)]
    pub json: bool,
}

impl SealOptions {
    /// The cohort and its vectors.
    pub fn shape(&self) -> Result<Shape> {
        Shape::new(self.parameters, self.members, self.value_bound)
    }
}

/// `bench sockets`.
#[derive(Args, Clone, Debug)]
pub struct SocketOptions {
    /// Parameters of the model: values in each member's vector.
    #[arg(long, value_name = "N", default_value_t = 50_400_000, value_parser = clap::value_parser!(u64).range(1..=1 << 32))]
    pub parameters: u64,
    /// Members, who all contribute.
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = members)]
    pub members: usize,
    /// Bits for one integer, sign included.
    #[arg(long, value_name = "BITS", default_value_t = 12)]
    pub value_bits: u32,
    /// Threads of each member that seal, check and open: all members share this machine.
    #[arg(long, value_name = "N", default_value = "1")]
    pub threads: NonZeroU8,
    /// One JSON object on standard output instead of words.
    #[arg(long)]
    pub json: bool,
}

/// `bench load`.
#[derive(Args, Clone, Debug)]
pub struct LoadOptions {
    /// Members, one load for each number; all contribute to every job.
    #[arg(
        long,
        value_name = "N,N,...",
        value_delimiter = ',',
        default_value = "100",
        value_parser = clap::builder::RangedU64ValueParser::<usize>::new().range(3..=1000)
    )]
    pub members: Vec<usize>,
    /// Parameters of the model; halved, and said so, until twice all bodies fit the free disk (TMPDIR).
    #[arg(long, value_name = "N", default_value_t = 25_200_000, value_parser = clap::value_parser!(u64).range(1..=1 << 32))]
    pub parameters: u64,
    /// Jobs side by side, one round each.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::builder::RangedU64ValueParser::<usize>::new().range(1..=32))]
    pub jobs: usize,
    /// k: so many hold the shares, where there are more members than that.
    #[arg(long, value_name = "K", default_value_t = 30)]
    pub committee: usize,
    /// One member in so many colludes; 0: none does.
    #[arg(long, value_name = "M", default_value_t = 20)]
    pub colluding: usize,
    /// Bits for one integer, sign included.
    #[arg(long, value_name = "BITS", default_value_t = 12, value_parser = clap::value_parser!(u32).range(2..=32))]
    pub value_bits: u32,
    /// Draws growth with members: an SVG.
    #[arg(long, value_name = "FILE")]
    pub chart: Option<PathBuf>,
    /// One JSON object on standard output instead of words.
    #[arg(long)]
    pub json: bool,
}

/// `bench committee`.
#[derive(Args, Clone, Debug)]
pub struct CommitteeOptions {
    /// Members of each cohort, all of their federation.
    #[arg(
        long,
        value_name = "N,N,...",
        value_delimiter = ',',
        default_value = "10,30,100,300,1000"
    )]
    pub members: Vec<usize>,
    /// k: how many hold the shares; all, of fewer members.
    #[arg(long, value_name = "K", default_value_t = 60)]
    pub committee: usize,
    /// One member in so many colludes; 0: none does.
    #[arg(long, value_name = "M", default_value_t = 10)]
    pub colluding: usize,
    /// The largest cohort in which everybody's holding a share is measured too.
    #[arg(long, value_name = "N", default_value_t = 1000)]
    pub whole_up_to: usize,
    /// One JSON object on standard output instead of tables.
    #[arg(long)]
    pub json: bool,
}

/// `bench account`.
#[derive(Args, Clone, Debug)]
pub struct AccountOptions {
    /// Steps of the schedule.
    #[arg(long, value_name = "T", default_value_t = 5000)]
    pub steps: u32,
    /// q of rdp and pld; zcdp is measured at 1.
    #[arg(long, value_name = "Q", default_value = "0.05")]
    pub sampling_rate: Decimal,
    /// The epsilon to calibrate for.
    #[arg(long, value_name = "E", default_value = "8")]
    pub epsilon: Decimal,
    /// delta.
    #[arg(long, value_name = "D", default_value = "1e-5")]
    pub delta: Decimal,
    /// Samples of each; the median is what is told.
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    pub repeats: u32,
    /// One JSON object on standard output instead of words.
    #[arg(long)]
    pub json: bool,
}

/// `bench audit`.
#[derive(Args, Clone, Debug)]
pub struct AuditOptions {
    /// Entries of each log, about.
    #[arg(
        long,
        value_name = "N,N,...",
        value_delimiter = ',',
        default_value = "10000,100000"
    )]
    pub entries: Vec<usize>,
    /// Members of the federation: so many contribute to every round.
    #[arg(long, value_name = "N", default_value_t = 19)]
    pub members: usize,
    /// Samples of each; the median is what is told.
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    pub repeats: u32,
    /// One JSON object on standard output instead of words.
    #[arg(long)]
    pub json: bool,
}

/// `bench audit-worker`.
#[derive(Args, Clone, Debug)]
pub struct AuditWorker {
    /// The node's folder.
    pub folder: PathBuf,
}

/// `bench step`.
#[derive(Args, Clone, Debug)]
pub struct StepOptions {
    /// Labelled sentences, as `demo` takes them.
    #[arg(long, value_name = "FILE")]
    pub data: PathBuf,
    /// A backbone, as `demo` takes it.
    #[arg(long, value_name = "DIR")]
    pub model: PathBuf,
    /// The width of PEFT's MLP encoder. [default: the embeddings themselves]
    #[arg(long, value_name = "N")]
    pub mlp: Option<usize>,
    /// Clips the gradient of the encoder's own parameters instead of the prompt's.
    #[arg(long)]
    pub in_parameter_space: bool,
    /// Records of the step: the first of the file.
    #[arg(long, value_name = "N", default_value_t = 60)]
    pub batch: usize,
    /// Samples of each; the median is what is told.
    #[arg(long, value_name = "N", default_value_t = 7, value_parser = clap::value_parser!(u32).range(1..))]
    pub repeats: u32,
    /// One JSON object on standard output instead of words.
    #[arg(long)]
    pub json: bool,
}

/// `bench tune`.
#[derive(Args, Clone, Debug)]
pub struct TuneOptions {
    /// Which models.
    #[arg(
        long,
        value_name = "SHAPE,...",
        value_delimiter = ',',
        default_value = "small,medium,minilm"
    )]
    pub shapes: Vec<TuneShape>,
    /// Numbers of threads, one after the other.
    #[arg(
        long,
        value_name = "N,...",
        value_delimiter = ',',
        default_value = "1,2"
    )]
    pub threads: Vec<usize>,
    /// The prompt encoder.
    #[arg(long, value_enum, default_value = "mlp")]
    pub encoder: EncoderKind,
    /// The folder of all-MiniLM-L6-v2, for the shape minilm; without it, that is left out and said so.
    #[arg(long, value_name = "DIR")]
    pub model: Option<PathBuf>,
    /// A Python that has torch, transformers and peft, to be measured beside.
    #[arg(long, value_name = "PYTHON")]
    pub torch: Option<PathBuf>,
    /// Where both sides compute: cpu, cuda or cuda:N. (On a GPU, memory is told of PyTorch alone.)
    #[arg(long, value_name = "DEVICE", default_value = "cpu")]
    pub device: String,
    /// Steps of each side; the median is what is told.
    #[arg(long, value_name = "N", default_value_t = 7, value_parser = clap::value_parser!(u32).range(1..))]
    pub repeats: u32,
    /// One JSON object on standard output instead of words.
    #[arg(long)]
    pub json: bool,
}

/// One side of the measurement of training steps.
#[derive(Args, Clone, Debug)]
pub struct TuneWorker {
    /// What it is given.
    #[arg(long)]
    pub case: PathBuf,
    /// Computes activations again in the backward pass.
    #[arg(long)]
    pub recompute: bool,
}

/// `bench privatise`.
#[derive(Args, Clone, Debug)]
pub struct PrivatiseOptions {
    /// Parameters of the model: the length of the update.
    #[arg(long, value_name = "N", default_value_t = 50_000_000, value_parser = clap::value_parser!(u64).range(1..=1 << 32))]
    pub parameters: u64,
    /// Members that share the noise; one of them is assumed to subtract its own.
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = members)]
    pub members: usize,
    /// C: the update is clipped to this L2 norm.
    #[arg(long, value_name = "C", default_value = "1")]
    pub clip_norm: Decimal,
    /// z: the noise of the sum is z times the clip. The default gives epsilon 8 in 50 rounds.
    #[arg(long, value_name = "Z", default_value = "4.509")]
    pub noise_multiplier: Decimal,
    /// Bits for one integer, sign included; with much noise they grow.
    #[arg(long, value_name = "BITS", default_value_t = 16)]
    pub value_bits: u32,
    /// Samples; the median is what is told.
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    pub repeats: u32,
    /// One JSON object on standard output instead of words.
    #[arg(long)]
    pub json: bool,
}

/// One party of the measurement of memory.
#[derive(Args, Clone, Debug)]
pub struct Child {
    /// Which.
    #[arg(long, value_enum)]
    pub part: Part,
    /// Parameters.
    #[arg(long)]
    pub parameters: u64,
    /// Members.
    #[arg(long)]
    pub members: usize,
    /// B.
    #[arg(long)]
    pub value_bound: u64,
    /// Where bodies and sums lie.
    #[arg(long)]
    pub folder: PathBuf,
}

/// What a child process does.
#[derive(clap::ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// A member that seals its values into a file.
    Seal,
    /// A server that adds as many files as there are members.
    Add,
    /// A member that checks and opens a sum in a file.
    Open,
}

/// How many vectors of how many values of which size.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Values in a vector.
    pub length: usize,
    /// The parameter set of the cohort.
    pub parameters: Parameters,
}

impl Shape {
    /// Refuses what has no parameter set.
    pub fn new(length: u64, members: usize, value_bound: u64) -> Result<Self> {
        let derive =
            || Parameters::derive(CohortSize::new(members)?, ValueBound::new(value_bound)?);
        let parameters = derive().map_err(|error| Error::Usage(error.to_string()))?;
        let length = usize::try_from(length).map_err(|error| Error::Usage(error.to_string()))?;
        Ok(Self { length, parameters })
    }

    /// n.
    pub fn members(&self) -> usize {
        self.parameters.members()
    }

    /// t = ⌊n/2⌋ + 1, the protocol's default without colluders.
    pub fn threshold(&self) -> usize {
        self.members() / 2 + 1
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_holds_together_and_hides_the_children() {
        let mut command = Arguments::command();
        command.clone().debug_assert();
        let help = command.render_long_help().to_string();
        assert!(
            help.contains("sockets")
                && help.contains("privatise")
                && help.contains("account")
                && !help.contains("child")
                && !help.contains("party")
        );
    }

    #[test]
    fn a_cohort_without_a_parameter_set_is_a_usage_error() {
        for (members, bound) in [(1, 2047), (3, 2048), (3, 0)] {
            assert!(matches!(
                Shape::new(1, members, bound),
                Err(Error::Usage(_))
            ));
        }
        assert_eq!(Shape::new(1, 3, 2047).unwrap().threshold(), 2);
    }
}
