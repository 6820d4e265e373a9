//! Figures as a table for people and as JSON for programs.

use std::time::Duration;

use anyhow::Result;
use serde::Serialize;

use crate::load::Round;

/// What one scenario came to: medians over its rounds.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Figure {
    pub(crate) scenario: String,
    pub(crate) operations_per_s: f64,
    pub(crate) cpu_us_per_operation: f64,
    pub(crate) p50_ms: f64,
    pub(crate) p99_ms: f64,
    pub(crate) rss_mib: f64,
    /// CPU a operation over that of the control in the same run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) times_control: Option<f64>,
    /// What the CPU and memory are of.
    pub(crate) measured: String,
}

/// The rounds of one scenario with the CPU time that each took.
#[derive(Debug, Default)]
pub(crate) struct Rounds {
    rounds: Vec<(Round, Duration)>,
}

impl Rounds {
    pub(crate) fn add(&mut self, round: Round, cpu: Duration) {
        self.rounds.push((round, cpu));
    }

    pub(crate) fn figure(&self, scenario: &str, measured: &str, rss: u64) -> Figure {
        let of = |value: fn(&Round, Duration) -> f64| median(self.rounds.iter().map(|(round, cpu)| value(round, *cpu)));
        #[expect(clippy::cast_precision_loss, reason = "a figure for people")]
        let rss_mib = rss as f64 / 1_048_576.0;
        Figure {
            scenario: scenario.to_owned(),
            operations_per_s: of(|round, _| count(round) / round.took.as_secs_f64()),
            cpu_us_per_operation: of(|round, cpu| cpu.as_secs_f64() * 1e6 / count(round).max(1.0)),
            p50_ms: of(|round, _| percentile(round, 50)),
            p99_ms: of(|round, _| percentile(round, 99)),
            rss_mib,
            times_control: None,
            measured: measured.to_owned(),
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "a figure for people")]
fn count(round: &Round) -> f64 {
    round.operations as f64
}

fn percentile(round: &Round, percent: usize) -> f64 {
    let at = (round.latencies.len() * percent / 100).min(round.latencies.len().saturating_sub(1));
    round.latencies.get(at).map_or(0.0, |latency| latency.as_secs_f64() * 1e3)
}

pub(crate) fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}

#[expect(clippy::print_stdout, reason = "what the bench is for")]
pub(crate) fn print(figures: &[Figure]) -> Result<()> {
    println!(
        "{:<26} {:>10} {:>11} {:>9} {:>9} {:>9} {:>9}  measured",
        "scenario", "ops/s", "CPU us/op", "p50 ms", "p99 ms", "RSS MiB", "x control"
    );
    for figure in figures {
        let Figure { scenario, operations_per_s, cpu_us_per_operation, p50_ms, p99_ms, rss_mib, .. } = figure;
        let times = figure.times_control.map(|times| format!("{times:.2}")).unwrap_or_default();
        println!(
            "{scenario:<26} {operations_per_s:>10.0} {cpu_us_per_operation:>11.1} {p50_ms:>9.2} {p99_ms:>9.2} {rss_mib:>9.1} {times:>9}  {}",
            figure.measured
        );
    }
    println!("{}", serde_json::to_string(figures)?);
    Ok(())
}
