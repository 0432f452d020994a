//! Whole-node tests of Kvasir.
