//! `tenon config print`: every setting, its value with secrets hidden, and where the value comes from.

use std::fmt::Write as _;

use clap::{ArgMatches, Command, parser::ValueSource};

use super::{File, is_secret, key};

/// A setting as it is shown.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Row {
    pub(crate) key: String,
    pub(crate) value: String,
    pub(crate) source: String,
}

/// The settings of one command, in the order of its help.
pub(crate) fn rows(command: &Command, matches: &ArgMatches, file: &File) -> Vec<Row> {
    let settings = command.get_arguments().filter_map(|argument| Some((key(argument)?, argument)));
    let row = |(key, argument): (String, &clap::Arg)| {
        let id = argument.get_id().as_str();
        let raw = matches.try_get_raw(id).ok().flatten();
        let value = raw.map(|values| values.map(|value| value.to_string_lossy()).collect::<Vec<_>>().join(","));
        let source = match matches.value_source(id) {
            Some(ValueSource::CommandLine) => "flag".to_owned(),
            Some(ValueSource::EnvVariable) => {
                argument.get_env().map(|name| name.to_string_lossy().into()).unwrap_or_default()
            }
            _ if value.is_none() => "not set".to_owned(),
            _ => match &file.path {
                Some(path) if file.values.contains_key(&key) => path.display().to_string(),
                _ => "default".to_owned(),
            },
        };
        Row { value: value.map_or_else(String::new, |value| shown(&key, &value)), key, source }
    };
    settings.map(row).collect()
}

/// As TOML that the settings file takes, but for the secrets.
pub(crate) fn render(rows: &[Row]) -> String {
    let mut text = String::new();
    for Row { key, value, source } in rows {
        let written = match source.as_str() {
            // A secret in a comment: the printed text can be used as a file without setting it to "[redacted]".
            _ if is_secret(key) => writeln!(text, "# {key} = {}  # {source}", toml_value(value)),
            "not set" => writeln!(text, "# {key} = \"\"  # {source}"),
            _ => writeln!(text, "{key} = {}  # {source}", toml_value(value)),
        };
        written.expect("writing to a string cannot fail");
    }
    text
}

fn toml_value(text: &str) -> String {
    let is_plain = text == "true" || text == "false" || text.parse::<f64>().is_ok();
    if is_plain { text.to_owned() } else { toml::Value::String(text.to_owned()).to_string() }
}

fn shown(key: &str, value: &str) -> String {
    if is_secret(key) {
        return "[redacted]".to_owned();
    }
    redact_password(value)
}

/// `postgres://owner:secret@host/db` -> `postgres://owner:[redacted]@host/db`.
fn redact_password(value: &str) -> String {
    let hidden = || {
        let (scheme, rest) = value.split_once("://")?;
        let authority = &rest[..rest.find('/').unwrap_or(rest.len())];
        let (user, host) = authority.rsplit_once('@')?;
        let (name, _) = user.split_once(':')?;
        Some(format!("{scheme}://{name}:[redacted]@{host}{}", &rest[authority.len()..]))
    };
    hidden().unwrap_or_else(|| value.to_owned())
}

#[cfg(test)]
mod tests {
    use clap::Arg;

    use super::*;

    #[test]
    fn every_setting_is_shown_with_its_source_and_no_secret() {
        let command = Command::new("tenon")
            .arg(Arg::new("mesh_key").long("mesh-key").env("TENON_PRINT_MESH_KEY"))
            .arg(Arg::new("url").long("url").env("TENON_PRINT_URL"))
            .arg(Arg::new("pool").long("pool").env("TENON_PRINT_POOL").default_value("10"))
            .arg(Arg::new("unset").long("unset").env("TENON_PRINT_UNSET"));
        let file = File {
            path: Some("t.toml".into()),
            values: [("url".to_owned(), vec!["postgres://a:b@c/d".into()])].into(),
        };
        let command = super::super::apply(command, &file.values);
        let matches = command.clone().try_get_matches_from(["tenon", "--mesh-key", "hush"]).unwrap();
        let text = render(&rows(&command, &matches, &file));
        assert_eq!(
            text,
            "# mesh_key = \"[redacted]\"  # flag\nurl = \"postgres://a:[redacted]@c/d\"  # t.toml\npool = 10  # default\n# unset = \"\"  # not set\n"
        );
    }
}
