//! Places where tests make a process fail: `TENON_FAILPOINTS="step.commit.before=kill:2,task.call.after=error"` kills it at
//! the second passing of the one and lets the first passing of the other fail. Builds for release have none.

use std::sync::{LazyLock, Mutex};

use crate::Fault;

/// What is to happen, by place: the deed, and at which passing from now. Each happens once.
static DEEDS: LazyLock<Mutex<std::collections::HashMap<String, (String, u32)>>> = LazyLock::new(|| {
    let deed = |one: &str| {
        let (place, deed) = one.split_once('=')?;
        let (deed, passing) = deed.split_once(':').unwrap_or((deed, "1"));
        Some((place.to_owned(), (deed.to_owned(), passing.parse().ok()?)))
    };
    Mutex::new(std::env::var("TENON_FAILPOINTS").unwrap_or_default().split(',').filter_map(deed).collect())
});

/// Passes a place: `kill` ends the process as `kill -9` does, `error` makes this fail, `pause` stands still for 2 s.
///
/// # Errors
/// FAILPOINT, when the place was told to.
pub async fn at(place: &str) -> Result<(), Fault> {
    match cfg!(debug_assertions).then(|| due(place)).flatten().as_deref() {
        Some("kill") => std::process::abort(),
        Some("error") => return Err(Fault::new(tonic::Code::Unavailable, "FAILPOINT", place)),
        Some("pause") => tokio::time::sleep(std::time::Duration::from_secs(2)).await,
        _ => {}
    }
    Ok(())
}

/// Passes the place `WHO.before` or `WHO.after` a commit: of a method by its path,
/// `/tenon.auth.v1.UserService/CreateUser.before`; of what a service does for itself by its name, `auth.after`.
///
/// # Errors
/// As `at`.
pub async fn at_commit(who: &str, when: &str) -> Result<(), Fault> {
    if cfg!(debug_assertions) { at(&format!("{who}.{when}")).await } else { Ok(()) }
}

fn due(place: &str) -> Option<String> {
    let mut deeds = DEEDS.lock().expect("no holder panics");
    let (_, passings) = deeds.get_mut(place)?;
    *passings = passings.saturating_sub(1);
    let (deed, _) = if *passings > 0 { None } else { deeds.remove(place) }?;
    tracing::warn!(place, deed, "fails as it was told to");
    Some(deed)
}
