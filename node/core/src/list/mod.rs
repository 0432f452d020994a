//! Lists: which keys a bucket has, page by page, from replicas that each know a part of it.
//!
//! Keys have no order but that of their hashes, so a list runs along the ring: a [`Place`] is a point in
//! that order. A replica answers with a [`Page`]: what it holds from a place on, and how far it looked.
//! [`merge()`] makes one of the pages of several replicas, up to where all of them looked; a [`Cursor`]
//! carries the place where the next page begins through a client.
//!
//! Why no key comes twice and none is missed: places only rise, a merged page holds every key up to its
//! end that any of the replicas asked holds, and the next one begins exactly there. A key that was
//! written before the list began and is there until its end lies on as many replicas as its write asked
//! for; where these and the replicas asked overlap, it is on one of the pages.

pub mod cursor;
pub mod merge;
pub mod place;

pub use cursor::{Cursor, CursorError};
pub use merge::{Listed, Page, PageFault, Row, merge};
pub use place::Place;
