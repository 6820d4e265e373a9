//! One Postgres for the whole test run, and a database of its own for each test.
//!
//! Under nextest every test is a process. All of them share one server: each holds a shared lock on a file as long as
//! it lives, the server (`tenon postgres`) ends when nobody has held it for some seconds. Nothing has to be started
//! before the tests or ended after them, and a killed test leaves nothing behind.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    net::TcpStream,
    path::PathBuf,
    process::Stdio,
    sync::LazyLock,
    time::{Duration, Instant},
};

use serde_json::Value;
use sqlx::{
    AssertSqlSafe, ConnectOptions as _, Connection as _, Executor as _, PgConnection, Row as _,
    postgres::PgConnectOptions,
};

use super::{
    binary,
    ports::shared_folder,
    process::{PATIENCE, hears, says},
    tenon,
};

/// The events of all histories, one a row, for a FROM.
pub const EVENTS: &str =
    "(select h.tenant_id, h.run_id, h.time, h.first_id + e.at - 1 as id, (e.event ->> 0)::bigint as previous_id,
    e.event ->> 1 as type, e.event ->> 2 as state
    from workflow.history h, json_array_elements(case json_typeof(h.events) when 'array' then h.events
    else h.events -> '$payload' end) with ordinality as e (event, at))";

/// The password of every service role; roles belong to the whole server.
pub const ROLE_PASSWORD: &str = "test-role-password";

/// The server, by its owner's URL; the lock keeps it alive.
static SERVER: LazyLock<(Server, File)> = LazyLock::new(Server::join);

/// A Postgres server that runs.
#[derive(Debug, Clone)]
struct Server {
    owner: PgConnectOptions,
    /// The database that each test's own is copied from.
    template: String,
}

/// A migrated database that one test has for itself.
#[derive(Debug, Clone)]
pub struct Database {
    pub name: String,
    pub port: u16,
    owner: PgConnectOptions,
}

impl Database {
    /// A migrated database: a copy of the template, about 30 ms.
    pub async fn create() -> Self {
        Self::copy_of(|server| server.template.clone()).await
    }

    async fn copy_of(template: impl Fn(&Server) -> String) -> Self {
        let server = tokio::task::spawn_blocking(|| SERVER.0.clone()).await.expect("the server starts");
        let mut connection = PgConnection::connect_with(&server.owner).await.expect("the server answers");
        // Not by the id of this process: they come again within one test run.
        let unique = "select 'test_' || replace(gen_random_uuid()::text, '-', '')";
        let name: String = connection.fetch_one(unique).await.expect("the server answers").get(0);
        let statement = format!("create database {name} template {} strategy file_copy", template(&server));
        connection.execute(AssertSqlSafe(statement)).await.expect("the template can be copied");
        let port = server.owner.get_port();
        Self { owner: server.owner.database(&name), name, port }
    }

    /// The password of every service role; roles belong to the whole server.
    pub const ROLE_PASSWORD: &str = ROLE_PASSWORD;

    /// The migrated database of a server that the test has for itself.
    pub fn on(port: u16) -> Self {
        let url = format!("postgres://tenon@127.0.0.1:{port}/postgres");
        let owner: PgConnectOptions = url.parse().expect("it is a URL");
        let server = Server { owner, template: "mesh".to_owned() };
        server.migrate(&url);
        Self { owner: server.owner.database("mesh"), name: "mesh".to_owned(), port }
    }

    /// A database that nothing was migrated in: about 30 ms.
    pub async fn create_empty() -> Self {
        Self::copy_of(|_| "template0".to_owned()).await
    }

    /// As its owner, as TENON_ADMIN_DATABASE_URL wants it.
    pub fn owner_url(&self) -> String {
        self.owner.to_url_lossy().to_string()
    }

    /// Without a user, as TENON_DATABASE_URL wants it.
    pub fn url(&self) -> String {
        format!("postgres://127.0.0.1:{}/{}", self.port, self.name)
    }

    /// A connection as the owner, whom row-level security does not bind.
    pub async fn owner(&self) -> PgConnection {
        self.try_owner().await.expect("the owner can connect")
    }

    /// As `owner`, also while the server may be away.
    pub async fn try_owner(&self) -> Option<PgConnection> {
        PgConnection::connect_with(&self.owner).await.ok()
    }

    /// A connection as a service's role: `tenon_billing`, `tenon_billing_system`.
    pub async fn connect_as(&self, role: &str) -> PgConnection {
        let options = self.owner.clone().username(role).password(ROLE_PASSWORD);
        PgConnection::connect_with(&options).await.expect("the role can connect")
    }
}

impl Server {
    fn join() -> (Self, File) {
        let folder = shared_folder("tenon-test-postgres");
        let open = |name: &str| {
            let mut options = File::options();
            options.create(true).truncate(false).read(true).write(true);
            options.open(folder.join(name)).expect("the temporary folder can be written")
        };
        let users = open("users.lock");
        users.lock_shared().expect("a file can be locked");
        let starting = open("start.lock");
        starting.lock().expect("a file can be locked");
        let ready = folder.join("ready.json");
        let url = answering(&ready).unwrap_or_else(|| start(&ready, &folder));
        let owner: PgConnectOptions = url.parse().expect("tenon writes a URL");
        let server = Self { owner: owner.database("postgres"), template: template_name() };
        let made = folder.join(format!("{}-{}.made", server.template, server.owner.get_port()));
        if !made.exists() {
            server.migrate(&url);
            File::create(made).expect("the temporary folder can be written");
        }
        (server, users)
    }

    /// Makes the template once for each build of the binary.
    fn migrate(&self, url: &str) {
        let (base, _) = url.rsplit_once('/').expect("a URL has a database");
        let mut migrate = tenon();
        migrate.arg("migrate").env("TENON_ADMIN_DATABASE_URL", format!("{base}/{}", self.template));
        for service in ["AUTH", "TENANT", "BILLING", "WORKFLOW"] {
            migrate.env(format!("TENON_{service}_DB_PASSWORD"), ROLE_PASSWORD);
        }
        let output = migrate.output().expect("the binary can be started");
        assert!(output.status.success(), "tenon migrate failed: {}", String::from_utf8_lossy(&output.stderr));
    }
}

fn template_name() -> String {
    let built = fs::metadata(binary::path()).and_then(|file| file.modified()).expect("the binary is there");
    let since = built.duration_since(std::time::UNIX_EPOCH).expect("it was built after 1970");
    format!("template_{}", since.as_millis())
}

/// The URL of a server that runs already and takes connections.
fn answering(ready: &PathBuf) -> Option<String> {
    let written: Value = serde_json::from_str(&fs::read_to_string(ready).ok()?).ok()?;
    let url = written["url"].as_str()?.to_owned();
    let options: PgConnectOptions = url.parse().ok()?;
    hears(options.get_port(), lets_in).ok()?;
    Some(url)
}

/// A server that has only begun to listen says that it is starting up, as an error; one that is ready asks who it is.
pub fn lets_in(stream: &mut TcpStream) -> io::Result<()> {
    let startup = b"\0\x03\0\0user\0tenon\0database\0postgres\0\0";
    let length = u32::try_from(startup.len() + 4).expect("it is short").to_be_bytes();
    stream.write_all(&[&length[..], startup].concat())?;
    says(stream, b"R")
}

#[expect(clippy::zombie_processes, reason = "it outlives this process on purpose, and ends by itself")]
fn start(ready: &PathBuf, folder: &std::path::Path) -> String {
    // What an earlier server left: where it was, and which templates it had.
    fs::read_dir(folder).into_iter().flatten().flatten().for_each(|entry| {
        let name = entry.file_name().to_string_lossy().into_owned();
        if name == "ready.json" || name.ends_with(".made") {
            let _gone = fs::remove_file(entry.path());
        }
    });
    let log = folder.join("log");
    let output = File::create(&log).expect("the temporary folder can be written");
    let mut server = tenon();
    server.args(["postgres", "--ready-file"]).arg(ready).arg("--while-locked").arg(folder.join("users.lock"));
    server.stdin(Stdio::null()).stdout(output.try_clone().expect("a file can be shared")).stderr(output);
    // A group of its own: it outlives this test for the next one.
    std::os::unix::process::CommandExt::process_group(&mut server, 0);
    let mut server = server.spawn().expect("the binary can be started");
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(url) = answering(ready) {
            return url;
        }
        let ended = server.try_wait().expect("a child can be waited for");
        let said = || fs::read_to_string(&log).unwrap_or_default();
        assert!(ended.is_none(), "the Postgres of the tests does not start:\n{}", said());
        assert!(Instant::now() < deadline, "the Postgres of the tests does not answer:\n{}", said());
        std::thread::sleep(Duration::from_millis(20));
    }
}
