//! The services behind the edge.
//!
//! In reading order: how one is reached (`dial`), the file that says so (`file`), its contract asked of itself
//! (`reflect`), which methods go where at one moment (`loaded`) and how that is read anew (`load`); a call (`call`), each
//! try of it (`attempt`), the address that it goes to (`balance`, `replica`), its connection (`connect`, `link`) and span (`traced`), how often it may
//! be sent again (`budget`) and how many there may be (`room`); what is served (`inspect`) and what would change
//! (`compare`).

mod dial;

mod file;

mod reflect;

mod loaded;

mod load;

mod call;

mod attempt;

mod balance;

mod replica;

mod connect;

mod link;

mod traced;

mod budget;

mod room;

pub(crate) mod compare;

pub(crate) mod inspect;

use tenon_chassis::Mesh;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub use dial::Dial;

pub(crate) use call::{Answer, Failed, Target, UpstreamBody, expired, one, overloaded, remap};
pub(crate) use file::{Stamp, Stamps, stamp};
pub(crate) use load::{Loader, watch};
pub(crate) use loaded::{Loaded, Own, Served};
pub(crate) use room::Room;

/// What background work of an upstream stands on.
#[derive(Clone, Default)]
pub(crate) struct Ground {
    pub(crate) tasks: TaskTracker,
    pub(crate) stop: CancellationToken,
    /// Threads that have connections of their own: those that serve, and all others as one.
    pub(crate) lanes: usize,
}

impl From<&Mesh> for Ground {
    fn from(mesh: &Mesh) -> Self {
        Self { tasks: mesh.tasks.clone(), stop: mesh.stop.clone(), lanes: 1 }
    }
}

/// Where the methods of a proto package are served.
#[derive(Debug, Clone)]
pub struct Upstream {
    /// What the full name of a method starts with: `shop.orders.`; the longest that fits is taken.
    pub prefix: String,
    pub dial: Dial,
}

impl Upstream {
    /// One endpoint for a package.
    ///
    /// # Errors
    /// What is wrong with the URL.
    pub fn new(prefix: impl Into<String>, name: &str, url: &str) -> Result<Self, String> {
        Ok(Self { prefix: prefix.into(), dial: Dial::to(name, url)? })
    }
}
