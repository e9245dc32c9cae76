//! The two names in a job's tuning specification that a policy has a say in.
//!
//! The server has no tuning engine and takes no other notice of the specification; every member parses it whole and
//! admits for itself.

use serde_json::Value;

/// (task, encoder) as policies name them; empty where the specification names none, which only `"any"` allows.
///
/// Labels to choose from make a classification; an encoder that starts from words is an embedding.
pub(super) fn names(tuning: &str) -> (String, String) {
    let Ok(specification) = serde_json::from_str::<Value>(tuning) else {
        return Default::default();
    };
    let text = |pointer: &str| {
        specification
            .pointer(pointer)
            .and_then(Value::as_str)
            .map(str::to_owned)
    };
    let task = text("/task").or_else(|| {
        specification
            .get("labels")
            .is_some_and(Value::is_array)
            .then(|| "classification".to_owned())
    });
    let encoder = text("/encoder")
        .or_else(|| text("/training/encoder/name"))
        .map(|name| {
            if name == "words" {
                "embedding".to_owned()
            } else {
                name
            }
        });
    (task.unwrap_or_default(), encoder.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn task_and_encoder_are_named_as_policies_name_them() {
        let both = |task: &str, encoder: &str| (task.to_owned(), encoder.to_owned());
        assert_eq!(
            names(r#"{"labels":["a","b"],"training":{"encoder":{"name":"words"}}}"#),
            both("classification", "embedding")
        );
        assert_eq!(
            names(r#"{"task":"generation","encoder":"mlp"}"#),
            both("generation", "mlp")
        );
        assert_eq!(names("not JSON"), both("", ""));
        assert_eq!(names(r#"{"task":7,"labels":"no list"}"#), both("", ""));
    }
}
