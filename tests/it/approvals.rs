//! What runs ask people: decided by a list, by the link in a mail, once, by who may, and in time.

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::harness::{Backends, Forge, Mesh, Outside, Tenant, answer, eventually, reason, text};

async fn run_of(mesh: &Mesh, token: &str, arguments: Value) -> String {
    let caught = json!({ "Type": "Succeed", "Output": "{% $states.input.error.Error %}" });
    let ask = json!({
        "Type": "Task", "Resource": "approval:", "Arguments": arguments, "End": true,
        "Catch": [{ "ErrorEquals": ["States.ALL"], "Output": { "error": "{% $states.errorOutput %}" }, "Next": "Caught" }],
    });
    let definition =
        json!({ "QueryLanguage": "JSONata", "StartAt": "Ask", "States": { "Ask": ask, "Caught": caught } });
    let (status, workflow) =
        mesh.post("/v1/workflows", token, &json!({ "workflowId": "ask", "definition": definition })).await;
    assert_eq!(status, StatusCode::OK, "{workflow}");
    let (status, run) = mesh.post("/v1/runs", token, &json!({ "workflow": "ask" })).await;
    assert_eq!(status, StatusCode::OK, "{run}");
    text(&run["name"])
}

async fn ended(mesh: &Mesh, token: &str, name: &str) -> Value {
    eventually(&format!("{name} ends"), || async {
        let (_, run) = mesh.get(&format!("/v1/{name}"), token).await;
        run["endTime"].is_string().then_some(run)
    })
    .await
}

/// The only approval of a run.
async fn asked(mesh: &Mesh, token: &str, run: &str) -> Value {
    eventually("it is asked", || async {
        let (status, page) = mesh.get("/v1/approvals", token).await;
        assert_eq!(status, StatusCode::OK, "{page}");
        page["approvals"].as_array()?.iter().find(|approval| approval["run"] == run).cloned()
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_decides_once_and_the_run_goes_on() {
    let mesh = Mesh::start(Backends::Embedded).await;
    let (alpha, bravo) = (mesh.onboard("asks").await, mesh.onboard("strangers").await);
    let forge = Forge::for_tenant(&mesh, &alpha, 0).await;
    let form = json!({ "amount": { "type": "number", "required": true } });
    let arguments = json!({ "title": "Pay?", "description": "42", "form": form, "approvers": ["finance"] });
    let run = run_of(&mesh, &alpha.token, arguments).await;
    let approval = asked(&mesh, &alpha.token, &run).await;
    assert_eq!((&approval["title"], &approval["approvers"]), (&json!("Pay?"), &json!(["finance"])), "{approval}");
    let path = format!("/v1/{}", text(&approval["name"]));
    let decide = format!("{path}:decide");
    let approved = json!({ "decision": "approved", "comment": "fine", "form": { "amount": 42 } });
    let (status, refused) = mesh.post(&decide, &alpha.token, &approved).await;
    assert_eq!((status, reason(&refused).as_str()), (StatusCode::FORBIDDEN, "NOT_AN_APPROVER"), "{refused}");
    let finance = forge.sign(&json!({ "roles": ["admin", "finance"] }));
    for (body, field) in [
        (json!({ "decision": "maybe" }), "decision"),
        (json!({ "decision": "approved" }), "form.amount"),
        (json!({ "decision": "approved", "form": { "amount": "x" } }), "form.amount"),
        (json!({ "decision": "approved", "form": { "amount": 1, "more": 1 } }), "form.more"),
        (json!({ "decision": "denied", "comment": "x".repeat(2_001) }), "comment"),
    ] {
        let (status, refused) = mesh.post(&decide, &finance, &body).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{refused}");
        assert!(refused.to_string().contains(&format!("\"{field}\"")), "{field}: {refused}");
    }
    for path in [path.as_str(), decide.as_str()] {
        let verb = if path == decide { Method::POST } else { Method::GET };
        let request = mesh.request(verb.clone(), path).bearer_auth(&bravo.token);
        let request = if verb == Method::POST { request.json(&approved) } else { request };
        let (status, refused) = answer(request).await;
        assert_eq!((status, reason(&refused).as_str()), (StatusCode::NOT_FOUND, "APPROVAL_NOT_FOUND"), "{refused}");
    }
    let (status, decision) = mesh.post(&decide, &finance, &approved).await;
    assert_eq!(status, StatusCode::OK, "{decision}");
    assert!(text(&decision["by"]).starts_with("users/usr_"), "{decision}");
    let (status, refused) = mesh.post(&decide, &finance, &json!({ "decision": "denied" })).await;
    assert_eq!((status, reason(&refused).as_str()), (StatusCode::NOT_FOUND, "APPROVAL_NOT_FOUND"), "{refused}");
    let output = ended(&mesh, &alpha.token, &run).await["output"].clone();
    assert_eq!((&output["decision"], &output["form"]), (&json!("approved"), &json!({ "amount": 42 })), "{output}");
    assert_eq!((&output["comment"], &output["by"]), (&json!("fine"), &decision["by"]), "{output}");

    // A denial is a result too; what is too late, or no question, is an error that a state can catch.
    let run = run_of(&mesh, &alpha.token, json!({ "title": "Again?" })).await;
    let name = text(&asked(&mesh, &alpha.token, &run).await["name"]);
    let (status, _) = mesh.post(&format!("/v1/{name}:decide"), &alpha.token, &json!({ "decision": "denied" })).await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(ended(&mesh, &alpha.token, &run).await["output"]["decision"], "denied");
    let run = run_of(&mesh, &alpha.token, json!({ "title": "Late?", "expiresInSeconds": 1 })).await;
    assert_eq!(ended(&mesh, &alpha.token, &run).await["output"], "States.Timeout");
    let run = run_of(&mesh, &alpha.token, json!({ "title": "{% 'two' & '\n' & 'lines' %}" })).await;
    assert_eq!(ended(&mesh, &alpha.token, &run).await["output"], "INVALID_ARGUMENTS");
    // What a cancelled run asked is asked no more.
    let run = run_of(&mesh, &alpha.token, json!({ "title": "Never mind?" })).await;
    asked(&mesh, &alpha.token, &run).await;
    mesh.post(&format!("/v1/{run}:cancel"), &alpha.token, &json!({})).await;
    eventually("nobody is asked any more", || async {
        let (_, page) = mesh.get("/v1/approvals", &alpha.token).await;
        (page["approvals"] == json!([])).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_in_a_mail_shows_a_page_and_decides_once() {
    let mail = Outside::mail().await;
    let smtp = format!("smtp://127.0.0.1:{}", mail.port);
    let settings = [
        ("TENON_SMTP_URL", smtp.as_str()),
        ("TENON_SMTP_FROM", "no-reply@acme.test"),
        ("TENON_PUBLIC_URL", "https://acme.test/"),
    ];
    let mesh = Mesh::start_with(Backends::Embedded, &settings).await;
    let Tenant { token, .. } = mesh.onboard("links").await;
    let form = json!({ "amount": { "type": "integer", "title": "How <much>?", "required": true } });
    let arguments = json!({ "title": "Pay <42>?", "form": form, "notify": { "email": ["ada@b.test", "bob@b.test"] } });
    let run = run_of(&mesh, &token, arguments).await;
    let mails = eventually("both are asked", || async { Some(mail.seen()).filter(|mails| mails.len() == 2) }).await;
    let link = link_in(mails.iter().find(|mail| mail.contains("To: ada@b.test")).expect("ada is asked"));

    let page = mesh.request(Method::GET, &link).send().await.expect("the edge answers");
    assert_eq!(
        (page.status(), page.headers()["content-type"].to_str().unwrap()),
        (StatusCode::OK, "text/html; charset=utf-8")
    );
    let page = page.text().await.unwrap();
    assert!(
        page.contains("Pay &lt;42&gt;?") && page.contains("How &lt;much&gt;?") && page.contains("form.amount"),
        "{page}"
    );
    // To look at it, however often, decides nothing.
    for verb in [Method::GET, Method::HEAD, Method::GET] {
        mesh.request(verb, &link).send().await.expect("the edge answers");
    }
    asked(&mesh, &token, &run).await;
    let send = |link: &str, body: &'static str| {
        let request = mesh.request(Method::POST, link).header("content-type", "application/x-www-form-urlencoded");
        request.body(body)
    };
    let (status, refused) = answer(send(&link, "decision=approved&form.amount=x")).await;
    assert_eq!(status, StatusCode::BAD_REQUEST, "{refused}");
    let mut forged = link.clone();
    let last = if forged.pop() == Some('A') { 'B' } else { 'A' };
    forged.insert(20, last);
    let (status, refused) = answer(send(&forged, "decision=approved&form.amount=1")).await;
    assert_eq!((status, reason(&refused).as_str()), (StatusCode::NOT_FOUND, "APPROVAL_LINK_INVALID"), "{refused}");

    let said = send(&link, "decision=approved&comment=go+on&form.amount=42").send().await.expect("the edge answers");
    assert_eq!(said.status(), StatusCode::OK);
    assert!(said.text().await.unwrap().contains("Recorded: <strong>approved"));
    let output = ended(&mesh, &token, &run).await["output"].clone();
    assert_eq!(
        (&output["by"], &output["form"]["amount"], &output["comment"]),
        (&json!("ada@b.test"), &json!(42), &json!("go on"))
    );
    let others = link_in(mails.iter().find(|mail| mail.contains("To: bob@b.test")).expect("bob is asked"));
    for used in [&link, &others] {
        let (status, refused) = answer(send(used, "decision=denied")).await;
        assert_eq!((status, reason(&refused).as_str()), (StatusCode::NOT_FOUND, "APPROVAL_LINK_INVALID"), "{refused}");
    }
    assert_eq!(mail.seen().len(), 2, "nobody is asked twice");
}

/// The path of the link in a message, whose lines quoted-printable has broken.
fn link_in(mail: &str) -> String {
    let text = mail.replace("=\n", "").replace("=3D", "=");
    let from = text.find("https://acme.test/approve/").expect("the mail has a link") + "https://acme.test".len();
    text[from..].split(['\n', '"', ' ', '<']).next().unwrap_or_default().trim().to_owned()
}
