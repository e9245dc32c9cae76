//! What is read as a model, and what is refused.

use ciphertune_tune::backbone::random;
use serde_json::Value;
use tempfile::TempDir;

use super::*;

/// A copy of a fixture whose configuration is changed.
pub(crate) fn altered(dir: &Path, change: impl FnOnce(&mut Value)) -> TempDir {
    let copy = tempfile::tempdir().expect("a folder");
    for entry in std::fs::read_dir(dir).expect("a fixture") {
        let entry = entry.expect("an entry");
        if entry.path().is_file() {
            std::fs::copy(entry.path(), copy.path().join(entry.file_name())).expect("copied");
        }
    }
    let path = copy.path().join("config.json");
    let text = std::fs::read_to_string(&path).expect("a configuration");
    let mut config: Value = serde_json::from_str(&text).expect("json");
    change(&mut config);
    std::fs::write(&path, config.to_string()).expect("written");
    copy
}

/// A copy whose tensors are changed.
fn rewritten(dir: &Path, change: impl FnOnce(Tensors) -> Tensors) -> TempDir {
    let copy = altered(dir, |_| ());
    let path = copy.path().join("model.safetensors");
    let tensors = candle_core::safetensors::load(&path, &CPU).expect("tensors");
    candle_core::safetensors::save(&change(tensors), &path).expect("saved");
    copy
}

/// The random Llama, and the fixtures that are there.
fn models() -> Vec<TempDir> {
    let llama = tempfile::tempdir().expect("a folder");
    random::write_random_llama(llama.path(), &random::small_llama(64, 32, 2), 5).expect("a model");
    let others = ["gpt2", "gpt_neox"].into_iter().filter_map(fixture);
    std::iter::once(llama)
        .chain(others.map(|dir| altered(&dir, |_| ())))
        .collect()
}

/// Logits of seven tokens.
fn logits(dir: &Path) -> Tensor {
    let backbone = backbone::load(dir, &CPU).expect("a backbone");
    let ids = Tensor::new(&[[1u32, 2, 3, 4, 5, 6, 7]], &CPU).expect("ids");
    let mask = Tensor::ones((1, 7), DType::F32, &CPU).expect("a mask");
    backbone
        .embed(&ids)
        .and_then(|embeds| backbone.forward(&embeds, &mask))
        .and_then(|hidden| backbone.logits(&hidden.squeeze(0)?))
        .expect("logits")
}

#[test]
fn half_precision_weights_give_nearly_the_same_logits() {
    for folder in models() {
        let full = backbone::load(folder.path(), &CPU).expect("f32");
        for dtype in [DType::BF16, DType::F16] {
            let half = rewritten(folder.path(), |tensors| {
                let half = |tensor: Tensor| tensor.to_dtype(dtype).expect("half precision");
                tensors.into_iter().map(|(n, t)| (n, half(t))).collect()
            });
            let loaded = backbone::load(half.path(), &CPU).expect("half precision");
            assert_ne!(full.digest(), loaded.digest());
            let (got, want) = (logits(half.path()), logits(folder.path()));
            close(&format!("{} {dtype:?}", full.kind()), &got, &want, 2e-2);
        }
    }
}

#[test]
fn shards_are_read_as_one_model() {
    for folder in models() {
        let dir = folder.path();
        let want = values(&logits(dir));
        let path = dir.join("model.safetensors");
        let tensors = candle_core::safetensors::load(&path, &CPU).expect("tensors");
        std::fs::remove_file(&path).expect("removed");
        let mut map = serde_json::Map::new();
        let mut shards = [Tensors::new(), Tensors::new()];
        let file = |shard: usize| format!("model-0000{}-of-00002.safetensors", 1 + shard);
        for (index, (name, tensor)) in tensors.into_iter().enumerate() {
            map.insert(name.clone(), file(index % 2).into());
            shards[index % 2].insert(name, tensor);
        }
        for (index, shard) in shards.iter().enumerate() {
            candle_core::safetensors::save(shard, dir.join(file(index))).expect("saved");
        }
        let index = serde_json::json!({ "metadata": {}, "weight_map": map }).to_string();
        let path = dir.join("model.safetensors.index.json");
        std::fs::write(&path, index).expect("written");
        assert_eq!(values(&logits(dir)), want);
        let outside = serde_json::json!({ "weight_map": { "x": "../model.safetensors" } });
        std::fs::write(&path, outside.to_string()).expect("written");
        assert!(matches!(refused(dir), Error::Malformed(_)));
    }
}

#[test]
fn names_without_a_root_and_published_buffers_change_nothing() {
    for (architecture, root, buffers) in [
        (
            "llama",
            "model.",
            ["layers.0.self_attn.rotary_emb.inv_freq"; 2],
        ),
        (
            "gpt2",
            "transformer.",
            ["h.0.attn.bias", "h.0.attn.masked_bias"],
        ),
        (
            "gpt_neox",
            "gpt_neox.",
            [
                "layers.0.attention.bias",
                "layers.0.attention.rotary_emb.inv_freq",
            ],
        ),
    ] {
        let Some(dir) = fixture(architecture) else {
            return;
        };
        let bare = rewritten(&dir, |tensors| {
            let name = |name: String| name.strip_prefix(root).unwrap_or(&name).to_owned();
            let mut bare: Tensors = tensors.into_iter().map(|(n, t)| (name(n), t)).collect();
            for buffer in buffers {
                let mask = Tensor::ones((1, 1, 4, 4), DType::U8, &CPU).expect("a buffer");
                bare.insert(buffer.into(), mask);
            }
            bare
        });
        assert_eq!(values(&logits(bare.path())), values(&logits(&dir)));
    }
}

#[test]
fn configurations_of_transformers_4_mean_the_same() {
    let older = |architecture: &str, change: &dyn Fn(&mut serde_json::Map<String, Value>)| {
        let Some(dir) = fixture(architecture) else {
            return;
        };
        let older = altered(&dir, |config| {
            let config = config.as_object_mut().expect("an object");
            change(config);
        });
        assert_eq!(values(&logits(older.path())), values(&logits(&dir)));
    };
    older("gpt_neox", &|config| {
        let rope = config.remove("rope_parameters").expect("settings");
        config.insert("rotary_pct".into(), rope["partial_rotary_factor"].clone());
        config.insert("rotary_emb_base".into(), rope["rope_theta"].clone());
        config.remove("attention_bias");
    });
    older("llama", &|config| {
        let rope = config.remove("rope_parameters").expect("settings");
        config.insert("rope_theta".into(), rope["rope_theta"].clone());
        config.insert("rope_scaling".into(), Value::Null);
    });
    older("gpt2", &|config| {
        config.retain(|_, value| !value.is_null());
        config.remove("tie_word_embeddings");
        config.insert("n_ctx".into(), config["n_positions"].clone());
    });
}

#[test]
fn biases_count_in_every_part_of_a_llama() {
    let folder = tempfile::tempdir().expect("a folder");
    random::write_random_llama(folder.path(), &random::small_llama(64, 32, 1), 5).expect("a model");
    let dir = folder.path();
    let plain = logits(dir);
    let promised = altered(dir, |config| config["mlp_bias"] = true.into());
    assert!(
        matches!(refused(promised.path()), Error::Malformed(text) if text.contains("gate_proj.bias"))
    );
    const PARTS: [(&str, usize); 7] = [
        ("self_attn.q_proj", 32),
        ("self_attn.k_proj", 16),
        ("self_attn.v_proj", 16),
        ("self_attn.o_proj", 32),
        ("mlp.gate_proj", 64),
        ("mlp.up_proj", 64),
        ("mlp.down_proj", 32),
    ];
    // A key's bias alone moves every score of a row alike, and so no weight.
    for counts in [0, 2, 3, 4, 5, 6] {
        let biased = rewritten(dir, |mut tensors| {
            for (at, (part, width)) in PARTS.into_iter().enumerate() {
                let value = if at == counts { 0.5_f32 } else { 0.0 };
                let bias = Tensor::full(value, width, &CPU).expect("a bias");
                tensors.insert(format!("model.layers.0.{part}.bias"), bias);
            }
            tensors
        });
        // As in transformers, a bias that the configuration does not promise is not used.
        assert_eq!(values(&logits(biased.path())), values(&plain), "{counts}");
        let promised = altered(biased.path(), |config| {
            config["attention_bias"] = true.into();
            config["mlp_bias"] = true.into();
        });
        assert_ne!(values(&logits(promised.path())), values(&plain), "{counts}");
    }
}

#[test]
fn layer_norms_by_the_names_of_tensorflow_are_the_same() {
    let Some(dir) = fixture("bert") else {
        return;
    };
    let older = rewritten(&dir, |tensors| {
        let name = |name: String| {
            let name = name.replace("LayerNorm.weight", "LayerNorm.gamma");
            name.replace("LayerNorm.bias", "LayerNorm.beta")
        };
        tensors.into_iter().map(|(n, t)| (name(n), t)).collect()
    });
    let states = |dir: &Path| {
        let bert = backbone::load(dir, &CPU).expect("a backbone");
        let ids = Tensor::new(&[[1u32, 2, 3]], &CPU).expect("ids");
        let mask = Tensor::ones((1, 3), DType::F32, &CPU).expect("a mask");
        let states = bert.forward(&bert.embed(&ids).expect("embeds"), &mask);
        values(&states.expect("states"))
    };
    assert_eq!(states(older.path()), states(&dir));
}

#[test]
fn a_decoder_without_its_head_classifies_and_does_not_speak() {
    let Some(dir) = fixture("llama") else {
        return;
    };
    let bare = rewritten(&dir, |mut tensors| {
        tensors.remove("lm_head.weight");
        tensors
    });
    let llama = backbone::load(bare.path(), &CPU).expect("a backbone");
    assert!(!llama.speaks() && backbone::load(&dir, &CPU).expect("a backbone").speaks());
    let row = Tensor::zeros((1, llama.hidden()), DType::F32, &CPU).expect("a row");
    assert!(matches!(llama.logits(&row), Err(Error::Misuse(_))));
}

#[test]
fn a_matrix_stored_the_other_way_round_is_refused_by_its_shape() {
    let Some(dir) = fixture("gpt2") else {
        return;
    };
    let turned = rewritten(&dir, |mut tensors| {
        let name = "transformer.h.0.mlp.c_fc.weight";
        let turned = tensors[name].t().and_then(|t| t.contiguous());
        tensors.insert(name.into(), turned.expect("a matrix"));
        tensors
    });
    let refused = refused(turned.path());
    assert!(
        matches!(&refused, Error::Malformed(text) if text.contains("mlp.c_fc.weight has shape")),
        "{refused}"
    );
}

#[test]
fn activations_and_number_types_that_are_not_known_are_refused_by_name() {
    for (architecture, key) in [
        ("gpt2", "activation_function"),
        ("gpt_neox", "hidden_act"),
        ("bert", "hidden_act"),
        ("llama", "hidden_act"),
    ] {
        let Some(dir) = fixture(architecture) else {
            return;
        };
        let other = altered(&dir, |config| config[key] = "tanhshrink".into());
        let refused = refused(other.path());
        assert!(
            matches!(&refused, Error::Refused(text) if text.contains("tanhshrink") && text.contains("known: ")),
            "{refused}"
        );
    }
    for folder in models() {
        let wide = rewritten(folder.path(), |tensors| {
            let wide = |tensor: Tensor| tensor.to_dtype(DType::F64).expect("f64");
            tensors.into_iter().map(|(n, t)| (n, wide(t))).collect()
        });
        let refused = refused(wide.path());
        assert!(
            matches!(&refused, Error::Refused(text) if text.contains("F64") && text.contains("BF16")),
            "{refused}"
        );
    }
}

fn refused(dir: &Path) -> Error {
    backbone::load(dir, &CPU).err().expect("a refusal")
}

#[test]
fn a_folder_that_is_not_a_known_whole_model_is_refused_by_name() {
    let folder = tempfile::tempdir().expect("a folder");
    let dir = folder.path();
    assert!(
        matches!(refused(dir), Error::Malformed(text) if text.contains("config.json is missing"))
    );

    let config = random::small_llama(64, 32, 1);
    random::write_random_llama(dir, &config, 5).expect("a model");
    let weights = dir.join("model.safetensors");
    let bytes = std::fs::read(&weights).expect("bytes");

    std::fs::write(&weights, &bytes[..bytes.len() - 4]).expect("written");
    assert!(matches!(refused(dir), Error::Malformed(text) if text.contains("cut short")));
    std::fs::write(&weights, &bytes[..5]).expect("written");
    assert!(matches!(refused(dir), Error::Malformed(text) if text.contains("header")));
    std::fs::remove_file(&weights).expect("removed");
    assert!(
        matches!(refused(dir), Error::Malformed(text) if text.contains("model.safetensors is missing"))
    );

    std::fs::write(&weights, &bytes).expect("written");
    let mut wrong = config.clone();
    wrong.intermediate_size += 1;
    let text = serde_json::to_string(&wrong).expect("json");
    std::fs::write(dir.join("config.json"), text).expect("written");
    assert!(
        matches!(refused(dir), Error::Malformed(text) if text.contains("mlp.gate_proj.weight has shape [64, 32]"))
    );

    let unknown = r#"{"model_type":"t5","architectures":["T5ForConditionalGeneration"]}"#;
    std::fs::write(dir.join("config.json"), unknown).expect("written");
    assert!(
        matches!(refused(dir), Error::Refused(text) if text.contains("t5") && text.contains("llama"))
    );
    std::fs::write(dir.join("config.json"), "{").expect("written");
    assert!(matches!(refused(dir), Error::Malformed(_)));
}

#[test]
fn inputs_a_backbone_cannot_take_are_misuse() {
    let folder = tempfile::tempdir().expect("a folder");
    random::write_random_llama(folder.path(), &random::small_llama(64, 32, 1), 5).expect("a model");
    let model = backbone::load(folder.path(), &CPU).expect("a backbone");
    let misuse =
        |result: Result<Tensor>| assert!(matches!(result, Err(Error::Misuse(_))), "{result:?}");
    misuse(model.embed(&Tensor::new(&[[64u32]], &CPU).expect("ids")));
    misuse(model.embed(&Tensor::new(&[1u32], &CPU).expect("ids")));
    let zeros = |b, t, h| Tensor::zeros((b, t, h), DType::F32, &CPU).expect("zeros");
    let ones = |b, t| Tensor::ones((b, t), DType::F32, &CPU).expect("ones");
    misuse(model.forward(&zeros(1, 3, 31), &ones(1, 3)));
    misuse(model.forward(&zeros(1, 3, 32), &ones(1, 4)));
    misuse(model.forward(&zeros(1, 513, 32), &ones(1, 513)));
    misuse(model.pool(&Tensor::zeros((1, 32), DType::F32, &CPU).expect("zeros")));
}

#[test]
fn a_random_model_is_the_same_from_the_same_seed() {
    let folders = [5, 5, 6].map(|seed| {
        let folder = tempfile::tempdir().expect("a folder");
        random::write_random_llama(folder.path(), &random::small_llama(64, 32, 1), seed)
            .expect("a model");
        backbone::load(folder.path(), &CPU)
            .expect("a backbone")
            .digest()
    });
    assert_eq!(folders[0], folders[1]);
    assert_ne!(folders[0], folders[2]);
}
