//! The policy of every method, read from the descriptors: what the edge and the chassis enforce.

use std::{collections::HashMap, fmt, sync::Arc, time::Duration};

use prost_reflect::{DescriptorPool, ExtensionDescriptor, FileDescriptor, MethodDescriptor};

use crate::options::v1::policy::{Access, Rate};

const POLICY: &str = "tenon.options.v1.policy";
/// Services that every server carries and that no policy option can be put on; they answer anyone.
pub const UNGUARDED: [&str; 3] =
    ["grpc.health.v1.Health", "grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection"];

/// Whether a method may be sent twice, from its `idempotency_level`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// NO_SIDE_EFFECTS: safe to repeat, never metered, needs no idempotency key.
    None,
    /// IDEMPOTENT: has an effect, once however often it is sent.
    Idempotent,
    /// Anything else: sent once, or with an idempotency key.
    Once,
}

/// A method with everything the mesh must know to let a call through.
#[derive(Debug, Clone)]
pub struct Method {
    /// The gRPC path, `/tenon.billing.v1.UsageService/GetUsage`.
    pub path: String,
    pub descriptor: MethodDescriptor,
    pub access: Access,
    /// The permission that the caller's roles must grant; `None` asks for none.
    pub permission: Option<String>,
    pub step_up: bool,
    pub feature: Option<String>,
    pub meter: Option<String>,
    pub rate: Rate,
    pub allow_unpaid: bool,
    /// Request headers that the edge hands on, in lower case.
    pub headers: Vec<String>,
    /// How long a call may take at most, where the method says so.
    pub timeout: Option<Duration>,
    pub effect: Effect,
    /// Roles that grant the permission beside those that always do: what the owner of a foreign service says.
    pub granted_to: Vec<String>,
}

impl Method {
    /// The service's full name, `tenon.billing.v1.UsageService`.
    #[must_use]
    pub fn service(&self) -> &str {
        self.path[1..].rsplit_once('/').map_or("", |(service, _)| service)
    }

    /// Whether one of these roles has been granted the permission for this method apart.
    #[must_use]
    pub fn is_granted_to(&self, roles: &[String]) -> bool {
        self.granted_to.iter().any(|role| roles.contains(role))
    }
}

/// Every method of a descriptor set, by gRPC path.
#[derive(Debug, Clone, Default)]
pub struct Contract {
    pub pool: DescriptorPool,
    methods: HashMap<String, Arc<Method>>,
}

/// A descriptor set that cannot be served.
#[derive(Debug)]
pub enum Error {
    /// Not a FileDescriptorSet.
    Descriptors(String),
    /// These methods have no policy, or one without `access`.
    Undeclared(Vec<String>),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Descriptors(why) => write!(f, "descriptor set cannot be read: {why}"),
            Self::Undeclared(methods) => {
                write!(f, "methods without option (tenon.options.v1.policy).access: {}", methods.join(", "))
            }
        }
    }
}

impl std::error::Error for Error {}

impl Contract {
    /// The contract of the mesh itself.
    #[must_use]
    pub fn embedded() -> Self {
        Self::load(crate::DESCRIPTOR_SET).expect("the embedded descriptor set was checked by a test")
    }

    /// Reads a FileDescriptorSet.
    ///
    /// # Errors
    /// When it cannot be decoded, or a method does not say who may call it.
    pub fn load(descriptor_set: &[u8]) -> Result<Self, Error> {
        let pool = DescriptorPool::decode(descriptor_set).map_err(|why| Error::Descriptors(why.to_string()))?;
        Self::of(pool, |_| true, None).map_err(Error::Undeclared)
    }

    /// The methods of some services; those that don't say who may call them have the default access, or are the error.
    pub(crate) fn of(
        pool: DescriptorPool,
        taken: impl Fn(&str) -> bool,
        default: Option<Access>,
    ) -> Result<Self, Vec<String>> {
        let policy = pool.get_extension_by_name(POLICY);
        let (mut methods, mut undeclared) = (HashMap::new(), Vec::new());
        for service in pool.services().filter(|service| taken(service.full_name())) {
            for descriptor in service.methods() {
                match read(descriptor, policy.as_ref(), default) {
                    Ok(method) => drop(methods.insert(method.path.clone(), Arc::new(method))),
                    Err(name) => undeclared.push(name),
                }
            }
        }
        if undeclared.is_empty() { Ok(Self { pool, methods }) } else { Err(undeclared) }
    }

    /// The same contract with the methods of others, which keep the descriptors of their own pools.
    ///
    /// The common pool, from which details of errors are read and reflection is answered, gets what fits in: of files and
    /// types with one name the first ones.
    #[must_use]
    pub fn with<'c>(&self, others: impl IntoIterator<Item = &'c Self>) -> Self {
        let mut all = self.clone();
        for other in others {
            all.methods.extend(other.methods.clone());
            for file in other.pool.files() {
                add(&mut all.pool, &file);
            }
        }
        all
    }

    /// The same contract without the methods that another one has.
    #[must_use]
    pub fn without(&self, other: &Self) -> Self {
        let mut rest = self.clone();
        rest.methods.retain(|path, _| !other.methods.contains_key(path));
        rest
    }

    /// Lets roles have permissions: (role, permission or `prefix.*`).
    pub(crate) fn grant(&mut self, grants: &[(String, String)]) {
        for method in self.methods.values_mut() {
            let Some(permission) = method.permission.clone() else { continue };
            let covers = |granted: &str| match granted.strip_suffix('*') {
                Some(prefix) => permission.starts_with(prefix),
                None => permission == granted,
            };
            let roles = grants.iter().filter(|(_, granted)| covers(granted)).map(|(role, _)| role.clone());
            Arc::make_mut(method).granted_to = roles.collect();
        }
    }

    /// The method behind a gRPC path.
    #[must_use]
    pub fn method(&self, path: &str) -> Option<&Arc<Method>> {
        self.methods.get(path)
    }

    /// Every method, in no order.
    pub fn methods(&self) -> impl Iterator<Item = &Arc<Method>> {
        self.methods.values()
    }
}

/// The roles that a user or a key of a tenant may have.
pub const ROLES: [&str; 3] = ["admin", "member", "viewer"];
/// What a member may do besides reading.
const MEMBERS: &str = "workflow.runs.";

/// Whether roles grant a permission, `service.resources.verb`. `admin` grants everything, `member` runs workflows and
/// reads, `viewer` reads; what has a dot is no role but a permission itself, or all of a prefix: `workflow.runs.*`.
#[must_use]
pub fn grants(roles: &[String], permission: &str) -> bool {
    let verb = permission.rsplit('.').next().unwrap_or_default();
    let reads = matches!(verb, "get" | "list" | "preview");
    roles.iter().any(|role| match role.as_str() {
        "admin" => true,
        "member" => reads || permission.starts_with(MEMBERS),
        "viewer" => reads,
        own => match prefix(own) {
            Some(prefix) => permission.starts_with(prefix),
            None => own.contains('.') && own == permission,
        },
    })
}

/// Whether roles grant all that another role or permission grants: nobody hands on more than he has.
#[must_use]
pub fn includes(roles: &[String], wanted: &str) -> bool {
    let is_role = |name: &str| roles.iter().any(|role| role == name);
    match prefix(wanted) {
        _ if is_role("admin") || is_role(wanted) => true,
        // All below a prefix: of what members may, or of a longer right of one's own.
        Some(all) => {
            (is_role("member") && all.starts_with(MEMBERS))
                || roles.iter().filter_map(|role| prefix(role)).any(|own| all.starts_with(own))
        }
        None if wanted.contains('.') => grants(roles, wanted),
        None => wanted == "viewer" && is_role("member"),
    }
}

/// `workflow.runs.` of `workflow.runs.*`.
fn prefix(permission: &str) -> Option<&str> {
    permission.strip_suffix('*').filter(|prefix| prefix.len() > 1 && prefix.ends_with('.'))
}

fn add(pool: &mut DescriptorPool, file: &FileDescriptor) {
    if pool.get_file_by_name(file.name()).is_none() {
        file.dependencies().for_each(|dependency| add(pool, &dependency));
        // What is there already by another file's name stays.
        let _taken = pool.decode_file_descriptor_proto(file.encode_to_vec().as_slice());
    }
}

fn read(
    descriptor: MethodDescriptor,
    policy: Option<&ExtensionDescriptor>,
    default: Option<Access>,
) -> Result<Method, String> {
    let options = descriptor.options();
    let declared = policy.filter(|extension| options.has_extension(extension));
    let policy = declared.map(|extension| options.get_extension(extension).into_owned());
    let policy = policy.as_ref().and_then(prost_reflect::Value::as_message);
    let field = |name: &str| policy.and_then(|policy| policy.get_field_by_name(name));
    let number = |name: &str| field(name).and_then(|v| v.as_enum_number()).unwrap_or_default();
    let flag = |name: &str| field(name).and_then(|v| v.as_bool()).unwrap_or_default();
    let text = |name: &str| {
        let value = field(name)?;
        value.as_str().filter(|text| !text.is_empty()).map(str::to_owned)
    };
    let access = match (Access::try_from(number("access")).unwrap_or_default(), default) {
        (Access::Unspecified, Some(default)) => default,
        (Access::Unspecified, None) => return Err(descriptor.full_name().to_owned()),
        (access, _) => access,
    };
    let level = options.get_field_by_name("idempotency_level").and_then(|v| v.as_enum_number());
    let effect = match level {
        Some(1) => Effect::None,
        Some(2) => Effect::Idempotent,
        _ => Effect::Once,
    };
    let rate = match Rate::try_from(number("rate")).unwrap_or_default() {
        Rate::Unspecified if effect == Effect::None => Rate::Read,
        Rate::Unspecified => Rate::Write,
        rate => rate,
    };
    let (permission, feature, meter) = (text("permission"), text("feature"), text("meter"));
    let (step_up, allow_unpaid) = (flag("step_up"), flag("allow_unpaid"));
    let timeout = field("timeout_ms").and_then(|v| v.as_u32()).filter(|ms| *ms > 0);
    let timeout = timeout.map(|ms| Duration::from_millis(ms.into()));
    let headers = field("headers");
    let headers = headers.iter().filter_map(|v| v.as_list()).flatten().filter_map(|v| v.as_str());
    let headers = headers.map(str::to_owned).collect();
    let path = format!("/{}/{}", descriptor.parent_service().full_name(), descriptor.name());
    Ok(Method {
        path,
        descriptor,
        access,
        permission,
        step_up,
        feature,
        meter,
        rate,
        allow_unpaid,
        headers,
        timeout,
        effect,
        granted_to: Vec::new(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_embedded_contract_declares_every_method() {
        let contract = Contract::load(crate::DESCRIPTOR_SET).unwrap();
        let login = contract.method("/tenon.auth.v1.SessionService/Login").unwrap();
        assert_eq!((login.access, login.rate, login.effect), (Access::Public, Rate::Login, Effect::Once));
        let create = contract.method("/tenon.workflow.v1.RunService/CreateRun").unwrap();
        assert_eq!(create.meter.as_deref(), Some("workflow_runs"));
        assert_eq!(create.permission.as_deref(), Some("workflow.runs.create"));
        assert!(contract.methods().count() > 20);
    }

    #[test]
    fn roles_grant_what_they_say() {
        let has = |role: &str, permission| grants(&[role.to_owned()], permission);
        assert!(has("admin", "billing.usage.ingest"));
        assert!(has("member", "workflow.runs.create") && !has("member", "workflow.workflows.create"));
        assert!(has("viewer", "workflow.runs.list") && !has("viewer", "workflow.runs.cancel"));
        assert!(!has("", "workflow.runs.get"));
        assert!(
            has("workflow.runs.create", "workflow.runs.create") && !has("workflow.runs.create", "workflow.runs.get")
        );
        assert!(has("workflow.runs.*", "workflow.runs.get") && !has("workflow.runs.*", "workflow.workflows.get"));
        assert!(!has("*", "workflow.runs.get") && !has(".*", "x") && !has("workflow.runs*", "workflow.runs.get"));
    }

    #[test]
    fn nobody_hands_on_more_than_he_has() {
        let includes = |role: &str, wanted| includes(&[role.to_owned()], wanted);
        for (role, wanted) in [
            ("admin", "admin"),
            ("admin", "billing.*"),
            ("admin", "shop.orders.place"),
            ("member", "member"),
            ("member", "viewer"),
            ("member", "workflow.runs.*"),
            ("member", "workflow.runs.cancel"),
            ("viewer", "billing.usage.get"),
            ("workflow.*", "workflow.runs.*"),
            ("workflow.runs.*", "workflow.runs.create"),
        ] {
            assert!(includes(role, wanted), "{role} has {wanted}");
        }
        for (role, wanted) in [
            ("member", "admin"),
            ("viewer", "member"),
            ("member", "workflow.*"),
            ("viewer", "workflow.runs.*"),
            ("viewer", "workflow.runs.create"),
            ("workflow.runs.*", "workflow.*"),
            ("workflow.runs.create", "workflow.runs.*"),
            ("workflow.runs.*", "viewer"),
            ("viewer", ""),
        ] {
            assert!(!includes(role, wanted), "{role} has not {wanted}");
        }
    }
}
