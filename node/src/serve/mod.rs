//! One process: workers, start, drain, stop.

pub mod net;
