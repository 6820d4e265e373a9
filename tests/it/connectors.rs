//! What tasks do outside of the mesh: HTTP with secrets, mail, language models and events, each against a real peer.

use reqwest::StatusCode;
use serde_json::{Value, json};

use crate::harness::{Backends, Mesh, Outside, Tenant, eventually, reason, text};

const SECRET: &str = "sk_live_4eC39HqLyjWDarjtT1zdp7dc";

/// A mesh whose tasks may call 127.0.0.1, and who they call there.
struct Stage {
    mesh: Mesh,
    web: Outside,
    mail: Outside,
    token: String,
}

impl Stage {
    async fn set(slug: &str) -> Self {
        let (web, mail) = (Outside::web().await, Outside::mail().await);
        let smtp = format!("smtp://127.0.0.1:{}", mail.port);
        let settings = [
            ("TENON_WORKFLOW_HTTP_ALLOW_CIDRS", "127.0.0.1/32"),
            ("TENON_SMTP_URL", smtp.as_str()),
            ("TENON_SMTP_FROM", "Acme <no-reply@acme.test>"),
        ];
        let mesh = Mesh::start_with(Backends::Embedded, &settings).await;
        let Tenant { token, .. } = mesh.onboard(slug).await;
        Self { mesh, web, mail, token }
    }

    fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.web.port)
    }

    async fn secret(&self, id: &str, value: &str, hosts: &[&str]) {
        let body = json!({ "secretId": id, "value": value, "hosts": hosts });
        let (status, secret) = self.mesh.post("/v1/secrets", &self.token, &body).await;
        assert_eq!(status, StatusCode::OK, "{secret}");
        assert!(!secret.to_string().contains(value), "{secret}");
    }

    /// A run of one task, once it has ended.
    async fn run(&self, resource: &str, arguments: Value) -> Value {
        // Long enough for what is answered at all.
        let within_s = if arguments.to_string().contains("/slow") { 2 } else { 60 };
        let mut task = json!({ "Type": "Task", "Resource": resource, "Arguments": arguments, "End": true });
        task["TimeoutSeconds"] = json!(within_s);
        self.run_of(task).await
    }

    async fn run_of(&self, task: Value) -> Value {
        let definition = json!({ "QueryLanguage": "JSONata", "StartAt": "A", "States": { "A": task } });
        let body = json!({ "workflowId": "one-task", "definition": definition });
        let (status, workflow) = self.mesh.post("/v1/workflows", &self.token, &body).await;
        assert_eq!(status, StatusCode::OK, "{workflow}");
        let (status, run) = self.mesh.post("/v1/runs", &self.token, &json!({ "workflow": "one-task" })).await;
        assert_eq!(status, StatusCode::OK, "{run}");
        let name = text(&run["name"]);
        eventually("the task ends", || async {
            let (_, run) = self.mesh.get(&format!("/v1/{name}"), &self.token).await;
            run["endTime"].is_string().then_some(run)
        })
        .await
    }

    async fn error(&self, resource: &str, arguments: Value) -> String {
        let run = self.run(resource, arguments).await;
        assert_ne!(run["state"], "SUCCEEDED", "{run}");
        text(&run["error"])
    }

    /// Whether a text is anywhere in the database or the log.
    async fn is_kept(&self, what: &str) -> bool {
        let sql = "select coalesce(string_agg(h.events::text, ''), '') || coalesce((select string_agg(r::text, '') from
                   workflow.runs r), '') || coalesce((select string_agg(o::text, '') from mesh.outbox o), '')
                   from workflow.history h";
        let mut owner = self.mesh.database.owner().await;
        let kept: String = sqlx::query_scalar(sql).fetch_one(&mut owner).await.expect("the owner reads everything");
        assert!(kept.contains("TaskSucceeded") || kept.contains("TaskStateExited"), "there is history: {kept}");
        kept.contains(what) || self.mesh.log("all").contains(what)
    }

    async fn metered(&self, meter: &str, quantity: &str) {
        eventually(&format!("{meter} counts {quantity}"), || async {
            let (_, usage) = self.mesh.get("/v1/usage", &self.token).await;
            let mut meters = usage["meters"].as_array()?.iter();
            meters.find(|row| row["meter"] == meter && row["quantity"] == quantity).map(drop)
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn http_is_called_with_secrets_that_nobody_ever_sees() {
    let stage = Stage::set("http").await;
    stage.secret("stripe", SECRET, &["127.0.0.1"]).await;
    stage.secret("elsewhere", "another-secret", &["api.example.com"]).await;
    let arguments = json!({
        "url": stage.url("/echo"),
        "method": "POST",
        "headers": { "Authorization": "Bearer ${secrets.stripe}", "x-n": 1 },
        "query": { "q": "a b", "key": { "$secret": "stripe" } },
        "body": { "amount": "{% 40 + 2 %}", "nested": ["${secrets.stripe}!"] },
    });
    let run = stage.run("http:invoke", arguments.clone()).await;
    assert_eq!(run["state"], "SUCCEEDED", "{run}");
    let sent = &stage.web.seen()[0];
    let name = text(&run["name"]).replace("runs/", "");
    for part in [
        format!("authorization: Bearer {SECRET}"),
        format!("q=a+b&key={SECRET}"),
        format!("\"nested\":[\"{SECRET}!\"]"),
        format!("idempotency-key: {name}/"),
        "\"amount\":42".to_owned(),
        "content-type: application/json".to_owned(),
    ] {
        assert!(sent.contains(&part), "{part} is not in {sent}");
    }
    // It was echoed, and the answer shows the reference again.
    let output = &run["output"];
    assert_eq!((&output["status"], &output["headers"]["set-cookie"]), (&json!(200), &Value::Null), "{output}");
    assert!(text(&output["body"]["head"]).contains("Bearer ${secrets.stripe}"), "{output}");
    assert!(!stage.is_kept(SECRET).await, "the secret is in the history, the events or the log");

    let with = |url: String, secret: &str| json!({ "url": url, "headers": { "x": format!("${{secrets.{secret}}}") } });
    for (arguments, error) in [
        (with(stage.url("/echo"), "elsewhere"), "SECRET_NOT_FOR_HOST"),
        (with(stage.url("/echo"), "nothing"), "SECRET_NOT_FOUND"),
        (json!({ "url": stage.url("/status/404") }), "Http.StatusCode.404"),
        (json!({ "url": stage.url("/status/503") }), "Http.StatusCode.503"),
        (json!({ "url": stage.url("/redirect") }), "Http.StatusCode.302"),
        (json!({ "url": stage.url("/big") }), "Http.ResponseTooLarge"),
        (json!({ "url": stage.url("/slow") }), "States.Timeout"),
        (json!({ "url": "http://127.0.0.2/" }), "Http.AddressRefused"),
        (json!({ "url": "http://169.254.169.254/latest/meta-data" }), "Http.AddressRefused"),
        (json!({ "url": "http://[::ffff:10.0.0.1]/" }), "Http.AddressRefused"),
        (json!({ "url": "http://127.0.0.1:1/" }), "Http.ConnectionFailed"),
        (json!({ "url": "{% 'ftp://x' %}" }), "INVALID_ARGUMENTS"),
        (json!({ "url": "{% 'http://u:p@x.test' %}" }), "INVALID_ARGUMENTS"),
        (json!({ "url": stage.url("/echo"), "headers": { "host": "x" } }), "INVALID_ARGUMENTS"),
    ] {
        assert_eq!(stage.error("http:invoke", arguments.clone()).await, error, "{arguments}");
    }
    // One that succeeded and three that were answered with an error.
    stage.metered("connector_calls", "4").await;
    let (status, page) = stage.mesh.get("/v1/secrets", &stage.token).await;
    assert_eq!((status, page["secrets"].as_array().map(Vec::len)), (StatusCode::OK, Some(2)), "{page}");
    assert!(!page.to_string().contains(SECRET), "{page}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_limits_calls_is_named_and_asked_again_when_it_wants_to_be() {
    let stage = Stage::set("limited").await;
    let (mesh, token) = (&stage.mesh, &stage.token);
    let task = json!({ "Type": "Task", "Resource": "http:invoke", "Arguments": { "url": stage.url("/limited/3") },
        "Retry": [{ "ErrorEquals": ["Http.StatusCode.429"], "IntervalSeconds": 1, "MaxAttempts": 1 }], "End": true });
    let definition = json!({ "QueryLanguage": "JSONata", "StartAt": "Ask", "States": { "Ask": task } });
    let (status, answer) =
        mesh.post("/v1/workflows", token, &json!({ "workflowId": "limited", "definition": definition })).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    let (status, run) = mesh.post("/v1/runs", token, &json!({ "workflow": "limited" })).await;
    assert_eq!(status, StatusCode::OK, "{run}");
    let name = text(&run["name"]);
    let why = eventually("the limit is told", || async {
        let (_, why) = mesh.get(&format!("/v1/{name}:explain"), token).await;
        (why["reasons"][0]["code"] == "RATE_LIMITED").then(|| why["reasons"][0].clone())
    })
    .await;
    assert_eq!(why["subject"], "127.0.0.1", "{why}");
    assert!(text(&why["text"]).contains("Ask is tried again"), "{why}");
    let run = eventually("it ends", || async {
        let (_, run) = mesh.get(&format!("/v1/{name}"), token).await;
        run["endTime"].is_string().then_some(run)
    })
    .await;
    assert_eq!(run["state"], "SUCCEEDED", "{run}");
    let sql = format!(
        "select ended_at - created_at >= interval '3 s' and ended_at >= '{}'::timestamptz from workflow.runs",
        text(&why["until"])
    );
    let mut owner = mesh.database.owner().await;
    let waited: bool =
        sqlx::query_scalar(sqlx::AssertSqlSafe(sql)).fetch_one(&mut owner).await.expect("there is a run");
    assert!(waited, "it was told to wait for 3 s, and its Retry says 1: {why} {run}");
}

#[tokio::test(flavor = "multi_thread")]
async fn mail_models_and_events_reach_their_peers_once() {
    let stage = Stage::set("peers").await;
    let arguments = json!({
        "to": ["ada@b.test", "Bob <bob@b.test>"], "subject": "Grüße", "text": "Hi", "html": "<p>Hi", "fromName": "Shop",
    });
    let run = stage.run("email:send", arguments).await;
    assert_eq!(run["state"], "SUCCEEDED", "{run}");
    let sent = &stage.mail.seen()[0];
    let id = text(&run["output"]["messageId"]);
    assert!(id.starts_with("<run_") && id.ends_with("@acme.test>"), "{id}");
    assert!(sent.contains(&format!("Message-ID: {id}")) && sent.contains("From: Shop <no-reply@acme.test>"), "{sent}");
    let to = |to: &str| json!({ "to": to, "subject": "x" });
    assert_eq!(stage.error("email:send", to("eve@refused.test")).await, "Email.Refused");
    // What is asked to come again fails in another way than what is refused, and comes through with a Retry.
    assert_eq!(stage.error("email:send", to("ada@busy.test")).await, "Email.Unavailable");
    assert_eq!(stage.run("email:send", to("ada@busy.test")).await["state"], "SUCCEEDED");
    assert_eq!(stage.error("email:send", to("nobody")).await, "INVALID_ARGUMENTS");
    assert_eq!(stage.error("email:send", to("{% 'a@b.test\\r\\nBcc: eve@evil.test' %}")).await, "INVALID_ARGUMENTS");
    let mut again = json!({ "Type": "Task", "Resource": "email:send", "Arguments": to("bob@busy.test"), "End": true });
    again["Retry"] = json!([{ "ErrorEquals": ["Email.Unavailable"], "IntervalSeconds": 1, "MaxAttempts": 1 }]);
    let run = stage.run_of(again).await;
    assert_eq!(run["state"], "SUCCEEDED", "{run}");
    let sent = stage.mail.seen().into_iter().filter(|mail| mail.contains("Message-ID")).count();
    assert_eq!(sent, 3, "{:?}", stage.mail.seen());

    let account = json!({ "base_url": stage.url("/v1"), "api_key": SECRET }).to_string();
    stage.secret("openai", &account, &[]).await;
    let arguments = json!({
        "secret": "openai", "model": "test-1", "maxTokens": 100, "responseFormat": { "type": "json_object" },
        "messages": [{ "role": "user", "content": "a number" }],
    });
    let run = stage.run("llm:chat", arguments).await;
    assert_eq!(
        (&run["output"]["json"]["n"], &run["output"]["usage"]["total_tokens"]),
        (&json!(1), &json!(42)),
        "{run}"
    );
    let asked = &stage.web.seen()[0];
    assert!(
        asked.contains(&format!("authorization: Bearer {SECRET}")) && asked.contains("\"max_tokens\":100"),
        "{asked}"
    );
    assert!(!stage.is_kept(SECRET).await, "the key is in the history, the events or the log");
    stage.metered("ai_tokens", "42").await;
    stage.metered("connector_calls", "4").await;

    let arguments = json!({ "subject": "orders/7", "data": { "total": 42 } });
    let run = stage.run("event:shop.order.paid.v1", arguments).await;
    let sql = "select id::text, subject, data::text from mesh.outbox where type = 'shop.order.paid.v1'";
    let mut owner = stage.mesh.database.owner().await;
    let rows: Vec<(String, String, String)> = sqlx::query_as(sql).fetch_all(&mut owner).await.expect("it can be read");
    assert_eq!(rows.len(), 1, "{rows:?}");
    assert_eq!(text(&run["output"]["id"]), format!("evt_{}", rows[0].0.replace('-', "")));
    assert_eq!((rows[0].1.as_str(), rows[0].2.as_str()), ("orders/7", "{\"total\": 42}"));
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_sent_to_who_cannot_prove_its_name() {
    let (trusted, stranger) = (Outside::tls("outside").await, Outside::tls("stranger").await);
    let authority = format!("{}/certs/outside-ca.pem", env!("CARGO_MANIFEST_DIR"));
    let networks = ("TENON_WORKFLOW_HTTP_ALLOW_CIDRS", "127.0.0.1/32");
    let (web, mail) = (Outside::web().await, Outside::mail().await);
    let mesh = Mesh::start_with(Backends::Embedded, &[networks, ("TENON_WORKFLOW_HTTP_CA", &authority)]).await;
    let Tenant { token, .. } = mesh.onboard("proved").await;
    let stage = Stage { mesh, web, mail, token };
    stage.secret("key", SECRET, &["127.0.0.1"]).await;
    let call = |to: &Outside| {
        let url = format!("https://127.0.0.1:{}/echo", to.port);
        json!({ "url": url, "headers": { "Authorization": "Bearer ${secrets.key}" } })
    };
    let run = stage.run("http:invoke", call(&trusted)).await;
    assert_eq!(run["state"], "SUCCEEDED", "{run}");
    assert!(trusted.seen()[0].contains(SECRET), "{:?}", trusted.seen());
    let chat = |to: &Outside| {
        json!({ "base_url": format!("https://127.0.0.1:{}/v1", to.port), "api_key": SECRET }).to_string()
    };
    stage.secret("good", &chat(&trusted), &[]).await;
    stage.secret("bad", &chat(&stranger), &[]).await;
    let ask =
        |secret: &str| json!({ "secret": secret, "model": "m", "messages": [{ "role": "user", "content": "?" }] });
    assert_eq!(stage.run("llm:chat", ask("good")).await["state"], "SUCCEEDED");
    // Its certificate is of the same authority, and for another name.
    let run = stage.run("http:invoke", call(&stranger)).await;
    assert_eq!(run["error"], "Http.ConnectionFailed", "{run}");
    assert!(text(&run["cause"]).contains("certificate"), "{run}");
    assert_eq!(stage.error("llm:chat", ask("bad")).await, "Http.ConnectionFailed");
    assert_eq!(stranger.seen(), Vec::<String>::new());

    // Nobody trusts the authority by itself.
    let mesh = Mesh::start_with(Backends::Embedded, &[networks]).await;
    let Tenant { token, .. } = mesh.onboard("unproved").await;
    let stage = Stage { mesh, token, ..stage };
    stage.secret("key", SECRET, &["127.0.0.1"]).await;
    assert_eq!(stage.error("http:invoke", call(&trusted)).await, "Http.ConnectionFailed");
    assert_eq!(trusted.seen().len(), 2, "{:?}", trusted.seen());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_template_needs_and_is_not_there_is_told() {
    let mesh = Mesh::start(Backends::Embedded).await;
    let Tenant { token, .. } = mesh.onboard("needy").await;
    let call = json!({ "Type": "Task", "Resource": "http:invoke", "Next": "Child",
        "Arguments": { "url": "https://x.test", "headers": { "Authorization": "Bearer ${secrets.key}" } } });
    let task = |resource: &str, next: &str| json!({ "Type": "Task", "Resource": resource, "Next": next });
    let definition = json!({ "QueryLanguage": "JSONata", "StartAt": "Call", "States": {
        "Call": call, "Child": task("workflow:child", "Self"), "Self": task("workflow:needs", "End"), "End": { "Type": "Succeed" }
    } });
    let expected = json!([
        { "field": "definition/States/Call/Arguments/headers/Authorization",
          "reason": "there is no secret key; make it with CreateSecret" },
        { "field": "definition/States/Child/Resource", "reason": "there is no workflow child; publish it with CreateWorkflow" },
    ]);
    let mut body = json!({ "workflowId": "needs", "definition": definition, "refuseMissing": true });
    let (status, refused) = mesh.post("/v1/workflows", &token, &body).await;
    assert_eq!((status, reason(&refused).as_str()), (StatusCode::BAD_REQUEST, "INVALID_DEFINITION"), "{refused}");
    assert!(refused.to_string().contains("definition/States/Child/Resource"), "{refused}");
    let (_, verdict) = mesh.post("/v1/workflows:validate", &token, &body).await;
    assert_eq!((&verdict["valid"], &verdict["faults"], &verdict["warnings"]), (&json!(false), &expected, &json!([])));
    body["refuseMissing"] = json!(false);
    let (_, verdict) = mesh.post("/v1/workflows:validate", &token, &body).await;
    assert_eq!((&verdict["valid"], &verdict["faults"], &verdict["warnings"]), (&json!(true), &json!([]), &expected));
    let (status, workflow) = mesh.post("/v1/workflows", &token, &body).await;
    assert_eq!((status, &workflow["warnings"]), (StatusCode::OK, &expected), "{workflow}");
    // Another tenant's are nobody else's.
    let other = mesh.onboard("needless").await;
    for (maker, left) in [(&other.token, 2), (&token, 0)] {
        let (status, answer) = mesh.post("/v1/secrets", maker, &json!({ "secretId": "key", "value": "v" })).await;
        assert_eq!(status, StatusCode::OK, "{answer}");
        let child = json!({ "StartAt": "A", "States": { "A": { "Type": "Succeed" } } });
        let (status, answer) =
            mesh.post("/v1/workflows", maker, &json!({ "workflowId": "child", "definition": child })).await;
        assert_eq!(status, StatusCode::OK, "{answer}");
        let (_, verdict) = mesh.post("/v1/workflows:validate", &token, &body).await;
        assert_eq!(verdict["warnings"].as_array().map(Vec::len), Some(left), "{verdict}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_template_whose_tasks_cannot_work_is_not_published() {
    let mesh = Mesh::start(Backends::Embedded).await;
    let Tenant { token, .. } = mesh.onboard("faulty-tasks").await;
    for (resource, arguments, field, why) in [
        ("http:get", json!({ "url": "https://x.test" }), "Resource", "must be http:invoke"),
        ("https://x.test", json!({}), "Resource", "write http:invoke"),
        ("ftp:x", json!({}), "Resource", "whose scheme is"),
        ("http:invoke", json!({ "uri": "https://x.test" }), "Arguments", "needs url"),
        (
            "http:invoke",
            json!({ "url": "https://x.test", "body": 1, "metod": "GET" }),
            "Arguments/metod",
            "is not one of",
        ),
        ("email:send", json!({ "to": [1], "subject": "x" }), "Arguments/to", "a list of texts"),
        ("llm:chat", json!({ "secret": "x", "model": "m", "messages": "hi" }), "Arguments/messages", "must be a list"),
        ("event:tenon.x.y", json!({}), "Resource", "tenon's own"),
        ("activity:", json!({}), "Resource", "a queue"),
        ("signal:a/b", json!({}), "Resource", "a name"),
        ("workflow:A", json!({}), "Resource", "the id of a workflow"),
        ("approval:", json!({ "description": "x" }), "Arguments", "needs title"),
    ] {
        let task = json!({ "Type": "Task", "Resource": resource, "Arguments": arguments, "End": true });
        let definition = json!({ "QueryLanguage": "JSONata", "StartAt": "A", "States": { "A": task } });
        let body = json!({ "workflowId": "faulty", "definition": definition });
        let (status, answer) = mesh.post("/v1/workflows", &token, &body).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{resource}: {answer}");
        let shown = answer.to_string();
        assert!(
            shown.contains(&format!("definition/States/A/{field}\"")) && shown.contains(why),
            "{resource}: {answer}"
        );
    }
    // Parameters of JSONPath are looked at as Arguments of JSONata are.
    for (resource, parameters, field) in [
        (
            "grpc:tenon.billing.v1.UsageService/IngestUsage",
            json!({ "events": [{ "metre.$": "$.m" }] }),
            "events/0/metre.$",
        ),
        ("http:invoke", json!({ "url.$": "$.url", "metod": "GET" }), "metod"),
    ] {
        let task = json!({ "Type": "Task", "Resource": resource, "Parameters": parameters, "End": true });
        let body = json!({ "workflowId": "faulty", "definition": { "StartAt": "A", "States": { "A": task } } });
        let (status, answer) = mesh.post("/v1/workflows", &token, &body).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{resource}: {answer}");
        assert!(answer.to_string().contains(&format!("definition/States/A/Parameters/{field}\"")), "{answer}");
    }
}
