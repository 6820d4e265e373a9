//! What the edge serves at one moment: a contract, its routes, and where each method is served. Swapped as one.

use std::{collections::HashMap, sync::Arc};

use http::{HeaderName, Uri};
use tenon_proto::{
    options::v1::policy::Access,
    policy::{Contract, Method},
};

use super::{Target, Upstream};
use crate::{
    Error,
    routes::{Route, Routes},
    stack,
};

/// A request takes one of these at its start and uses it to its end.
pub(crate) struct Loaded {
    pub(crate) contract: Arc<Contract>,
    pub(crate) routes: Routes,
    /// Every method that can be called from outside, with or without a route.
    served: Vec<Served>,
    /// For each route, by its id: the place in `served`.
    by_route: Vec<usize>,
    by_path: HashMap<Box<str>, usize>,
}

/// Where the calls of a method go.
pub(crate) struct Served {
    pub(crate) method: Arc<Method>,
    pub(crate) target: Arc<Target>,
    /// `/package.Service/Method`
    pub(crate) path: Uri,
    /// Headers that the method wants to see as they came.
    pub(crate) handed_on: Vec<HeaderName>,
}

impl Loaded {
    pub(crate) fn new(contract: Arc<Contract>, upstreams: &[Upstream]) -> Result<Self, Error> {
        let routes = Routes::load(&contract)?;
        let targets = upstreams.iter().map(|upstream| {
            let refuse = |why| Error::Url { name: upstream.audience.clone(), url: upstream.url.clone(), why };
            Ok((upstream.prefix.as_str(), Arc::new(Target::new(upstream).map_err(refuse)?)))
        });
        let targets: Vec<_> = targets.collect::<Result<_, Error>>()?;
        let (mut served, mut by_path) = (Vec::new(), HashMap::new());
        // What only the mesh may call has no way in from outside.
        for method in contract.methods().filter(|method| method.access != Access::Mesh) {
            let name = method.descriptor.full_name();
            let fitting = targets.iter().filter(|(prefix, _)| name.starts_with(prefix));
            let Some((_, target)) = fitting.max_by_key(|(prefix, _)| prefix.len()) else { continue };
            by_path.insert(method.path.as_str().into(), served.len());
            served.push(Served::new(method, target.clone())?);
        }
        let by_route = routes.iter().map(|route| {
            let missing = || Error::NoUpstream { method: route.method.descriptor.full_name().to_owned() };
            by_path.get(route.method.path.as_str()).copied().ok_or_else(missing)
        });
        let by_route = by_route.collect::<Result<_, _>>()?;
        Ok(Self { contract, routes, served, by_route, by_path })
    }

    /// Where the calls of a route go.
    pub(crate) fn by_route(&self, route: &Route) -> &Served {
        &self.served[self.by_route[route.id]]
    }

    /// The method behind a native gRPC path, if it can be called from outside.
    #[expect(dead_code, reason = "native gRPC calls come in by it")]
    pub(crate) fn by_path(&self, path: &str) -> Option<&Served> {
        self.by_path.get(path).map(|at| &self.served[*at])
    }
}

impl Served {
    fn new(method: &Arc<Method>, target: Arc<Target>) -> Result<Self, Error> {
        let path = Uri::try_from(method.path.as_str()).expect("names of services and methods are plain");
        let refuse = |header| Error::Header { method: method.descriptor.full_name().to_owned(), header };
        let handed_on = stack::handed_on(method).map_err(refuse)?;
        Ok(Self { method: method.clone(), target, path, handed_on })
    }
}
