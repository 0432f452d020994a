//! `kvasir config` and the arguments from which `kvasir serve` makes its configuration.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::failure::{Exit, Failure};
use super::output;
use crate::config::{self, Config};

/// Where a node's configuration comes from: later sources win.
#[derive(Debug, Clone, Default, Args)]
pub struct Sources {
    /// YAML file; without it, every setting has its default
    #[arg(long = "config", short = 'c', value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// One setting, over file and environment; may be repeated
    #[arg(long = "set", value_name = "SECTION.KEY=VALUE")]
    pub settings: Vec<String>,
}

/// Arguments of `kvasir serve`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Examples:
  kvasir serve --config node.yaml
  kvasir serve --set node.data_dir=/var/lib/kvasir --set http.listen=0.0.0.0:8098
  KVASIR_STORAGE__CACHE_BYTES=1GiB kvasir serve -c node.yaml

Sources, later ones win: defaults, the file, KVASIR_SECTION__KEY in the environment, --set. Several
nodes form a cluster once, by POST /v1/cluster/init on the admin port of one of them.

SIGTERM or Ctrl-C stops gracefully. Exit codes: 0 stopped, 1 error, 2 usage, 65 corrupt data, 74 the
disk failed.")]
pub struct Serve {
    /// File and settings
    #[command(flatten)]
    pub sources: Sources,
    /// Stop when standard input ends; the parent holds the other end
    #[arg(long, hide = true)]
    pub exit_with_stdin: bool,
}

/// Words of `kvasir config`.
#[derive(Debug, Clone, Subcommand)]
pub enum ConfigWord {
    /// Print the JSON schema of the configuration file
    Schema,
    /// Print a file with every setting at its default, each explained
    Example,
    /// Read a configuration as `serve` would, and print it whole; exit code 2 when it is wrong
    #[command(after_help = "Examples:
  kvasir config check --config node.yaml
  kvasir config check --set storage.cache_bytes=1GiB")]
    Check(Check),
}

/// Arguments of `kvasir config check`.
#[derive(Debug, Clone, Args)]
pub struct Check {
    /// File and settings
    #[command(flatten)]
    pub sources: Sources,
    /// The same as --config FILE
    #[arg(value_name = "FILE", conflicts_with = "file")]
    pub named: Option<PathBuf>,
    /// Only say whether it is right
    #[arg(short, long)]
    pub quiet: bool,
}

impl Sources {
    /// The configuration that these sources and the environment make.
    pub fn load(&self) -> Result<Config, Failure> {
        let environment = std::env::vars_os().filter_map(|(name, value)| {
            Some((name.into_string().ok()?, value.into_string().ok()?))
        });
        config::load(self.file.as_deref(), &self.settings, environment).map_err(|error| {
            Failure::usage(
                format!("configuration: {error}"),
                "`kvasir config example` shows every setting, `kvasir config check` reads a file",
            )
        })
    }
}

/// Runs `kvasir config`.
pub fn run(word: &ConfigWord) -> Result<Exit, Failure> {
    match word {
        ConfigWord::Schema => output::say_json(&schemars::schema_for!(Config))?,
        ConfigWord::Example => output::say(config::EXAMPLE.trim_end())?,
        ConfigWord::Check(check) => {
            let file = check.named.clone().or_else(|| check.sources.file.clone());
            let sources = Sources { file, settings: check.sources.settings.clone() };
            let config = sources.load()?;
            if !check.quiet {
                let text = serde_yaml::to_string(&config).map_err(|error| {
                    Failure::error(
                        format!("the configuration has no YAML form: {error}"),
                        "use --quiet to only check it",
                    )
                })?;
                output::say(text.trim_end())?;
            }
        }
    }
    Ok(Exit::Ok)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_check_prints_is_a_configuration() {
        let text = serde_yaml::to_string(&Config::default()).unwrap();
        let read = config::parse("printed", &text, &[], std::iter::empty()).unwrap();
        assert_eq!(read, Config::default());
    }

    #[test]
    fn a_wrong_setting_is_wrong_usage() {
        let settings = vec!["storage.cash_bytes=1".to_owned()];
        let failure = Sources { file: None, settings }.load().unwrap_err();
        assert_eq!(failure.exit, Exit::Usage);
        assert!(failure.message.contains("cash_bytes"), "{failure}");
    }
}
