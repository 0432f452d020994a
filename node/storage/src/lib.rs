//! The storage engine of Kvasir.
