//! The one binary of Tenon: `tenon dev`, `serve`, `migrate`, `token`, `doctor` and what belongs to them.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a command line talks to people")]

mod dev;
mod doctor;
mod edge;
mod guard;
mod health;
mod migrate;
mod serve;
mod settings;
mod token;
mod trace;
mod usage;
mod workflow;

use std::{ffi::OsString, path::PathBuf, process::ExitCode};

use anyhow::Result;
use clap::{
    Args, Command, CommandFactory as _, FromArgMatches as _, Parser, Subcommand,
    error::{ContextKind, ContextValue},
};
use clap_complete::Shell;
use tokio::{runtime::Runtime, time::Instant};

use settings::File;

/// Requests are many small allocations: with the C library's allocator a tenth of the CPU time goes into it.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The backbone of a multi-tenant SaaS: identity, tenants, billing and workflows behind one HTTP edge.
#[derive(Debug, Parser)]
#[command(name = "tenon", version, after_help = EXAMPLES)]
struct Cli {
    #[command(subcommand)]
    command: Commands,
    /// The settings file (TOML); without it ./tenon.toml when it is there [env: TENON_CONFIG]
    #[arg(long, global = true, value_name = "PATH")]
    config: Option<PathBuf>,
}

const EXAMPLES: &str = "Examples:
  tenon dev                          the whole mesh on this machine, data in .tenon/
  tenon dev --ephemeral --port-offset 1000
  tenon serve workflow               one part, as in production
  tenon config print serve all       every setting, its value and where it comes from
  tenon doctor                       what is wrong here, and what to type

A setting is a flag, an environment variable (TENON_...) or a key of the settings file, in this order.";

#[derive(Debug, Subcommand)]
enum Commands {
    /// Start the whole mesh on this machine, with a Postgres of its own
    #[command(
        after_help = "Examples:\n  tenon dev\n  tenon dev --ephemeral --port-offset 1000 --ready-file /tmp/tenon.json\n  tenon dev --edge-port 8000 --redis-url redis://127.0.0.1:6379"
    )]
    Dev(Box<Dev>),
    /// Serve one part of the mesh, or all of them in one process
    #[command(
        subcommand,
        after_help = "Example:\n  TENON_DATABASE_URL=postgres://db:5432/tenon tenon serve auth --bind 0.0.0.0"
    )]
    Serve(serve::Target),
    /// Bring the database's roles and schemas up to date
    Migrate(migrate::Settings),
    /// Mint a token of the mesh that lives for 60 s, for grpcurl
    #[command(
        after_help = "Example:\n  grpcurl -plaintext -H \"authorization: Bearer $(tenon token workflow --tenant ten_... --role admin)\" \\\n    -d '{\"name\":\"runs/run_...\"}' 127.0.0.1:9104 tenon.workflow.v1.RunService/GetRun"
    )]
    Token(token::Settings),
    /// Check this machine and this mesh: each finding says what to type
    Doctor(Box<doctor::Settings>),
    /// Ask whether a process of this machine takes calls
    Health(health::Settings),
    /// Look at the settings
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Look at what the edge serves, and check services of your own before they join it
    #[command(subcommand)]
    Edge(edge::Command),
    /// Check and try workflow definitions, with no server
    #[command(subcommand)]
    Workflow(workflow::Command),
    /// Print a shell's completions
    #[command(after_help = "Example:\n  tenon completions bash > /etc/bash_completion.d/tenon")]
    Completions {
        /// The shell
        shell: Shell,
    },
    /// Run a throw-away Postgres for tests
    #[command(hide = true)]
    Postgres(dev::alone::Settings),
    /// Run a program and end it when standard input closes
    #[command(hide = true)]
    Guard(guard::Args),
}

#[derive(Debug, Args)]
struct Dev {
    #[command(flatten)]
    flags: dev::Flags,
    #[command(flatten)]
    all: serve::All,
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Print the settings of a command: value, and where it comes from; secrets are hidden
    #[command(
        after_help = "Examples:\n  tenon config print\n  tenon config print serve auth --log debug\n  tenon config print > tenon.toml"
    )]
    Print {
        /// The command and its flags [default: serve all]
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        command: Vec<OsString>,
    },
}

fn main() -> ExitCode {
    match run(std::env::args_os().collect()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Tells a person what is going on; standard output is kept for what other programs read.
fn say(text: &str) {
    eprintln!("· {text}");
}

fn run(arguments: Vec<OsString>) -> Result<ExitCode> {
    // The guard must end its program whatever the settings file says.
    if arguments.get(1).is_some_and(|command| command == "guard") {
        let Commands::Guard(args) = Cli::parse_from(arguments).command else { unreachable!("its name was compared") };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let code = runtime.block_on(guard::run(args));
        runtime.shutdown_background();
        return code;
    }
    let file = File::load(&arguments)?;
    let command = Cli::command();
    file.check(&command)?;
    if arguments.get(1).is_some_and(|command| command == "dev") {
        return dev(&command, &file, &arguments);
    }
    let matches = settings::apply(command, &file.values).try_get_matches_from(arguments);
    let matches = matches.unwrap_or_else(|error| refuse(error));
    let cli = Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    dispatch(cli.command, &file)
}

/// Clap names missing flags, where most people set the environment; and it shows what it refuses, even a secret.
fn refuse(mut error: clap::Error) -> ! {
    let argument = error.get(ContextKind::InvalidArg).map(ToString::to_string).unwrap_or_default();
    let flag = argument.split(' ').next().unwrap_or_default().trim_start_matches("--").replace('-', "_");
    if settings::is_secret(&flag) {
        error.insert(ContextKind::InvalidValue, ContextValue::String("[redacted]".to_owned()));
    }
    if error.kind() == clap::error::ErrorKind::MissingRequiredArgument {
        eprintln!(
            "hint: --mesh-key is also TENON_MESH_KEY in the environment and mesh_key in the settings file, and so on;"
        );
        eprintln!("      scripts/secrets prints a fresh set of every secret\n");
    }
    error.exit()
}

fn dispatch(command: Commands, file: &File) -> Result<ExitCode> {
    match command {
        Commands::Serve(target) => Runtime::new()?.block_on(serve::run(target))?,
        Commands::Migrate(settings) => {
            let applied = Runtime::new()?.block_on(migrate::run(&settings))?;
            applied.iter().for_each(|name| say(&format!("applied {name}")));
            say("roles and schemas are up to date");
        }
        Commands::Postgres(settings) => Runtime::new()?.block_on(dev::alone::run(settings))?,
        Commands::Token(settings) => println!("{}", token::mint(&settings)?),
        Commands::Doctor(settings) => return Runtime::new()?.block_on(doctor::run(&settings, file)),
        Commands::Health(settings) => Runtime::new()?.block_on(health::run(&settings))?,
        Commands::Edge(command) => return edge::run(&command),
        Commands::Workflow(command) => return workflow::run(&command),
        Commands::Config(ConfigCommand::Print { command }) => print_settings(command, file)?,
        Commands::Completions { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "tenon", &mut std::io::stdout());
        }
        Commands::Dev(_) | Commands::Guard(_) => unreachable!("dispatched by name before"),
    }
    Ok(ExitCode::SUCCESS)
}

/// `tenon dev` makes most of its settings up, so it parses three times: for its flags, for the ports that these move,
/// and, once there are a database and secrets, for good.
fn dev(command: &Command, file: &File, arguments: &[OsString]) -> Result<ExitCode> {
    let started = Instant::now();
    let lenient = command.clone().mut_subcommand("dev", settings::relax);
    let parse = |command: Command, values: &settings::Values| {
        let matches = settings::apply(settings::apply(command, values), &file.values).try_get_matches_from(arguments);
        let matches = matches.unwrap_or_else(|error| refuse(error));
        let (_, matches) = matches.subcommand().expect("the command is dev");
        matches.clone()
    };
    let first = parse(lenient.clone(), &settings::Values::new());
    let mut values = dev::defaults(&dev::Flags::from_arg_matches(&first)?)?;
    let second = parse(lenient, &values);
    let plan = dev::Plan::new(dev::Flags::from_arg_matches(&second)?, &second)?;
    Runtime::new()?.block_on(async {
        let ground = dev::prepare(&plan).await?;
        values.extend(ground.values.clone());
        let settings = Dev::from_arg_matches(&parse(command.clone(), &values))?;
        // The migration gets the very passwords that the services will use.
        let known: settings::Values = values.into_iter().filter(|(key, _)| is_of_migration(key)).collect();
        let migration = settings::apply(settings::apply(migrate_command(command), &known), &file.values);
        let migration = migrate::Settings::from_arg_matches(&migration.try_get_matches_from(["migrate"])?)?;
        dev::run(plan, ground, settings.all, migration, started).await
    })?;
    Ok(ExitCode::SUCCESS)
}

fn is_of_migration(key: &str) -> bool {
    key == "admin_database_url" || key.ends_with("_db_password")
}

fn migrate_command(command: &Command) -> Command {
    command.find_subcommand("migrate").expect("a command of ours").clone()
}

fn print_settings(mut command: Vec<OsString>, file: &File) -> Result<()> {
    if command.is_empty() {
        command = vec!["serve".into(), "all".into()];
    }
    command.insert(0, "tenon".into());
    let mut described = settings::apply(settings::relax_all(Cli::command()), &file.values);
    let matches = described.clone().try_get_matches_from(&command).unwrap_or_else(|error| refuse(error));
    let mut matches = &matches;
    while let Some((name, inner)) = matches.subcommand() {
        described = described.find_subcommand(name).expect("clap found it too").clone();
        matches = inner;
    }
    print!("{}", settings::render(&settings::rows(&described, matches, file)));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }
}
