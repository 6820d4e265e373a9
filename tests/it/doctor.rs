//! `tenon doctor`: each finding says what is wrong and what to type; `tenon health` is for containers.

use crate::harness::{Backends, Database, Mesh, Ports, tenon};

#[test]
fn what_is_wrong_is_named_with_what_to_type() {
    let ports = Ports::take();
    let closed = ports.next();
    let certificate = |name: &str| format!("{}/../gateway/tests/certs/{name}", env!("CARGO_MANIFEST_DIR"));
    let hosts = tempfile::tempdir().unwrap();
    std::fs::copy(certificate("acme-past.pem"), hosts.path().join("api.acme.test.crt")).unwrap();
    std::fs::copy(certificate("acme-past.key"), hosts.path().join("api.acme.test.key")).unwrap();
    let output = tenon()
        .arg("doctor")
        .env("TENON_MESH_KEY", "short-and-secret")
        .env("TENON_OPERATOR_KEY", "guess-me")
        .env("TENON_DATABASE_URL", format!("postgres://127.0.0.1:{closed}/tenon"))
        .env("TENON_AUTH_DB_PASSWORD", "any")
        .env("TENON_REDIS_URL", format!("redis://127.0.0.1:{closed}"))
        .env("TENON_ADMIN_PORT", ports.next().to_string())
        .env("TENON_EDGE_TLS_CERT", certificate("edge-1.pem"))
        .env("TENON_EDGE_TLS_KEY", certificate("edge-1.key"))
        .env("TENON_EDGE_TLS_CERTS", hosts.path())
        .output()
        .unwrap();
    let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    for expected in [
        "ok      Postgres",
        "WRONG   TENON_MESH_KEY must be base64",
        "→ export TENON_MESH_KEY=$(openssl rand -base64 32)",
        "WRONG   TENON_OPERATOR_KEY is short",
        "does not answer (TENON_DATABASE_URL)",
        "→ pg_isready -d postgres://127.0.0.1",
        "WRONG   Redis does not answer",
        "-       TENON_NATS_URL is not set",
        "ok      the certificate of the edge holds until 2126-10-28",
        "the certificate of api.acme.test is refused",
        "has expired at 2021-01-01",
        "→ openssl x509 -noout -dates",
        "5 wrong",
    ] {
        assert!(said.contains(expected), "{expected:?} is missing:\n{said}");
    }
    assert!(!said.contains("short-and-secret") && !said.contains("guess-me"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mesh_that_is_well_is_found_well() {
    let mesh = Mesh::start(Backends::Embedded).await;
    let admin = mesh.admin_port("all").to_string();
    let mut doctor = tenon();
    doctor.arg("doctor").env("TENON_DATABASE_URL", mesh.database.url()).env("TENON_ADMIN_PORT", &admin);
    for service in ["AUTH", "TENANT", "BILLING", "WORKFLOW"] {
        doctor.env(format!("TENON_{service}_DB_PASSWORD"), Database::ROLE_PASSWORD);
    }
    let output = doctor.output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{said}");
    assert!(said.contains("the database takes tenon_workflow, and its schema is current"), "{said}");
    assert!(said.contains(&format!("is ready on port {admin}")), "{said}");
    assert!(tenon().arg("health").env("TENON_ADMIN_PORT", &admin).status().unwrap().success());
    let ports = Ports::take();
    let nobody = ports.next().to_string();
    let output = tenon().arg("health").env("TENON_ADMIN_PORT", &nobody).output().unwrap();
    assert!(String::from_utf8_lossy(&output.stderr).contains("is it started?"));
    assert_eq!(output.status.code(), Some(1));
}
