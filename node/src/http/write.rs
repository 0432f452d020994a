//! Answers to writes: the new token, who acknowledged, and what an error left behind.

use hyper::header::HeaderValue;
use hyper::{HeaderMap, Response, StatusCode};
use kvasir_core::id::NodeId;

use super::Answer;
use super::content::Content;
use super::get::{self, Wishes};
use super::headers::{ACKS, CONTEXT, Conditions, SiblingForm};
use super::problem::{Code, Problem};
use crate::coordinator::request::{Acks, CoordinateError, DeleteOutcome, Durability, PutOutcome};

/// The answer to a put: 204, or what is stored now where the client asked for it. Several siblings
/// are always shown then, as JSON where the client takes neither form: the write was applied, and
/// a 409 would say otherwise.
pub fn put_answer(outcome: &PutOutcome, form: SiblingForm) -> Answer {
    let shown = outcome.returned.as_ref().filter(|returned| !get::view(returned).groups.is_empty());
    let mut answer = match shown {
        Some(returned) => {
            let form = if form == SiblingForm::Refuse { SiblingForm::Json } else { form };
            let wishes = Wishes { vtag: None, conditions: Conditions::default(), form };
            get::answer(returned, &wishes)
        }
        None => no_content(&outcome.token),
    };
    put_acks(answer.headers_mut(), &outcome.acks);
    answer
}

/// The answer to a delete: 204, whether or not something was there.
pub fn delete_answer(outcome: &DeleteOutcome) -> Answer {
    let mut answer = no_content(&outcome.token);
    put_acks(answer.headers_mut(), &outcome.acks);
    answer
}

fn no_content(token: &str) -> Answer {
    let mut answer = Response::new(Content::default());
    *answer.status_mut() = StatusCode::NO_CONTENT;
    if let Ok(value) = HeaderValue::from_str(token) {
        answer.headers_mut().insert(CONTEXT, value);
    }
    answer
}

fn put_acks(headers: &mut HeaderMap, acks: &Acks) {
    if let Ok(value) = HeaderValue::try_from(acks_text(acks)) {
        headers.insert(ACKS, value);
    }
}

/// `owners=ID,ID; standins=ID; durability=group`.
pub fn acks_text(acks: &Acks) -> String {
    let list = |ids: &[NodeId]| ids.iter().map(NodeId::to_string).collect::<Vec<_>>().join(",");
    let durability = match acks.durability {
        Durability::Memory => "memory",
        Durability::Periodic => "periodic",
        Durability::Group => "group",
        Durability::Each => "each",
    };
    format!(
        "owners={}; standins={}; durability={durability}",
        list(&acks.owners),
        list(&acks.standins)
    )
}

/// The problem that says an error of the coordinator. Errors of writes always say whether the
/// write may be stored.
pub fn problem(error: &CoordinateError, is_write: bool) -> Problem {
    let code = match error {
        CoordinateError::QuorumNotReached { .. } => Code::QuorumNotReached,
        CoordinateError::Deadline { .. } => Code::Deadline,
        CoordinateError::Overloaded { .. } => Code::Overloaded,
        CoordinateError::BadToken { .. } => Code::BadContext,
        CoordinateError::BadCursor { .. } => Code::BadCursor,
        CoordinateError::ContextRefused { .. } => Code::ContextRefused,
        CoordinateError::Level(_) => Code::BadLevel,
        CoordinateError::TooManySiblings { .. } => Code::TooManySiblings,
        CoordinateError::StandInsFull => Code::StandInsFull,
        CoordinateError::DiskFull { .. } => Code::DiskFull,
        CoordinateError::DiskFailed { .. } => Code::DiskFailed,
        CoordinateError::NotFormed => Code::NotFormed,
        CoordinateError::NotServing { .. } | CoordinateError::Moved { .. } => Code::NotServing,
    };
    let mut problem = Problem::new(code, error.to_string());
    if is_write {
        problem = problem.with("may_be_stored", error.may_be_stored());
    }
    match error {
        CoordinateError::QuorumNotReached { acks, required, short, .. }
        | CoordinateError::Deadline { acks, required, short, .. } => {
            let problem = problem.with("acks", *acks).with("required", *required);
            let names: Vec<String> = short.iter().map(|one| one.datacenter.clone()).collect();
            if names.is_empty() { problem } else { problem.with("data_centers", names) }
        }
        CoordinateError::Overloaded { retry_after_ms } => problem.retry_after_ms(*retry_after_ms),
        CoordinateError::NotFormed
        | CoordinateError::NotServing { .. }
        | CoordinateError::Moved { .. } => problem.retry_after_ms(1_000),
        CoordinateError::TooManySiblings { siblings, limit } => {
            problem.with("siblings", *siblings as u64).with("limit", *limit as u64)
        }
        _ => problem,
    }
}
