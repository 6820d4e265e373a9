//! JSON to wire bytes and back for a message of some 300 bytes, in turns with the library's dynamic messages.

use std::{hint::black_box, time::Instant};

use anyhow::{Context, Result, ensure};
use prost::Message;
use prost_reflect::{DeserializeOptions, DynamicMessage, SerializeOptions};
use serde_json::json;
use tenon_gateway::transcode::Codec;
use tenon_proto::policy::Contract;

use crate::{
    report::{Figure, median},
    scenarios::Plan,
};

const TURN: usize = 20_000;

/// What each way costs; the control is what it cost before, a message in between.
pub(crate) fn run(plan: &Plan) -> Result<Vec<Figure>> {
    let contract = Contract::embedded();
    let method = |path: &str| contract.method(path).map(|method| method.descriptor.clone()).context("no such method");
    let (create, get) =
        (method("/tenon.workflow.v1.RunService/CreateRun")?, method("/tenon.workflow.v1.RunService/GetRun")?);
    let (reading, writing) = (Codec::of(&create), Codec::of(&get));
    let asked = json!({
        "workflow": "workflows/order", "entityId": "customer-0123456789",
        "input": { "order": "ord_0191d7a2c3e07b4f9d1a", "amount": 129.5, "currency": "EUR", "express": true,
            "lines": [{ "sku": "A-100", "count": 2 }, { "sku": "B-200", "count": 1 }], "note": "leave it at the door" },
    });
    let asked = asked.to_string();
    let run = json!({
        "name": "runs/run_0191d7a2c3e07b4f9d1a2b3c4d5e6f70", "workflow": "workflows/order", "version": 7,
        "entityId": "customer-0123456789", "state": "SUCCEEDED", "createTime": "2026-11-21T09:30:00.123Z",
    });
    let bytes = DynamicMessage::deserialize(get.output(), &run)?.encode_to_vec();
    let options = SerializeOptions::new().skip_default_fields(false);
    let read = || reading.frame(asked.as_bytes()).map(|frame| frame.len()).unwrap_or(0);
    let write = || writing.json(&bytes).map(|json| json.len()).unwrap_or(0);
    let read_by_library = || {
        let mut json = serde_json::Deserializer::from_str(&asked);
        DynamicMessage::deserialize_with_options(create.input(), &mut json, &DeserializeOptions::new())
            .map_or(0, |message| message.encode_to_vec().len())
    };
    let write_by_library = || {
        let mut json = Vec::with_capacity(512);
        let message = DynamicMessage::decode(get.output(), bytes.as_slice())
            .unwrap_or_else(|_| DynamicMessage::new(get.output()));
        let _ = message.serialize_with_options(&mut serde_json::Serializer::new(&mut json), &options);
        json.len()
    };
    ensure!(
        read() > 5 && write() > 2 && read_by_library() > 0 && write_by_library() > 2,
        "a codec refused its message"
    );
    let (mut figures, rounds) = (Vec::new(), plan.rounds.max(3));
    let sizes = (asked.len(), write());
    figures.extend(turns(&format!("codec: read {} B", sizes.0), rounds, &read, &read_by_library));
    figures.extend(turns(&format!("codec: write {} B", sizes.1), rounds, &write, &write_by_library));
    Ok(figures)
}

fn turns(name: &str, rounds: usize, ours: &dyn Fn() -> usize, library: &dyn Fn() -> usize) -> [Figure; 2] {
    let (mut first, mut second) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        for (times, work) in [(&mut first, ours), (&mut second, library)] {
            let started = Instant::now();
            for _ in 0..TURN {
                black_box(work());
            }
            #[expect(clippy::cast_precision_loss, reason = "a figure for people")]
            times.push(started.elapsed().as_secs_f64() * 1e6 / TURN as f64);
        }
    }
    let (ours, library) = (median(first.into_iter()), median(second.into_iter()));
    let figure = |scenario: String, micros: f64, times: Option<f64>| Figure {
        scenario,
        operations_per_s: 1e6 / micros,
        cpu_us_per_operation: micros,
        p50_ms: 0.0,
        p99_ms: 0.0,
        rss_mib: 0.0,
        times_control: times,
        measured: format!("one core, {:.0} ns", micros * 1e3),
    };
    [
        figure(name.to_owned(), ours, Some(ours / library)),
        figure(format!("control: {}", name.trim_start_matches("codec: ")), library, None),
    ]
}
