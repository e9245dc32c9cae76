//! Data files, templates, tokenizers, backbones, adapters.

use std::{fs, path::Path};

use candle_core::{Device, Tensor};
use ciphertune_tune::{
    backbone,
    data::{Dataset, Schema},
    encoder::mlp::{Depth, Mlp},
    parameters::Trainable,
    template::Template,
    tokenizer::Tokenizer,
};

use super::{parts, scratch, text};

fn dataset(data: &[u8], extension: &str) -> bool {
    let Ok(read) = Dataset::parse(data, extension, "fuzz", &Schema::default()) else {
        return false;
    };
    assert!(!read.records().is_empty());
    // One line, one record at most: a column or a label costs bytes of the file.
    assert!(read.records().len() + read.duplicates() <= data.len());
    assert_eq!(read.counts().values().sum::<usize>(), read.records().len());
    assert!(
        read.records()
            .iter()
            .all(|record| !record.label.trim().is_empty())
    );
    true
}

/// CSV.
pub fn csv(data: &[u8]) -> bool {
    dataset(data, "csv")
}

/// JSON Lines.
pub fn json_lines(data: &[u8]) -> bool {
    dataset(data, "jsonl")
}

/// `sentence@label` lines, or what the first line looks like.
pub fn sentence_label(data: &[u8]) -> bool {
    dataset(data, "txt")
}

/// A template.
pub fn template(data: &[u8]) -> bool {
    let Some(text) = text(data) else {
        return false;
    };
    let Ok(template) = Template::parse(text) else {
        return false;
    };
    assert_eq!(template.to_string(), text);
    assert!(Template::parse(text).unwrap() == template);
    true
}

/// A `tokenizer.json`; what is taken makes tokens of a text and text of tokens.
pub fn tokenizer(data: &[u8]) -> bool {
    let Ok(tokenizer) = Tokenizer::from_bytes(data) else {
        return false;
    };
    assert!(tokenizer.json() == data);
    let size = tokenizer.vocab_size();
    for text in ["", "Profit rose 3 %", "ä\u{0}\u{1F600}"] {
        let Ok(tokens) = tokenizer.encode(text) else {
            continue;
        };
        assert!(tokens.trailing_special <= tokens.ids.len());
        assert!(tokens.ids.iter().all(|id| (*id as usize) < size));
        let _ = tokenizer.decode(&tokens.ids);
    }
    true
}

/// A model folder: config.json, the index of shards (empty: none), and the weights.
pub fn backbone(data: &[u8]) -> bool {
    let [config, index, weights] = parts::<3>(data);
    let folder = scratch();
    let write = |name: &str, bytes: &[u8]| fs::write(folder.path().join(name), bytes).unwrap();
    write("config.json", config);
    if index.is_empty() {
        write("model.safetensors", weights);
    } else {
        write("model.safetensors.index.json", index);
        write("shard.safetensors", weights);
    }
    loads(folder.path())
}

/// Loads, and runs three tokens through.
fn loads(folder: &Path) -> bool {
    let Ok(backbone) = backbone::load(folder, &Device::Cpu) else {
        return false;
    };
    let ids = Tensor::new(&[[0_u32, 1, 2]], &Device::Cpu).unwrap();
    let mask = Tensor::ones((1, 3), candle_core::DType::F32, &Device::Cpu).unwrap();
    if let Ok(embedded) = backbone.embed(&ids) {
        assert_eq!(embedded.dims(), [1, 3, backbone.hidden()]);
        if let Ok(states) = backbone.forward(&embedded, &mask) {
            assert_eq!(states.dims(), embedded.dims());
        }
    }
    true
}

/// Trained parameters in safetensors.
pub fn adapter(data: &[u8]) -> bool {
    let folder = scratch();
    let path = folder.path().join("adapter.safetensors");
    fs::write(&path, data).unwrap();
    let encoder = Mlp::random(2, 4, 3, Depth::Peft, 1, &Device::Cpu).unwrap();
    let trainable = Trainable::gather(&encoder, None);
    let before = trainable.flatten().unwrap();
    let loaded = trainable.load(&path).is_ok();
    assert!(
        loaded || trainable.flatten().unwrap() == before,
        "refused, and yet changed"
    );
    loaded
}
