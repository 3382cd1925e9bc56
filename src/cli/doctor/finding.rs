//! What a check found, and how it is shown.

use std::fmt::Write as _;

use serde::Serialize;

use crate::cli::output::printable;

/// How bad something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Level {
    /// As it should be.
    Ok,
    /// Good to know.
    Note,
    /// It works, but worse than it could, or not always.
    Warning,
    /// It does not work.
    Error,
}

/// One line of the result.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Finding {
    /// Which check it is: a word that scripts can rely on.
    pub(super) check: &'static str,
    /// What was looked at: a path, a host.
    pub(super) subject: String,
    pub(super) level: Level,
    /// What is the case.
    pub(super) finding: String,
    /// What to do about it; none where nothing is to be done.
    pub(super) remedy: Option<String>,
}

impl Finding {
    fn new(
        check: &'static str,
        subject: impl Into<String>,
        level: Level,
        finding: impl Into<String>,
    ) -> Self {
        Self { check, subject: subject.into(), level, finding: finding.into(), remedy: None }
    }

    pub(super) fn ok(check: &'static str, subject: impl Into<String>, finding: impl Into<String>) -> Self {
        Self::new(check, subject, Level::Ok, finding)
    }

    pub(super) fn note(check: &'static str, subject: impl Into<String>, finding: impl Into<String>) -> Self {
        Self::new(check, subject, Level::Note, finding)
    }

    pub(super) fn warning(
        check: &'static str,
        subject: impl Into<String>,
        finding: impl Into<String>,
    ) -> Self {
        Self::new(check, subject, Level::Warning, finding)
    }

    pub(super) fn error(check: &'static str, subject: impl Into<String>, finding: impl Into<String>) -> Self {
        Self::new(check, subject, Level::Error, finding)
    }

    /// The same, with what to do about it.
    pub(super) fn remedy(mut self, remedy: impl Into<String>) -> Self {
        self.remedy = Some(remedy.into());
        self
    }

    /// The same, but no error: somebody else does what this one does not.
    pub(super) fn dispensable(mut self) -> Self {
        self.level = self.level.min(Level::Warning);
        self
    }
}

/// A line for each, and one below it for what to do.
pub(super) fn text_of(findings: &[Finding]) -> String {
    let mut text = String::new();
    for Finding { check, subject, level, finding, remedy } in findings {
        let mark = match level {
            Level::Ok => "ok",
            Level::Note => "note",
            Level::Warning => "warning",
            Level::Error => "error",
        };
        let (subject, finding) = (printable(subject), printable(finding));
        // Never fails: it is written to memory.
        let _ = writeln!(text, "{mark:<7}  {check:<14}  {subject}: {finding}");
        if let Some(remedy) = remedy {
            let _ = writeln!(text, "         {:<14}  → {}", "", printable(remedy));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_each_and_the_remedy_below() {
        let findings = [
            Finding::ok("device", "/dev/fuse", "can be opened"),
            Finding::error("manifest", "r.example", "not found\u{1b}[2J").remedy("check the name"),
        ];
        let text = text_of(&findings);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "ok       device          /dev/fuse: can be opened");
        assert_eq!(lines[1], "error    manifest        r.example: not found\u{fffd}[2J");
        assert_eq!(lines[2].trim(), "→ check the name");
        assert_eq!(lines.len(), 3);
    }

    #[test]
    fn what_is_dispensable_is_no_error() {
        assert_eq!(Finding::error("x", "y", "z").dispensable().level, Level::Warning);
        assert_eq!(Finding::ok("x", "y", "z").dispensable().level, Level::Ok);
    }
}
