//! The policy language as a JSON Schema, for editors that check TOML by one.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use crate::schema::{KEYS, Key, Kind, Presence, SECTIONS, VERSION};

/// The JSON Schema (draft 2020-12) of a policy document, indented, from the one table of keys. It knows each key, its values
/// and which are required; what [`crate::Policy::parse`] asks of several keys together is in the descriptions.
#[must_use]
pub fn json_schema() -> String {
    let mut properties = Map::new();
    let mut required = Vec::new();
    for section in SECTIONS {
        let keys: Vec<&Key> = KEYS.iter().filter(|key| key.section == *section).collect();
        let described: BTreeMap<&str, Value> =
            keys.iter().map(|key| (key.name, described(key))).collect();
        let needed: Vec<&str> = keys
            .iter()
            .filter(|key| key.presence == Presence::Required)
            .map(|key| key.name)
            .collect();
        if section.is_empty() {
            properties.extend(described.into_iter().map(|(name, key)| (name.into(), key)));
            required.extend(needed);
        } else {
            if !needed.is_empty() {
                required.push(section);
            }
            let table = json!({
                "type": "object",
                "additionalProperties": false,
                "required": needed,
                "properties": described,
            });
            properties.insert((*section).into(), table);
        }
    }
    let private = |section: &str| -> Vec<&str> {
        KEYS.iter()
            .filter(|key| key.section == section && key.presence == Presence::Private)
            .map(|key| key.name)
            .collect()
    };
    let unit_is_none =
        json!({"properties": {"privacy": {"properties": {"unit": {"const": "none"}}}}});
    let schema = json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": format!("Ciphertune policy, schema version {VERSION}"),
        "type": "object",
        "additionalProperties": false,
        "required": required,
        "properties": properties,
        "if": unit_is_none,
        "then": {"not": {"required": ["budget"]}},
        "else": {
            "required": ["budget"],
            "properties": {
                "privacy": {"required": private("privacy")},
                "budget": {"required": private("budget")},
            },
        },
    });
    let mut text = serde_json::to_string_pretty(&schema)
        .expect("strings, lists and tables with string keys serialise");
    text.push('\n');
    text
}

fn described(key: &Key) -> Value {
    let mut schema = match key.kind {
        Kind::Version => json!({"const": VERSION}),
        Kind::Text => json!({"type": "string", "minLength": 1, "maxLength": 128}),
        Kind::Word(words) => json!({"enum": words}),
        Kind::Positive | Kind::Probability | Kind::Rate => {
            json!({"type": "string", "pattern": "^[0-9]+(\\.[0-9]+)?([eE][+-]?[0-9]+)?$"})
        }
        Kind::Count(least, most) => {
            json!({"type": "integer", "minimum": least, "maximum": most})
        }
        Kind::Instant => {
            json!({"type": "string", "pattern": "^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z$"})
        }
        Kind::Digests => {
            let items = json!({"type": "string", "pattern": "^(any|[0-9a-f]{64})$"});
            json!({"type": "array", "minItems": 1, "items": items})
        }
        Kind::Names => {
            let items = json!({"type": "string", "minLength": 1, "maxLength": 64});
            json!({"type": "array", "minItems": 1, "items": items})
        }
        Kind::Words(words) => json!({"type": "array", "items": {"enum": words}}),
    };
    let mut description = key.meaning.to_owned();
    match key.presence {
        Presence::Required => {}
        Presence::Private => description += ". Not with unit none",
        Presence::Optional(absent) => description += &format!(". When left out: {absent}"),
    }
    if let Some(table) = schema.as_object_mut() {
        table.insert("description".into(), description.replace('`', "").into());
    }
    schema
}
