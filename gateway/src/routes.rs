//! The route table: every google.api.http binding of a contract in a trie; the most specific route wins.

use std::{cmp::Ordering, collections::HashSet, sync::Arc};

use http::Method as Verb;
use prost_reflect::{DynamicMessage, ExtensionDescriptor, Value};
use tenon_proto::{
    options::v1::policy::Access,
    policy::{Contract, Method},
};

use crate::{
    template::{self, Segment, Template},
    transcode::Binding,
};

const HTTP_RULE: &str = "google.api.http";

/// One HTTP binding of a method.
#[derive(Debug)]
pub struct Route {
    /// The place in the table: 0, 1, 2 ...
    pub id: usize,
    /// `GET /v1/{name=runs/*}`: the name of the route in logs and metrics.
    pub label: Arc<str>,
    pub method: Arc<Method>,
    pub template: Template,
    pub binding: Binding,
}

impl Route {
    /// The verb; `None` is every one.
    #[must_use]
    pub fn verb(&self) -> Option<Verb> {
        let (verb, _) = self.label.split_once(' ')?;
        verb.parse().ok().filter(|_| verb != "*")
    }
}

/// A binding that cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{method}: template {template:?}: {why}")]
    Template { method: String, template: String, why: template::Error },
    #[error("{method}: route {route}: {why}")]
    Binding { method: String, route: String, why: String },
    #[error("{first} and {second} have the same route {route}")]
    Duplicate { route: String, first: String, second: String },
}

/// What stands behind a path.
#[derive(Debug)]
pub enum Found<'t> {
    Route(&'t Arc<Route>),
    /// The path is known, with these verbs.
    OtherVerbs(Vec<Verb>),
    Nothing,
}

/// Every route of a contract.
#[derive(Debug, Default)]
pub struct Routes {
    root: Node,
    routes: Vec<Arc<Route>>,
    /// Every `:verb`; one that is not here is part of the value.
    verbs: HashSet<Box<str>>,
}

#[derive(Debug, Default)]
struct Node {
    /// Sorted by [`order`].
    literals: Vec<(Box<str>, Node)>,
    any: Option<Box<Node>>,
    rest: Option<Box<Node>>,
    leaves: Vec<Leaf>,
}

#[derive(Debug)]
struct Leaf {
    custom: Option<Box<str>>,
    /// `None` is every HTTP verb.
    http: Option<Verb>,
    route: usize,
}

impl Routes {
    /// Reads the bindings of every method of a contract.
    ///
    /// # Errors
    /// Names the method, or both methods, that cannot be served.
    pub fn load(contract: &Contract) -> Result<Self, Error> {
        let mut routes = Self::default();
        let mut methods: Vec<_> = contract.methods().collect();
        methods.sort_by(|a, b| a.path.cmp(&b.path));
        for method in methods {
            // Each upstream has descriptors of its own.
            let rule = method.descriptor.parent_pool().get_extension_by_name(HTTP_RULE);
            for rule in rule.iter().flat_map(|rule| rules(method, rule)) {
                routes.insert(method, &rule)?;
            }
        }
        Ok(routes)
    }

    /// Every route, by the path of its method.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Route>> {
        self.routes.iter()
    }

    /// Finds the route of a request; `path` is raw, as it came, without the query. HEAD finds the route of GET.
    #[must_use]
    pub fn find(&self, http: &Verb, path: &str) -> Found<'_> {
        let Some(path) = path.strip_prefix('/') else { return Found::Nothing };
        if let Some((head, custom)) = split_verb(path)
            && self.verbs.contains(custom)
        {
            match self.find_custom(http, head, Some(custom)) {
                Found::Nothing => {}
                found => return found,
            }
        }
        self.find_custom(http, path, None)
    }

    fn find_custom(&self, http: &Verb, path: &str, custom: Option<&str>) -> Found<'_> {
        let of = |wanted: &Verb| {
            walk(&self.root, Some(path), &mut |leaves| {
                let mut of_path = leaves.iter().filter(|leaf| leaf.custom.as_deref() == custom);
                let exact = of_path.clone().find(|leaf| leaf.http.as_ref() == Some(wanted));
                exact.or_else(|| of_path.find(|leaf| leaf.http.is_none())).map(|leaf| leaf.route)
            })
        };
        let found = of(http).or_else(|| if *http == Verb::HEAD { of(&Verb::GET) } else { None });
        if let Some(route) = found {
            return Found::Route(&self.routes[route]);
        }
        let mut verbs = Vec::new();
        let _nothing = walk(&self.root, Some(path), &mut |leaves| {
            let of_path = leaves.iter().filter(|leaf| leaf.custom.as_deref() == custom);
            verbs.extend(of_path.filter_map(|leaf| leaf.http.clone()));
            None
        });
        if verbs.is_empty() {
            return Found::Nothing;
        }
        if verbs.contains(&Verb::GET) {
            verbs.push(Verb::HEAD);
        }
        verbs.push(Verb::OPTIONS);
        verbs.sort_by(|a, b| a.as_str().cmp(b.as_str()));
        verbs.dedup();
        Found::OtherVerbs(verbs)
    }

    fn insert(&mut self, method: &Arc<Method>, rule: &Rule) -> Result<(), Error> {
        let name = || method.descriptor.full_name().to_owned();
        let verb_name = rule.http.as_ref().map_or("*", Verb::as_str);
        let label: Arc<str> = format!("{verb_name} {}", rule.path).into();
        let template = Template::parse(&rule.path).map_err(|why| Error::Template {
            method: name(),
            template: rule.path.clone(),
            why,
        })?;
        let refuse = |why| Error::Binding { method: name(), route: label.to_string(), why };
        if method.access == Access::Mesh {
            return Err(refuse("a method with access MESH has no HTTP route".to_owned()));
        }
        if rule.body.is_some() && rule.http == Some(Verb::GET) {
            return Err(refuse("GET has no body".to_owned()));
        }
        let binding = Binding::new(&method.descriptor, &template, rule.body.as_deref(), rule.response_body.as_deref());
        let binding = binding.map_err(refuse)?;

        let node = template.segments.iter().fold(&mut self.root, Node::child);
        let custom = template.verb.clone();
        if let Some(taken) = node.leaves.iter().find(|leaf| leaf.custom == custom && leaf.http == rule.http) {
            let first = self.routes[taken.route].method.descriptor.full_name().to_owned();
            return Err(Error::Duplicate { route: label.to_string(), first, second: name() });
        }
        node.leaves.push(Leaf { custom: custom.clone(), http: rule.http.clone(), route: self.routes.len() });
        self.verbs.extend(custom);
        self.routes.push(Arc::new(Route { id: self.routes.len(), label, method: method.clone(), template, binding }));
        Ok(())
    }
}

impl Node {
    fn child(&mut self, segment: &Segment) -> &mut Self {
        match segment {
            Segment::Any => self.any.get_or_insert_default(),
            Segment::Rest => self.rest.get_or_insert_default(),
            Segment::Literal(literal) => {
                let at = match self.literals.binary_search_by(|(known, _)| order(known, literal)) {
                    Ok(at) => at,
                    Err(at) => {
                        self.literals.insert(at, (literal.clone(), Self::default()));
                        at
                    }
                };
                &mut self.literals[at].1
            }
        }
    }

    fn literal(&self, segment: &str) -> Option<&Self> {
        let decoded = template::decode(segment, false)?;
        let at = self.literals.binary_search_by(|(known, _)| order(known, &decoded)).ok()?;
        Some(&self.literals[at].1)
    }
}

/// By length first: most comparisons then are of two integers.
fn order(a: &str, b: &str) -> Ordering {
    a.len().cmp(&b.len()).then_with(|| a.as_bytes().cmp(b.as_bytes()))
}

/// Visits the nodes that match what is `left` of a path, the most specific first, until `pick` takes something.
///
/// A node is visited once for each place in the path that it can stand at, and `**` stands once in a template: the work
/// is bounded by the nodes times the segments.
fn walk(node: &Node, left: Option<&str>, pick: &mut dyn FnMut(&[Leaf]) -> Option<usize>) -> Option<usize> {
    if let Some(left) = left {
        let (segment, after) = split(left);
        if let Some(child) = node.literal(segment)
            && let Some(found) = walk(child, after, pick)
        {
            return Some(found);
        }
        if let Some(child) = node.any.as_ref().filter(|_| !segment.is_empty())
            && let Some(found) = walk(child, after, pick)
        {
            return Some(found);
        }
    } else if let Some(found) = pick(&node.leaves) {
        return Some(found);
    }
    let rest = node.rest.as_ref()?;
    let mut left = left;
    loop {
        if let Some(found) = walk(rest, left, pick) {
            return Some(found);
        }
        left = split(left?).1;
    }
}

fn split(path: &str) -> (&str, Option<&str>) {
    path.split_once('/').map_or((path, None), |(segment, after)| (segment, Some(after)))
}

/// Splits `runs/run_1:cancel` at the last colon of the last segment.
fn split_verb(path: &str) -> Option<(&str, &str)> {
    let (head, verb) = path.rsplit_once(':')?;
    (!verb.contains('/')).then_some((head, verb))
}

struct Rule {
    http: Option<Verb>,
    path: String,
    body: Option<String>,
    response_body: Option<String>,
}

fn rules(method: &Method, extension: &ExtensionDescriptor) -> Vec<Rule> {
    let options = method.descriptor.options();
    if !options.has_extension(extension) {
        return Vec::new();
    }
    let rule = options.get_extension(extension).into_owned();
    let Some(rule) = rule.as_message() else { return Vec::new() };
    let more = rule.get_field_by_name("additional_bindings");
    let more = more.as_ref().and_then(|more| more.as_list()).unwrap_or_default();
    let all = std::iter::once(rule).chain(more.iter().filter_map(Value::as_message));
    all.map(read).collect()
}

fn read(rule: &DynamicMessage) -> Rule {
    let text = |message: &DynamicMessage, field: &str| {
        let value = message.get_field_by_name(field)?;
        value.as_str().filter(|text| !text.is_empty()).map(str::to_owned)
    };
    let known = [
        ("get", Verb::GET),
        ("put", Verb::PUT),
        ("post", Verb::POST),
        ("delete", Verb::DELETE),
        ("patch", Verb::PATCH),
    ];
    let (body, response_body) = (text(rule, "body"), text(rule, "response_body"));
    for (field, verb) in known {
        if rule.has_field_by_name(field) {
            let path = text(rule, field).unwrap_or_default();
            return Rule { http: Some(verb), path, body, response_body };
        }
    }
    let custom = rule.get_field_by_name("custom");
    let custom = custom.as_ref().and_then(|custom| custom.as_message());
    let kind = custom.and_then(|custom| text(custom, "kind"));
    let http = kind.and_then(|kind| Verb::from_bytes(kind.as_bytes()).ok()).filter(|verb| verb.as_str() != "*");
    let path = custom.and_then(|custom| text(custom, "path")).unwrap_or_default();
    Rule { http, path, body, response_body }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{contract, contract_of};

    fn find(routes: &Routes, verb: &str, path: &str) -> String {
        match routes.find(&verb.parse().unwrap(), path) {
            Found::Route(route) => route.label.to_string(),
            Found::OtherVerbs(verbs) => verbs.iter().map(Verb::as_str).collect::<Vec<_>>().join(", "),
            Found::Nothing => "-".into(),
        }
    }

    #[test]
    fn the_most_specific_route_wins() {
        let routes = Routes::load(&contract_of(&[
            ("A", r#"get: "/v1/{a=x/*}""#),
            ("B", r#"get: "/v1/x/y""#),
            ("C", r#"get: "/v1/{a=**}""#),
            ("D", r#"get: "/v1/{a=x/*}/deep""#),
            ("E", r#"get: "/v1/{a=**}/deep""#),
            ("F", r#"post: "/v1/{a=x/*}:stop""#),
            ("G", r#"get: "/v1/{a}/{b}/{n}""#),
        ]))
        .unwrap();
        for (verb, path, expected) in [
            ("GET", "/v1/x/y", "GET /v1/x/y"),
            ("GET", "/v1/x/z", "GET /v1/{a=x/*}"),
            ("HEAD", "/v1/x/z", "GET /v1/{a=x/*}"),
            ("GET", "/v1/x/%79", "GET /v1/x/y"),
            ("GET", "/v1/x/", "GET /v1/{a=**}"),
            ("GET", "/v1", "GET /v1/{a=**}"),
            ("GET", "/v1/x/y/deep", "GET /v1/{a=x/*}/deep"),
            ("GET", "/v1/deep", "GET /v1/{a=**}/deep"),
            ("GET", "/v1/a/b/c", "GET /v1/{a}/{b}/{n}"),
            ("GET", "/v1/a/b/deep", "GET /v1/{a}/{b}/{n}"),
            ("GET", "/v1/a/b/c/deep", "GET /v1/{a=**}/deep"),
            ("GET", "/v1/a/b/c/d", "GET /v1/{a=**}"),
            ("POST", "/v1/x/z:stop", "POST /v1/{a=x/*}:stop"),
            ("GET", "/v1/x/z:stop", "OPTIONS, POST"),
            ("GET", "/v1/x/z:other", "GET /v1/{a=x/*}"),
            ("GET", "/v1/w:stop", "GET /v1/{a=**}"),
            ("GET", "/v1/x/z%3Astop", "GET /v1/{a=x/*}"),
            ("DELETE", "/v1/x/z", "GET, HEAD, OPTIONS"),
            ("GET", "/v2", "-"),
            ("GET", "/", "-"),
            ("GET", "*", "-"),
            ("GET", "//v1", "-"),
        ] {
            assert_eq!(find(&routes, verb, path), expected, "{verb} {path}");
        }
    }

    #[test]
    fn every_rule_of_a_contract_becomes_a_route() {
        let routes = Routes::load(&contract()).unwrap();
        assert_eq!(routes.iter().count(), 19);
        assert_eq!(find(&routes, "TRACE", "/any/thing/at/all"), "* /any/**");
        assert_eq!(find(&routes, "GET", "/v1/files/a/b/c.txt:read"), "GET /v1/files/{text=**}:read");
        assert!(Routes::load(&Contract::embedded()).unwrap().iter().count() > 15);
    }

    #[test]
    fn what_cannot_be_served_is_named() {
        for (rules, expected) in [
            (
                &[("A", r#"get: "/v1/{a}""#), ("B", r#"get: "/v1/{b}""#)][..],
                "made.v1.Made.A and made.v1.Made.B have the same route GET /v1/{b}",
            ),
            (
                &[("A", r#"get: "/v1/{a=x/**}:go" additional_bindings { get: "/v1/x/**:go" }"#)],
                "made.v1.Made.A and made.v1.Made.A have the same route GET /v1/x/**:go",
            ),
            (&[("A", r#"get: "/v1/{a""#)], "made.v1.Made.A: template \"/v1/{a\": '}' expected at byte 6"),
            (&[("A", r#"get: "/v1/{z}""#)], "made.v1.Made.A: route GET /v1/{z}: made.v1.Message has no field z"),
            (&[("A", r#"get: "/v1/{r}""#)], "made.v1.Made.A: route GET /v1/{r}: r is not a single value"),
            (&[("A", r#"get: "/v1/{m}""#)], "made.v1.Made.A: route GET /v1/{m}: m is not a single value"),
            (&[("A", r#"get: "/v1/{a}/{a}""#)], "made.v1.Made.A: route GET /v1/{a}/{a}: a is bound twice"),
            (
                &[("A", r#"get: "/v1/{a.b}""#)],
                "made.v1.Made.A: route GET /v1/{a.b}: a.b: nothing is inside a single value",
            ),
            (
                &[("A", r#"get: "/v1/{n=x/*}""#)],
                "made.v1.Made.A: route GET /v1/{n=x/*}: n covers several segments and is not a string",
            ),
            (&[("A", r#"get: "/v1" body: "*""#)], "made.v1.Made.A: route GET /v1: GET has no body"),
            (&[("A", r#"put: "/v1" body: "z""#)], "made.v1.Made.A: route PUT /v1: made.v1.Message has no field z"),
            (
                &[("A", r#"get: "/v1" response_body: "z""#)],
                "made.v1.Made.A: route GET /v1: made.v1.Message has no field z",
            ),
        ] {
            assert_eq!(Routes::load(&contract_of(rules)).unwrap_err().to_string(), expected);
        }
    }
}
