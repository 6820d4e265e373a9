//! OpenAPI 3.1 of everything that has a route, from the same descriptors that the edge serves by, and a page to read it.
//!
//! A message that is sent has a schema of its own beside the one that is received, because the proto3 JSON mapping takes
//! more than it gives: null for any field, numbers as strings, enum values by number.

mod comments;
mod operation;
mod page;
mod schema;

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};
use tenon_proto::policy::Contract;

use self::{comments::Comments, operation::Shapes, schema::Schemas};
use crate::routes::Routes;

pub(crate) use page::{Page, find as find_page};

/// The header with the operator's credential.
const OPERATOR_KEY: &str = "x-operator-key";

/// The header with an API key.
const API_KEY: &str = "x-api-key";

/// The document of a contract's routes. The same contract gives the same bytes.
#[must_use]
pub fn document(contract: &Contract, routes: &Routes) -> Value {
    let comments = Comments::default();
    let (mut schemas, mut shapes) = (Schemas::new(&comments), Shapes::default());
    let mut paths: BTreeMap<String, Map<String, Value>> = BTreeMap::new();
    let (mut tags, mut ids) = (BTreeMap::new(), BTreeMap::<String, usize>::new());
    for route in routes.iter() {
        // A route for every verb is none that a client could be made for.
        let Some(verb) = operation::verb(route) else { continue };
        let service = route.method.descriptor.parent_service();
        let tag = service.full_name().to_owned();
        tags.entry(tag.clone()).or_insert_with(|| comments.of(&service.parent_file(), service.path()).text);
        let name = format!("{}_{}", service.name(), route.method.descriptor.name());
        let count = ids.entry(name.clone()).or_default();
        *count += 1;
        let id = if *count == 1 { name } else { format!("{name}_{count}") };
        let (path, described) = operation::describe(route, (&id, &tag), (&mut shapes, &mut schemas, &comments));
        paths.entry(path).or_default().insert(verb, described);
    }
    let tags: Vec<Value> =
        tags.into_iter().map(|(name, description)| json!({ "name": name, "description": description })).collect();
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": title(contract),
            "version": env!("CARGO_PKG_VERSION"),
            "description": "HTTP/JSON as the edge speaks it; every method can be called by gRPC, gRPC-Web and Connect too. \
                            An error is a google.rpc.Status with an ErrorInfo whose reason is stable.",
        },
        "servers": [{ "url": "/" }],
        "tags": tags,
        "paths": paths,
        "components": {
            "schemas": schemas.into_components(),
            "responses": { "Error": error_response() },
            "securitySchemes": {
                "bearer": { "type": "http", "scheme": "bearer", "bearerFormat": "JWT",
                            "description": "The access token of a login; it names the tenant. An API key (tnk_...) is taken here too." },
                "apiKey": { "type": "apiKey", "in": "header", "name": API_KEY,
                            "description": "An API key of the tenant's (tnk_...), instead of a token." },
                "operator": { "type": "apiKey", "in": "header", "name": OPERATOR_KEY,
                              "description": "The credential of whoever operates the mesh." },
            },
        },
    })
}

/// `Tenon` for the mesh alone; with services of the user's own, their packages too.
fn title(contract: &Contract) -> String {
    let mut others: Vec<String> = contract
        .methods()
        .map(|method| method.descriptor.parent_service().package_name().to_owned())
        .filter(|package| !package.starts_with("tenon."))
        .collect();
    others.sort_unstable();
    others.dedup();
    if others.is_empty() { "Tenon".to_owned() } else { format!("Tenon and {}", others.join(", ")) }
}

fn error_response() -> Value {
    let whole =
        |description: &str| json!({ "description": description, "schema": { "type": "integer", "minimum": 0 } });
    json!({
        "description": "What went wrong; `details` has an ErrorInfo with a stable reason, and the fields that are at fault.",
        "headers": { "Retry-After": whole("Seconds after which a repeat may succeed; with 429 and 503") },
        "content": { "application/json": { "schema": { "$ref": "#/components/schemas/google.rpc.Status" } } },
    })
}

#[cfg(test)]
mod tests;
