//! Large sets, sibling by sibling.
//!
//! Replication is never capped, so a set may exceed what one frame can carry. It then travels as
//! one piece per sibling, which is merged like any delta, and an outline: the context and which dots
//! are held. Only the outline may drop siblings on the other side, and only when every piece that it
//! names has arrived there or was superseded there: merging the context earlier would drop the very
//! siblings that are still under way.
//!
//! ```text
//! outline = version(1) context count dot*      held dots by rising dot
//! ```

use std::collections::BTreeSet;

use super::codec::{CodecError, Reader, put_context, put_dot, put_number};
use super::context::Context;
use super::dot::Dot;
use super::set::SiblingSet;

/// Version of the outline layout above.
pub const OUTLINE_VERSION: u8 = 1;

/// A set without its siblings: what it covers, and which dots it holds.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Outline {
    context: Context,
    held: BTreeSet<Dot>,
}

/// The outline names a sibling that has not arrived. Nothing was changed; send its piece, then the
/// outline again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the piece with {0} has not arrived")]
pub struct MissingPiece(pub Dot);

impl SiblingSet {
    /// This set without its siblings.
    pub fn outline(&self) -> Outline {
        Outline { context: self.context().clone(), held: self.siblings().keys().copied().collect() }
    }

    /// One set per sibling, each to be merged before the outline.
    pub fn pieces(&self) -> impl Iterator<Item = SiblingSet> + '_ {
        let siblings = self.siblings().iter();
        siblings.map(|(&dot, sibling)| SiblingSet::delta(Context::new(), dot, sibling.clone()))
    }

    /// Merges a set of which all pieces were merged before; says whether anything changed.
    ///
    /// # Errors
    /// [`MissingPiece`] if one was not.
    pub fn merge_outline(&mut self, outline: &Outline) -> Result<bool, MissingPiece> {
        if let Some(dot) = outline.held.iter().find(|dot| !self.context().covers(dot)) {
            return Err(MissingPiece(*dot));
        }
        let both = |dot: &&Dot| self.siblings().contains_key(dot);
        let held = outline.held.iter().filter(both);
        let held = held.map(|dot| (*dot, self.siblings()[dot].clone())).collect();
        let theirs = SiblingSet::from_parts(outline.context.clone(), held);
        Ok(self.merge_in(&theirs.expect("an outline covers what it holds")))
    }
}

impl Outline {
    /// The context of the set.
    pub fn context(&self) -> &Context {
        &self.context
    }

    /// The dots of its siblings.
    pub fn held(&self) -> &BTreeSet<Dot> {
        &self.held
    }

    /// The canonical bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![OUTLINE_VERSION];
        put_context(&mut out, &self.context);
        put_number(&mut out, self.held.len() as u64);
        self.held.iter().for_each(|dot| put_dot(&mut out, dot));
        out
    }

    /// Reads canonical bytes.
    ///
    /// # Errors
    /// [`CodecError`] if the bytes are not exactly what [`Self::encode`] writes for some outline.
    pub fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        let mut reader = Reader::new(bytes);
        reader.version("outline", OUTLINE_VERSION)?;
        let context = reader.context()?;
        let held = reader.dots("held dots")?;
        reader.end()?;
        if held.iter().any(|dot| dot.count == 0 || !context.covers(dot)) {
            return Err(CodecError::NotCanonical("a held dot is not in the context"));
        }
        Ok(Self { context, held })
    }
}
