//! What the document says of routes and messages.

use serde_json::{Value, json};
use tenon_proto::policy::Contract;

use super::document;
use crate::{
    routes::Routes,
    testing::{contract, contract_of},
};

fn of(contract: &Contract) -> Value {
    document(contract, &Routes::load(contract).unwrap())
}

fn parameters(operation: &Value, place: &str) -> Vec<String> {
    let all = operation["parameters"].as_array().unwrap().iter().filter(|parameter| parameter["in"] == place);
    all.map(|parameter| parameter["name"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn every_route_is_an_operation() {
    let contract = Contract::embedded();
    let document = of(&contract);
    let operations: usize =
        document["paths"].as_object().unwrap().values().map(|item| item.as_object().unwrap().len()).sum();
    assert_eq!(operations, Routes::load(&contract).unwrap().iter().count());
    let start = &document["paths"]["/v1/runs"]["post"];
    assert_eq!(start["operationId"], "RunService_CreateRun");
    assert_eq!(start["x-grpc-method"], "/tenon.workflow.v1.RunService/CreateRun");
    assert_eq!(
        start["summary"],
        "Starts a run of the latest version; the run, its event and its usage row commit together"
    );
    assert!(start["description"].as_str().unwrap().contains("`workflow.runs.create`"));
    assert_eq!(
        (&start["security"], &start["tags"]),
        (&json!([{ "bearer": [] }, { "apiKey": [] }]), &json!(["tenon.workflow.v1.RunService"]))
    );
    assert_eq!(parameters(start, "header"), ["Idempotency-Key"]);
    let body = &start["requestBody"]["content"]["application/json"]["schema"]["$ref"];
    assert_eq!(body, "#/components/schemas/tenon.workflow.v1.CreateRunRequest.In");
    let get = &document["paths"]["/v1/runs/{run}"]["get"];
    assert_eq!(parameters(get, "path"), ["run"]);
    assert!(get["parameters"][0]["description"].as_str().unwrap().contains("runs/{run}"));
    assert_eq!(document["paths"]["/v1/tenants:onboard"]["post"]["security"], json!([]));
}

#[test]
fn references_lead_somewhere() {
    for contract in [Contract::embedded(), contract()] {
        let document = of(&contract);
        let text = document.to_string();
        for reference in text.split("\"$ref\":\"#/").skip(1).map(|rest| rest.split('"').next().unwrap()) {
            let found = document.pointer(&format!("/{reference}"));
            assert!(found.is_some_and(Value::is_object), "{reference}");
        }
    }
}

#[test]
fn what_goes_in_may_have_more_forms_than_what_comes_out() {
    let document = of(&contract());
    let schema = |name: &str, field: &str| document["components"]["schemas"][name]["properties"][field].clone();
    let (sent, got) = ("everything.v1.Everything.In", "everything.v1.Everything");
    assert_eq!(schema(got, "int32")["type"], "integer");
    assert_eq!(schema(sent, "int32")["type"], json!(["integer", "string", "null"]));
    assert_eq!(schema(got, "int64")["type"], "string");
    assert_eq!(schema(got, "colour")["type"], "string");
    assert_eq!(schema(sent, "colour")["anyOf"].as_array().unwrap().len(), 3);
    assert_eq!(document["components"]["schemas"][sent]["additionalProperties"], false);
    assert!(document["components"]["schemas"][got].get("additionalProperties").is_none());
}

#[test]
fn a_path_has_one_spelling() {
    let document = of(&contract_of(&[
        ("A", r#"get: "/v1/{a}/things/{b=boxes/*/items/*}""#),
        ("B", r#"delete: "/v1/{b}/things/{a=boxes/*/items/*}""#),
        ("C", r#"post: "/v1/{a=files/**}:move" body: "*""#),
        ("D", r#"get: "/v1/queries/{m.a}""#),
    ]));
    let paths: Vec<&String> = document["paths"].as_object().unwrap().keys().collect();
    assert_eq!(paths, ["/v1/files/{file}:move", "/v1/queries/{m.a}", "/v1/{a}/things/boxes/{box}/items/{item}"]);
    let item = &document["paths"]["/v1/{a}/things/boxes/{box}/items/{item}"];
    assert!(item["get"].is_object() && item["delete"].is_object());
    assert_eq!(parameters(&item["delete"], "path"), ["a", "box", "item"]);
    assert_eq!(parameters(&document["paths"]["/v1/queries/{m.a}"]["get"], "query"), ["a", "b", "n", "r"]);
    assert_eq!(document["paths"]["/v1/files/{file}:move"]["post"]["parameters"][0]["x-tenon-segments"], "any");
}
