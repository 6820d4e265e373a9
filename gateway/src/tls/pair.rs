//! A certificate chain and its key, read from two files and found fit to be shown.

use std::{
    fmt::Display,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use chrono::{DateTime, Utc};
use rustls::{
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject},
    sign::CertifiedKey,
};
use webpki::{EndEntityCert, Error, KeyUsage};

use crate::upstreams::{Stamp, stamp};

/// Bytes of a chain or a key at most.
const MAX_BYTES: u64 = 256 * 1024;
/// What the file or folder of a wildcard's certificate is called, since `*` is no character for a file.
pub(super) const WILDCARD: &str = "_wildcard.";

/// The two files of a pair, both PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Files {
    pub(super) cert: PathBuf,
    pub(super) key: PathBuf,
}

/// A pair that may be shown.
#[derive(Debug, Clone)]
pub(super) struct Pair {
    pub(super) key: Arc<CertifiedKey>,
    /// The names that it proves, in lower case; `*.acme.com` for those below.
    pub(super) names: Vec<String>,
    pub(super) ends_at: DateTime<Utc>,
}

impl Files {
    pub(super) fn stamps(&self) -> [Stamp; 2] {
        [stamp(&self.cert), stamp(&self.key)]
    }

    /// # Errors
    /// What is wrong with a file, that the two do not belong together, or that `now` is no time to show them.
    pub(super) fn read(&self, now: DateTime<Utc>) -> Result<Pair, String> {
        let of_cert = |why: &dyn Display| format!("{}: {why}", self.cert.display());
        let of_key = |why: &dyn Display| format!("{}: {why}", self.key.display());
        bounded(&self.cert).map_err(|why| of_cert(&why))?;
        bounded(&self.key).map_err(|why| of_key(&why))?;
        let chain = CertificateDer::pem_file_iter(&self.cert).map_err(|error| of_cert(&error))?;
        let chain: Vec<_> = chain.collect::<Result<_, _>>().map_err(|error| of_cert(&error))?;
        let first = chain.first().ok_or_else(|| of_cert(&"holds no certificate in PEM"))?.clone();
        let leaf = EndEntityCert::try_from(&first).map_err(|error| of_cert(&error))?;
        let secret = PrivateKeyDer::from_pem_file(&self.key).map_err(|error| of_key(&error))?;
        let key = CertifiedKey::from_der(chain, secret, &aws_lc_rs::default_provider());
        let key = Arc::new(key.map_err(|error| of_key(&error))?);
        let ends_at = end_of(&leaf, now).map_err(|why| of_cert(&why))?;
        let names = leaf.valid_dns_names().map(str::to_ascii_lowercase).collect();
        Ok(Pair { key, names, ends_at })
    }
}

impl Pair {
    /// Whether a client that asks for this name takes the certificate, as far as the name goes.
    pub(super) fn covers(&self, host: &str) -> bool {
        if host.starts_with("*.") {
            return self.names.iter().any(|name| name == host);
        }
        let leaf = self.key.end_entity_cert().ok().and_then(|leaf| EndEntityCert::try_from(leaf).ok());
        let asked = ServerName::try_from(host).ok();
        leaf.zip(asked).is_some_and(|(leaf, asked)| leaf.verify_is_valid_for_subject_name(&asked).is_ok())
    }
}

fn bounded(path: &Path) -> Result<(), String> {
    let seen = fs::metadata(path).map_err(|error| error.to_string())?;
    if !seen.is_file() {
        return Err("is no file".to_owned());
    }
    if seen.len() > MAX_BYTES { Err(format!("has more than {MAX_BYTES} bytes")) } else { Ok(()) }
}

/// Until when the certificate holds, if it holds now.
fn end_of(leaf: &EndEntityCert<'_>, now: DateTime<Utc>) -> Result<DateTime<Utc>, String> {
    // No issuer is known here: the time is looked at first, and that is all that is asked.
    let at = |second: u64| {
        let time = UnixTime::since_unix_epoch(Duration::from_secs(second));
        leaf.verify_for_usage(&[], &[], &[], time, KeyUsage::server_auth(), None, None).err()
    };
    match at(u64::try_from(now.timestamp()).unwrap_or_default()) {
        Some(Error::CertExpired { not_after, .. }) => {
            Err(format!("the certificate has expired at {}: renew it", date(not_after)))
        }
        Some(Error::CertNotValidYet { not_before, .. }) => {
            Err(format!("the certificate does not hold before {}", date(not_before)))
        }
        _ => match at(u64::MAX) {
            Some(Error::CertExpired { not_after, .. }) => Ok(date(not_after)),
            _ => Err("the times of the certificate cannot be read".to_owned()),
        },
    }
}

fn date(time: UnixTime) -> DateTime<Utc> {
    let second = i64::try_from(time.as_secs()).ok();
    second.and_then(|second| DateTime::from_timestamp(second, 0)).unwrap_or(DateTime::<Utc>::MAX_UTC)
}
