//! What the edge would serve, without serving it: for the command line.

use std::{collections::HashMap, path::Path, sync::Arc};

use tenon_proto::{
    options::v1::policy::{Access, Rate},
    policy::{Contract, Effect, Method},
};

use super::{
    Ground, Target,
    dial::Dial,
    file::{self, Entry, Source, Stamps},
    load::told,
    loaded::{handed_on, merge},
    reflect::{self, Silent},
};
use crate::{Error, routes::Routes};

const POLICY: &str = "tenon.options.v1.policy";

/// Everything that would be served.
#[derive(Debug)]
pub struct Inspection {
    /// The methods of the upstreams, by name, and then those of the mesh.
    pub rows: Vec<Row>,
    /// The contract of each upstream.
    pub contracts: Vec<(String, Contract)>,
    /// Upstreams that were to tell by reflection and could not be reached, with why.
    pub absent: Vec<(String, String)>,
}

/// One method.
#[derive(Debug)]
pub struct Row {
    pub method: Arc<Method>,
    /// The upstream; `None` for the mesh itself.
    pub upstream: Option<String>,
    /// Verb and template, `GET /v1/{name=contacts/*}`.
    pub routes: Vec<String>,
    /// What is odd, if it is served all the same.
    pub warnings: Vec<String>,
}

/// Loads the mesh's contract and a file of upstreams as the edge would.
///
/// # Errors
/// What the edge would refuse to start with.
pub async fn inspect(own: &Contract, upstreams: Option<&Path>) -> Result<Inspection, Error> {
    let entries = match upstreams {
        Some(path) => file::read(path, &mut Stamps::new()).map_err(Error::Upstreams)?,
        None => Vec::new(),
    };
    let (mut contracts, mut absent) = (Vec::new(), Vec::new());
    for entry in &entries {
        let name = entry.dial.name.clone();
        let refuse = |why| Error::Upstream { name: name.clone(), why };
        let target = Target::new(&Ground::default(), entry.dial.clone()).map_err(refuse)?;
        match told(&target, entry).await {
            Ok(contract) => contracts.push((name, contract)),
            Err(Silent::Refuses(why)) => return Err(refuse(why)),
            Err(Silent::Away(why)) => absent.push((name, why)),
        }
    }
    let pairs: Vec<_> = contracts.iter().map(|(name, contract)| (name.as_str(), contract)).collect();
    let merged = merge(own, &pairs)?;
    let mut routes: HashMap<String, Vec<String>> = HashMap::new();
    for route in Routes::load(&merged)?.iter() {
        routes.entry(route.method.path.clone()).or_default().push(route.label.to_string());
    }
    let mut rows = Vec::new();
    for method in merged.methods() {
        handed_on(method)?;
        let owner = contracts.iter().find(|(_, contract)| contract.method(&method.path).is_some());
        let upstream = owner.map(|(name, _)| name.clone());
        let routes = routes.remove(&method.path).unwrap_or_default();
        let entry = entries.iter().find(|entry| Some(&entry.dial.name) == upstream.as_ref());
        let warnings = entry.map(|entry| warnings(method, entry, &routes)).unwrap_or_default();
        rows.push(Row { method: method.clone(), upstream, routes, warnings });
    }
    rows.sort_by(|a, b| {
        (a.upstream.is_none(), &a.upstream, &a.method.path).cmp(&(b.upstream.is_none(), &b.upstream, &b.method.path))
    });
    Ok(Inspection { rows, contracts, absent })
}

fn warnings(method: &Method, entry: &Entry, routes: &[String]) -> Vec<String> {
    let mut found = Vec::new();
    let mut warn = |text: &str| found.push(text.to_owned());
    let options = method.descriptor.options();
    let policy = method.descriptor.parent_pool().get_extension_by_name(POLICY);
    if !policy.is_some_and(|policy| options.has_extension(&policy)) {
        warn("no policy of its own: it takes default_access");
    }
    let gets = routes.iter().any(|route| route.starts_with("GET "));
    if gets && method.effect != Effect::None {
        warn("GET, and no idempotency_level = NO_SIDE_EFFECTS: it is not repeated, and counts as WRITE");
    }
    if method.access == Access::Public && method.effect != Effect::None && method.rate == Rate::Write {
        warn("PUBLIC and it changes something: anyone can call it; rate: LOGIN if it checks a password");
    }
    if method.access == Access::Tenant && method.permission.is_none() && method.effect != Effect::None {
        warn("it changes something and asks for no permission: every user of a tenant may, viewers too");
    }
    if method.access == Access::Mesh {
        warn("access MESH: nobody outside can call it through the edge");
    }
    if entry.dial.endpoints.iter().any(|endpoint| !endpoint.is_https && !is_near(&endpoint.host))
        && !entry.dial.tls.always
    {
        warn("the users' tokens go to it over plain http://");
    }
    found
}

/// On this machine or in a cluster, where names have no dots.
fn is_near(host: &str) -> bool {
    match host.parse::<std::net::IpAddr>() {
        Ok(address) => address.is_loopback(),
        Err(_) => !host.contains('.') || host.ends_with(".svc.cluster.local") || host.ends_with(".internal"),
    }
}

/// What was served before, to compare with: an older file of upstreams, a descriptor set, or what runs (`http://host:port`): a
/// service that tells by reflection, or an edge, which tells what it has loaded.
///
/// # Errors
/// When it cannot be read.
pub async fn before(own: &Contract, from: &str) -> Result<Contract, Error> {
    let none = Contract::default();
    if from.contains("://") {
        let dial = Dial::to("against", from).map_err(Error::Upstreams)?;
        let rules = tenon_proto::foreign::Rules { default_access: Some(Access::Tenant), ..Default::default() };
        let target = Target::new(&Ground::default(), dial.clone()).map_err(Error::Upstreams)?;
        let told = told(&target, &Entry { dial, source: Source::Reflection, rules }).await;
        // An edge tells of the mesh too.
        return told
            .map(|told| told.without(own))
            .map_err(|silent| Error::Upstreams(format!("{from}: {}", silent.why())));
    }
    let path = Path::new(from);
    if path.extension().is_some_and(|extension| extension == "toml") {
        let found = inspect(own, Some(path)).await?;
        return Ok(none.with(found.contracts.iter().map(|(_, contract)| contract)));
    }
    let set = std::fs::read(path).map_err(|error| Error::Upstreams(format!("{from}: {error}")))?;
    // What a method without a policy had then is not known: the default that it has now is assumed.
    let rules = tenon_proto::foreign::Rules { default_access: Some(Access::Tenant), ..Default::default() };
    tenon_proto::foreign::load(&set, &rules).map_err(|why| Error::Upstreams(format!("{from}: {why}")))
}

/// The descriptor set of a running service, asked by reflection.
///
/// # Errors
/// When it does not tell.
pub async fn ask(url: &str) -> Result<Vec<u8>, Error> {
    let dial = Dial::to("service", url).map_err(Error::Upstreams)?;
    let target = Target::new(&Ground::default(), dial).map_err(Error::Upstreams)?;
    let told = reflect::descriptors(&target, None).await;
    told.map_err(|silent| Error::Upstreams(format!("{url}: {}", silent.why())))
}
