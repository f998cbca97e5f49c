//! The result of a command: one value, printed as text or as one JSON document.

use serde::Serialize;
use serde_json::{Map, Value};

use crate::fs::TransactionId;
use crate::plan::SCHEMA;
use crate::report::Refusal;
use crate::transaction::{Ending, Stop};
use crate::units::tame;

/// How a command ended. Each has one exit code, which tells the state of the target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// Done.
    Done,
    /// It is so already.
    NoChange,
    /// Refused; untouched.
    Refused,
    /// The rehearsal failed or was rejected; untouched.
    Rejected,
    /// The commit failed and was rolled back: as before.
    RolledBack,
    /// The rollback is incomplete.
    RollbackIncomplete,
    /// Verify found differences.
    Differs,
    /// A transaction is under way on the target.
    RecoveryNeeded,
    /// An error; untouched.
    Failed,
    /// Typed wrongly.
    Usage,
    /// Stopped on request; untouched.
    Interrupted,
}

impl Outcome {
    /// All of them.
    pub const ALL: [Outcome; 11] = [
        Outcome::Done,
        Outcome::NoChange,
        Outcome::Refused,
        Outcome::Rejected,
        Outcome::RolledBack,
        Outcome::RollbackIncomplete,
        Outcome::Differs,
        Outcome::RecoveryNeeded,
        Outcome::Failed,
        Outcome::Usage,
        Outcome::Interrupted,
    ];

    /// The exit code.
    pub fn exit_code(self) -> u8 {
        match self {
            Outcome::Done | Outcome::NoChange => 0,
            Outcome::Failed => 1,
            Outcome::Usage => 2,
            Outcome::Refused => 3,
            Outcome::Rejected => 4,
            Outcome::RolledBack => 5,
            Outcome::RollbackIncomplete => 6,
            Outcome::Differs => 7,
            Outcome::RecoveryNeeded => 8,
            Outcome::Interrupted => 130,
        }
    }
}

/// The result of a command.
#[derive(Debug)]
pub struct Answer {
    /// How it ended.
    pub outcome: Outcome,
    /// The transaction, where there was one.
    pub transaction: Option<TransactionId>,
    /// The target, as it was typed.
    pub target: Option<String>,
    /// Why not.
    pub refusals: Vec<Refusal>,
    /// What went wrong, where that is not a refusal.
    pub error: Option<String>,
    /// The result for a program: its fields stand beside those above.
    pub detail: Map<String, Value>,
    /// The result for people.
    pub text: String,
}

impl Answer {
    /// An answer without any detail.
    pub fn new(outcome: Outcome, text: impl Into<String>) -> Answer {
        Answer {
            outcome,
            transaction: None,
            target: None,
            refusals: Vec::new(),
            error: None,
            detail: Map::new(),
            text: text.into(),
        }
    }

    /// The same with a field for programs.
    pub fn with(mut self, name: &str, value: impl Serialize) -> Answer {
        let value = serde_json::to_value(value).unwrap_or(Value::Null);
        self.detail.insert(name.into(), value);
        self
    }

    /// The same of a transaction.
    pub fn of(mut self, id: TransactionId) -> Answer {
        self.transaction = Some(id);
        self
    }

    /// The same about a target.
    pub fn on(mut self, target: impl Into<String>) -> Answer {
        self.target = Some(target.into());
        self
    }

    /// The whole result for people: the text, and the refusals below it.
    pub fn for_people(&self) -> String {
        let mut text = self.text.clone();
        if self.refusals.is_empty() {
            return tame(&text);
        }
        if !text.is_empty() {
            text.push('\n');
        }
        let untouched = match &self.target {
            Some(target) => format!("{target} is untouched"),
            None => "nothing was touched".into(),
        };
        text.push_str(&match self.outcome {
            Outcome::Rejected => format!("the rehearsal was rejected, {untouched}:\n"),
            Outcome::RecoveryNeeded => format!("recovery comes first, {untouched}:\n"),
            _ => format!("refused, {untouched}:\n"),
        });
        for refusal in &self.refusals {
            // What a tool said may follow in lines of its own: the code stands on the first.
            let (first, rest) = match refusal.message.trim_end().split_once('\n') {
                Some((first, rest)) => (first, rest),
                None => (refusal.message.trim_end(), ""),
            };
            text.push_str(&format!("  {first} [{}]\n", refusal.code));
            for line in rest.lines().filter(|line| !line.trim().is_empty()) {
                text.push_str(&format!("    | {line}\n"));
            }
            if !refusal.hint.is_empty() {
                text.push_str(&format!("    → {}\n", refusal.hint));
            }
        }
        tame(&text)
    }

    /// The document for programs.
    pub fn document(&self, command: &str) -> Value {
        let mut doc = Map::new();
        let mut put = |name: &str, value: Value| {
            doc.insert(name.into(), value);
        };
        put("schema", SCHEMA.into());
        put("command", command.into());
        put(
            "outcome",
            serde_json::to_value(self.outcome).unwrap_or(Value::Null),
        );
        put("exit_code", self.outcome.exit_code().into());
        put(
            "transaction",
            self.transaction.map(|id| id.to_string()).into(),
        );
        put("target", self.target.clone().into());
        put(
            "refusals",
            serde_json::to_value(&self.refusals).unwrap_or(Value::Null),
        );
        put("error", self.error.clone().into());
        doc.extend(self.detail.clone());
        Value::Object(doc)
    }
}

impl From<Stop> for Answer {
    fn from(stop: Stop) -> Answer {
        match stop {
            Stop::Refused(refusals) => Answer {
                refusals,
                ..Answer::new(Outcome::Refused, "")
            },
            Stop::Rejected { id, refusals } => Answer {
                refusals,
                transaction: id,
                ..Answer::new(Outcome::Rejected, "")
            },
            Stop::RecoveryNeeded(id, refusal) => Answer {
                refusals: vec![refusal],
                transaction: id,
                ..Answer::new(Outcome::RecoveryNeeded, "")
            },
            Stop::Interrupted => Answer::new(
                Outcome::Interrupted,
                "interrupted before the commit point; the target is untouched\n",
            ),
            Stop::Stuck { id, what, extents } => {
                let text = format!(
                    "NOT FINISHED: {what}
\
                     transaction {id} is kept; when what failed works again: holdfast recover {id}
"
                );
                Answer {
                    error: Some(what),
                    ..Answer::new(Outcome::RollbackIncomplete, text)
                        .of(id)
                        .with("differing", extents)
                }
            }
            Stop::Failed(e) => {
                let what = format!("{e:#}");
                Answer {
                    error: Some(what.clone()),
                    ..Answer::new(Outcome::Failed, format!("error: {what}\n"))
                }
            }
        }
    }
}

/// The outcome of a commit.
pub fn outcome_of(ending: &Ending) -> Outcome {
    match ending {
        Ending::Applied => Outcome::Done,
        Ending::RolledBack { .. } => Outcome::RolledBack,
        Ending::NotClosed { .. } | Ending::Stuck { .. } => Outcome::RollbackIncomplete,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The table in the help text, in README and in scripts: changing a code breaks somebody.
    #[test]
    fn exit_codes_are_what_they_are() {
        let codes: Vec<u8> = Outcome::ALL.into_iter().map(Outcome::exit_code).collect();
        assert_eq!(codes, [0, 0, 3, 4, 5, 6, 7, 8, 1, 2, 130]);
    }

    #[test]
    fn a_document_has_the_promised_fields_also_on_failure() {
        let answer =
            Answer::from(Stop::refused("mounted", "it is mounted", "unmount it")).on("/dev/x");
        let doc = answer.document("grow");
        assert_eq!(doc["schema"], "holdfast/1");
        assert_eq!(doc["command"], "grow");
        assert_eq!(doc["outcome"], "refused");
        assert_eq!(doc["exit_code"], 3);
        assert_eq!(doc["transaction"], Value::Null);
        assert_eq!(doc["target"], "/dev/x");
        assert_eq!(doc["refusals"][0]["code"], "mounted");
        assert_eq!(doc["refusals"][0]["hint"], "unmount it");
    }
}
