//! Webhooks in and out.

use hmac::{Hmac, Mac};
use reqwest::Method;
use serde_json::json;
use sha2::Sha256;

use super::{Desk, Who, Write};
use crate::harness::text;

pub(super) const METHODS: [&str; 10] = [
    "workflow.v1.EndpointService/CreateEndpoint",
    "workflow.v1.EndpointService/UpdateEndpoint",
    "workflow.v1.EndpointService/RotateEndpointSecret",
    "workflow.v1.EndpointService/DeleteEndpoint",
    "workflow.v1.EndpointService/TestEndpoint",
    "workflow.v1.EndpointService/Redeliver",
    "workflow.v1.HookService/CreateHook",
    "workflow.v1.HookService/RotateHookSecret",
    "workflow.v1.HookService/DeleteHook",
    "workflow.v1.HookService/ReceiveDelivery",
];

const SECRET: &str = "a-secret-that-both-sides-know";

pub(super) async fn prepare(desk: &mut Desk) {
    endpoints(desk).await;
    hooks(desk).await;
}

async fn endpoints(desk: &mut Desk) {
    let endpoint = |id: &str| json!({ "endpointId": id, "url": "https://erp.invalid/in", "eventTypes": ["x"] });
    for id in ["changes", "rotates", "goes", "tested", "again"] {
        desk.made("/v1/endpoints", endpoint(id)).await;
    }
    let delivery = text(&desk.made("/v1/endpoints/again:test", json!({})).await["name"]);
    // As if it had been delivered after some tries.
    let delivered = "update workflow.deliveries set state = 'DELIVERED', next_at = null, attempts = 7";
    desk.eyes.change(delivered).await;
    let rotated = rotated(desk, "workflow.endpoints where endpoint_id = 'rotates'").await;
    let row = |id: &str, and: &str| format!("workflow.endpoints where endpoint_id = '{id}' {and}");
    let gone = format!("(values (1)) as one where not exists (select from {})", row("goes", ""));
    desk.writes.extend([
        Write::post(METHODS[0], "/v1/endpoints", &endpoint("new"), row("new", "")),
        Write::new(METHODS[1], Method::PATCH, "/v1/endpoints/changes", row("changes", "and description = 'after'"))
            .json(&json!({ "description": "after" })),
        Write::post(METHODS[2], "/v1/endpoints/rotates:rotateSecret", &json!({}), rotated),
        Write::delete(METHODS[3], "/v1/endpoints/goes", gone),
        Write::post(
            METHODS[4],
            "/v1/endpoints/tested:test",
            &json!({}),
            "workflow.deliveries where endpoint_id = 'tested'",
        ),
        Write::post(
            METHODS[5],
            format!("/v1/{delivery}:redeliver"),
            &json!({}),
            "workflow.deliveries where endpoint_id = 'again' and attempts < 7",
        ),
    ]);
}

/// That the secret before the only rotation is the one that stands now.
async fn rotated(desk: &Desk, row: &str) -> String {
    let before = desk.eyes.text(&format!("select encode(secret, 'hex') from {row}")).await;
    format!("{row} and encode(previous_secret, 'hex') = '{before}'")
}

async fn hooks(desk: &mut Desk) {
    let hook = |id: &str| json!({ "hookId": id, "scheme": "META", "secret": SECRET });
    for id in ["rotates", "goes", "takes"] {
        desk.made("/v1/hooks", hook(id)).await;
    }
    let rotated = rotated(desk, "workflow.hooks where hook_id = 'rotates'").await;
    let row = |id: &str| format!("workflow.hooks where hook_id = '{id}'");
    let gone = format!("(values (1)) as one where not exists (select from {})", row("goes"));
    let mut mac = <Hmac<Sha256> as Mac>::new_from_slice(SECRET.as_bytes()).expect("HMAC takes a key of any length");
    mac.update(b"{}");
    let signature: String = mac.finalize().into_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
    desk.writes.extend([
        Write::post(METHODS[6], "/v1/hooks", &hook("new"), row("new")),
        Write::post(METHODS[7], "/v1/hooks/rotates:rotateSecret", &json!({}), rotated),
        Write::delete(METHODS[8], "/v1/hooks/goes", gone),
        Write::post(METHODS[9], "/hooks/writes/takes", &json!({}), "workflow.hook_deliveries where hook_id = 'takes'")
            .with("x-hub-signature-256", format!("sha256={signature}"))
            .by(Who::Nobody),
    ]);
}
