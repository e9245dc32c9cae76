//! A sequence computed piece by piece is the sequence computed at once.

use ciphertune_tune::backbone::{Cache, random};

use super::*;

/// The first example of a fixture without its padding, `[1, T, H]`.
fn sequence(fixture: &Fixture) -> Tensor {
    let embeds = fixture.prompts(&fixture.prompt()).expect("embeddings");
    let length = values(&fixture.mask.narrow(0, 0, 1).expect("a mask"));
    let length = length.iter().filter(|kept| **kept == 1.0).count();
    let embeds = embeds.narrow(0, 0, 1).and_then(|e| e.narrow(1, 0, length));
    embeds.expect("embeddings")
}

/// Hidden states of the pieces that end at `ends`, side by side.
fn pieces(
    backbone: &dyn Backbone,
    embeds: &Tensor,
    cache: &mut Cache,
    ends: impl IntoIterator<Item = usize>,
) -> Tensor {
    let mut states = Vec::new();
    for end in ends {
        let piece = embeds.narrow(1, cache.len(), end - cache.len());
        let hidden = backbone.extend(&piece.expect("a piece"), cache);
        states.push(hidden.expect("hidden states"));
        assert_eq!(cache.len(), end);
    }
    Tensor::cat(&states, 1).expect("hidden states")
}

fn whole(backbone: &dyn Backbone, embeds: &Tensor) -> Tensor {
    let mask = Tensor::ones((1, embeds.dims()[1]), DType::F32, embeds.device());
    let mask = mask.expect("a mask");
    backbone.forward(embeds, &mask).expect("hidden states")
}

#[test]
fn a_sequence_in_pieces_gives_the_states_of_the_whole() {
    for (architecture, place) in everywhere(&CAUSAL) {
        let Some(fixture) = Fixture::open(architecture, "mlp", &place) else {
            return;
        };
        let (backbone, embeds) = (fixture.backbone.as_ref(), sequence(&fixture));
        let (length, want) = (embeds.dims()[1], whole(backbone, &embeds));
        for step in [1, 3, length] {
            let mut cache = backbone.start().expect("a cache");
            assert!(cache.is_empty());
            let ends = (step..length).step_by(step).chain([length]);
            let got = pieces(backbone, &embeds, &mut cache, ends);
            close(&format!("{architecture} by {step}"), &got, &want, 1e-5);
        }
    }
}

#[test]
fn a_prefix_is_continued_in_two_ways_from_a_clone() {
    for (architecture, place) in everywhere(&CAUSAL) {
        let Some(fixture) = Fixture::open(architecture, "mlp", &place) else {
            return;
        };
        let (backbone, first) = (fixture.backbone.as_ref(), sequence(&fixture));
        let (prefix, length) = (fixture.virtual_tokens, first.dims()[1]);
        let head = first.narrow(1, 0, prefix).expect("the prefix");
        let tail = first.narrow(1, prefix, length - prefix).expect("the rest");
        let second = Tensor::cat(&[&head, &tail.neg().expect("another rest")], 1).expect("a text");

        let mut cache = backbone.start().expect("a cache");
        pieces(backbone, &head, &mut cache, [prefix]);
        for embeds in [&first, &second] {
            let got = pieces(backbone, embeds, &mut cache.clone(), [prefix + 1, length]);
            let want = whole(backbone, embeds).narrow(1, prefix, length - prefix);
            close(architecture, &got, &want.expect("the rest"), 1e-5);
        }
        assert_eq!(cache.len(), prefix);

        let got = pieces(backbone, &first, &mut cache, [length]);
        cache.truncate(prefix);
        let again = pieces(backbone, &first, &mut cache, [length]);
        assert_eq!(values(&got), values(&again), "{architecture}, cut back");
    }
}

#[test]
fn what_cannot_continue_a_sequence_is_misuse_and_leaves_it_as_it_was() {
    let folder = tempfile::tempdir().expect("a folder");
    let config = random::small_llama(64, 32, 1);
    random::write_random_llama(folder.path(), &config, 5).expect("a model");
    let model = || backbone::load(folder.path(), &CPU).expect("a backbone");
    let (model, other) = (model(), model());
    let zeros = |b, t, h| Tensor::zeros((b, t, h), DType::F32, &CPU).expect("zeros");
    let mut cache = model.start().expect("a cache");
    model
        .extend(&zeros(1, 510, 32), &mut cache)
        .expect("hidden states");
    let mut misuse = |model: &dyn Backbone, embeds: Tensor| {
        let result = model.extend(&embeds, &mut cache);
        assert!(matches!(result, Err(Error::Misuse(_))), "{result:?}");
        assert_eq!(cache.len(), 510);
    };
    misuse(model.as_ref(), zeros(1, 3, 32));
    misuse(model.as_ref(), zeros(1, 1, 31));
    misuse(model.as_ref(), zeros(2, 1, 32));
    misuse(model.as_ref(), zeros(1, 0, 32));
    misuse(other.as_ref(), zeros(1, 1, 32));
    model
        .extend(&zeros(1, 2, 32), &mut cache)
        .expect("hidden states");

    let Some(bert) = fixture("bert") else {
        return;
    };
    let bert = backbone::load(&bert, &CPU).expect("a backbone");
    assert!(matches!(bert.start(), Err(Error::Misuse(_))));
    assert!(bert.end_of_text().is_empty());
}

#[test]
fn a_folder_says_which_tokens_end_a_text() {
    let Some(dir) = fixture("gpt_neox") else {
        return;
    };
    let ends = |ids: serde_json::Value| {
        let folder = loading::altered(&dir, |config| config["eos_token_id"] = ids);
        let backbone = backbone::load(folder.path(), &CPU).expect("a backbone");
        backbone.end_of_text().to_vec()
    };
    assert_eq!(ends(2.into()), [2]);
    assert_eq!(ends(vec![2, 7].into()), [2, 7]);
    assert!(ends(serde_json::Value::Null).is_empty());
}
