//! The tree against a model, and two stores that meet.

mod meeting;
mod sums;
