//! A child of `kvasir dev` ends when `kvasir dev` does, however that ends.
//!
//! The parent holds the write end of the child's standard input. A line that it writes tells the child
//! what to do to its frames (see [`crate::faults`]). When the parent is gone, also by SIGKILL, the child
//! reads the end of it and asks itself to stop as by SIGTERM.
//! A child that is paused at that moment cannot read, so on Linux the death of the parent also sends
//! it SIGCONT, which does nothing to one that runs.

use std::io::BufRead;

use rustix::process::{Signal, getpid, kill_process};

use crate::faults::Faults;

/// Ties this process, if asked to, to the one that holds the other end of its standard input.
pub fn attach(wanted: bool, faults: Faults) {
    if !wanted {
        return;
    }
    #[cfg(target_os = "linux")]
    rustix::process::set_parent_process_death_signal(Some(Signal::CONT)).ok();
    let watch = std::thread::Builder::new().name("leash".into()).spawn(move || {
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            if let Err(error) = faults.obey(&line) {
                eprintln!("this order is not understood and changes nothing: {error}");
            }
        }
        kill_process(getpid(), Signal::TERM).ok();
    });
    if let Err(error) = watch {
        eprintln!("standard input is not watched, stop this process by a signal: {error}");
    }
}
