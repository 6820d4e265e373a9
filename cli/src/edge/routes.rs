//! `tenon edge routes`.

use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use serde_json::json;
use tenon_gateway::{Row, inspect};

use super::{From, own, policy, refused};

/// What is printed, and how.
#[derive(Debug, Args)]
pub(crate) struct Settings {
    #[command(flatten)]
    from: From,
    /// Only this upstream; `tenon` is the mesh itself
    #[arg(long, value_name = "NAME")]
    upstream: Option<String>,
    /// As JSON: an array of objects
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(settings: &Settings) -> Result<ExitCode> {
    let found = match inspect(&own(), settings.from.upstreams.as_deref()).await {
        Ok(found) => found,
        Err(why) => return Ok(refused(&why)),
    };
    for (name, why) in &found.absent {
        eprintln!("warning: upstream {name}: {why}; its routes are absent");
    }
    let wanted = |row: &&Row| settings.upstream.as_deref().is_none_or(|name| name == upstream(row));
    let mut lines: Vec<(String, String, &Row)> = Vec::new();
    for row in found.rows.iter().filter(wanted) {
        for route in &row.routes {
            let (verb, path) = route.split_once(' ').unwrap_or(("", route));
            lines.push((verb.to_owned(), path.to_owned(), row));
        }
    }
    lines.sort_by(|a, b| (&a.1, &a.0).cmp(&(&b.1, &b.0)));
    if settings.json {
        let rows: Vec<_> = lines.iter().map(|(verb, path, row)| as_json(verb, path, row)).collect();
        println!("{}", serde_json::to_string_pretty(&rows)?);
        return Ok(ExitCode::SUCCESS);
    }
    let width = |of: &dyn Fn(&(String, String, &Row)) -> usize| lines.iter().map(of).max().unwrap_or(0);
    let path_width = width(&|line| line.1.len());
    let method_width = width(&|line| line.2.method.path.len());
    for (verb, path, row) in &lines {
        let method = row.method.path.trim_start_matches('/');
        println!("{verb:<7} {path:<path_width$} {method:<method_width$} {:<8} {}", upstream(row), policy(row));
    }
    Ok(ExitCode::SUCCESS)
}

fn upstream(row: &Row) -> &str {
    row.upstream.as_deref().unwrap_or("tenon")
}

fn as_json(verb: &str, path: &str, row: &Row) -> serde_json::Value {
    let method = &row.method;
    json!({
        "verb": verb,
        "path": path,
        "method": method.path.trim_start_matches('/'),
        "upstream": upstream(row),
        "access": method.access.as_str_name(),
        "permission": method.permission,
        "step_up": method.step_up,
        "feature": method.feature,
        "meter": method.meter,
        "rate": method.rate.as_str_name(),
        "allow_unpaid": method.allow_unpaid,
        "timeout_ms": method.timeout.map(|timeout| u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX)),
    })
}
