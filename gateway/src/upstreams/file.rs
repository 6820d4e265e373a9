//! The file of `--upstreams`: an `[[upstream]]` table for each service that is not the mesh's own.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use http::{HeaderName, HeaderValue};
use serde::{Deserialize, Deserializer, de::Error as _};
use tenon_proto::{foreign::Rules, options::v1::policy::Access, policy::ROLES};

use super::dial::{CONNECTIONS, Dial, MAX_REQUESTS, Retries, Tls};

/// Characters of an upstream's name: it stands in metrics and tokens.
const MAX_NAME: usize = 40;
/// Bytes of the file and of each file that it names.
const MAX_FILE: u64 = 16 * 1024 * 1024;
/// What the parts of the mesh are called in tokens.
const TAKEN: [&str; 8] = ["auth", "tenant", "billing", "workflow", "gateway", "tenon", "mesh", "edge"];

/// One entry, read and checked.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Entry {
    pub(crate) dial: Dial,
    pub(crate) source: Source,
    pub(crate) rules: Rules,
}

/// When a file was changed and how long it is; `None` when it is not there.
pub(crate) type Stamp = Option<(SystemTime, u64)>;
pub(crate) type Stamps = BTreeMap<PathBuf, Stamp>;

pub(crate) fn stamp(path: &Path) -> Stamp {
    let seen = fs::metadata(path).ok()?;
    Some((seen.modified().ok()?, seen.len()))
}

/// Where the contract of an upstream comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Source {
    /// A FileDescriptorSet, as it was read.
    Descriptors(Vec<u8>),
    /// The service itself tells.
    Reflection,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    #[serde(default)]
    upstream: Vec<Table>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    name: String,
    endpoints: Vec<String>,
    descriptors: Option<PathBuf>,
    #[serde(default)]
    reflection: bool,
    #[serde(default)]
    tls: TlsTable,
    #[serde(default, deserialize_with = "access")]
    default_access: Option<Access>,
    audience: Option<String>,
    services: Option<Vec<String>>,
    timeout_s: Option<f64>,
    connections: Option<usize>,
    max_requests: Option<usize>,
    #[serde(default)]
    retries: RetriesTable,
    #[serde(default)]
    headers: BTreeMap<String, String>,
    #[serde(default)]
    grants: BTreeMap<String, Vec<String>>,
}

#[derive(Default)]
enum TlsTable {
    #[default]
    AsTheEndpointSays,
    Always,
    Never,
    With(TlsFiles),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TlsFiles {
    ca: Option<PathBuf>,
    cert: Option<PathBuf>,
    key: Option<PathBuf>,
    server_name: Option<String>,
}

/// `true`, `false` or a table; not an untagged enum, which would not say what is wrong with the table.
impl<'de> Deserialize<'de> for TlsTable {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        match toml::Value::deserialize(from)? {
            toml::Value::Boolean(true) => Ok(Self::Always),
            toml::Value::Boolean(false) => Ok(Self::Never),
            toml::Value::Table(table) => {
                table.try_into().map(Self::With).map_err(|error: toml::de::Error| D::Error::custom(error.message()))
            }
            _ => Err(D::Error::custom("tls is true, false or { ca, cert, key, server_name }")),
        }
    }
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct RetriesTable {
    max: Option<u32>,
    ratio: Option<f64>,
    min_per_s: Option<u32>,
}

fn access<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Access>, D::Error> {
    match String::deserialize(from)?.as_str() {
        "TENANT" => Ok(Some(Access::Tenant)),
        "PUBLIC" => Ok(Some(Access::Public)),
        other => Err(D::Error::custom(format!("default_access is \"TENANT\" or \"PUBLIC\", and not {other:?}"))),
    }
}

/// Reads the file and all that it names; relative paths start at its folder. `read` gets every file that counts, and
/// how it was just before it was read.
pub(crate) fn read(path: &Path, read: &mut Stamps) -> Result<Vec<Entry>, String> {
    let shown = path.display();
    read.insert(path.to_owned(), stamp(path));
    let text = String::from_utf8(bytes_of(path)?).map_err(|_| format!("{shown} is not UTF-8"))?;
    let document: Document = toml::from_str(&text).map_err(|error| format!("{shown}: {error}"))?;
    let folder = path.parent().unwrap_or(Path::new(""));
    let mut entries: Vec<Entry> = Vec::new();
    for table in document.upstream {
        let name = table.name.clone();
        if entries.iter().any(|entry| entry.dial.name == name) {
            return Err(format!("{shown}: two upstreams have the name {name:?}"));
        }
        let entry = entry(table, &mut Files { folder, read });
        entries.push(entry.map_err(|why| format!("{shown}: upstream {name:?}: {why}"))?);
    }
    Ok(entries)
}

/// Reads what a table names, and notes that it was read.
struct Files<'f> {
    folder: &'f Path,
    read: &'f mut Stamps,
}

impl Files<'_> {
    fn read(&mut self, key: &str, path: &Path) -> Result<Vec<u8>, String> {
        let path = self.folder.join(path);
        // Noted first: a file that is not there yet is waited for.
        self.read.insert(path.clone(), stamp(&path));
        bytes_of(&path).map_err(|why| format!("{key}: {why}"))
    }
}

fn bytes_of(path: &Path) -> Result<Vec<u8>, String> {
    let shown = |why: &dyn std::fmt::Display| format!("{} cannot be read: {why}", path.display());
    let length = fs::metadata(path).map_err(|error| shown(&error))?.len();
    if length > MAX_FILE {
        return Err(shown(&"it has more than 16 MiB"));
    }
    fs::read(path).map_err(|error| shown(&error))
}

fn entry(table: Table, files: &mut Files<'_>) -> Result<Entry, String> {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_';
    let name = table.name;
    if name.is_empty() || name.len() > MAX_NAME || !name.bytes().all(plain) {
        return Err(format!("name must be 1 to {MAX_NAME} of a-z, 0-9, - and _"));
    }
    let audience = table.audience.unwrap_or_else(|| name.clone());
    for (key, value) in [("name", &name), ("audience", &audience)] {
        if TAKEN.contains(&value.as_str()) {
            return Err(format!("{key}: {value:?} is a part of the mesh itself; choose another"));
        }
    }
    if table.endpoints.is_empty() {
        return Err("endpoints must have at least one: endpoints = [\"http://host:port\"]".to_owned());
    }
    let endpoints = table.endpoints.iter().map(|text| text.parse()).collect::<Result<Vec<_>, String>>()?;
    let tls = tls(table.tls, files)?;
    if tls.is_none() && endpoints.iter().any(|endpoint: &super::dial::Endpoint| endpoint.is_https) {
        return Err("tls = false contradicts an endpoint that says https://".to_owned());
    }
    let source = match (table.descriptors, table.reflection) {
        (Some(path), false) => Source::Descriptors(files.read("descriptors", &path)?),
        (None, true) => Source::Reflection,
        (Some(_), true) => return Err("give descriptors or reflection = true, not both".to_owned()),
        (None, false) => {
            return Err("its methods are not known: give descriptors = \"file.binpb\" or reflection = true".to_owned());
        }
    };
    let timeout = table.timeout_s.map(|seconds| {
        let timeout = Duration::try_from_secs_f64(seconds).ok().filter(|timeout| !timeout.is_zero());
        timeout.ok_or_else(|| "timeout_s must be a number of seconds above 0".to_owned())
    });
    let dial = Dial {
        name,
        audience,
        endpoints,
        tls: tls.unwrap_or_default(),
        connections: between("connections", table.connections.unwrap_or(CONNECTIONS), 1, 64)?,
        max_requests: between("max_requests", table.max_requests.unwrap_or(MAX_REQUESTS), 1, 1_000_000)?,
        timeout: timeout.transpose()?,
        retries: retries(&table.retries)?,
        headers: headers(table.headers)?,
        is_foreign: true,
    };
    let grants = grants(table.grants)?;
    Ok(Entry { dial, source, rules: Rules { default_access: table.default_access, services: table.services, grants } })
}

fn between(key: &str, value: usize, least: usize, most: usize) -> Result<usize, String> {
    if (least..=most).contains(&value) { Ok(value) } else { Err(format!("{key} must be {least} to {most}")) }
}

/// `None` is no TLS at all.
fn tls(table: TlsTable, files: &mut Files<'_>) -> Result<Option<Tls>, String> {
    let named = match table {
        TlsTable::AsTheEndpointSays => return Ok(Some(Tls::default())),
        TlsTable::Always => return Ok(Some(Tls { always: true, ..Tls::default() })),
        TlsTable::Never => return Ok(None),
        TlsTable::With(named) => named,
    };
    let mut read = |key: &str, path: Option<PathBuf>| path.map(|path| files.read(key, &path)).transpose();
    let ca = read("tls.ca", named.ca)?;
    let identity = match (read("tls.cert", named.cert)?, read("tls.key", named.key)?) {
        (Some(cert), Some(key)) => Some((cert, key)),
        (None, None) => None,
        _ => return Err("tls.cert and tls.key belong together".to_owned()),
    };
    Ok(Some(Tls { always: true, ca, identity, server_name: named.server_name }))
}

fn retries(table: &RetriesTable) -> Result<Retries, String> {
    let default = Retries::default();
    let (max, ratio) = (table.max.unwrap_or(default.max), table.ratio.unwrap_or(default.ratio));
    if max > 5 || !(0.0..=1.0).contains(&ratio) {
        return Err("retries: max is 0 to 5 and ratio 0.0 to 1.0".to_owned());
    }
    Ok(Retries { max, ratio, min_per_s: table.min_per_s.unwrap_or(default.min_per_s) })
}

/// A value `$NAME` is what the environment says, so that a secret need not stand in the file.
fn headers(table: BTreeMap<String, String>) -> Result<Vec<(HeaderName, HeaderValue)>, String> {
    let ours = ["authorization", "content-type", "te", "host", "x-tenant-id", "x-operator-key", "x-request-id"];
    let read = |(name, value): (String, String)| {
        let name: HeaderName = name.parse().map_err(|_| format!("headers: {name:?} is no header's name"))?;
        if ours.contains(&name.as_str()) || name.as_str().starts_with("grpc-") {
            return Err(format!("headers: {name} is set by the edge alone"));
        }
        let value = match value.strip_prefix('$') {
            Some(variable) => std::env::var(variable).map_err(|_| format!("headers: ${variable} is not set"))?,
            None => value,
        };
        let mut value = HeaderValue::try_from(value).map_err(|_| format!("headers: {name} must be printable ASCII"))?;
        value.set_sensitive(true);
        Ok((name, value))
    };
    table.into_iter().map(read).collect()
}

fn grants(table: BTreeMap<String, Vec<String>>) -> Result<Vec<(String, String)>, String> {
    let mut grants = Vec::new();
    for (role, permissions) in table {
        if !ROLES.contains(&role.as_str()) {
            return Err(format!("grants: {role:?} is no role; roles are {}", ROLES.join(", ")));
        }
        grants.extend(permissions.into_iter().map(|permission| (role.clone(), permission)));
    }
    Ok(grants)
}
