//! The one binary of Tenon: `tenon dev`, `serve`, `migrate`, `token`, `doctor` and what belongs to them.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a command line talks to people")]

mod dev;
mod guard;
mod migrate;
mod settings;
mod trace;

/// Tells a person what is going on; standard output is kept for what other programs read.
fn say(text: &str) {
    eprintln!("· {text}");
}
#[derive(clap::Parser)]
enum Cli {
    Guard(guard::Args),
    Spike {
        #[arg(long)]
        ephemeral: bool,
    },
}
#[tokio::main]
async fn main() -> anyhow::Result<std::process::ExitCode> {
    match <Cli as clap::Parser>::parse() {
        Cli::Guard(a) => {
            let code = guard::run(a).await?;
            std::process::exit(if code == std::process::ExitCode::SUCCESS { 0 } else { 1 })
        }
        Cli::Spike { ephemeral } => {
            dev::spike(ephemeral).await?;
            Ok(std::process::ExitCode::SUCCESS)
        }
    }
}
