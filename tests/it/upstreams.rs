//! The services of examples/ behind the edge of the real binary.

use std::{path::PathBuf, process::Command, sync::Arc};

use reqwest::{Client, Method, StatusCode};
use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::sync::Semaphore;

use crate::harness::{Backends, Mesh, PATIENCE, Ports, Process, Tenant, answer, crm, eventually, reason, tenon, text};

/// Who calls all the time while the mesh is told to end.
const MEMBERS: u32 = 12;
const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

fn examples(file: &str) -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../examples")).join(file)
}

/// A mesh, the crm and its entry. The crm asks the edge for keys, so it starts second; the edge then finds it.
struct House {
    mesh: Mesh,
    crm: Process,
    folder: tempfile::TempDir,
    port: u16,
    _ports: Ports,
}

impl House {
    async fn open() -> Self {
        Self::open_to(false).await
    }

    /// The crm believes what the edge says of the tenant, or asks for the user's own token.
    async fn open_to(only_the_edge: bool) -> Self {
        let ports = Ports::take();
        let (port, folder) = (ports.next(), tempfile::tempdir().unwrap());
        let entry = format!(
            "[[upstream]]\nname = \"crm\"\nendpoints = [\"http://localhost:{port}\"]\nreflection = true\ngrants = {{ member = [\"crm.contacts.*\"] }}\n"
        );
        std::fs::write(folder.path().join("upstreams.toml"), entry).unwrap();
        let file = folder.path().join("upstreams.toml");
        let file = file.to_str().unwrap();
        // An answer is let go without its use when billing is slow: not here, however slow the machine is.
        let settings = [("TENON_UPSTREAMS", file), ("TENON_EDGE_USAGE_HOLD_MS", "60000")];
        let mesh = Mesh::start_with(Backends::Embedded, &settings).await;
        mesh.lift_limits().await;
        let (status, body) = mesh.get("/v1/contacts", "").await;
        assert_eq!(status, StatusCode::NOT_FOUND, "its routes are absent while it is: {body}");
        let mut command = crm_on(port, &mesh);
        command.env("CRM_ONLY_THE_EDGE_REACHES_IT", only_the_edge.to_string());
        let mut crm = Process::start("crm", &command);
        crm.listens(port);
        eventually("the edge finds the crm", async || {
            (mesh.get("/v1/contacts", "").await.0 == StatusCode::UNAUTHORIZED).then_some(())
        })
        .await;
        Self { mesh, crm, folder, port, _ports: ports }
    }
}

fn crm_on(port: u16, mesh: &Mesh) -> Command {
    let mut command = crm();
    command.env("CRM_ADDRESS", format!("127.0.0.1:{port}")).env("TENON_EDGE_URL", &mesh.url);
    command
}

#[tokio::test(flavor = "multi_thread")]
async fn the_crm_has_tenants_permissions_usage_and_a_trace_without_a_line_for_them() {
    let House { mesh, crm, folder, _ports, .. } = House::open().await;
    let (acme, globex) = (mesh.onboard("acme").await, mesh.onboard("globex").await);
    let create = mesh.request(Method::POST, "/v1/contacts").bearer_auth(&acme.token);
    let create = create.header("traceparent", format!("00-{TRACE}-00f067aa0ba902b7-01"));
    let (status, contact) = answer(create.json(&json!({ "displayName": "Grace", "email": "grace@x.test" }))).await;
    assert_eq!(status, StatusCode::OK, "{contact}\n{}", crm.log());
    let name = text(&contact["name"]);
    assert!(crm.log().contains(&format!("traceparent=00-{TRACE}")), "the trace goes on: {}", crm.log());

    let (status, found) = mesh.get(&format!("/v1/{name}"), &acme.token).await;
    assert_eq!((status, &found), (StatusCode::OK, &contact));
    let (_, listed) = mesh.get("/v1/contacts?filter=Gra", &acme.token).await;
    assert_eq!(listed["contacts"], json!([contact]));

    // Another tenant sees nothing of it.
    let (status, refused) = mesh.get(&format!("/v1/{name}"), &globex.token).await;
    assert_eq!(status, StatusCode::NOT_FOUND, "{refused}");
    assert_eq!(mesh.get("/v1/contacts", &globex.token).await.1["contacts"], json!([]));
    // Who goes around the edge has no token that the crm believes.
    let (status, refused) = mesh.post("/v1/contacts", "", &json!({ "displayName": "x" })).await;
    assert_eq!(status, StatusCode::UNAUTHORIZED, "{refused}");
    let (status, refused) = mesh.post("/v1/contacts", &acme.token, &json!({ "nope": 1 })).await;
    assert_eq!((status, reason(&refused).as_str()), (StatusCode::BAD_REQUEST, "UNKNOWN_FIELD"));

    let (status, document) = mesh.get("/openapi.json", "").await;
    assert_eq!(status, StatusCode::OK);
    assert!(document["paths"]["/v1/contacts"]["post"].is_object(), "it is described: {}", document["paths"]);

    // What the edge has loaded is what a check is compared with.
    let check = |url: &str| {
        let file = folder.path().join("upstreams.toml");
        let arguments = ["edge", "check", "--upstreams", file.to_str().unwrap(), "--against", url];
        let output = tenon().args(arguments).output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let (code, said) = tokio::task::block_in_place(|| check(&mesh.url));
    assert!(code == Some(0) && said.contains("nothing changes"), "{said}");

    // What succeeded was counted once, and nothing else.
    let usage = eventually("the use is counted", async || {
        let (_, usage) = mesh.get("/v1/usage", &acme.token).await;
        let meters = usage["meters"].as_array()?.clone();
        meters.into_iter().find(|meter| meter["meter"] == "contacts")
    });
    assert_eq!(usage.await["quantity"], "1");
    let (_, usage) = mesh.get("/v1/usage", &globex.token).await;
    assert!(!usage.to_string().contains("contacts"), "{usage}");
}

#[tokio::test(flavor = "multi_thread")]
async fn members_may_do_what_the_entry_grants_them_and_sighup_takes_it_back() {
    let House { mut mesh, crm: _crm, folder, port, _ports } = House::open().await;
    let Tenant { token, slug, .. } = mesh.onboard("acme").await;
    let user = json!({ "email": "bob@acme.test", "password": "correct horse battery", "roles": ["member"] });
    let (status, made) = mesh.post("/v1/users", &token, &user).await;
    assert_eq!(status, StatusCode::OK, "{made}");
    let (_, session) = mesh.login(&slug, "bob@acme.test", "correct horse battery").await;
    let member = text(&session["accessToken"]);
    let contact = json!({ "displayName": "Ada" });
    assert_eq!(mesh.post("/v1/contacts", &member, &contact).await.0, StatusCode::OK);
    let entry = format!("[[upstream]]\nname = \"crm\"\nendpoints = [\"http://127.0.0.1:{port}\"]\nreflection = true\n");
    std::fs::write(folder.path().join("upstreams.toml"), entry).unwrap();
    mesh.signal("all", Signal::HUP);
    eventually("members may no more", async || {
        (mesh.post("/v1/contacts", &member, &contact).await.0 == StatusCode::FORBIDDEN).then_some(())
    })
    .await;
    assert_eq!(mesh.get("/v1/contacts", &member).await.0, StatusCode::OK, "reading is every member's");
}

/// Contacts that a tenant has to pay for.
async fn contacts_billed(mesh: &Mesh, tenant: &Tenant) -> u64 {
    let (_, usage) = mesh.get("/v1/usage", &tenant.token).await;
    let meters = usage["meters"].as_array().cloned().unwrap_or_default();
    let counted = meters.iter().find(|meter| meter["meter"] == "contacts").map(|meter| text(&meter["quantity"]));
    counted.expect("contacts were made").parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_under_load_cuts_no_call_and_loses_no_usage() {
    let House { mut mesh, crm: _crm, folder: _folder, _ports, .. } = House::open().await;
    let acme = mesh.onboard("acme").await;
    let warm = Arc::new(Semaphore::new(0));
    let members: Vec<_> = (0..MEMBERS)
        .map(|_| {
            let (url, token, warm) = (format!("{}/v1/contacts", mesh.url), acme.token.clone(), warm.clone());
            tokio::spawn(async move {
                let http = Client::builder().http2_prior_knowledge().no_proxy().timeout(PATIENCE);
                let http = http.build().unwrap();
                let (mut ok, mut limited) = (0_u64, 0_u64);
                loop {
                    match http.post(&url).bearer_auth(&token).json(&json!({ "displayName": "x" })).send().await {
                        Ok(answer) if answer.status() == StatusCode::OK => ok += 1,
                        Ok(answer) if answer.status() == StatusCode::TOO_MANY_REQUESTS => limited += 1,
                        Ok(answer) => return Err(format!("{}: {}", answer.status(), answer.text().await.unwrap())),
                        // Nobody listens any more: the end.
                        Err(error) if error.is_connect() => return Ok((ok, limited)),
                        Err(error) => return Err(format!("{error:?}")),
                    }
                    if ok == 10 {
                        warm.add_permits(1);
                    }
                }
            })
        })
        .collect();
    let warmed = tokio::time::timeout(PATIENCE, warm.acquire_many(MEMBERS)).await;
    assert!(warmed.is_ok(), "not every member came to ten calls\n{}", mesh.log("all"));
    let code = tokio::task::block_in_place(|| mesh.terminate("all"));
    assert_eq!(code, Some(0));
    let mut sent = 0;
    for member in members {
        sent += member.await.unwrap().unwrap_or_else(|why| panic!("a call was cut: {why}")).0;
    }
    mesh.restart("all").await;
    assert_eq!(contacts_billed(&mesh, &acme).await, sent, "what was done is billed");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edge_that_is_killed_has_billed_what_it_has_answered() {
    let House { mut mesh, crm: _crm, folder: _folder, _ports, .. } = House::open().await;
    let acme = mesh.onboard("acme").await;
    let warm = Arc::new(Semaphore::new(0));
    let members: Vec<_> = (0..MEMBERS)
        .map(|_| {
            let (url, token, warm) = (format!("{}/v1/contacts", mesh.url), acme.token.clone(), warm.clone());
            tokio::spawn(async move {
                let http = Client::builder().no_proxy().timeout(PATIENCE).build().unwrap();
                let mut ok = 0_u64;
                loop {
                    match http.post(&url).bearer_auth(&token).json(&json!({ "displayName": "x" })).send().await {
                        Ok(answer) if answer.status() == StatusCode::OK => ok += 1,
                        Ok(_refused) => {}
                        // Killed under it.
                        Err(_) => return ok,
                    }
                    if ok == 20 {
                        warm.add_permits(1);
                    }
                }
            })
        })
        .collect();
    let warmed = tokio::time::timeout(PATIENCE, warm.acquire_many(MEMBERS)).await;
    assert!(warmed.is_ok(), "not every member came to twenty calls\n{}", mesh.log("all"));
    tokio::task::block_in_place(|| mesh.kill_9("all"));
    let (in_flight, mut answered) = (u64::from(MEMBERS), 0);
    for member in members {
        answered += member.await.unwrap();
    }
    mesh.restart("all").await;
    let counted = contacts_billed(&mesh, &acme).await;
    // What was being answered when it died may be counted: its work was done.
    assert!((answered..=answered + in_flight).contains(&counted), "{answered} were answered, {counted} are billed");
}

/// `make python` sets the interpreter, which must have what examples/inventory/requirements.txt names.
#[tokio::test(flavor = "multi_thread")]
async fn the_inventory_in_python_joins_by_its_descriptors() {
    let Some(interpreter) = std::env::var_os("TENON_WORKER_PYTHON") else { return };
    let (ports, folder) = (Ports::take(), tempfile::tempdir().unwrap());
    let port = ports.next();
    let entry = format!(
        "[[upstream]]\nname = \"inventory\"\nendpoints = [\"http://127.0.0.1:{port}\"]\ndescriptors = {:?}\n",
        examples("inventory/inventory.binpb")
    );
    let file = folder.path().join("upstreams.toml");
    std::fs::write(&file, entry).unwrap();
    let mesh = Mesh::start_with(Backends::Embedded, &[("TENON_UPSTREAMS", file.to_str().unwrap())]).await;
    let acme = mesh.onboard("acme").await;
    let (status, down) = mesh.get("/v1/stock/nails", &acme.token).await;
    assert_eq!((status, reason(&down)), (StatusCode::SERVICE_UNAVAILABLE, "UPSTREAM_UNAVAILABLE".to_owned()));
    let mut command = Command::new(interpreter);
    command.arg(examples("inventory/service.py")).arg(format!("127.0.0.1:{port}"));
    command.env("TENON_GENERATED", folder.path().join("generated"));
    let mut service = Process::start("inventory", &command);
    service.listens(port);
    let (status, stock) = mesh.post("/v1/stock/nails:move", &acme.token, &json!({ "pieces": "5" })).await;
    assert_eq!((status, &stock["pieces"]), (StatusCode::OK, &json!("5")), "{stock}\n{}", service.log());
    let (status, refused) = mesh.post("/v1/stock/nails:move", &acme.token, &json!({ "pieces": "-9" })).await;
    assert_eq!((status, &refused["message"]), (StatusCode::BAD_REQUEST, &json!("there are only 5 of stock/nails")));
    let globex = mesh.onboard("globex").await;
    assert_eq!(mesh.get("/v1/stock/nails", &globex.token).await.1["pieces"], "0");
}

/// A run calls a service of one's own as any method of the mesh: checked when it is published, as the tenant, by the edge.
#[tokio::test(flavor = "multi_thread")]
async fn a_run_calls_a_service_of_ones_own() {
    let House { mesh, mut crm, folder: _folder, port, _ports } = House::open_to(true).await;
    let (acme, globex) = (mesh.onboard("acme").await, mesh.onboard("globex").await);
    let workflow = |method: &str, arguments: Value| {
        let task = json!({ "Type": "Task", "Resource": format!("grpc:crm.v1.ContactService/{method}"), "Arguments": arguments,
                           "TimeoutSeconds": 30, "End": true });
        let definition = json!({ "QueryLanguage": "JSONata", "StartAt": "Call", "States": { "Call": task } });
        json!({ "workflowId": "calls", "definition": definition })
    };
    for (method, arguments, field) in [
        ("Gone", json!({}), "definition/States/Call/Resource"),
        (
            "CreateContact",
            json!({ "contact": { "displayNam": "Ada" } }),
            "definition/States/Call/Arguments/contact/displayNam",
        ),
    ] {
        let (status, refused) = mesh.post("/v1/workflows", &acme.token, &workflow(method, arguments)).await;
        assert_eq!((status, reason(&refused).as_str()), (StatusCode::BAD_REQUEST, "INVALID_DEFINITION"), "{refused}");
        assert!(refused.to_string().contains(&format!("\"{field}\"")), "{refused}");
    }
    let create = workflow("CreateContact", json!({ "contact": { "displayName": "{% $states.input.name %}" } }));
    let start = async |name: &str| {
        let body = json!({ "workflow": "calls", "input": { "name": name } });
        let (status, run) = mesh.post("/v1/runs", &acme.token, &body).await;
        assert_eq!(status, StatusCode::OK, "{run}");
        text(&run["name"])
    };
    let ended = async |run: &str| {
        eventually("the run ends", async || {
            let (_, run) = mesh.get(&format!("/v1/{run}"), &acme.token).await;
            run["endTime"].is_string().then_some(run)
        })
        .await
    };
    let (status, answer) = mesh.post("/v1/workflows", &acme.token, &create).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    let run = ended(&start("Ada").await).await;
    assert_eq!(
        (&run["state"], &run["output"]["displayName"]),
        (&json!("SUCCEEDED"), &json!("Ada")),
        "{run}\n{}",
        crm.log()
    );
    let (_, listed) = mesh.get("/v1/contacts", &acme.token).await;
    assert_eq!(listed["contacts"][0]["displayName"], "Ada", "{listed}");
    assert_eq!(mesh.get("/v1/contacts", &globex.token).await.1["contacts"], json!([]), "it was called as the tenant");

    // While it is away the call waits, with the same key; its refusals are errors that a state can catch.
    crm.kill_9();
    let run = start("Bob").await;
    let mut command = crm_on(port, &mesh);
    command.env("CRM_ONLY_THE_EDGE_REACHES_IT", "true");
    crm = Process::start("crm", &command);
    crm.listens(port);
    assert_eq!(ended(&run).await["state"], "SUCCEEDED");
    let missing = workflow("GetContact", json!({ "name": "contacts/none" }));
    let (status, answer) = mesh.post("/v1/workflows", &acme.token, &missing).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    let run = ended(&start("x").await).await;
    assert_eq!((&run["state"], &run["error"]), (&json!("FAILED"), &json!("NOT_FOUND")), "{run}");
}
