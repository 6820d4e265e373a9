//! An engine that stands still past its lease: another takes its partitions over, and what it writes late is refused.

use rustix::process::Signal;

use super::{Eyes, LEASE, load, load::Load};
use crate::harness::{Backends, Mesh};

const OWNERS: &str = "select count(distinct owner) from workflow.partitions";
const PARTITIONS: &str = "select count(*) from workflow.partitions";

/// The most partitions that one engine has.
const LARGEST: &str = "select max(count) from (select count(*) from workflow.partitions where owner is not null group by owner) as shares";

/// Everything that engines write, as one text.
async fn written(eyes: &Eyes) -> String {
    let sql = "select md5(string_agg(line, '|' order by line)) from (
                   select r::text as line from workflow.runs r union all select h::text from workflow.history h
                   union all select o::text from mesh.outbox o where o.source = 'workflow') as lines";
    eyes.text(sql).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_engine_is_replaced_and_its_late_writes_are_refused() {
    let mut mesh = Mesh::start_separately_with(Backends::Embedded, &[LEASE]).await;
    mesh.add("workflow-2", "workflow").await;
    let mut load = Load::start(&mesh, "stopped", &load::OUTSIDE).await;
    load.eyes().reaches(OWNERS, 2).await;
    load.is_acknowledged().await;
    load.has_done(10).await;
    mesh.signal("workflow", Signal::STOP);
    let all = load.eyes().count(PARTITIONS).await;
    load.eyes().reaches(LARGEST, all).await;
    let ended = "select count(*) from workflow.runs where state <> 'RUNNING'";
    let runs = load.eyes().count("select count(*) from workflow.runs").await;
    load.eyes().reaches(ended, runs).await;
    let before = written(load.eyes()).await;
    mesh.signal("workflow", Signal::CONT);
    // It has its share again, so it has noticed.
    load.eyes().reaches(OWNERS, 2).await;
    assert_eq!(written(load.eyes()).await, before, "the stopped engine has written late");
    load.comes_out_whole(&mesh).await;
}
