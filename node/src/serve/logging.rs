//! Logs: lines for people on a terminal, JSON elsewhere. Values are never logged.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

use crate::config::{LogConfig, LogFormat};

/// Sends the process's logs to standard error. A second call changes nothing.
///
/// # Errors
/// The filter does not parse.
pub fn start(config: &LogConfig) -> Result<(), String> {
    let filter = EnvFilter::try_new(&config.filter)
        .map_err(|e| format!("log.filter: {e}. try: info, or info,kvasir::peer=debug"))?;
    let json = match config.format {
        LogFormat::Json => true,
        LogFormat::Text => false,
        LogFormat::Auto => !std::io::stderr().is_terminal(),
    };
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    // An error means that a subscriber is installed already.
    let _ = if json { builder.json().try_init() } else { builder.try_init() };
    Ok(())
}
