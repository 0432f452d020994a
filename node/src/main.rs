//! Entry point of the `kvasir` binary: the first word of the command line decides what runs.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use kvasir::{cli, dev, faults, serve};

/// Requests are futures of some KiB that live for a millisecond, more than the allocator of the C library keeps
/// ready for a thread: it took a quarter to a third of the processor time of a put.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// A Dynamo-style key-value store: storage node, command line and local cluster in one binary.
#[derive(Debug, Parser)]
#[command(
    name = "kvasir",
    version,
    propagate_version = true,
    after_help = "\
First steps:
  kvasir dev                                    three nodes on this machine
  kvasir put default cart/42 milk               (in another terminal)
  kvasir get default cart/42
  kvasir status

Exit codes: 0 ok, 1 error, 2 usage, 3 not found, 4 quorum not reached or unavailable, 5 siblings."
)]
struct Arguments {
    #[command(subcommand)]
    word: Word,
}

#[derive(Debug, Subcommand)]
enum Word {
    /// Run a storage node
    Serve(cli::configuration::Serve),
    /// Run a whole cluster on this machine, one process per node
    Dev(dev::Dev),
    #[command(flatten)]
    Client(cli::Word),
    /// The configuration of a node: its schema, an example, a check
    #[command(subcommand)]
    Config(cli::configuration::ConfigWord),
    /// Make the store of a stopped node open again that refuses to because of damage
    Recover(cli::recover::Recover),
    /// Print the version
    Version,
}

fn main() -> ExitCode {
    match Arguments::parse().word {
        Word::Serve(arguments) => match arguments.sources.load() {
            Ok(config) => {
                let faults = faults::Faults::default();
                dev::leash::attach(arguments.exit_with_stdin, faults.clone());
                serve::run(config, faults)
            }
            Err(failure) => cli::finish(Err(failure)),
        },
        Word::Config(word) => cli::finish(cli::configuration::run(&word)),
        Word::Recover(arguments) => cli::finish(cli::recover::run(&arguments)),
        Word::Dev(arguments) => dev::run(&arguments),
        Word::Client(word) => cli::run(&word),
        Word::Version => {
            println!("kvasir {}", env!("CARGO_PKG_VERSION"));
            ExitCode::SUCCESS
        }
    }
}
