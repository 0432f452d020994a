//! A child of `kvasir dev` ends when `kvasir dev` does, however that ends.
//!
//! The parent holds the write end of the child's standard input and never writes. When the parent
//! is gone, also by SIGKILL, the child reads the end of it and asks itself to stop as by SIGTERM.
//! A child that is paused at that moment cannot read, so on Linux the death of the parent also sends
//! it SIGCONT, which does nothing to one that runs.

use std::io::Read;

use rustix::process::{Signal, getpid, kill_process};

/// Ties this process, if asked to, to the one that holds the other end of its standard input.
pub fn attach(wanted: bool) {
    if !wanted {
        return;
    }
    #[cfg(target_os = "linux")]
    rustix::process::set_parent_process_death_signal(Some(Signal::CONT)).ok();
    let watch = std::thread::Builder::new().name("leash".into()).spawn(|| {
        let mut buffer = [0; 64];
        let mut stdin = std::io::stdin().lock();
        while stdin.read(&mut buffer).is_ok_and(|read| read > 0) {}
        kill_process(getpid(), Signal::TERM).ok();
    });
    if let Err(error) = watch {
        eprintln!("standard input is not watched, stop this process by a signal: {error}");
    }
}
