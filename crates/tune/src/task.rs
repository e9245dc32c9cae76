//! Classification tasks: what a record asks, and how its answer is scored.

use serde::{Deserialize, Serialize};

use crate::data::Record;
use crate::template::Template;
use crate::tokenizer::Tokenizer;
use crate::{Error, Result};

/// How a label's score is read off the backbone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Route {
    /// A trained layer over the pooled hidden states (BERT and its kin).
    Classifier,
    /// The language-model head scores each label's words as the answer (causal models).
    Verbalizer,
}

/// Choosing one of a fixed list of labels for a record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "TaskSpec", into = "TaskSpec")]
pub struct Task {
    template: Template,
    labels: Vec<String>,
    route: Route,
}

/// A task as a plan writes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TaskSpec {
    /// The template's text.
    pub template: String,
    /// The labels, in the order every member must share.
    pub labels: Vec<String>,
    /// How labels are scored.
    pub route: Route,
}

impl TryFrom<TaskSpec> for Task {
    type Error = Error;

    fn try_from(spec: TaskSpec) -> Result<Self> {
        Self::new(Template::parse(&spec.template)?, spec.labels, spec.route)
    }
}

impl From<Task> for TaskSpec {
    fn from(task: Task) -> Self {
        Self {
            template: task.template.to_string(),
            labels: task.labels,
            route: task.route,
        }
    }
}

impl Task {
    /// A task over `labels`, in the order every member must share.
    ///
    /// # Errors
    /// [`Error::Misuse`] for fewer than two labels, a label twice or empty, or
    /// a verbalizer without `{label}` in its template.
    pub fn new(template: Template, labels: Vec<String>, route: Route) -> Result<Self> {
        if labels.len() < 2 {
            return Err(Error::Misuse(format!(
                "a task needs two labels or more, not {labels:?}"
            )));
        }
        for (i, label) in labels.iter().enumerate() {
            if label.trim().is_empty() || labels[..i].contains(label) {
                return Err(Error::Misuse(format!(
                    "label {label:?} is empty or listed twice"
                )));
            }
        }
        if route == Route::Verbalizer && template.answer("").is_none() {
            return Err(Error::Misuse(format!(
                "template {template}: a verbalizer needs `{{label}}` where the answer stands"
            )));
        }
        Ok(Self {
            template,
            labels,
            route,
        })
    }

    /// The labels, in order.
    pub fn labels(&self) -> &[String] {
        &self.labels
    }

    /// How labels are scored.
    pub fn route(&self) -> Route {
        self.route
    }

    /// The template.
    pub fn template(&self) -> &Template {
        &self.template
    }

    /// The position of a label in the list.
    ///
    /// # Errors
    /// [`Error::Malformed`] for a label that is not on it.
    pub fn position(&self, label: &str) -> Result<usize> {
        self.labels.iter().position(|l| l == label).ok_or_else(|| {
            Error::Malformed(format!(
                "unknown label {label:?}; expected one of {:?}",
                self.labels
            ))
        })
    }

    /// Records as tokens, none longer than `limit`.
    ///
    /// The truncation rule: a prompt that is too long loses the tokens just
    /// before its literal end (the template's text after the last column, and
    /// the tokenizer's closing special tokens), so that the question and its
    /// frame stay whole. How many records that touched is counted.
    ///
    /// # Errors
    /// [`Error::Misuse`] for a column the records have not, or a limit with no
    /// room for the frame; [`Error::Malformed`] for an unknown label, naming
    /// the record, or a token number of `vocabulary` or above.
    pub fn encode(
        &self,
        tokenizer: &Tokenizer,
        records: &[Record],
        limit: usize,
        vocabulary: usize,
    ) -> Result<Encoded> {
        let literal_end = tokenizer.encode_bare(self.template.tail())?.len();
        let mut examples = Vec::with_capacity(records.len());
        let mut truncated = 0;
        for (index, record) in records.iter().enumerate() {
            let at = |e: Error| match e {
                Error::Malformed(what) => Error::Malformed(format!("record {}: {what}", index + 1)),
                other => other,
            };
            let label = self.position(&record.label).map_err(at)?;
            let encoded = tokenizer.encode(&self.template.prompt(record)?)?;
            let mut ids = encoded.ids;
            let mut end = literal_end;
            match self.route {
                // The closing special tokens stay: the classifier's backbone expects them.
                Route::Classifier => end += encoded.trailing_special,
                // They go: the answer follows the prompt directly.
                Route::Verbalizer => ids.truncate(ids.len() - encoded.trailing_special),
            }
            if ids.len() > limit {
                // One token at the start stays too, be it [CLS] or the text's first.
                let Some(start) = limit.checked_sub(end).filter(|&start| start > 0) else {
                    return Err(Error::Misuse(format!(
                        "the backbone has room for {limit} tokens of text, the template's end \
                         alone takes {end}"
                    )));
                };
                ids.drain(start..ids.len() - end);
                truncated += 1;
            }
            if let Some(id) = ids.iter().find(|&&id| id as usize >= vocabulary) {
                return Err(at(Error::Malformed(format!(
                    "token {id}: the backbone knows {vocabulary} tokens; is this its tokenizer?"
                ))));
            }
            if ids.is_empty() {
                return Err(at(Error::Malformed("no token at all".to_owned())));
            }
            examples.push(Example { ids, label });
        }
        Ok(Encoded {
            examples,
            truncated,
        })
    }
}

/// A record as tokens: the prompt, and the label's position in the task's list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Example {
    /// The prompt's tokens, not empty.
    pub ids: Vec<u32>,
    /// The label.
    pub label: usize,
}

/// Records ready for training or evaluation.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Encoded {
    examples: Vec<Example>,
    truncated: usize,
}

impl Encoded {
    /// The examples, in the records' order.
    pub fn examples(&self) -> &[Example] {
        &self.examples
    }

    /// Number of examples.
    pub fn len(&self) -> usize {
        self.examples.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.examples.is_empty()
    }

    /// How many records lost tokens to the backbone's context.
    pub fn truncated(&self) -> usize {
        self.truncated
    }

    /// Tokens of each prompt.
    pub fn lengths(&self) -> Vec<usize> {
        self.examples
            .iter()
            .map(|example| example.ids.len())
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tokenizer::word_level;

    fn task(template: &str, route: Route) -> Result<Task> {
        let labels = vec!["up".to_owned(), "down".to_owned()];
        Task::new(Template::parse(template)?, labels, route)
    }

    fn tokenizer() -> Tokenizer {
        // Alphabetical: a 1, b 2, c 3, d 4, sentiment 5 (each once).
        word_level(&["a b c d sentiment"], 99).unwrap()
    }

    #[test]
    fn records_become_tokens_and_label_positions() {
        let task = task("{sentence} sentiment {label}", Route::Verbalizer).unwrap();
        let records = [Record::sentence("a b", "down"), Record::sentence("c", "up")];
        let encoded = task.encode(&tokenizer(), &records, 10, 6).unwrap();
        let want = |ids: &[u32], label| Example {
            ids: ids.to_vec(),
            label,
        };
        assert_eq!(encoded.examples(), [want(&[1, 2, 5], 1), want(&[3, 5], 0)]);
        assert_eq!((encoded.truncated(), encoded.lengths()), (0, vec![3, 2]));
    }

    #[test]
    fn a_long_prompt_loses_its_middle_and_keeps_the_question() {
        let task = task("{sentence} sentiment {label}", Route::Verbalizer).unwrap();
        let records = [
            Record::sentence("a b c d", "up"),
            Record::sentence("c", "up"),
        ];
        let encoded = task.encode(&tokenizer(), &records, 3, 6).unwrap();
        assert_eq!(encoded.examples()[0].ids, [1, 2, 5]);
        assert_eq!(encoded.truncated(), 1);
        let none = task.encode(&tokenizer(), &records, 1, 6);
        assert!(matches!(none, Err(Error::Misuse(_))), "{none:?}");
    }

    #[test]
    fn unknown_labels_columns_and_tokens_are_refused() {
        let fits = task("{sentence}", Route::Classifier).unwrap();
        let records = [
            Record::sentence("a", "up"),
            Record::sentence("d", "sideways"),
        ];
        let error = fits
            .encode(&tokenizer(), &records, 9, 9)
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("record 2") && error.contains("\"sideways\""),
            "{error}"
        );
        let error = fits
            .encode(&tokenizer(), &records[..1], 9, 1)
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("record 1") && error.contains("knows 1 tokens"),
            "{error}"
        );
        let error = fits.encode(&tokenizer(), &[Record::sentence(" ", "up")], 9, 9);
        assert!(error.unwrap_err().to_string().contains("no token"));
        let other = task("{headline}", Route::Classifier).unwrap();
        let error = other
            .encode(&tokenizer(), &records, 9, 9)
            .unwrap_err()
            .to_string();
        assert!(error.contains("[\"sentence\"]"), "{error}");
    }

    #[test]
    fn a_task_survives_json_and_its_checks_guard_the_door() {
        let task = task("{sentence}: {label}", Route::Verbalizer).unwrap();
        let json = serde_json::to_string(&task).unwrap();
        assert_eq!(serde_json::from_str::<Task>(&json).unwrap(), task);
        let broken = json.replace("{sentence}", "{sentence");
        let error = serde_json::from_str::<Task>(&broken).unwrap_err();
        assert!(error.to_string().contains("not closed"), "{error}");
    }

    #[test]
    fn tasks_that_make_no_sense_are_refused() {
        let parse = |text| Template::parse(text).unwrap();
        let new = |labels: &[&str]| {
            let labels = labels.iter().map(|&l| l.to_owned()).collect();
            Task::new(parse("{sentence}"), labels, Route::Classifier)
        };
        assert!(new(&["a", "b"]).is_ok());
        for labels in [&["a"][..], &["a", "b", "a"], &["a", " "]] {
            assert!(matches!(new(labels), Err(Error::Misuse(_))), "{labels:?}");
        }
        assert!(matches!(
            task("{sentence}", Route::Verbalizer),
            Err(Error::Misuse(_))
        ));
    }
}
