//! Places where tests make a process fail: `TENON_FAILPOINTS="step.commit.before=kill:2,task.call.after=error"` kills it at
//! the second passing of the one and lets the first passing of the other fail. Builds for release have none.

use std::{
    collections::HashMap,
    sync::{LazyLock, Mutex},
    time::Duration,
};

use tonic::Code;

use crate::Fault;

/// What is to happen, by place: the deed, and at which passing from now. Each happens once.
static DEEDS: LazyLock<Mutex<HashMap<String, (String, u32)>>> = LazyLock::new(|| {
    let asked = std::env::var("TENON_FAILPOINTS").unwrap_or_default();
    let deed = |one: &str| {
        let (place, deed) = one.split_once('=')?;
        let (deed, passing) = deed.split_once(':').unwrap_or((deed, "1"));
        Some((place.to_owned(), (deed.to_owned(), passing.parse().ok()?)))
    };
    Mutex::new(asked.split(',').filter_map(deed).collect())
});

/// Passes a place: `kill` ends the process as `kill -9` does, `error` makes this fail, `pause` stands still for 2 s.
///
/// # Errors
/// FAILPOINT, when the place was told to.
pub async fn at(place: &'static str) -> Result<(), Fault> {
    if !cfg!(debug_assertions) {
        return Ok(());
    }
    match due(place).as_deref() {
        Some("kill") => std::process::abort(),
        Some("error") => Err(Fault::new(Code::Unavailable, "FAILPOINT", format!("told to fail at {place}"))),
        Some("pause") => {
            tracing::warn!(place, "stands still, as it was told to");
            tokio::time::sleep(Duration::from_secs(2)).await;
            Ok(())
        }
        _ => Ok(()),
    }
}

fn due(place: &str) -> Option<String> {
    let mut deeds = DEEDS.lock().expect("no holder panics");
    let (_, passings) = deeds.get_mut(place)?;
    *passings = passings.saturating_sub(1);
    if *passings > 0 { None } else { deeds.remove(place).map(|(deed, _)| deed) }
}
