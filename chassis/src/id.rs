//! Typed ids: `ten_`, `usr_` ... on the wire, UUIDv7 in the database.

use uuid::{Builder, Uuid};

use crate::Clock;

/// A new UUIDv7 (RFC 9562 section 5.7) at the clock's time.
#[must_use]
pub fn uuid_v7(clock: &Clock) -> Uuid {
    let millis = u64::try_from(clock.now().timestamp_millis()).unwrap_or_default();
    Builder::from_unix_timestamp_millis(millis, &rand::random()).into_uuid()
}

/// A text that is not an id of the kind that was asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("must be {prefix}_ and 32 hexadecimal digits")]
pub struct Invalid {
    pub prefix: &'static str,
}

/// Reads the UUID behind a prefix; only the canonical spelling (lower-case, no hyphens) is an id.
///
/// # Errors
/// When the prefix or the digits are not as they must be.
pub fn parse(prefix: &'static str, text: &str) -> Result<Uuid, Invalid> {
    let digits = text.strip_prefix(prefix).and_then(|rest| rest.strip_prefix('_')).ok_or(Invalid { prefix })?;
    let canonical = digits.len() == 32 && digits.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    if !canonical {
        return Err(Invalid { prefix });
    }
    Uuid::try_parse(digits).map_err(|_| Invalid { prefix })
}

/// Declares an id type: `id!(RunId, "run", "A run.")`.
#[macro_export]
macro_rules! id {
    ($name:ident, $prefix:literal, $doc:literal) => {
        #[doc = $doc]
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, ::sqlx::Type)]
        #[sqlx(transparent)]
        pub struct $name(::uuid::Uuid);

        impl $name {
            /// A new one at the clock's time.
            #[must_use]
            pub fn new(clock: &$crate::Clock) -> Self {
                Self($crate::id::uuid_v7(clock))
            }

            /// What the database keeps.
            #[must_use]
            pub const fn uuid(self) -> ::uuid::Uuid {
                self.0
            }
        }

        impl From<::uuid::Uuid> for $name {
            fn from(uuid: ::uuid::Uuid) -> Self {
                Self(uuid)
            }
        }

        impl ::std::fmt::Display for $name {
            fn fmt(&self, f: &mut ::std::fmt::Formatter<'_>) -> ::std::fmt::Result {
                write!(f, concat!($prefix, "_{}"), self.0.simple())
            }
        }

        impl ::std::fmt::Debug for $name {
            fn fmt(&self, f: &mut ::std::fmt::Formatter<'_>) -> ::std::fmt::Result {
                ::std::fmt::Display::fmt(self, f)
            }
        }

        impl ::std::str::FromStr for $name {
            type Err = $crate::id::Invalid;
            fn from_str(text: &str) -> ::std::result::Result<Self, Self::Err> {
                $crate::id::parse($prefix, text).map(Self)
            }
        }
    };
}

id!(TenantId, "ten", "A tenant.");
id!(UserId, "usr", "A user of one tenant.");
id!(SessionId, "ses", "A user's session.");
id!(ApiKeyId, "apk", "An API key of one tenant.");
id!(EventId, "evt", "An event on the bus.");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_reads_back_and_only_its_own_spelling_is_one() {
        let id = TenantId::new(&Clock::default());
        let text = id.to_string();
        assert_eq!(text.parse::<TenantId>(), Ok(id));
        assert!(text.to_uppercase().parse::<TenantId>().is_err());
        assert!(text.replace("ten_", "usr_").parse::<TenantId>().is_err());
        assert!(format!("ten_{}", id.uuid()).parse::<TenantId>().is_err());
    }
}
