//! A refusal is a value: what was found, where, and what to do about it.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Why Holdfast will not do what it was asked. Nothing has been touched.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// Stable and documented, `kebab-case`: scripts match on it.
    pub code: String,
    /// What is wrong and where: one or two sentences with the names and the numbers.
    pub message: String,
    /// What to do now: a command where there is one. May be empty.
    pub hint: String,
}

impl Refusal {
    /// A refusal of this code.
    pub fn new(code: &str, message: impl Into<String>, hint: impl Into<String>) -> Refusal {
        Refusal {
            code: code.into(),
            message: message.into(),
            hint: hint.into(),
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} [{}]", self.message, self.code)
    }
}
