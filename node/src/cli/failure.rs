//! How a command ends: exit codes, and errors that say what to do next.
//!
//! Scripts match on the exit code, people read the message; every message is followed by one line
//! that begins with `try:`. The codes are stable.

use std::fmt;
use std::process::ExitCode;

use kvasir_core::admin_api::Problem;

/// Exit codes of the command line. Wrong usage is 2 as well, given by the argument parser.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// Done.
    Ok,
    /// Anything that has no code of its own.
    Error,
    /// The arguments make no sense.
    Usage,
    /// Nothing is stored under the key.
    NotFound,
    /// Too few replicas answered, or no server was reached.
    Unavailable,
    /// The key holds several values that the caller has to resolve.
    Siblings,
}

impl Exit {
    /// The number that the process ends with.
    pub const fn code(self) -> u8 {
        match self {
            Self::Ok => 0,
            Self::Error => 1,
            Self::Usage => 2,
            Self::NotFound => 3,
            Self::Unavailable => 4,
            Self::Siblings => 5,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

/// Why a command failed. Whether something was changed is part of the message where it can be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// What the process ends with.
    pub exit: Exit,
    /// What happened, without a trailing full stop.
    pub message: String,
    /// What to do next.
    pub next: String,
}

impl Failure {
    /// A failure with this code, message and next step.
    pub fn new(exit: Exit, message: impl Into<String>, next: impl Into<String>) -> Self {
        Self { exit, message: message.into(), next: next.into() }
    }

    /// Exit code 1.
    pub fn error(message: impl Into<String>, next: impl Into<String>) -> Self {
        Self::new(Exit::Error, message, next)
    }

    /// Exit code 2.
    pub fn usage(message: impl Into<String>, next: impl Into<String>) -> Self {
        Self::new(Exit::Usage, message, next)
    }

    /// What an error answer of a server means for the command. `server` is who answered.
    pub fn answered(server: &str, status: u16, body: &[u8]) -> Self {
        let exit = match status {
            404 => Exit::NotFound,
            429 | 503 | 504 => Exit::Unavailable,
            _ => Exit::Error,
        };
        let Ok(problem) = serde_json::from_slice::<Problem>(body) else {
            let text = String::from_utf8_lossy(&body[..body.len().min(200)]).trim().to_owned();
            return Self::new(
                exit,
                format!("{server} answered {status} {text}"),
                "check that the address is a Kvasir port of this kind: clients use --server, \
                 cluster commands use --admin",
            );
        };
        let mut message = format!("{} ({}, {status})", problem.detail, problem.code);
        if let (Some(acks), Some(required)) = (fact(&problem, "acks"), fact(&problem, "required")) {
            let said = format!("{acks} of {required} ");
            if !message.contains(&said) {
                message += &format!("; {said}acknowledged");
            }
        }
        match may_be_stored(&problem) {
            Some(true) => message += "; the write may be stored and show up later",
            Some(false) if exit == Exit::Unavailable => message += "; nothing was applied",
            _ => {}
        }
        let next = problem.hint.clone().unwrap_or_else(|| match exit {
            Exit::Unavailable => {
                "`kvasir status` shows which nodes are down; then try again".into()
            }
            Exit::NotFound => "check bucket and key with `kvasir where BUCKET KEY`".into(),
            _ => "see `kvasir help` for what the command takes".into(),
        });
        Self::new(exit, message, next)
    }

    /// Writes the failure to standard error: the message, then the next step.
    pub fn print(&self) {
        eprintln!("{self}");
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "error: {}\ntry: {}", self.message, self.next)
    }
}

/// Whether a failed write may be stored all the same; none when the answer does not say.
pub fn may_be_stored(problem: &Problem) -> Option<bool> {
    let facts = &problem.facts;
    facts.get("may_be_stored").or_else(|| facts.get("mayBeStored"))?.as_bool()
}

fn fact(problem: &Problem, name: &str) -> Option<u64> {
    problem.facts.get(name)?.as_u64()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_are_those_of_the_contract() {
        let all =
            [Exit::Ok, Exit::Error, Exit::Usage, Exit::NotFound, Exit::Unavailable, Exit::Siblings];
        assert_eq!(all.map(Exit::code), [0, 1, 2, 3, 4, 5]);
    }

    #[test]
    fn a_problem_becomes_code_message_and_next_step() {
        let body = br#"{"type":"about:blank","title":"t","status":503,"code":"quorum_not_reached",
            "detail":"too few replicas answered","acks":1,"required":2,"may_be_stored":true}"#;
        let failure = Failure::answered("http://a:1", 503, body);
        assert_eq!(failure.exit, Exit::Unavailable);
        assert_eq!(
            failure.to_string(),
            "error: too few replicas answered (quorum_not_reached, 503); 1 of 2 acknowledged; the \
             write may be stored and show up later\ntry: `kvasir status` shows which nodes are \
             down; then try again"
        );
        let body = br#"{"title":"t","status":400,"code":"bad_query","detail":"d","hint":"do x"}"#;
        let failure = Failure::answered("http://a:1", 400, body);
        assert_eq!((failure.exit, failure.next.as_str()), (Exit::Error, "do x"));
    }

    #[test]
    fn an_answer_that_is_no_problem_still_gets_a_next_step() {
        let failure = Failure::answered("http://a:1", 404, b"<html>");
        assert_eq!(failure.exit, Exit::NotFound);
        assert!(failure.to_string().contains("\ntry: "));
        assert!(failure.message.contains("http://a:1 answered 404 <html>"));
    }
}
