//! `kvasir dev`: a whole cluster on one machine.
