//! Isolation in the database itself, on every table of every schema, found from the catalogue: a new table is covered.

use std::collections::BTreeSet;

use hmac::{Hmac, Mac};
use reqwest::Method;
use serde_json::{Value, json};
use sha2::Sha256;
use sqlx::{AssertSqlSafe, Executor, PgConnection, Row, postgres::PgRow};
use uuid::Uuid;

use crate::harness::{Backends, Mesh, Tenant, eventually};

const SCHEMAS: [&str; 5] = ["mesh", "auth", "tenant", "billing", "workflow"];
const SERVICES: [&str; 4] = ["auth", "tenant", "billing", "workflow"];
/// Tables that hold no tenant's data. A new one is named here only when that is true of it.
const NOBODYS: [&str; 6] = [
    "mesh.cursors",
    "mesh.migrations",
    "billing.plans",
    "billing.plan_meters",
    "workflow.engines",
    "workflow.partitions",
];

/// A table of the product.
struct Table {
    name: String,
    schema: String,
    is_tenants: bool,
    is_forced: bool,
    has_policy_for_app: bool,
    primary_key: Vec<String>,
}

async fn rows(connection: &mut PgConnection, sql: String) -> Vec<PgRow> {
    connection.fetch_all(AssertSqlSafe(sql)).await.expect("the catalogue can be read")
}

async fn count(connection: &mut PgConnection, sql: String) -> Result<i64, sqlx::Error> {
    connection.fetch_one(AssertSqlSafe(sql)).await.map(|row| row.get(0))
}

async fn tables(owner: &mut PgConnection) -> Vec<Table> {
    let schemas = SCHEMAS.map(|schema| format!("'{schema}'")).join(", ");
    let sql = format!(
        "select n.nspname::text, c.relname::text, c.relrowsecurity and c.relforcerowsecurity,
                exists (select from pg_attribute a where a.attrelid = c.oid and a.attname = 'tenant_id'),
                exists (select from pg_policy p where p.polrelid = c.oid and
                        pg_get_expr(p.polqual, c.oid) like '%app.tenant_id%'),
                coalesce((select array_agg(a.attname::text order by k.at) from pg_index i,
                          unnest(i.indkey::int2[]) with ordinality k(attnum, at), pg_attribute a
                          where i.indrelid = c.oid and i.indisprimary and a.attrelid = c.oid and a.attnum = k.attnum), '{{}}')
         from pg_class c join pg_namespace n on n.oid = c.relnamespace
         where c.relkind in ('r', 'p') and not c.relispartition and n.nspname in ({schemas}) order by 1, 2"
    );
    let table = |row: PgRow| {
        let (schema, name): (String, String) = (row.get(0), row.get(1));
        Table {
            name: format!("{schema}.{name}"),
            schema,
            is_forced: row.get(2),
            is_tenants: row.get(3),
            has_policy_for_app: row.get(4),
            primary_key: row.get(5),
        }
    };
    rows(owner, sql).await.into_iter().map(table).collect()
}

/// A run under a key, with an attribute, that waits for a signal and has another in its mailbox; and a pause.
async fn held_run(mesh: &Mesh, tenant: &Tenant) {
    let task = json!({ "Type": "Task", "Resource": "signal:go", "End": true });
    let id = format!("{}-waits", tenant.slug);
    let body = json!({ "workflowId": id, "definition": { "StartAt": "A", "States": { "A": task } } });
    let (status, answer) = mesh.post("/v1/workflows", &tenant.token, &body).await;
    assert!(status.is_success(), "{answer}");
    // So large that it is kept apart.
    let input = json!({ "text": "x".repeat(10_000) });
    let body = json!({ "workflow": id, "idempotencyKey": "one", "attributes": { "colour": "red" }, "input": input });
    let (status, run) = mesh.post("/v1/runs", &tenant.token, &body).await;
    assert!(status.is_success(), "{run}");
    let name = run["name"].as_str().expect("a run has a name");
    eventually("it waits", || async {
        let (_, why) = mesh.get(&format!("/v1/{name}:explain"), &tenant.token).await;
        (why["reasons"][0]["code"] == "WAITING_SIGNAL").then_some(())
    })
    .await;
    let (status, answer) = mesh.post(&format!("/v1/{name}:signal"), &tenant.token, &json!({ "signal": "other" })).await;
    assert!(status.is_success(), "{answer}");
    let (status, answer) = mesh.post("/v1/pauses", &tenant.token, &json!({ "workflow": id })).await;
    assert!(status.is_success(), "{answer}");
}

/// Two tenants with a row in every table, made as customers make them.
async fn two_tenants(mesh: &Mesh) -> [Tenant; 2] {
    let limited = r#"update billing.plans set limits = limits || '{"quota.ai_tokens": 1}'"#;
    mesh.database.owner().await.execute(limited).await.expect("the owner may change plans");
    let tenants = [mesh.onboard("table-one").await, mesh.onboard("table-two").await];
    for tenant in &tenants {
        let task = json!({ "Type": "Task", "Resource": "grpc:tenon.billing.v1.UsageService/GetUsage", "End": true });
        let definition = json!({ "StartAt": "A", "QueryLanguage": "JSONata", "States": { "A": task } });
        // Not the same id for both: a key to one's workflow must not find the other's.
        let body = json!({ "workflowId": tenant.slug, "definition": definition });
        let (status, answer) = mesh.post("/v1/workflows", &tenant.token, &body).await;
        assert!(status.is_success(), "{answer}");
        let run = mesh.request(Method::POST, "/v1/runs").bearer_auth(&tenant.token).header("idempotency-key", "once");
        let run = run.json(&json!({ "workflow": tenant.slug })).send().await.expect("the edge answers");
        assert!(run.status().is_success(), "{:?}", run.text().await);
        what_starts_runs(mesh, tenant).await;
        let event = json!({ "events": [{ "id": "1", "meter": "ai_tokens" }] });
        let (status, answer) = mesh.post("/v1/usage:ingest", &tenant.token, &event).await;
        assert!(status.is_success(), "{answer}");
        let secret = json!({ "secretId": "key", "value": tenant.slug });
        let (status, answer) = mesh.post("/v1/secrets", &tenant.token, &secret).await;
        assert!(status.is_success(), "{answer}");
        let key = json!({ "displayName": tenant.slug, "roles": ["viewer"] });
        let (status, answer) = mesh.post("/v1/api-keys", &tenant.token, &key).await;
        assert!(status.is_success(), "{answer}");
        let domain = json!({ "hostname": format!("{}.test", tenant.slug) });
        let (status, answer) = mesh.post("/v1/domains", &tenant.token, &domain).await;
        assert!(status.is_success(), "{answer}");
        held_run(mesh, tenant).await;
        let asked = json!({ "queues": [tenant.slug], "worker": "w" });
        let (status, answer) = mesh.post("/v1/activities:claim", &tenant.token, &asked).await;
        assert!(status.is_success(), "{answer}");
        eventually("the run is counted, so every table has a row", || async {
            let (_, usage) = mesh.get("/v1/usage", &tenant.token).await;
            let (_, runs) = mesh.get("/v1/runs?state=SUCCEEDED", &tenant.token).await;
            let counted = usage["meters"].as_array().is_some_and(|meters| meters.len() == 2);
            (counted && runs["runs"].as_array().is_some_and(|runs| runs.len() == 1)).then_some(())
        })
        .await;
    }
    eventually("nothing is left of a meter, and the workflow service knows; who works is known too", || async {
        let sql = "select (select count(*) from workflow.quotas) + (select count(*) from workflow.workers)".to_owned();
        (count(&mut mesh.database.owner().await, sql).await.ok()? == 4).then_some(())
    })
    .await;
    tenants
}

/// A schedule, a hook with a delivery, a trigger, and an endpoint with a delivery.
async fn what_starts_runs(mesh: &Mesh, tenant: &Tenant) {
    let made = async |path: &str, body: Value| {
        let (status, answer) = mesh.post(path, &tenant.token, &body).await;
        assert!(status.is_success(), "{path}: {answer}");
        answer
    };
    let yearly = json!({ "scheduleId": "yearly", "workflow": tenant.slug, "cron": "0 0 1 1 *", "paused": true });
    made("/v1/schedules", yearly).await;
    let secret = format!("secret-of-{}-0123456789", tenant.slug);
    made("/v1/hooks", json!({ "hookId": "hook", "scheme": "META", "secret": secret })).await;
    let delivery = mesh.request(Method::POST, &format!("/hooks/{}/hook", tenant.slug)).body("{}");
    let signature = format!("sha256={}", hmac_of(&secret, b"{}"));
    let answer = delivery.header("x-hub-signature-256", signature).send().await.expect("the edge answers");
    assert!(answer.status().is_success(), "{:?}", answer.text().await);
    let states = json!({ "StartAt": "A", "States": { "A": { "Type": "Succeed" } } });
    let triggers = json!([{ "webhook": { "hook": "hook" } }]);
    let id = format!("{}-hooked", tenant.slug);
    made("/v1/workflows", json!({ "workflowId": id, "definition": states, "envelope": { "triggers": triggers } }))
        .await;
    let id = format!("{}-erp", tenant.slug);
    made("/v1/endpoints", json!({ "endpointId": id, "url": "https://erp.invalid/in", "eventTypes": ["x"] })).await;
    made(&format!("/v1/endpoints/{id}:test"), json!({})).await;
}

fn hmac_of(secret: &str, body: &[u8]) -> String {
    let mut mac = <Hmac<Sha256> as Mac>::new_from_slice(secret.as_bytes()).expect("HMAC takes a key of any length");
    mac.update(body);
    mac.finalize().into_bytes().iter().map(|byte| format!("{byte:02x}")).collect()
}

fn uuid(tenant: &Tenant) -> Uuid {
    tenant.name.trim_start_matches("tenants/ten_").parse().expect("a tenant's name ends with its UUID")
}

#[tokio::test]
async fn every_table_of_a_tenant_is_closed_to_the_others() {
    let mesh = Mesh::start(Backends::Embedded).await;
    let [one, two] = two_tenants(&mesh).await.map(|tenant| uuid(&tenant));
    let mut owner = mesh.database.owner().await;
    let tables = tables(&mut owner).await;
    assert!(tables.len() >= 15, "the catalogue shows {} tables", tables.len());
    for table in &tables {
        let name = &table.name;
        if !table.is_tenants {
            assert!(NOBODYS.contains(&name.as_str()), "{name} has no tenant_id: add it, or name it in NOBODYS");
            continue;
        }
        assert!(table.is_forced, "{name}: alter table {name} enable row level security, and force");
        assert!(table.has_policy_for_app, "{name}: create a policy on app.tenant_id for the app role");
        let first = table.primary_key.first().map(String::as_str);
        assert_eq!(first, Some("tenant_id"), "{name}: tenant_id comes first in the primary key");
        for tenant in [one, two] {
            let sql = format!("select count(*) from {name} where tenant_id = '{tenant}'");
            let there = count(&mut owner, sql).await.expect("the owner reads everything");
            assert!(there > 0, "{name} has no row to try isolation with: let two_tenants make one");
        }
        // The shared schema is open to every service's role; the others only to their own.
        let roles = SERVICES.into_iter().filter(|service| table.schema == "mesh" || table.schema == *service);
        for role in roles.map(|service| format!("tenon_{service}")) {
            let mut app = mesh.database.connect_as(&role).await;
            no_tenant_sees_nothing(&mut app, &role, name).await;
            another_tenant_cannot_be_read_or_written(&mut app, &mut owner, &role, name, one, two).await;
        }
    }
}

async fn no_tenant_sees_nothing(app: &mut PgConnection, role: &str, table: &str) {
    // Before any transaction the setting is NULL; after one it is ''.
    for preparation in ["select 1", "begin; set local app.tenant_id = ''; commit"] {
        app.execute(AssertSqlSafe(preparation.to_owned())).await.expect("a setting can be set");
        match count(app, format!("select count(*) from {table}")).await {
            Ok(seen) => assert_eq!(seen, 0, "{role} sees rows of {table} with no tenant set"),
            Err(error) => assert_denied(&error, &format!("{role} reads {table}")),
        }
    }
}

/// 42501 is insufficient_privilege: no grant, or a row that the policy does not take.
#[track_caller]
fn assert_denied(error: &sqlx::Error, what: &str) {
    let code = error.as_database_error().and_then(|error| error.code().map(std::borrow::Cow::into_owned));
    assert_eq!(code.as_deref(), Some("42501"), "{what}: {error}");
}

async fn another_tenant_cannot_be_read_or_written(
    app: &mut PgConnection,
    owner: &mut PgConnection,
    role: &str,
    table: &str,
    own: Uuid,
    other: Uuid,
) {
    let as_own = async |app: &mut PgConnection, sql: String| {
        let begin = format!("begin; set local app.tenant_id = '{own}'");
        app.execute(sqlx::raw_sql(AssertSqlSafe(begin))).await.expect("a transaction begins");
        let result = app.execute(AssertSqlSafe(sql)).await.map(|done| done.rows_affected());
        app.execute("rollback").await.expect("a transaction ends");
        result
    };
    let reads_and_writes = [
        format!("select 1 from {table} where tenant_id = '{other}'"),
        format!("update {table} set tenant_id = tenant_id where tenant_id = '{other}'"),
        format!("delete from {table} where tenant_id = '{other}'"),
    ];
    for sql in reads_and_writes {
        match as_own(app, sql.clone()).await {
            Ok(touched) => assert_eq!(touched, 0, "{role}: {sql}"),
            Err(error) => assert_denied(&error, &format!("{role}: {sql}")),
        }
    }
    // The other's own row, given back to it by a stranger.
    let copy = row_of(owner, table, other).await;
    let insert = format!(
        "insert into {table} overriding system value select * from jsonb_populate_record(null::{table}, '{}')",
        copy.to_string().replace('\'', "''")
    );
    let error = as_own(app, insert).await.expect_err("a row of another tenant was taken");
    assert_denied(&error, &format!("{role} inserts another tenant's row into {table}"));
}

async fn row_of(owner: &mut PgConnection, table: &str, tenant: Uuid) -> Value {
    let sql = format!("select to_jsonb(t) from {table} t where tenant_id = '{tenant}' limit 1");
    owner.fetch_one(AssertSqlSafe(sql)).await.expect("the owner reads everything").get(0)
}

#[tokio::test]
async fn a_partition_is_reached_through_its_table_only() {
    let mesh = Mesh::start(Backends::Embedded).await;
    let mut owner = mesh.database.owner().await;
    let sql = "select c.oid::regclass::text, c.relrowsecurity and c.relforcerowsecurity,
                      exists (select from aclexplode(c.relacl) a where a.grantee <> c.relowner)
               from pg_class c where c.relispartition and c.relkind = 'r'";
    let parts = rows(&mut owner, sql.to_owned()).await;
    assert!(parts.len() >= 5, "{} partitions", parts.len());
    for part in parts {
        let name: String = part.get(0);
        assert!(part.get::<bool, _>(1), "{name}: enable row level security, and force");
        assert!(!part.get::<bool, _>(2), "{name} is granted to a role of its own");
    }
}

#[tokio::test]
async fn no_row_refers_to_another_tenants_row() {
    let mesh = Mesh::start(Backends::Embedded).await;
    let [one, two] = two_tenants(&mesh).await.map(|tenant| uuid(&tenant));
    let mut owner = mesh.database.owner().await;
    let sql = "select conrelid::regclass::text, conname::text, confrelid::regclass::text,
                      (select array_agg(attname::text) from pg_attribute where attrelid = conrelid and attnum = any(conkey))
               from pg_constraint where contype = 'f'";
    let mut tried = 0;
    for key in rows(&mut owner, sql.to_owned()).await {
        let (table, name, parent): (String, String, String) = (key.get(0), key.get(1), key.get(2));
        let columns: Vec<String> = key.get(3);
        if NOBODYS.contains(&parent.as_str()) {
            continue;
        }
        assert!(columns.contains(&"tenant_id".to_owned()), "{table}: the foreign key {name} must include tenant_id");
        // As the owner, whom no policy binds: the key alone must refuse.
        let mut stranger = row_of(&mut owner, &table, two).await;
        stranger["tenant_id"] = json!(if columns.len() == 1 { Uuid::nil() } else { one });
        let insert = format!(
            "insert into {table} overriding system value select * from jsonb_populate_record(null::{table}, '{}')",
            stranger.to_string().replace('\'', "''")
        );
        let error = owner.execute(AssertSqlSafe(insert)).await.expect_err("a foreign key took another tenant's row");
        let code = error.as_database_error().and_then(|error| error.code().map(std::borrow::Cow::into_owned));
        // A key of the tenant's own (one subscription, one current key) may refuse first.
        let refused = matches!(code.as_deref(), Some("23503" | "23505"));
        assert!(refused, "{table}.{name}: {error}");
        tried += usize::from(code.as_deref() == Some("23503"));
    }
    assert!(tried >= 3, "only {tried} foreign keys were tried");
}

#[tokio::test]
async fn roles_have_no_more_than_their_service_needs() {
    let mesh = Mesh::start(Backends::Embedded).await;
    let mut owner = mesh.database.owner().await;
    let roles: BTreeSet<String> =
        SERVICES.iter().flat_map(|s| [format!("tenon_{s}"), format!("tenon_{s}_system")]).collect();
    let sql = "select rolname::text, rolsuper or rolbypassrls or rolcreaterole or rolcreatedb from pg_roles
               where rolname like 'tenon\\_%'";
    let found = rows(&mut owner, sql.to_owned()).await;
    let powerful = found.iter().filter(|row| roles.contains(&row.get::<String, _>(0)) && row.get::<bool, _>(1));
    assert_eq!(powerful.count(), 0, "a service's role has powers over the server");
    for table in tables(&mut owner).await {
        for role in &roles {
            let own = role.starts_with(&format!("tenon_{}", table.schema)) || table.schema == "mesh";
            let name = &table.name;
            let sql = format!(
                "select (has_table_privilege('{role}', '{name}', 'select,insert,update,delete,truncate') and not {own})::int
                        + (pg_has_role('{role}', (select tableowner from pg_tables where schemaname || '.' || tablename
                                                  = '{name}'), 'usage'))::int"
            );
            let row = owner.fetch_one(AssertSqlSafe(sql)).await.expect("the catalogue can be read");
            assert_eq!(row.get::<i32, _>(0), 0, "{role} can touch {name}, which is not its own, or owns it");
        }
    }
}
