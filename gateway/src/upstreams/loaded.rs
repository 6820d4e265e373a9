//! What the edge serves at one moment: a contract, its routes, and where each method is served. Swapped as one.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, OnceLock},
};

use http::{HeaderName, Uri};
use tenon_proto::{
    options::v1::policy::Access,
    policy::{Contract, Method, UNGUARDED},
};

use super::{Target, file::Entry};
use crate::{
    Error,
    openapi::{self, Page},
    routes::{Route, Routes},
    stack,
    transcode::Codec,
};

/// A request takes one of these at its start and uses it to its end.
pub(crate) struct Loaded {
    /// Every method, of the mesh and of the upstreams.
    pub(crate) contract: Arc<Contract>,
    pub(crate) routes: Routes,
    /// Every method that can be called from outside, with or without a route.
    served: Vec<Served>,
    /// For each route, by its id: the place in `served`.
    by_route: Vec<usize>,
    by_path: HashMap<Box<str>, usize>,
    pub(super) foreign: Vec<Foreign>,
    /// Made when it is asked for first.
    document: OnceLock<Page>,
}

/// Where the calls of a method go.
pub(crate) struct Served {
    pub(crate) method: Arc<Method>,
    pub(crate) target: Arc<Target>,
    /// `/package.Service/Method`
    pub(crate) path: Uri,
    /// Headers that the method wants to see as they came.
    pub(crate) handed_on: Vec<HeaderName>,
    /// The path as the name of the method in logs and metrics.
    pub(crate) label: Arc<str>,
    /// Its messages as JSON, without a route.
    pub(crate) codec: Arc<Codec>,
}

/// The mesh itself: what is served whatever the upstreams are.
pub(crate) struct Own {
    pub(crate) contract: Arc<Contract>,
    /// By what the full name of a method starts with; the longest that fits is taken.
    pub(crate) targets: Vec<(String, Arc<Target>)>,
}

/// An upstream of the file.
#[derive(Clone)]
pub(super) struct Foreign {
    pub(super) entry: Arc<Entry>,
    pub(super) target: Arc<Target>,
    /// `None` while a service that was to tell by reflection has not been reached.
    pub(super) contract: Option<Arc<Contract>>,
}

impl Loaded {
    pub(super) fn new(own: &Own, foreign: Vec<Foreign>) -> Result<Self, Error> {
        let told = foreign.iter().filter_map(|foreign| Some((foreign, foreign.contract.as_ref()?)));
        let told: Vec<_> = told.map(|(foreign, contract)| (foreign.entry.dial.name.as_str(), &**contract)).collect();
        let contract = merge(&own.contract, &told)?;
        let routes = Routes::load(&contract)?;
        let mut owners: HashMap<&str, &Arc<Target>> = HashMap::new();
        for Foreign { target, contract, .. } in &foreign {
            let methods = contract.iter().flat_map(|contract| contract.methods());
            owners.extend(methods.map(|method| (method.path.as_str(), target)));
        }
        let (mut served, mut by_path) = (Vec::new(), HashMap::new());
        // What only the mesh may call has no way in from outside.
        for method in contract.methods().filter(|method| method.access != Access::Mesh) {
            let name = method.descriptor.full_name();
            let of_mesh = || {
                let fitting = own.targets.iter().filter(|(prefix, _)| name.starts_with(prefix));
                fitting.max_by_key(|(prefix, _)| prefix.len()).map(|(_, target)| target)
            };
            let Some(target) = owners.get(method.path.as_str()).copied().or_else(of_mesh) else { continue };
            by_path.insert(method.path.as_str().into(), served.len());
            served.push(Served::new(method, target.clone())?);
        }
        let by_route = routes.iter().map(|route| {
            let missing = || Error::NoUpstream { method: route.method.descriptor.full_name().to_owned() };
            by_path.get(route.method.path.as_str()).copied().ok_or_else(missing)
        });
        let by_route = by_route.collect::<Result<_, _>>()?;
        drop(owners);
        Ok(Self { contract: Arc::new(contract), routes, served, by_route, by_path, foreign, document: OnceLock::new() })
    }

    /// openapi.json
    pub(crate) fn document(&self) -> &Page {
        self.document
            .get_or_init(|| Page::new("application/json", openapi::document(&self.contract, &self.routes).to_string()))
    }

    /// Where the calls of a route go.
    pub(crate) fn by_route(&self, route: &Route) -> &Served {
        &self.served[self.by_route[route.id]]
    }

    /// Every method that can be called from outside.
    pub(crate) fn served(&self) -> impl Iterator<Item = &Served> {
        self.served.iter()
    }

    /// The method behind a native gRPC path, if it can be called from outside.
    pub(crate) fn by_path(&self, path: &str) -> Option<&Served> {
        self.by_path.get(path).map(|at| &self.served[*at])
    }
}

impl Served {
    fn new(method: &Arc<Method>, target: Arc<Target>) -> Result<Self, Error> {
        let path = Uri::try_from(method.path.as_str()).expect("names of services and methods are plain");
        let handed_on = handed_on(method)?;
        let streams = method.descriptor.is_client_streaming() || method.descriptor.is_server_streaming();
        if streams && method.timeout.is_some() {
            return Err(Error::Timeout { method: method.descriptor.full_name().to_owned() });
        }
        let (label, codec) = (method.path.as_str().into(), Arc::new(Codec::of(&method.descriptor)));
        Ok(Self { method: method.clone(), target, path, handed_on, label, codec })
    }
}

/// The headers that a method wants to see.
pub(crate) fn handed_on(method: &Method) -> Result<Vec<HeaderName>, Error> {
    let refuse = |header| Error::Header { method: method.descriptor.full_name().to_owned(), header };
    stack::handed_on(method).map_err(refuse)
}

/// The mesh's contract with those of others, by name. Each service has one owner.
pub(crate) fn merge(own: &Contract, foreign: &[(&str, &Contract)]) -> Result<Contract, Error> {
    let mut owners: HashMap<String, &str> = HashMap::new();
    owners.extend(own.methods().map(|method| (method.service().to_owned(), "the mesh itself")));
    owners.extend(UNGUARDED.map(|service| (service.to_owned(), "every service")));
    for (name, contract) in foreign {
        let services: BTreeSet<_> = contract.methods().map(|method| method.service().to_owned()).collect();
        for service in services {
            let first = *owners.entry(service.clone()).or_insert(name);
            if first != *name {
                return Err(Error::Claimed { service, first: first.to_owned(), second: (*name).to_owned() });
            }
        }
    }
    Ok(own.with(foreign.iter().map(|(_, contract)| *contract)))
}
