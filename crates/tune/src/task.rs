//! Tasks: what a record asks, and how its answer is scored.

use serde::{Deserialize, Serialize};

use crate::data::{Record, Schema};
use crate::template::Template;
use crate::tokenizer::Tokenizer;
use crate::verbalizer::answer_tokens;
use crate::{Error, Result};

/// What answers are, and how their score is read off the backbone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Route {
    /// A trained layer over the pooled hidden states (BERT and its kin).
    Classifier,
    /// The language-model head scores each label's words as the answer (causal models).
    Verbalizer,
    /// The answer is a text of the record's own (closed question answering, summaries, any generation): the language-model
    /// head scores its tokens, and can write one.
    Generation,
}

impl Route {
    /// The name that policies and jobs know the kind of task by.
    pub fn task(self) -> &'static str {
        match self {
            Self::Classifier | Self::Verbalizer => "classification",
            Self::Generation => "generation",
        }
    }
}

/// Labels that a list may have: beyond it, it is no list.
const MOST_LABELS: usize = 1_000;

/// Choosing one of a fixed list of labels for a record, or answering it in words.
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
    /// The labels, in the order every member must share; none for answers in words.
    #[serde(default)]
    pub labels: Vec<String>,
    /// How answers are scored.
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
    /// A task over `labels`, in the order every member must share; of answers in words there are none.
    ///
    /// # Errors
    /// [`Error::Misuse`] for fewer than two labels, a label twice or empty, labels where answers are in words, or
    /// a template without the answer where the language model is to say it.
    pub fn new(template: Template, labels: Vec<String>, route: Route) -> Result<Self> {
        if route == Route::Generation {
            if !labels.is_empty() {
                return Err(Error::Misuse(format!(
                    "answers in words are not of a list, but labels are given: {labels:?}"
                )));
            }
        } else if labels.len() < 2 {
            return Err(Error::Misuse(format!(
                "a task needs two labels or more, not {labels:?}"
            )));
        }
        if labels.len() > MOST_LABELS {
            return Err(Error::Misuse(format!(
                "{} labels, more than {MOST_LABELS}: answers in words of their own stand as `{{answer}}` in the template",
                labels.len()
            )));
        }
        for (i, label) in labels.iter().enumerate() {
            if label.trim().is_empty() || labels[..i].contains(label) {
                return Err(Error::Misuse(format!(
                    "label {label:?} is empty or listed twice"
                )));
            }
        }
        if route != Route::Classifier && template.answer_column().is_none() {
            return Err(Error::Misuse(format!(
                "template {template}: `{{label}}` or `{{answer}}` must stand at the end, where the model answers"
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

    /// How answers are scored.
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

    /// What a file of this task's records must hold.
    pub fn schema(&self) -> Schema {
        Schema {
            label_column: self.template.answer_column().unwrap_or("label").to_owned(),
            labels: self.labels.clone(),
        }
    }

    /// Records as tokens that leave room for their answers.
    ///
    /// The truncation rule: a prompt that is too long loses the tokens just
    /// before its literal end (the template's text after the last column, and
    /// the tokenizer's closing special tokens), so that the question and its
    /// frame stay whole. An answer in words loses its end where it is longer than half the room. How many
    /// records that touched is counted.
    ///
    /// # Errors
    /// [`Error::Misuse`] for a column the records have not, or no
    /// room for the frame; [`Error::Malformed`] for an unknown label, naming
    /// the record, or a token number that the backbone does not know; [`Error::Refused`] as the tokenizer writes an answer.
    pub fn encode(
        &self,
        tokenizer: &Tokenizer,
        records: &[Record],
        room: &Room,
    ) -> Result<Encoded> {
        let mut encoded = Encoded::default();
        let frame = self.frame(tokenizer)?;
        for (index, record) in records.iter().enumerate() {
            let (example, cut) = self
                .example(tokenizer, record, room, frame)
                .map_err(|error| at(index, error))?;
            encoded.truncated += usize::from(cut);
            encoded.examples.push(example);
        }
        Ok(encoded)
    }

    /// The records' prompts alone, each with whether it was cut: what a model is asked whose answer is not known. `answer` is the
    /// number of tokens to leave room for.
    ///
    /// # Errors
    /// As [`Task::encode`], but for answers.
    pub fn prompts(
        &self,
        tokenizer: &Tokenizer,
        records: &[Record],
        room: &Room,
        answer: usize,
    ) -> Result<Vec<(Vec<u32>, bool)>> {
        let frame = self.frame(tokenizer)?;
        let each = records.iter().enumerate().map(|(index, record)| {
            let prompt = self.prompt(tokenizer, record, room, frame, answer);
            prompt.map_err(|error| at(index, error))
        });
        each.collect()
    }

    /// Tokens of the template's text after the last column.
    fn frame(&self, tokenizer: &Tokenizer) -> Result<usize> {
        Ok(tokenizer.encode_bare(self.template.tail())?.len())
    }

    fn example(
        &self,
        tokenizer: &Tokenizer,
        record: &Record,
        room: &Room,
        frame: usize,
    ) -> Result<(Example, bool)> {
        let (answer, reserved, mut cut) = match self.route {
            Route::Classifier | Route::Verbalizer => {
                let label = self.position(&record.label)?;
                (Answer::Label(label), room.longest_label, false)
            }
            Route::Generation => {
                let mut tokens = answer_tokens(&self.template, tokenizer, &record.label)?;
                let most = (room.positions / 2).max(1);
                let cut = tokens.len() + usize::from(room.end.is_some()) > most;
                match room.end {
                    Some(end) if !cut => tokens.push(end),
                    _ => tokens.truncate(most),
                }
                room.check(&tokens)?;
                let length = tokens.len();
                (Answer::Words(tokens), length, cut)
            }
        };
        let (ids, shortened) = self.prompt(tokenizer, record, room, frame, reserved)?;
        cut |= shortened;
        Ok((Example { ids, answer }, cut))
    }

    /// The prompt's tokens, cut by the rule to leave room for an answer of `answer` tokens, and whether they were.
    fn prompt(
        &self,
        tokenizer: &Tokenizer,
        record: &Record,
        room: &Room,
        frame: usize,
        answer: usize,
    ) -> Result<(Vec<u32>, bool)> {
        // The last token of an answer is predicted, never read.
        let limit = room.positions.saturating_sub(answer.saturating_sub(1));
        let encoded = tokenizer.encode(&self.template.prompt(record)?)?;
        let (mut ids, mut end) = (encoded.ids, frame);
        match self.route {
            // The closing special tokens stay: the classifier's backbone expects them.
            Route::Classifier => end += encoded.trailing_special,
            // They go: the answer follows the prompt directly.
            Route::Verbalizer | Route::Generation => {
                ids.truncate(ids.len() - encoded.trailing_special);
            }
        }
        let cut = ids.len() > limit;
        if cut {
            // One token at the start stays too, be it [CLS] or the text's first.
            let Some(start) = limit.checked_sub(end).filter(|&start| start > 0) else {
                return Err(Error::Misuse(format!(
                    "the backbone has room for {limit} tokens of text, the template's end \
                     alone takes {end}"
                )));
            };
            ids.drain(start..ids.len() - end);
        }
        room.check(&ids)?;
        if ids.is_empty() {
            return Err(Error::Malformed("no token at all".to_owned()));
        }
        Ok((ids, cut))
    }
}

/// Says of which record (from 0) somebody else's mistake was; what we got wrong has no record.
fn at(index: usize, error: Error) -> Error {
    let said = |what: String| format!("record {}: {what}", index + 1);
    match error {
        Error::Malformed(what) => Error::Malformed(said(what)),
        Error::Refused(what) => Error::Refused(said(what)),
        other => other,
    }
}

/// What a backbone has room for behind the virtual tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Room {
    /// Positions for prompt and answer.
    pub positions: usize,
    /// Token numbers that the backbone knows: those below.
    pub vocabulary: usize,
    /// Tokens of the longest label that the language model says; 0 for a classifier.
    pub longest_label: usize,
    /// The token that ends an answer in words.
    pub end: Option<u32>,
}

impl Room {
    fn check(&self, ids: &[u32]) -> Result<()> {
        match ids.iter().find(|&&id| id as usize >= self.vocabulary) {
            Some(id) => Err(Error::Malformed(format!(
                "token {id}: the backbone knows {} tokens; is this its tokenizer?",
                self.vocabulary
            ))),
            None => Ok(()),
        }
    }
}

/// A record as tokens: the prompt, and its answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Example {
    /// The prompt's tokens, not empty.
    pub ids: Vec<u32>,
    /// What is right.
    pub answer: Answer,
}

/// A record's answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// The label's position in the task's list.
    Label(usize),
    /// The answer's tokens, not empty, with the end of text where the backbone has one.
    Words(Vec<u32>),
}

impl Example {
    /// The label's position.
    ///
    /// # Errors
    /// [`Error::Misuse`] for an answer in words.
    pub fn label(&self) -> Result<usize> {
        match &self.answer {
            Answer::Label(label) => Ok(*label),
            Answer::Words(_) => Err(Error::Misuse("an answer in words has no label".to_owned())),
        }
    }
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

    /// Tokens of each example that the backbone reads beside the virtual ones.
    pub fn lengths(&self) -> Vec<usize> {
        let length = |example: &Example| match &example.answer {
            Answer::Label(_) => example.ids.len(),
            Answer::Words(tokens) => example.ids.len() + tokens.len() - 1,
        };
        self.examples.iter().map(length).collect()
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

    /// For labels of one token.
    fn room(positions: usize, vocabulary: usize) -> Room {
        Room {
            positions,
            vocabulary,
            longest_label: 1,
            end: None,
        }
    }

    #[test]
    fn records_become_tokens_and_label_positions() {
        let task = task("{sentence} sentiment {label}", Route::Verbalizer).unwrap();
        let records = [Record::sentence("a b", "down"), Record::sentence("c", "up")];
        let encoded = task.encode(&tokenizer(), &records, &room(10, 6)).unwrap();
        let want = |ids: &[u32], label| Example {
            ids: ids.to_vec(),
            answer: Answer::Label(label),
        };
        assert_eq!(encoded.examples(), [want(&[1, 2, 5], 1), want(&[3, 5], 0)]);
        assert_eq!((encoded.truncated(), encoded.lengths()), (0, vec![3, 2]));
    }

    #[test]
    fn answers_in_words_end_where_the_text_does_and_are_cut_to_half_the_room() {
        let template = Template::parse("{sentence} sentiment {answer}").unwrap();
        let task = Task::new(template, Vec::new(), Route::Generation).unwrap();
        assert_eq!(
            (task.schema().label_column.as_str(), task.route().task()),
            ("answer", "generation")
        );
        let records = [
            Record::sentence("a b", "c"),
            Record::sentence("a b c", "a b c d"),
        ];
        let ending = Room {
            end: Some(5),
            ..room(6, 6)
        };
        let encoded = task.encode(&tokenizer(), &records, &ending).unwrap();
        let want = |ids: &[u32], words: &[u32]| Example {
            ids: ids.to_vec(),
            answer: Answer::Words(words.to_vec()),
        };
        assert_eq!(
            encoded.examples(),
            [want(&[1, 2, 5], &[3, 5]), want(&[1, 2, 3, 5], &[1, 2, 3])]
        );
        assert_eq!((encoded.truncated(), encoded.lengths()), (1, vec![4, 6]));
        let prompts = task.prompts(&tokenizer(), &records, &ending, 4).unwrap();
        assert_eq!(prompts, [(vec![1, 2, 5], false), (vec![1, 2, 5], true)]);
        let labels = vec!["up".to_owned(), "down".to_owned()];
        let refused = Task::new(task.template().clone(), labels, Route::Generation);
        assert!(matches!(refused, Err(Error::Misuse(_))));
        let bare = Template::parse("{sentence}").unwrap();
        assert!(Task::new(bare, Vec::new(), Route::Generation).is_err());
    }

    #[test]
    fn a_long_prompt_loses_its_middle_and_keeps_the_question() {
        let task = task("{sentence} sentiment {label}", Route::Verbalizer).unwrap();
        let records = [
            Record::sentence("a b c d", "up"),
            Record::sentence("c", "up"),
        ];
        let encoded = task.encode(&tokenizer(), &records, &room(3, 6)).unwrap();
        assert_eq!(encoded.examples()[0].ids, [1, 2, 5]);
        assert_eq!(encoded.truncated(), 1);
        let none = task.encode(&tokenizer(), &records, &room(1, 6));
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
            .encode(&tokenizer(), &records, &room(9, 9))
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("record 2") && error.contains("\"sideways\""),
            "{error}"
        );
        let error = fits
            .encode(&tokenizer(), &records[..1], &room(9, 1))
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("record 1") && error.contains("knows 1 tokens"),
            "{error}"
        );
        let error = fits.encode(&tokenizer(), &[Record::sentence(" ", "up")], &room(9, 9));
        assert!(error.unwrap_err().to_string().contains("no token"));
        let other = task("{headline}", Route::Classifier).unwrap();
        let error = other
            .encode(&tokenizer(), &records, &room(9, 9))
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
