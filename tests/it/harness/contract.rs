//! Every method of the contract with its HTTP route, so that a new one is tested without being named.

use std::{collections::BTreeMap, sync::Arc};

use prost_reflect::{DynamicMessage, Kind, MethodDescriptor, Value};
use reqwest::Method as Verb;
use serde_json::json;
use tenon_proto::policy::{Contract, Method};

/// A method, and where it is served.
#[derive(Debug, Clone)]
pub struct Endpoint {
    pub method: Arc<Method>,
    /// auth, tenant, billing or workflow.
    pub service: &'static str,
    /// `None` for MESH methods.
    pub route: Option<Route>,
}

/// The main HTTP binding of a method.
#[derive(Debug, Clone)]
pub struct Route {
    pub verb: Verb,
    /// `/v1/{name=runs/*}:cancel`
    pub template: String,
    pub takes_body: bool,
    /// Its body is of any media type.
    pub takes_any_media: bool,
}

/// (field, pattern) of each variable in a path.
type Variables = Vec<(String, String)>;

impl Endpoint {
    /// Every method, by its gRPC path.
    pub fn all() -> Vec<Self> {
        let contract = Contract::embedded();
        let mut endpoints: Vec<_> = contract.methods().map(|method| Self::of(&contract, method)).collect();
        endpoints.sort_by(|a, b| a.method.path.cmp(&b.method.path));
        endpoints
    }

    fn of(contract: &Contract, method: &Arc<Method>) -> Self {
        let service = super::PARTS.into_iter().find(|part| method.path.starts_with(&format!("/tenon.{part}.")));
        let service = service.unwrap_or_else(|| panic!("{}: add its service to harness::PARTS", method.path));
        Self { method: method.clone(), service, route: route(contract, &method.descriptor) }
    }

    /// The variables of its path.
    pub fn variables(&self) -> Variables {
        let template = self.route.as_ref().map_or("", |route| route.template.as_str());
        let names = template.split('{').skip(1).filter_map(|part| part.split('}').next());
        let pairs = names.map(|name| name.split_once('=').unwrap_or((name, "*")));
        pairs.map(|(field, pattern)| (field.to_owned(), pattern.to_owned())).collect()
    }

    /// The HTTP path with `resources` (pattern to name) in it.
    pub fn path(&self, resources: &BTreeMap<&str, String>) -> String {
        let mut path = self.route.as_ref().expect("the method has a route").template.clone();
        for (field, pattern) in self.variables() {
            let name = self.resource(&pattern, resources);
            path = path.replace(&format!("{{{field}={pattern}}}"), &name).replace(&format!("{{{field}}}"), &name);
        }
        path
    }

    /// The request message with `resources` in the fields that the path binds, and nothing else.
    pub fn request(&self, resources: &BTreeMap<&str, String>) -> DynamicMessage {
        let mut message = DynamicMessage::new(self.method.descriptor.input());
        for (field, pattern) in self.variables() {
            message.set_field_by_name(&field, Value::String(self.resource(&pattern, resources)));
        }
        message
    }

    fn resource(&self, pattern: &str, resources: &BTreeMap<&str, String>) -> String {
        let path = &self.method.path;
        let add = || panic!("{path}: add a resource for {pattern:?} to the table of resources of this test");
        resources.get(pattern).cloned().unwrap_or_else(add)
    }
}

/// Reads `google.api.http`.
fn route(contract: &Contract, method: &MethodDescriptor) -> Option<Route> {
    let rule = contract.pool.get_extension_by_name("google.api.http")?;
    let options = method.options();
    let rule = options.has_extension(&rule).then(|| options.get_extension(&rule))?;
    let rule = serde_json::to_value(rule.as_message()?).expect("a rule is JSON");
    let takes_body = rule.get("body").is_some_and(|body| *body != json!(""));
    let verbs = [Verb::GET, Verb::PUT, Verb::POST, Verb::DELETE, Verb::PATCH];
    let bound = |verb: &Verb| rule.get(verb.as_str().to_lowercase())?.as_str().map(str::to_owned);
    let (verb, template) = verbs.into_iter().find_map(|verb| bound(&verb).map(|path| (verb, path)))?;
    let field = rule["body"].as_str().and_then(|field| method.input().get_field_by_name(field));
    let is_http_body = |kind: Kind| kind.as_message().is_some_and(|body| body.full_name() == "google.api.HttpBody");
    let takes_any_media = field.is_some_and(|field| is_http_body(field.kind()));
    Some(Route { verb, template, takes_body, takes_any_media })
}
