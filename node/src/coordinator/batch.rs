//! Several requests in one: each answers for itself.
//!
//! A batch saves round trips and promises nothing else. Its items run side by side, some of them at a time,
//! in no order; one may fail while the others are applied.

use futures_util::stream::{self, Stream, StreamExt};

use super::request::{
    CoordinateError, Coordinator, DeleteOutcome, DeleteRequest, GetOutcome, GetRequest, PutOutcome,
    PutRequest,
};

/// Items of one batch under way at once.
pub const AT_ONCE: usize = 16;

/// One request of a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Item {
    /// A read.
    Get(GetRequest),
    /// A put.
    Put(PutRequest),
    /// A delete.
    Delete(DeleteRequest),
}

/// What became of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Done {
    /// A read.
    Get(GetOutcome),
    /// A put.
    Put(PutOutcome),
    /// A delete.
    Delete(DeleteOutcome),
}

impl Item {
    /// Does it.
    ///
    /// # Errors
    /// See [`CoordinateError`], which speaks of this item alone.
    pub async fn run(self, coordinator: &impl Coordinator) -> Result<Done, CoordinateError> {
        Ok(match self {
            Self::Get(request) => Done::Get(coordinator.get(request).await?),
            Self::Put(request) => Done::Put(coordinator.put(request).await?),
            Self::Delete(request) => Done::Delete(coordinator.delete(request).await?),
        })
    }
}

/// Runs whatever is made of each item, some at a time. The results come in the order of the items.
pub fn side_by_side<I, F: Future>(
    items: impl IntoIterator<Item = I>,
    run: impl FnMut(I) -> F,
) -> impl Stream<Item = F::Output> {
    stream::iter(items).map(run).buffered(AT_ONCE)
}
