//! The contracts: generated types, the embedded descriptor set, and the policy that is read from it.

pub mod policy;

pub mod foreign;

/// The FileDescriptorSet of every contract with its imports and comments, custom options kept.
pub const DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/tenon.binpb"));

/// The packages stand as deep as their names say: generated code finds google.api by that.
mod tenon {
    pub mod auth {
        pub mod v1 {
            tonic::include_proto!("tenon.auth.v1");
        }
    }

    pub mod tenant {
        pub mod v1 {
            tonic::include_proto!("tenon.tenant.v1");
        }
    }

    pub mod billing {
        pub mod v1 {
            tonic::include_proto!("tenon.billing.v1");
        }
    }

    pub mod workflow {
        pub mod v1 {
            tonic::include_proto!("tenon.workflow.v1");
        }
    }

    pub mod options {
        pub mod v1 {
            tonic::include_proto!("tenon.options.v1");
        }
    }
}
pub use tenon::{auth, billing, options, tenant, workflow};

pub mod google {
    pub mod api {
        /// google.api.HttpBody: an HTTP body as it came, or as it shall go.
        #[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
        pub struct HttpBody {
            /// The Content-Type.
            #[prost(string, tag = "1")]
            pub content_type: String,
            /// The body itself.
            #[prost(bytes = "bytes", tag = "2")]
            pub data: prost::bytes::Bytes,
        }
    }
}
