//! The settings file: TOML, one key a setting; a key that nothing knows is an error that names it.

use std::{
    env,
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use clap::Command;

use super::{Values, known};

/// Names the file, as `--config` does.
const ENV: &str = "TENON_CONFIG";
/// Read when it is there and nothing else is named.
const DEFAULT: &str = "tenon.toml";

/// What the file says.
#[derive(Debug, Default)]
pub(crate) struct File {
    /// `None` when there is no file.
    pub(crate) path: Option<PathBuf>,
    pub(crate) values: Values,
}

impl File {
    /// Reads the file that `--config` or TENON_CONFIG names, or ./tenon.toml when it is there.
    ///
    /// This happens before clap parses, because what the file says becomes part of what clap is told.
    pub(crate) fn load(arguments: &[OsString]) -> Result<Self> {
        let named = flag(arguments).or_else(|| env::var_os(ENV).filter(|path| !path.is_empty()).map(PathBuf::from));
        let path = match named {
            Some(path) => path,
            None if Path::new(DEFAULT).is_file() => PathBuf::from(DEFAULT),
            None => return Ok(Self::default()),
        };
        let text =
            fs::read_to_string(&path).with_context(|| format!("cannot read the settings file {}", path.display()))?;
        let values = parse(&text).with_context(|| format!("settings file {}", path.display()))?;
        Ok(Self { path: Some(path), values })
    }

    /// Refuses keys that no command knows, with the one that was probably meant.
    pub(crate) fn check(&self, command: &Command) -> Result<()> {
        let known = known(command);
        let Some(unknown) = self.values.keys().find(|key| !known.contains_key(*key)) else { return Ok(()) };
        let path = self.path.as_deref().unwrap_or(Path::new(DEFAULT)).display();
        let close = known.keys().map(|key| (distance(key, unknown), key)).min();
        match close {
            Some((distance, key)) if distance <= 3 => bail!("{path}: unknown key `{unknown}`; did you mean `{key}`?"),
            _ => bail!("{path}: unknown key `{unknown}`; `tenon config print` lists every key"),
        }
    }
}

fn flag(arguments: &[OsString]) -> Option<PathBuf> {
    let mut arguments = arguments.iter().skip(1).take_while(|argument| *argument != "--");
    while let Some(argument) = arguments.next() {
        if argument == "--config" {
            return arguments.next().map(PathBuf::from);
        }
        if let Some(path) = argument.to_str().and_then(|argument| argument.strip_prefix("--config=")) {
            return Some(PathBuf::from(path));
        }
    }
    None
}

fn parse(text: &str) -> Result<Values> {
    let table: toml::Table = toml::from_str(text)?;
    let mut values = Values::new();
    for (key, value) in table {
        let items = match &value {
            toml::Value::Array(items) => items.iter().map(scalar).collect::<Option<Vec<_>>>(),
            single => scalar(single).map(|text| vec![text]),
        };
        match items {
            Some(items) => drop(values.insert(key, items)),
            None => bail!("`{key}` must be a string, a number, true, false or a list of these"),
        }
    }
    Ok(values)
}

fn scalar(value: &toml::Value) -> Option<String> {
    match value {
        toml::Value::String(text) => Some(text.clone()),
        toml::Value::Integer(number) => Some(number.to_string()),
        toml::Value::Float(number) => Some(number.to_string()),
        toml::Value::Boolean(flag) => Some(flag.to_string()),
        _ => None,
    }
}

/// How many single changes lie between two words (Levenshtein).
fn distance(left: &str, right: &str) -> usize {
    let right: Vec<char> = right.chars().collect();
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (line, from) in left.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = line + 1;
        for (column, to) in right.iter().enumerate() {
            let changed = diagonal + usize::from(from != *to);
            diagonal = row[column + 1];
            row[column + 1] = changed.min(row[column] + 1).min(diagonal + 1);
        }
    }
    row[right.len()]
}

#[cfg(test)]
mod tests {
    use clap::Arg;

    use super::*;

    fn file(text: &str) -> File {
        File { path: Some("tenon.toml".into()), values: parse(text).unwrap() }
    }

    #[test]
    fn an_unknown_key_is_named_with_the_one_that_was_meant() {
        let command = Command::new("tenon").arg(Arg::new("a").long("database-url").env("TENON_DATABASE_URL"));
        assert!(file("database_url = \"x\"").check(&command).is_ok());
        let error = file("databse_url = \"x\"").check(&command).unwrap_err().to_string();
        assert_eq!(error, "tenon.toml: unknown key `databse_url`; did you mean `database_url`?");
        let error = file("colour = 1").check(&command).unwrap_err().to_string();
        assert!(error.contains("`colour`") && error.contains("tenon config print"), "{error}");
    }

    #[test]
    fn values_are_scalars_or_lists_of_them() {
        let values = parse("a = 1\nb = true\nc = [\"x\", \"y\"]").unwrap();
        assert_eq!((&values["a"][0], &values["b"][0], values["c"].len()), (&"1".to_owned(), &"true".to_owned(), 2));
        assert!(parse("[table]\nx = 1").unwrap_err().to_string().contains("`table`"));
    }

    #[test]
    fn the_flag_names_the_file_in_both_spellings() {
        let arguments = |list: &[&str]| list.iter().map(OsString::from).collect::<Vec<_>>();
        assert_eq!(flag(&arguments(&["tenon", "serve", "all", "--config", "a"])), Some("a".into()));
        assert_eq!(flag(&arguments(&["tenon", "--config=b", "dev"])), Some("b".into()));
        assert_eq!(flag(&arguments(&["tenon", "guard", "--", "--config=b"])), None);
    }
}
