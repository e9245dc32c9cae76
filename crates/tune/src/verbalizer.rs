//! Labels as words a language model can say.

use crate::task::Task;
use crate::template::Template;
use crate::tokenizer::Tokenizer;
use crate::{Error, Result};

/// Each label's answer as tokens; no answer begins with another.
///
/// score(label) = log p(answer | prompt) = Σⱼ log p(aⱼ | prompt, a₁ … aⱼ₋₁).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verbalizer {
    answers: Vec<Vec<u32>>,
}

impl Verbalizer {
    /// The answers of a task's labels, as the tokenizer writes them after the template's end.
    ///
    /// # Errors
    /// [`Error::Refused`] where the tokenizer fuses the answer with the text
    /// before it, knows no tokens for it, or gives two labels answers of which
    /// one begins with the other (they could not be told apart).
    pub fn new(task: &Task, tokenizer: &Tokenizer) -> Result<Self> {
        let mut answers: Vec<Vec<u32>> = Vec::new();
        for (index, label) in task.labels().iter().enumerate() {
            let tokens = answer_tokens(task.template(), tokenizer, label)?;
            for (other, known) in task.labels().iter().zip(&answers) {
                if tokens.starts_with(known) || known.starts_with(&tokens) {
                    return Err(Error::Refused(format!(
                        "labels {other:?} and {:?} begin with the same tokens throughout \
                         ({known:?} and {tokens:?}); choose other words for them",
                        task.labels()[index]
                    )));
                }
            }
            answers.push(tokens);
        }
        Ok(Self { answers })
    }

    /// The tokens of each label's answer, in the labels' order.
    pub fn answers(&self) -> &[Vec<u32>] {
        &self.answers
    }

    /// Tokens of the longest answer.
    pub fn longest(&self) -> usize {
        self.answers.iter().map(Vec::len).max().unwrap_or(0)
    }

    /// One token a label, where every answer is a single token.
    pub fn single_tokens(&self) -> Option<Vec<u32>> {
        self.answers
            .iter()
            .map(|a| (a.len() == 1).then(|| a[0]))
            .collect()
    }
}

/// An answer as the tokenizer writes it after the template's end, never empty.
///
/// # Errors
/// [`Error::Refused`] where the tokenizer fuses it with the text before it, or knows no tokens for it.
pub(crate) fn answer_tokens(
    template: &Template,
    tokenizer: &Tokenizer,
    answer: &str,
) -> Result<Vec<u32>> {
    // A word before the template's end, so that it is tokenised as in a text.
    let before = format!("a{}", template.tail());
    let answer = template.answer(answer).unwrap_or_default();
    let whole = tokenizer.encode_bare(&format!("{before}{answer}"))?;
    let tokens = whole.strip_prefix(tokenizer.encode_bare(&before)?.as_slice());
    match tokens.filter(|tokens| !tokens.is_empty()) {
        Some(tokens) => Ok(tokens.to_vec()),
        None => Err(Error::Refused(format!(
            "the tokenizer writes the answer {answer:?} into one token with the text before it; end the template's text \
             with a colon and a space before the answer"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::task::Route;
    use crate::tokenizer::word_level;

    fn verbalizer(labels: &[&str]) -> Result<Verbalizer> {
        // a 1, bad 2, good 3, sentiment 4, very 5
        let tokenizer = word_level(&["a bad good sentiment very"], 99)?;
        let labels = labels.iter().map(|&l| l.to_owned()).collect();
        let template = Template::parse("{sentence} sentiment {label}")?;
        Verbalizer::new(&Task::new(template, labels, Route::Verbalizer)?, &tokenizer)
    }

    #[test]
    fn labels_become_the_tokens_of_their_words() {
        let single = verbalizer(&["good", "bad"]).unwrap();
        assert_eq!(single.single_tokens(), Some(vec![3, 2]));
        let longer = verbalizer(&["very good", "very bad", "bad"]).unwrap();
        assert_eq!(longer.answers(), [vec![5, 3], vec![5, 2], vec![2]]);
        assert_eq!((longer.single_tokens(), longer.longest()), (None, 2));
    }

    #[test]
    fn labels_that_cannot_be_told_apart_are_refused_by_name() {
        for labels in [["good", "good bad"], ["unheard", "unseen"]] {
            let error = verbalizer(&labels).unwrap_err();
            assert!(matches!(error, Error::Refused(_)), "{error}");
            assert!(error.to_string().contains(labels[1]), "{error}");
        }
    }

    #[test]
    fn an_answer_fused_with_the_text_before_it_is_refused() {
        let tokenizer = word_level(&["agood abad"], 99).unwrap();
        let labels = vec!["good".to_owned(), "bad".to_owned()];
        let template = Template::parse("{sentence}{label}").unwrap();
        let task = Task::new(template, labels, Route::Verbalizer).unwrap();
        let error = Verbalizer::new(&task, &tokenizer).unwrap_err().to_string();
        assert!(error.contains("one token with the text before"), "{error}");
    }
}
