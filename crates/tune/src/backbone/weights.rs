//! A model folder's weights: safetensors, one file or shards, read tensor by tensor.

use std::collections::{BTreeSet, HashMap};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use bytemuck::{Pod, Zeroable};
use candle_core::{Device, Tensor, WithDType};
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use safetensors::Dtype;
use safetensors::tensor::{Metadata, TensorInfo};
use serde::Deserialize;
use sha2::{Digest, Sha256};

use super::Options;
use super::operations::{Operations, on};
use crate::error::{Error, Result};

// Safetensors are little-endian, and their bytes are read as numbers in place.
const _: () = assert!(
    cfg!(target_endian = "little"),
    "weights are read on little-endian machines alone"
);

/// The opened weights of one folder.
///
/// A tensor is read from the file into the vector that it stays in: the model never exists
/// twice. That is as near to a memory map as safe code gets: a map is undefined behaviour if
/// another process cuts the file short, so mapping is `unsafe`, which this workspace denies.
pub(super) struct Weights {
    files: Vec<Mutex<File>>,
    tensors: HashMap<String, Place>,
    device: Device,
    operations: &'static dyn Operations,
    digest: [u8; 32],
    bytes: u64,
}

struct Place {
    file: usize,
    start: u64,
    info: TensorInfo,
}

/// The rows `taken` of the `rows` that `name`.weight and `name`.bias have.
pub(super) struct Part {
    pub(super) name: String,
    pub(super) rows: usize,
    pub(super) taken: Range<usize>,
}

impl Part {
    /// All rows.
    pub(super) fn whole(name: String, rows: usize) -> Self {
        Self {
            name,
            rows,
            taken: 0..rows,
        }
    }

    fn weight(&self) -> String {
        format!("{}.weight", self.name)
    }
}

#[derive(Deserialize)]
struct ShardIndex {
    weight_map: HashMap<String, String>,
}

/// Bytes of a small model: BERT's base and GPT-2 in f32 are.
const SMALL: u64 = 640 << 20;
/// A safetensors header longer than this is not one.
const MAX_HEADER: u64 = 100_000_000;
/// Half-precision numbers widened at a time: a megabyte.
const CHUNK: usize = 1 << 19;

impl Weights {
    /// Opens `model.safetensors`, or the shards that `model.safetensors.index.json` names, and
    /// checks every header against its file's length.
    pub(super) fn open(dir: &Path, device: &Device, options: Options) -> Result<Self> {
        let paths = weight_files(dir)?;
        let mut outer = Sha256::new();
        outer.update(file_digest(&dir.join("config.json"))?);
        let (mut files, mut bytes) = (Vec::with_capacity(paths.len()), 0);
        let mut tensors = HashMap::new();
        for (index, path) in paths.iter().enumerate() {
            outer.update(file_digest(path)?);
            let mut file = open(path)?;
            let about = file.metadata();
            bytes += about
                .map_err(|e| Error::Fault(format!("{}: {e}", path.display())))?
                .len();
            for (name, place) in read_header(path, &mut file, index)? {
                if tensors.insert(name.clone(), place).is_some() {
                    return Err(Error::Malformed(format!(
                        "{}: a second {name}",
                        path.display()
                    )));
                }
            }
            files.push(Mutex::new(file));
        }
        Ok(Self {
            files,
            tensors,
            device: device.clone(),
            operations: on(device, options),
            digest: outer.finalize().into(),
            bytes,
        })
    }

    /// SHA-256 over the concatenated SHA-256 digests of `config.json` and the weights files,
    /// these in the order of their names.
    pub(super) fn digest(&self) -> [u8; 32] {
        self.digest
    }

    /// Whether a second copy of the matrices is worth its memory: on the CPU, of a small model.
    pub(super) fn are_small(&self) -> bool {
        // Half precision is widened at every product, by everybody who works on one.
        let half = |place: &Place| matches!(place.info.dtype, Dtype::BF16 | Dtype::F16);
        self.device.is_cpu() && self.bytes <= SMALL && !self.tensors.values().any(half)
    }

    pub(super) fn device(&self) -> &Device {
        &self.device
    }

    /// What the steps between products are computed with there.
    pub(super) fn operations(&self) -> &'static dyn Operations {
        self.operations
    }

    /// Whether there is a tensor of this name.
    pub(super) fn has(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// `name`.weight `[rows, columns]`, as stored (f32, bf16, f16).
    pub(super) fn matrix(&self, name: &str, rows: usize, columns: usize) -> Result<Tensor> {
        self.stacked(&[Part::whole(name.to_owned(), rows)], columns)
    }

    /// Rows of matrices `[rowsᵢ, columns]` one below the other, as stored.
    pub(super) fn stacked(&self, parts: &[Part], columns: usize) -> Result<Tensor> {
        let mut dtype = None;
        for part in parts {
            let name = part.weight();
            let found = self.place(&name, &[part.rows, columns])?.info.dtype;
            if *dtype.get_or_insert(found) != found {
                return Err(Error::Malformed(format!(
                    "{name} is of another type than its fellows"
                )));
            }
        }
        match dtype {
            Some(Dtype::F32) => self.gathered::<f32>(parts, columns),
            Some(Dtype::BF16) => self.gathered::<bf16>(parts, columns),
            Some(Dtype::F16) => self.gathered::<f16>(parts, columns),
            Some(other) => Err(unknown(&parts[0].weight(), other)),
            None => Err(Error::Fault("a matrix of no parts".into())),
        }
    }

    fn gathered<T: WithDType + Pod>(&self, parts: &[Part], columns: usize) -> Result<Tensor> {
        let rows: usize = parts.iter().map(|part| part.taken.len()).sum();
        let mut values = vec![<T as Zeroable>::zeroed(); rows * columns];
        let mut rest = values.as_mut_slice();
        for part in parts {
            let place;
            (place, rest) = rest.split_at_mut(part.taken.len() * columns);
            self.read(&part.weight(), part.taken.start * columns, place)?;
        }
        Ok(Tensor::from_vec(values, (rows, columns), &self.device)?)
    }

    /// The vector of this full name, as f32.
    pub(super) fn vector(&self, name: &str, length: usize) -> Result<Tensor> {
        let values = self.floats(name, &[length])?;
        Ok(Tensor::from_vec(values, length, &self.device)?)
    }

    /// The table `[rows, width]` of this full name, as f32.
    pub(super) fn table(&self, name: &str, rows: usize, width: usize) -> Result<Tensor> {
        let values = self.floats(name, &[rows, width])?;
        Ok(Tensor::from_vec(values, (rows, width), &self.device)?)
    }

    /// Pieces of biases one after the other, as f32.
    pub(super) fn biases(&self, parts: &[Part]) -> Result<Tensor> {
        // Before anything is allocated that a configuration alone claims.
        for part in parts {
            self.place(&format!("{}.bias", part.name), &[part.rows])?;
        }
        let mut all = vec![0f32; parts.iter().map(|part| part.taken.len()).sum()];
        let mut rest = all.as_mut_slice();
        for part in parts {
            let piece;
            (piece, rest) = rest.split_at_mut(part.taken.len());
            let name = format!("{}.bias", part.name);
            self.widened(&name, part.taken.start, piece)?;
        }
        let length = all.len();
        Ok(Tensor::from_vec(all, length, &self.device)?)
    }

    /// Any tensor, flat, as f32.
    fn floats(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
        self.place(name, shape)?;
        let mut values = vec![0f32; shape.iter().product()];
        self.widened(name, 0, &mut values)?;
        Ok(values)
    }

    /// Numbers of a tensor from number `first` on, as f32.
    fn widened(&self, name: &str, first: usize, out: &mut [f32]) -> Result<()> {
        match self.found(name)?.info.dtype {
            Dtype::F32 => self.read(name, first, out),
            Dtype::BF16 => {
                self.converted::<bf16>(name, first, out, |h, f| h.convert_to_f32_slice(f))
            }
            Dtype::F16 => self.converted::<f16>(name, first, out, |h, f| h.convert_to_f32_slice(f)),
            other => Err(unknown(name, other)),
        }
    }

    fn converted<T: Pod>(
        &self,
        name: &str,
        first: usize,
        out: &mut [f32],
        convert: impl Fn(&[T], &mut [f32]),
    ) -> Result<()> {
        let mut buffer = vec![T::zeroed(); out.len().min(CHUNK)];
        for (index, out) in out.chunks_mut(CHUNK).enumerate() {
            let half = &mut buffer[..out.len()];
            self.read(name, first + index * CHUNK, half)?;
            convert(half, out);
        }
        Ok(())
    }

    fn found(&self, name: &str) -> Result<&Place> {
        self.tensors
            .get(name)
            .ok_or_else(|| Error::Malformed(format!("the weights have no tensor {name}")))
    }

    fn place(&self, name: &str, shape: &[usize]) -> Result<&Place> {
        let place = self.found(name)?;
        if place.info.shape != shape {
            return Err(Error::Malformed(format!(
                "{name} has shape {:?}, the configuration says {shape:?}",
                place.info.shape
            )));
        }
        Ok(place)
    }

    /// Fills `out` with a tensor's numbers from number `first` on; they are of type `T`.
    fn read<T: Pod>(&self, name: &str, first: usize, out: &mut [T]) -> Result<()> {
        let place = self.found(name)?;
        let (start, end) = place.info.data_offsets;
        let (from, bytes) = (first * size_of::<T>(), size_of_val(out));
        if from + bytes > end - start {
            return Err(Error::Fault(format!("{name} ends before its shape")));
        }
        let mut file = self.files[place.file]
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        file.seek(SeekFrom::Start(place.start + (start + from) as u64))
            .and_then(|_| file.read_exact(bytemuck::cast_slice_mut(out)))
            .map_err(|error| match error.kind() {
                std::io::ErrorKind::UnexpectedEof => {
                    Error::Malformed(format!("{name} was cut short"))
                }
                _ => Error::Fault(format!("{name}: {error}")),
            })
    }
}

fn unknown(name: &str, dtype: Dtype) -> Error {
    Error::Refused(format!(
        "{name} is of type {dtype:?}; known: F32, BF16, F16"
    ))
}

fn open(path: &Path) -> Result<File> {
    File::open(path).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => Error::Malformed(format!("{} is missing", path.display())),
        _ => Error::Fault(format!("{}: {error}", path.display())),
    })
}

/// A small file of the folder as text.
pub(super) fn read_text(path: &Path) -> Result<String> {
    let mut text = String::new();
    match open(path)?.read_to_string(&mut text) {
        Ok(_) => Ok(text),
        Err(error) => Err(Error::Malformed(format!("{}: {error}", path.display()))),
    }
}

fn weight_files(dir: &Path) -> Result<Vec<PathBuf>> {
    let single = dir.join("model.safetensors");
    let index = dir.join("model.safetensors.index.json");
    if single.exists() || !index.exists() {
        return Ok(vec![single]);
    }
    let shards: ShardIndex = serde_json::from_str(&read_text(&index)?)
        .map_err(|error| Error::Malformed(format!("{}: {error}", index.display())))?;
    let names: BTreeSet<String> = shards.weight_map.into_values().collect();
    names
        .into_iter()
        .map(|name| match Path::new(&name).file_name() {
            Some(plain) if plain == name.as_str() => Ok(dir.join(name)),
            _ => Err(Error::Malformed(format!(
                "{}: shard {name:?}",
                index.display()
            ))),
        })
        .collect()
}

fn read_header(path: &Path, file: &mut File, index: usize) -> Result<Vec<(String, Place)>> {
    let malformed = |why: &str| Error::Malformed(format!("{}: {why}", path.display()));
    let fault = |error: std::io::Error| Error::Fault(format!("{}: {error}", path.display()));
    let length = file.metadata().map_err(fault)?.len();
    let mut prefix = [0u8; 8];
    file.seek(SeekFrom::Start(0)).map_err(fault)?;
    file.read_exact(&mut prefix)
        .map_err(|_| malformed("no safetensors header"))?;
    let header = u64::from_le_bytes(prefix);
    if header > MAX_HEADER || header + 8 > length {
        return Err(malformed("the file ends within its header"));
    }
    let mut text = Vec::new();
    file.take(header).read_to_end(&mut text).map_err(fault)?;
    let metadata: Metadata =
        serde_json::from_slice(&text).map_err(|error| malformed(&error.to_string()))?;
    if metadata.data_len() as u64 != length - 8 - header {
        return Err(malformed(
            "the file is not as long as its header says (cut short?)",
        ));
    }
    for (name, info) in metadata.tensors() {
        let (start, end) = info.data_offsets;
        let bits = info
            .shape
            .iter()
            .try_fold(info.dtype.bitsize(), |n, d| n.checked_mul(*d));
        let size = end
            .checked_sub(start)
            .and_then(|bytes| bytes.checked_mul(8));
        if bits.is_none() || bits != size || end > metadata.data_len() {
            return Err(malformed(&format!("{name} does not fit its bytes")));
        }
    }
    let place = |info: &TensorInfo| Place {
        file: index,
        start: 8 + header,
        info: info.clone(),
    };
    Ok(metadata
        .tensors()
        .into_iter()
        .map(|(name, info)| (name, place(info)))
        .collect())
}

/// SHA-256 of a file, a megabyte at a time.
fn file_digest(path: &Path) -> Result<[u8; 32]> {
    let mut file = open(path)?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0u8; 1 << 20];
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok(hash.finalize().into()),
            Ok(count) => hash.update(buffer.get(..count).unwrap_or_default()),
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(Error::Fault(format!("{}: {error}", path.display()))),
        }
    }
}
