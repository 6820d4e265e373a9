//! Settings: flags > environment > file > defaults, one list of names for all four.
//!
//! A setting is a clap argument with an environment name. What the file (or `tenon dev`) says is put below the
//! environment as the argument's default, so clap itself decides the order and every command behaves the same.

mod file;
mod print;

use std::collections::BTreeMap;

use clap::{Arg, Command};

pub(crate) use file::File;
pub(crate) use print::{render, rows};

/// Values by key; a key is the long flag with underscores: `database_url`.
pub(crate) type Values = BTreeMap<String, Vec<String>>;

/// The key of a setting; `None` for a flag that only the command line has.
pub(crate) fn key(argument: &Arg) -> Option<String> {
    let is_setting = argument.get_env().is_some_and(|name| name.to_string_lossy().starts_with("TENON_"));
    argument.get_long().filter(|_| is_setting).map(|long| long.replace('-', "_"))
}

/// Puts values below flags and environment, in the command and all of its subcommands.
pub(crate) fn apply(command: Command, values: &Values) -> Command {
    let command = command.mut_args(|argument| {
        let value = key(&argument).and_then(|key| values.get(&key));
        match value {
            // A secret from the file must not be printed as a default by --help.
            Some(value) => argument.required(false).hide_default_value(true).default_values(value.clone()),
            None => argument,
        }
    });
    command.mut_subcommands(|subcommand| apply(subcommand, values))
}

/// Lets every setting be missing: for a first look at the flags of a command that makes its settings up itself.
pub(crate) fn relax(command: Command) -> Command {
    command.mut_args(|argument| if key(&argument).is_some() { argument.required(false) } else { argument })
}

/// As `relax`, for all subcommands.
pub(crate) fn relax_all(command: Command) -> Command {
    relax(command).mut_subcommands(relax_all)
}

/// Every setting of the command and its subcommands: key, environment name.
pub(crate) fn known(command: &Command) -> BTreeMap<String, String> {
    let own = command
        .get_arguments()
        .filter_map(|argument| Some((key(argument)?, argument.get_env()?.to_string_lossy().into_owned())));
    own.chain(command.get_subcommands().flat_map(known)).collect()
}

/// Whether a setting's value must not be shown.
pub(crate) fn is_secret(key: &str) -> bool {
    ["_key", "password", "secret", "token"].iter().any(|word| key.ends_with(word))
}

#[cfg(test)]
mod tests {
    use clap::{FromArgMatches as _, Parser};

    use super::*;

    #[derive(Debug, Parser)]
    struct Sample {
        #[arg(long, env = "TENON_TEST_SAMPLE_PORT", default_value_t = 1)]
        sample_port: u16,
        #[arg(long, env = "TENON_TEST_MESH_KEY")]
        mesh_key: String,
        #[arg(long, env = "TENON_TEST_SAMPLE_URL")]
        sample_url: Option<String>,
        #[arg(long)]
        only_here: bool,
    }

    fn values(pairs: &[(&str, &str)]) -> Values {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), vec![(*value).to_owned()])).collect()
    }

    #[test]
    fn a_flag_wins_over_the_file_and_the_file_over_the_default() {
        use clap::CommandFactory as _;
        let file = values(&[("sample_port", "2"), ("mesh_key", "from file"), ("sample_url", "http://file")]);
        let command = apply(Sample::command(), &file);
        let matches = command.clone().try_get_matches_from(["tenon"]).unwrap();
        let sample = Sample::from_arg_matches(&matches).unwrap();
        assert_eq!((sample.sample_port, sample.mesh_key.as_str()), (2, "from file"));
        assert_eq!(sample.sample_url.as_deref(), Some("http://file"));
        let matches = command.try_get_matches_from(["tenon", "--sample-port", "3"]).unwrap();
        assert_eq!(Sample::from_arg_matches(&matches).unwrap().sample_port, 3);
    }

    #[test]
    fn only_what_has_an_environment_name_is_a_setting() {
        use clap::CommandFactory as _;
        let known = known(&Sample::command());
        assert_eq!(known.keys().collect::<Vec<_>>(), ["mesh_key", "sample_port", "sample_url"]);
        assert_eq!(known["sample_port"], "TENON_TEST_SAMPLE_PORT");
    }
}
