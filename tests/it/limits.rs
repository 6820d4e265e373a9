//! Rate limits of an address and of a tenant, alone and shared through Redis, and with Redis gone.

use reqwest::Method as Verb;
use rustix::process::Signal;
use serde_json::json;
use tonic::Code;

use crate::harness::{Answer, Backends, Headers, Mesh, Tenant, Wire, eventually};

/// Calls a minute that are allowed: 1 each 10 seconds, so no test is slow enough to earn many back.
const PER_MINUTE: u32 = 6;
/// What may be done at once, whatever the rate.
const BURST: usize = 20;
/// Most that a slow test may have earned back meanwhile.
const EARNED: usize = 10;

struct Pond {
    mesh: Mesh,
    wire: Wire,
}

impl Pond {
    async fn fill(backends: Backends) -> Self {
        let rate = PER_MINUTE.to_string();
        // The tests stand behind a proxy that is believed, so that they can come from many addresses.
        let settings = [("TENON_RATE_IP_LOGIN", &*rate), ("TENON_TRUSTED_PROXIES", "127.0.0.1")];
        let mesh = Mesh::start_with(backends, &settings).await;
        let limits = format!(r#"update billing.plans set limits = '{{"rate.read": 100000, "rate.write": {rate}}}'"#);
        let mut owner = mesh.database.owner().await;
        sqlx::raw_sql(sqlx::AssertSqlSafe(limits)).execute(&mut owner).await.expect("the owner may change plans");
        Self { mesh, wire: Wire::new() }
    }

    /// A call of the class LOGIN from an address; it is counted before it is looked at.
    async fn login_from(&self, address: &str) -> Answer {
        let headers: Headers = vec![("x-forwarded-for", address.to_owned())];
        self.wire.http(&self.mesh, Verb::POST, "/v1/auth/refresh", &headers, b"{}").await
    }

    /// A call of the class WRITE by a tenant.
    async fn write_as(&self, tenant: &Tenant) -> Answer {
        let headers: Headers = vec![("authorization", format!("Bearer {}", tenant.token))];
        self.wire.http(&self.mesh, Verb::POST, "/v1/users", &headers, b"{}").await
    }

    /// Spends a burst: how many calls were let through before the first that was not, and that one.
    async fn spend(&self, call: impl AsyncFn() -> Answer) -> (usize, Answer) {
        for let_through in 0..=BURST + EARNED {
            let answer = call().await;
            assert!(!answer.is_our_fault(), "{}: {}", answer.http, answer.text());
            if answer.http == 429 {
                return (let_through, answer);
            }
        }
        panic!("{} calls in a row were let through", BURST + EARNED);
    }
}

/// All that a client needs to behave (RFC 9110 section 10.2.3, draft-ietf-httpapi-ratelimit-headers-10).
fn says_when(answer: &Answer, policy: &str) {
    assert_eq!((answer.code, &*answer.reason), (Code::ResourceExhausted, "RATE_LIMITED"), "{}", answer.text());
    let seconds: u64 = answer.header("retry-after").parse().expect("Retry-After is in seconds");
    assert!((1..=60 / u64::from(PER_MINUTE)).contains(&seconds), "retry-after: {seconds}");
    let policies = answer.header("ratelimit-policy");
    assert!(policies.contains(&format!("\"{policy}\";q={PER_MINUTE};w=60")), "ratelimit-policy: {policies}");
    let left = answer.header("ratelimit");
    assert!(left.contains(&format!("\"{policy}\";r=0;t=")), "ratelimit: {left}");
    let status: serde_json::Value = serde_json::from_slice(&answer.body).expect("a Status");
    let details = status["details"].as_array().expect("details");
    let metadata = details.iter().find_map(|detail| detail.get("metadata")).expect("the metadata of ErrorInfo");
    assert_eq!(metadata, &json!({ "policy": policy, "limit_per_minute": PER_MINUTE.to_string() }));
    assert!(details.iter().any(|detail| detail.get("retryDelay").is_some()), "{status}");
}

/// Holds for limits in a process and for those in Redis.
async fn limits_hold(pond: &Pond) -> Tenant {
    let onboard = async |slug: &str| {
        // A sign-up and a login are two of the class LOGIN from this address.
        pond.mesh.onboard(slug).await
    };
    let (acme, globex) = (onboard("acme").await, onboard("globex").await);
    // An address.
    let first = pond.login_from("192.0.2.1").await;
    assert_eq!(first.http, 401, "{}", first.text());
    assert!(first.header("ratelimit").starts_with("\"ip-login\";r=19;t="), "ratelimit: {}", first.header("ratelimit"));
    let (let_through, refused) = pond.spend(async || pond.login_from("192.0.2.1").await).await;
    assert!(let_through >= BURST - 1, "{let_through} of {} calls that are allowed were let through", BURST - 1);
    says_when(&refused, "ip-login");
    assert_eq!(pond.login_from("192.0.2.2").await.http, 401, "another address is another matter");
    // An IPv6 customer has a /64: another address of it is the same.
    let (let_through, _) = pond.spend(async || pond.login_from("2001:db8::1").await).await;
    assert!(let_through >= BURST);
    assert_eq!(pond.login_from("2001:db8::2").await.http, 429);
    assert_eq!(pond.login_from("2001:db8:0:1::1").await.http, 401);
    // A tenant: by the limits of its plan.
    let (let_through, refused) = pond.spend(async || pond.write_as(&acme).await).await;
    assert!(let_through >= BURST, "{let_through} of {BURST} calls that are allowed were let through");
    says_when(&refused, "tenant-write");
    assert_eq!(pond.write_as(&globex).await.http, 400, "another tenant is another matter");
    let (status, answer) = pond.mesh.get("/v1/auth/whoami", &acme.token).await;
    assert!(status.is_success(), "another class is another matter: {answer}");
    acme
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_in_one_process() {
    let pond = Pond::fill(Backends::Embedded).await;
    limits_hold(&pond).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_in_redis_and_without_it_when_it_is_gone() {
    let mut pond = Pond::fill(Backends::Full).await;
    let acme = limits_hold(&pond).await;
    // They are shared: an edge that starts afresh knows what was spent before.
    pond.mesh.kill_9("all");
    pond.mesh.restart("all").await;
    eventually("Redis remembers", || async { (pond.write_as(&acme).await.http == 429).then_some(()) }).await;

    // Redis hangs, then dies: each process decides alone, and no call fails for it.
    let redis = |signal| pond.mesh.backend("redis").signal(signal);
    redis(Signal::STOP);
    let (let_through, refused) = pond.spend(async || pond.login_from("192.0.2.3").await).await;
    assert!(let_through >= BURST, "{let_through} calls were let through while Redis hung");
    says_when(&refused, "ip-login");
    redis(Signal::CONT);
    eventually("Redis is used again", || async {
        // What Redis knows of acme, and the process does not.
        (pond.write_as(&acme).await.http == 429).then_some(())
    })
    .await;
    redis(Signal::KILL);
    let (let_through, refused) = pond.spend(async || pond.login_from("192.0.2.4").await).await;
    assert!(let_through >= BURST, "{let_through} calls were let through without Redis");
    says_when(&refused, "ip-login");
    let (status, answer) = pond.mesh.get("/v1/auth/whoami", &acme.token).await;
    assert!(status.is_success(), "{answer}");
}
