//! From file, environment and `--set` to one validated [`Config`].

use std::path::Path;

use serde_json::{Map, Value};

use super::Config;

/// Longest configuration file that is read, in bytes.
const FILE_MAX_BYTES: u64 = 1 << 20;
/// Prefix of environment variables; sections are divided by two underscores.
const PREFIX: &str = "KVASIR_";

/// Why there is no configuration. Nothing was started.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("{path}: {why}")]
    File {
        /// Which.
        path: String,
        /// Why.
        why: String,
    },
    /// The file is no configuration: unknown field, wrong type, bad YAML.
    #[error("{origin}: {why}")]
    Syntax {
        /// Which file, variable or argument.
        origin: String,
        /// What is wrong, with line and column where there are any.
        why: String,
    },
    /// A field has a value that cannot work.
    #[error("{field}: {why}")]
    Invalid {
        /// Which.
        field: String,
        /// What to write instead.
        why: String,
    },
}

/// Reads the file, if one is named, then applies variables of the environment and `--set` arguments.
///
/// # Errors
/// See [`ConfigError`].
pub fn load(
    file: Option<&Path>,
    sets: &[String],
    environment: impl Iterator<Item = (String, String)>,
) -> Result<Config, ConfigError> {
    let text = match file {
        Some(path) => read(path)?,
        None => String::new(),
    };
    if let Some(path) = file.filter(|_| text.trim().is_empty()) {
        let why = "the file is empty; `kvasir config example` prints one with every setting";
        return Err(ConfigError::File { path: path.display().to_string(), why: why.to_string() });
    }
    let origin = file.map_or_else(|| "defaults".to_string(), |p| p.display().to_string());
    parse(&origin, &text, sets, environment)
}

/// As [`load`], from text.
///
/// # Errors
/// See [`ConfigError`].
pub fn parse(
    origin: &str,
    text: &str,
    sets: &[String],
    environment: impl Iterator<Item = (String, String)>,
) -> Result<Config, ConfigError> {
    let syntax =
        |origin: &str, why: String| ConfigError::Syntax { origin: origin.to_string(), why };
    let mut value = Value::Object(Map::new());
    if !text.lines().all(|l| l.trim().is_empty() || l.trim_start().starts_with('#')) {
        // Once for an error with line and column, once as a value that can be overlaid.
        serde_yaml::from_str::<Config>(text).map_err(|e| syntax(origin, e.to_string()))?;
        value = serde_yaml::from_str(text).map_err(|e| syntax(origin, e.to_string()))?;
    }
    let mut overlays: Vec<(String, String, String)> = environment
        .filter_map(|(name, given)| {
            let path = name.strip_prefix(PREFIX)?.to_lowercase();
            // Variables of the command line have no section.
            let path = path.contains("__").then(|| path.replace("__", "."))?;
            Some((name, path, given))
        })
        .collect();
    overlays.sort();
    for set in sets {
        let (path, given) = set
            .split_once('=')
            .ok_or_else(|| syntax("--set", format!("`{set}` must be section.key=value")))?;
        overlays.push((format!("--set {set}"), path.trim().to_string(), given.to_string()));
    }
    for (origin, path, given) in overlays {
        // Checked one by one, so that the error names its origin.
        value = overlay(&value, &path, &given).map_err(|why| syntax(&origin, why))?;
    }
    let config: Config =
        serde_json::from_value(value).map_err(|e| syntax(origin, e.to_string()))?;
    config.validate()?;
    Ok(config)
}

fn read(path: &Path) -> Result<String, ConfigError> {
    let file = |why: String| ConfigError::File { path: path.display().to_string(), why };
    let about = std::fs::metadata(path).map_err(|e| file(e.to_string()))?;
    if about.len() > FILE_MAX_BYTES {
        return Err(file(format!(
            "{} bytes are no configuration; at most 1 MiB is read",
            about.len()
        )));
    }
    std::fs::read_to_string(path).map_err(|e| file(e.to_string()))
}

/// Sets one field. What is given is read as YAML, so that numbers, lists and strings all work; where
/// the field does not take that, it is text (a zone named `1`) or a list of texts divided by commas.
fn overlay(value: &Value, path: &str, given: &str) -> Result<Value, String> {
    let form = || format!("`{path}` must be section.key");
    let (section, key) = path.split_once('.').ok_or_else(form)?;
    if section.is_empty() || key.is_empty() || key.contains('.') {
        return Err(form());
    }
    let text = || Value::String(given.to_string());
    let yaml = match given {
        "" => text(),
        _ => serde_yaml::from_str(given).unwrap_or_else(|_| text()),
    };
    let list = || given.split(',').map(|part| Value::String(part.trim().to_string())).collect();
    let first = place(value, section, key, yaml)?;
    let why = match serde_json::from_value::<Config>(first.clone()) {
        Ok(_) => return Ok(first),
        Err(error) => error.to_string(),
    };
    for other in [text(), Value::Array(list())] {
        let placed = place(value, section, key, other)?;
        if serde_json::from_value::<Config>(placed.clone()).is_ok() {
            return Ok(placed);
        }
    }
    Err(why)
}

fn place(value: &Value, section: &str, key: &str, given: Value) -> Result<Value, String> {
    let mut value = value.clone();
    let root = value.as_object_mut().ok_or("the configuration must be a map of sections")?;
    let section = root.entry(section).or_insert_with(|| Value::Object(Map::new()));
    let section = section.as_object_mut().ok_or("a section must be a map")?;
    section.insert(key.to_string(), given);
    Ok(value)
}
