//! The services behind the edge: which they are and what they serve (`loaded`), and how they are called (`call`).

mod call;

mod loaded;

pub(crate) use call::{Answer, Retry, Target, UpstreamBody, expired, one, remap};
pub(crate) use loaded::{Loaded, Served};

/// Where the methods of a proto package are served.
#[derive(Debug, Clone)]
pub struct Upstream {
    /// What the full name of a method starts with: `shop.orders.`; the longest that fits is taken.
    pub prefix: String,
    /// The `aud` of tokens that are minted for it.
    pub audience: String,
    /// `http://host:port`
    pub url: String,
}
