//! Rotary position settings as a `config.json` gives them, and the angles they mean.

use std::collections::BTreeMap;
use std::f64::consts::PI;

use serde::{Deserialize, Serialize};

use super::config::known;
use crate::error::{Error, Result};

/// Rotary position settings: `rope_parameters` of transformers 5, `rope_scaling` of 4.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct RopeParameters {
    /// `"default"`, `"linear"` or `"llama3"`.
    pub rope_type: Option<String>,
    /// The older name of `rope_type`; some files have both.
    #[serde(rename = "type")]
    pub older_type: Option<String>,
    /// Base of the rotary angles.
    pub rope_theta: Option<f64>,
    /// Stretch of the positions (linear, llama3).
    pub factor: Option<f64>,
    /// llama3.
    pub low_freq_factor: Option<f64>,
    /// llama3.
    pub high_freq_factor: Option<f64>,
    /// llama3.
    pub original_max_position_embeddings: Option<f64>,
    /// Part of each head that is rotated (GPT-NeoX).
    pub partial_rotary_factor: Option<f64>,
    /// Further keys: they change the angles of kinds that are not known here, so any value
    /// but null is refused.
    #[serde(flatten)]
    pub others: BTreeMap<String, serde_json::Value>,
}

/// ω_d = θ^(−2d/D) for d < D/2, `size` being D, stretched as `settings` say (transformers'
/// `modeling_rope_utils`). `theta` is what the rest of the configuration gives.
///
/// # Errors
/// [`Error::Refused`] for settings that are not known here, by name; [`Error::Malformed`] for
/// one that is missing or out of range.
pub(super) fn frequencies(
    settings: Option<&RopeParameters>,
    theta: Option<f64>,
    size: usize,
) -> Result<Vec<f32>> {
    let theta = settings.and_then(|s| s.rope_theta).or(theta);
    let theta = positive("rope_theta", Some(theta.unwrap_or(10_000.0)))?;
    let plain = (0..size / 2).map(|d| libm::pow(theta, -2.0 * d as f64 / size as f64));
    let Some(settings) = settings else {
        return Ok(plain.map(|w| w as f32).collect());
    };
    if let Some((key, value)) = settings.others.iter().find(|(_, value)| !value.is_null()) {
        return Err(Error::Refused(format!("rotary setting {key} = {value}")));
    }
    let rope_type = settings
        .rope_type
        .as_deref()
        .or(settings.older_type.as_deref());
    let rope_type = rope_type.unwrap_or("default");
    known("rope_type", rope_type, &["default", "linear", "llama3"])?;
    if rope_type == "default" {
        return Ok(plain.map(|w| w as f32).collect());
    }
    let factor = positive("factor", settings.factor)?;
    if rope_type == "linear" {
        return Ok(plain.map(|w| (w / factor) as f32).collect());
    }
    let low = positive("low_freq_factor", settings.low_freq_factor)?;
    let high = positive("high_freq_factor", settings.high_freq_factor)?;
    let original = positive(
        "original_max_position_embeddings",
        settings.original_max_position_embeddings,
    )?;
    if high <= low {
        return Err(Error::Malformed(format!(
            "high_freq_factor {high} is not above low_freq_factor {low}"
        )));
    }
    let stretched = plain.map(|w| {
        let turns = original * w / (2.0 * PI);
        let smooth = ((turns - low) / (high - low)).clamp(0.0, 1.0);
        ((1.0 - smooth) * w / factor + smooth * w) as f32
    });
    Ok(stretched.collect())
}

fn positive(key: &str, value: Option<f64>) -> Result<f64> {
    value
        .filter(|value| value.is_finite() && *value > 0.0)
        .ok_or_else(|| {
            Error::Malformed(format!(
                "{key} {value:?} of the rotary positions is not a positive number"
            ))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(text: &str) -> RopeParameters {
        serde_json::from_str(text).expect("settings")
    }

    #[test]
    fn rotary_frequencies_fall_from_one() {
        let plain = frequencies(None, None, 8).expect("frequencies");
        assert_eq!(plain.len(), 4);
        for (got, want) in plain.iter().zip([1.0, 0.1, 0.01, 0.001]) {
            assert!((got - want).abs() < 1e-6 * want);
        }
    }

    #[test]
    fn llama3_keeps_fast_angles_and_stretches_slow_ones() {
        let settings = settings(
            r#"{"rope_type":"llama3","factor":8.0,"low_freq_factor":1.0,"high_freq_factor":4.0,
            "original_max_position_embeddings":8192}"#,
        );
        let stretched = frequencies(Some(&settings), None, 8).expect("frequencies");
        assert!((stretched[0] - 1.0).abs() < 1e-6);
        // 8192·0.001/2π = 1.3038 turns: smooth = 0.10127, so ω = 0.001·(0.89873/8 + 0.10127).
        assert!((stretched[3] - 2.1361e-4).abs() < 1e-7, "{}", stretched[3]);
    }

    #[test]
    fn a_type_may_be_given_under_both_its_names() {
        let both = settings(r#"{"type":"linear","rope_type":"linear","factor":4.0}"#);
        let older = settings(r#"{"type":"linear","factor":4.0}"#);
        let stretched = frequencies(Some(&both), Some(100.0), 4).expect("frequencies");
        assert_eq!(stretched, [0.25, 0.025]);
        assert_eq!(
            frequencies(Some(&older), Some(100.0), 4).expect("frequencies"),
            stretched
        );
    }

    #[test]
    fn settings_that_are_not_known_are_refused_by_name() {
        for (text, name) in [
            (r#"{"type":"yarn","factor":4.0}"#, "yarn"),
            (
                r#"{"rope_type":"default","mrope_section":[16,24]}"#,
                "mrope_section",
            ),
        ] {
            let refused = frequencies(Some(&settings(text)), None, 8);
            assert!(matches!(refused, Err(Error::Refused(text)) if text.contains(name)));
        }
        let null = settings(r#"{"rope_type":"default","attention_factor":null}"#);
        assert!(frequencies(Some(&null), None, 8).is_ok());
    }

    #[test]
    fn settings_out_of_range_are_malformed() {
        for text in [
            r#"{"rope_theta":-1.0}"#,
            r#"{"type":"linear"}"#,
            r#"{"type":"linear","factor":0.0}"#,
            r#"{"type":"llama3","factor":8.0,"low_freq_factor":4.0,"high_freq_factor":4.0,
            "original_max_position_embeddings":8192}"#,
        ] {
            let malformed = frequencies(Some(&settings(text)), None, 8);
            assert!(matches!(malformed, Err(Error::Malformed(_))), "{text}");
        }
    }
}
