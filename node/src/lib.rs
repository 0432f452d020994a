//! The Kvasir node.
