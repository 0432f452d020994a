//! The seam's listeners as the HTTP rooms want them.

use std::io;

use crate::http::server::Accept;
use crate::seam::{BoxedStream, Listener};

/// A listener of the seam.
pub struct Accepting(pub Box<dyn Listener>);

impl Accept for Accepting {
    type Stream = BoxedStream;

    async fn accept(&mut self) -> io::Result<BoxedStream> {
        Ok(self.0.accept().await?.0)
    }
}
