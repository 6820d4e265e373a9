//! The tenant service.
