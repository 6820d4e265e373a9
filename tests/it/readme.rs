//! README.md is true: its commands are run in their order, and what it shows below each is what comes back.

use std::process::Command;

use crate::harness::{Dev, Ports, text};

/// A command of the README and what it shows below it, if anything.
#[derive(Debug)]
struct Step {
    command: String,
    shown: Option<String>,
}

impl Step {
    /// What only asks is asked until it shows what it must: a person waits as long as the README says, a machine may need longer.
    fn until_shown(&self) -> String {
        let command = self.command.trim_end();
        let command =
            command.split_once("; ").filter(|(first, _)| first.starts_with("sleep ")).map_or(command, |(_, it)| it);
        let only_asks = !command.contains(" -d ") || command.ends_with("-d '{}'");
        let Some(shown) = self.shown.as_ref().filter(|_| only_asks) else { return command.to_owned() };
        let is_shown: String = pieces(shown).iter().map(|piece| format!(" && [[ $said == *'{piece}'* ]]")).collect();
        let look = format!("answer=$({command}); said=$(tr -d '[:space:]' <<<\"$answer\")");
        format!("for look in {{1..300}}; do {look}; true{is_shown} && break; sleep 0.2; done; echo \"$answer\"")
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn its_commands_give_what_it_shows() {
    let steps = steps(include_str!("../../README.md"));
    assert!(steps.len() >= 10, "README.md has its walk as indented blocks: {steps:#?}");
    let dev = Dev::ephemeral(&Ports::take()).await;
    let edge = text(&dev.ready["edge"]).replace("http://127.0.0.1", "localhost");
    // One shell for all, as the variables of one step are used by the next.
    let script: Vec<String> = steps.iter().map(|step| format!("{}\necho; echo {MARK}", step.until_shown())).collect();
    let script = script.join("\n").replace("localhost:8080", &edge);
    let output = tokio::task::spawn_blocking(|| Command::new("bash").arg("-c").arg(script).output()).await;
    let output = output.unwrap().unwrap();
    let printed = String::from_utf8(output.stdout).unwrap();
    let answers: Vec<&str> = printed.split(MARK).collect();
    for (step, answer) in steps.iter().zip(answers) {
        let Some(shown) = &step.shown else { continue };
        let mut rest = squeeze(answer);
        for piece in pieces(shown) {
            let found = rest.find(&piece);
            let at =
                found.unwrap_or_else(|| panic!("{}\ngives\n{answer}\nwhere README.md shows {piece}", step.command));
            rest = rest.split_off(at + piece.len());
        }
    }
}

const MARK: &str = "=====";

/// The indented blocks of the walk and of the errors. `make` is for people, and not everybody has grpcurl.
fn steps(readme: &str) -> Vec<Step> {
    let walk = readme.split("\n## ").filter(|section| section.starts_with("Walk") || section.starts_with("Errors"));
    let mut steps: Vec<Step> = Vec::new();
    for block in walk.flat_map(blocks) {
        let first = block.split_whitespace().next().unwrap_or_default();
        if first == "curl" || first == "sleep" || first.contains("=$(curl") {
            steps.push(Step { command: block, shown: None });
        } else if first.starts_with('{') || first.starts_with("runs/") {
            steps.last_mut().expect("a command stands before what it shows").shown = Some(block);
        }
    }
    steps
}

fn blocks(section: &str) -> Vec<String> {
    let mut blocks = vec![String::new()];
    for line in section.lines() {
        match line.strip_prefix("    ") {
            Some(code) => {
                let block = blocks.last_mut().expect("it starts with one");
                block.push_str(code);
                block.push('\n');
            }
            None => blocks.push(String::new()),
        }
    }
    blocks.retain(|block| !block.is_empty());
    blocks
}

fn squeeze(text: &str) -> String {
    text.chars().filter(|c| !c.is_whitespace()).collect()
}

/// What must come back in this order: what stands between quotes and dots, without what differs each time.
fn pieces(shown: &str) -> Vec<String> {
    let mut pieces: Vec<String> = Vec::new();
    for part in squeeze(shown).split("...") {
        pieces.extend(part.split('"').filter(|piece| !is_time(piece)).map(str::to_owned));
        // The dots cut an id, a key or a token short: only the prefix of an id is the same each time.
        if let Some(last) = pieces.last_mut().filter(|last| last.ends_with(char::is_alphanumeric)) {
            last.truncate(last.find("_01").map_or(0, |at| at + 1));
        }
    }
    pieces
}

fn is_time(text: &str) -> bool {
    text.len() > 15 && text.starts_with("20") && text.ends_with('Z') && text.contains('T')
}
