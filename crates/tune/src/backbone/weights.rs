//! A model folder's weights: safetensors, one file or shards, read tensor by tensor.

use std::collections::{BTreeSet, HashMap};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use candle_core::{DType, Device, Tensor};
use safetensors::Dtype;
use safetensors::tensor::{Metadata, TensorInfo};
use serde::Deserialize;
use sha2::{Digest, Sha256};

use crate::error::{Error, Result};

/// The opened weights of one folder. A tensor goes from the file straight into its place in
/// memory; the model never exists twice.
pub(super) struct Weights {
    files: Vec<Mutex<File>>,
    tensors: HashMap<String, Place>,
    device: Device,
    digest: [u8; 32],
    bytes: u64,
}

struct Place {
    file: usize,
    start: u64,
    info: TensorInfo,
}

#[derive(Deserialize)]
struct ShardIndex {
    weight_map: HashMap<String, String>,
}

/// Bytes of a small model: BERT's base in f32 is one.
const SMALL: u64 = 512 << 20;
/// A safetensors header longer than this is not one.
const MAX_HEADER: u64 = 100_000_000;

impl Weights {
    /// Opens `model.safetensors`, or the shards that `model.safetensors.index.json` names, and
    /// checks every header against its file's length.
    pub(super) fn open(dir: &Path, device: &Device) -> Result<Self> {
        if !matches!(device, Device::Cpu) {
            return Err(Error::Refused(format!(
                "device {device:?}: backbones run on the CPU"
            )));
        }
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
            digest: outer.finalize().into(),
            bytes,
        })
    }

    /// SHA-256 over the concatenated SHA-256 digests of `config.json` and the weights files,
    /// these in the order of their names.
    pub(super) fn digest(&self) -> [u8; 32] {
        self.digest
    }

    /// Whether there is memory for a second copy of the matrices.
    pub(super) fn are_small(&self) -> bool {
        self.bytes <= SMALL
    }

    pub(super) fn device(&self) -> &Device {
        &self.device
    }

    /// Whether there is a tensor of this name.
    pub(super) fn has(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// A matrix as stored (f32, bf16, f16).
    pub(super) fn matrix(&self, name: &str, rows: usize, columns: usize) -> Result<Tensor> {
        self.stacked(&[(name.to_owned(), rows)], columns)
    }

    /// Matrices `[rowsᵢ, columns]` one below the other, as stored.
    pub(super) fn stacked(&self, parts: &[(String, usize)], columns: usize) -> Result<Tensor> {
        let total: usize = parts.iter().map(|(_, rows)| rows).sum();
        let mut bytes = Vec::new();
        let mut dtype = None;
        for (name, rows) in parts {
            let place = self.place(name, &[*rows, columns])?;
            if *dtype.get_or_insert(place.info.dtype) != place.info.dtype {
                return Err(Error::Malformed(format!(
                    "{name} is of another type than its fellows"
                )));
            }
            self.read(name, place, &mut bytes)?;
        }
        let dtype = match dtype {
            Some(Dtype::F32) => DType::F32,
            Some(Dtype::BF16) => DType::BF16,
            Some(Dtype::F16) => DType::F16,
            other => return Err(Error::Refused(format!("weights of type {other:?}"))),
        };
        Ok(Tensor::from_raw_buffer(
            &bytes,
            dtype,
            &[total, columns],
            &self.device,
        )?)
    }

    /// A vector, as f32.
    pub(super) fn vector(&self, name: &str, length: usize) -> Result<Vec<f32>> {
        self.place(name, &[length])?;
        self.floats(name, &[length])
    }

    /// Vectors one after the other, as f32.
    pub(super) fn vectors(&self, parts: &[(String, usize)]) -> Result<Vec<f32>> {
        let mut all = Vec::new();
        for (name, length) in parts {
            all.extend(self.vector(name, *length)?);
        }
        Ok(all)
    }

    /// Any tensor, flat, as f32.
    pub(super) fn floats(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
        let place = self.place(name, shape)?;
        let mut bytes = Vec::new();
        self.read(name, place, &mut bytes)?;
        let wide = |b: &[u8]| u32::from(u16::from_le_bytes([b[0], b[1]]));
        Ok(match place.info.dtype {
            Dtype::F32 => bytes
                .chunks_exact(4)
                .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
                .collect(),
            Dtype::BF16 => bytes
                .chunks_exact(2)
                .map(|b| f32::from_bits(wide(b) << 16))
                .collect(),
            Dtype::F16 => Tensor::from_raw_buffer(&bytes, DType::F16, shape, &Device::Cpu)?
                .to_dtype(DType::F32)?
                .flatten_all()?
                .to_vec1()?,
            other => return Err(Error::Refused(format!("{name} is of type {other:?}"))),
        })
    }

    fn place(&self, name: &str, shape: &[usize]) -> Result<&Place> {
        let place = self
            .tensors
            .get(name)
            .ok_or_else(|| Error::Malformed(format!("the weights have no tensor {name}")))?;
        if place.info.shape != shape {
            return Err(Error::Malformed(format!(
                "{name} has shape {:?}, the configuration says {shape:?}",
                place.info.shape
            )));
        }
        Ok(place)
    }

    fn read(&self, name: &str, place: &Place, into: &mut Vec<u8>) -> Result<()> {
        let fault = |why: String| Error::Fault(format!("{name}: {why}"));
        let (start, end) = place.info.data_offsets;
        let mut file = self
            .files
            .get(place.file)
            .and_then(|file| file.lock().ok())
            .ok_or_else(|| fault("its file is gone".into()))?;
        file.seek(SeekFrom::Start(place.start + start as u64))
            .map_err(|e| fault(e.to_string()))?;
        into.reserve_exact(end - start);
        let read = (&mut *file).take((end - start) as u64).read_to_end(into);
        match read.map_err(|e| fault(e.to_string()))? {
            count if count == end - start => Ok(()),
            count => Err(Error::Malformed(format!("{name} ends after {count} bytes"))),
        }
    }
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
