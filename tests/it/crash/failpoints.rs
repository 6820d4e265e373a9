//! Killed before and after each commit and each call to outside: at the end everything was done once. The places are those
//! that the sources name, `fail::at("step.commit.before")`; a new one is tried without being listed here.

use std::{collections::BTreeSet, fs, path::PathBuf};

use super::{LEASE, program::Program};
use crate::harness::{Backends, Mesh, Outside, eventually};

const OUTSIDE: (&str, &str) = ("TENON_WORKFLOW_HTTP_ALLOW_CIDRS", "127.0.0.1/32");

/// Places that are passed once in the life of a process, or for each round.
const RARE: [&str; 4] = ["partitions.", "purge.", "purges.", "hook."];
/// Places that only a mesh with NATS passes.
const WITH_NATS: &str = "relay.";

/// The places that the sources of the chassis and the workflow service name.
fn places() -> BTreeSet<String> {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ is in the workspace").to_path_buf();
    let mut open = vec![root.join("chassis/src"), root.join("services/workflow/src")];
    let mut found = BTreeSet::new();
    while let Some(path) = open.pop() {
        if path.is_dir() {
            open.extend(fs::read_dir(&path).expect("a folder").map(|entry| entry.expect("an entry").path()));
        } else {
            let source = fs::read_to_string(&path).expect("a source file is text");
            let named = source.split("fail::at(\"").skip(1).filter_map(|rest| rest.split('"').next());
            found.extend(named.map(str::to_owned));
        }
    }
    assert!(found.len() > 30, "places where the mesh can fail have gone: {found:?}");
    found
}

/// Who takes the questions that are mailed, as settings.
async fn mail() -> ((&'static str, String), (&'static str, &'static str)) {
    let url = format!("smtp://127.0.0.1:{}", Outside::mail().await.port);
    (("TENON_SMTP_URL", url), ("TENON_SMTP_FROM", "no-reply@acme.test"))
}

/// Kills the mesh at one place after the other, each time with new work under way.
async fn killed_at(backends: Backends, slug: &str, places: &[String]) {
    let (mail, from) = mail().await;
    let mut mesh = Mesh::start_with(backends, &[LEASE, OUTSIDE, (mail.0, &mail.1), from]).await;
    let program = Program::start(&mesh, slug).await;
    mesh.kill_9("all");
    let (mut meters, mut rounds) = (Vec::new(), Vec::new());
    for (turn, place) in places.iter().enumerate() {
        let passing = if RARE.iter().any(|rare| place.starts_with(rare)) { 1 } else { 1 + turn % 2 };
        mesh.start_failing("all", &format!("{place}=kill:{passing}"));
        let meter = place.replace('.', "_");
        rounds.push(program.round(&mesh, &meter));
        meters.push(meter);
        let what = format!("it dies at {place}: does the program of this test pass it?");
        eventually(&what, || std::future::ready(mesh.has_ended("all").then_some(()))).await;
    }
    mesh.restart("all").await;
    for round in rounds {
        round.await.expect("all that was sent is acknowledged");
    }
    program.comes_out_whole(&mesh, &meters).await;
}

fn share(of: usize, number: usize) -> Vec<String> {
    let own = places().into_iter().filter(|place| !place.starts_with(WITH_NATS));
    own.enumerate().filter(|(index, _)| index % of == number).map(|(_, place)| place).collect()
}

/// Shares of the places, each with a mesh of its own. With ten deaths a run that came to no step between them would be given
/// up as the cause of them.
const SHARES: usize = 6;

async fn killed_in_share(number: usize) {
    killed_at(Backends::Embedded, &format!("points-{number}"), &share(SHARES, number)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_each_place_of_the_first_share_it_does_everything_once() {
    killed_in_share(0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_each_place_of_the_second_share_it_does_everything_once() {
    killed_in_share(1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_each_place_of_the_third_share_it_does_everything_once() {
    killed_in_share(2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_each_place_of_the_fourth_share_it_does_everything_once() {
    killed_in_share(3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_each_place_of_the_fifth_share_it_does_everything_once() {
    killed_in_share(4).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_each_place_of_the_sixth_share_it_does_everything_once() {
    killed_in_share(5).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_between_the_outbox_and_its_broker_it_does_everything_once() {
    let of_events = ["relay.", "consume."];
    let places = places().into_iter().filter(|place| of_events.iter().any(|of| place.starts_with(of)));
    killed_at(Backends::Full, "points-c", &places.collect::<Vec<_>>()).await;
}

/// What fails without a crash is tried again, also when it was committed and nobody was told.
#[tokio::test(flavor = "multi_thread")]
async fn failing_once_at_every_place_it_does_everything_once() {
    let (mail, from) = mail().await;
    let mut mesh = Mesh::start_with(Backends::Embedded, &[LEASE, OUTSIDE, (mail.0, &mail.1), from]).await;
    let program = Program::start(&mesh, "points-d").await;
    mesh.kill_9("all");
    // A call that fails is the run's to handle.
    let calls = ["task.call.before", "task.call.after", "emit.commit.before", "emit.commit.after"];
    let errors = places().into_iter().filter(|place| !place.starts_with(WITH_NATS) && !calls.contains(&place.as_str()));
    let errors: Vec<String> = errors.map(|place| format!("{place}=error")).collect();
    mesh.start_failing("all", &errors.join(","));
    program.round(&mesh, "first").await.expect("all that was sent is acknowledged");
    program.round(&mesh, "second").await.expect("all that was sent is acknowledged");
    program.comes_out_whole(&mesh, &["first".to_owned(), "second".to_owned()]).await;
}
