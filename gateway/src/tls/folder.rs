//! The certificates of a folder, each for the host that its files are named by.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use chrono::{DateTime, Utc};
use rustls::{pki_types::DnsName, sign::CertifiedKey};

use super::pair::{Files, Pair, WILDCARD};
use crate::upstreams::Stamp;

/// Hosts at most: a certificate takes some 10 KB of memory.
const MAX_HOSTS: usize = 2_000;
/// How the files of one host's folder are called by who makes them: Kubernetes and cert-manager, certbot.
const LAYOUTS: [(&str, &str); 2] = [("tls.crt", "tls.key"), ("fullchain.pem", "privkey.pem")];

/// A folder that is looked at again and again.
pub(super) struct Folder {
    path: PathBuf,
    hosts: BTreeMap<String, Host>,
    /// Names that were told of as no host's, or as too many, so that they are told of once.
    told: BTreeSet<String>,
}

struct Host {
    files: Files,
    stamps: [Stamp; 2],
    /// The last one that was fit to be shown.
    pair: Option<Pair>,
    /// Why what lies there now is not.
    refused: Option<String>,
}

/// What a look has brought.
#[derive(Default)]
pub(super) struct News {
    pub(super) read: Vec<String>,
    pub(super) gone: Vec<String>,
    /// By host: why what lies there is not shown.
    pub(super) refused: Vec<(String, String)>,
}

impl Folder {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path, hosts: BTreeMap::new(), told: BTreeSet::new() }
    }

    /// Reads what has changed since the last look; with `again` also what was refused, since its time may have come.
    ///
    /// # Errors
    /// When the folder cannot be read; what it held is kept.
    pub(super) fn look(&mut self, now: DateTime<Utc>, again: bool) -> Result<News, String> {
        let named = |error: io::Error| format!("{}: {error}", self.path.display());
        let (found, odd) = listed(&self.path).map_err(named)?;
        let mut news = News::default();
        for (name, why) in odd.iter().filter(|(name, _)| !self.told.contains(*name)) {
            news.refused.push((name.clone(), why.clone()));
        }
        self.told = odd.into_keys().collect();
        self.hosts.retain(|host, _| {
            let stays = found.contains_key(host);
            if !stays {
                news.gone.push(host.clone());
            }
            stays
        });
        for (host, files) in found {
            let stamps = files.stamps();
            let known = self.hosts.get(&host);
            if known.is_some_and(|known| {
                known.stamps == stamps && known.files == files && !(again && known.refused.is_some())
            }) {
                continue;
            }
            let before = self.hosts.remove(&host);
            let read = files.read(now).and_then(|pair| {
                let names = || pair.names.join(", ");
                if pair.covers(&host) {
                    return Ok(pair);
                }
                Err(format!("{}: the certificate is not for {host} but for {}", files.cert.display(), names()))
            });
            let (pair, refused) = match read {
                Ok(pair) => {
                    news.read.push(host.clone());
                    (Some(pair), None)
                }
                Err(why) => {
                    let was = before.as_ref().and_then(|before| before.refused.as_ref());
                    if was != Some(&why) {
                        news.refused.push((host.clone(), why.clone()));
                    }
                    (before.and_then(|before| before.pair), Some(why))
                }
            };
            self.hosts.insert(host, Host { files, stamps, pair, refused });
        }
        Ok(news)
    }

    /// What is shown by the name that a client asks for. A host's own files go before another's that name it too.
    pub(super) fn by_name(&self) -> HashMap<String, Arc<CertifiedKey>> {
        let shown = || self.hosts.iter().filter_map(|(host, known)| Some((host, known.pair.as_ref()?)));
        let mut names: HashMap<_, _> = shown().map(|(host, pair)| (host.clone(), pair.key.clone())).collect();
        for (_, pair) in shown() {
            for name in &pair.names {
                names.entry(name.clone()).or_insert_with(|| pair.key.clone());
            }
        }
        names
    }

    /// Each host with its file, and until when its certificate holds or why what lies there is refused.
    pub(super) fn hosts(&self) -> impl Iterator<Item = (&str, &Path, Result<DateTime<Utc>, &str>)> {
        self.hosts.iter().map(|(host, known)| {
            let held = match (&known.refused, &known.pair) {
                (None, Some(pair)) => Ok(pair.ends_at),
                (why, _) => Err(why.as_deref().unwrap_or_default()),
            };
            (host.as_str(), known.files.cert.as_path(), held)
        })
    }

    /// When the first of all that are shown ends.
    pub(super) fn first_end(&self) -> Option<DateTime<Utc>> {
        self.hosts.values().filter_map(|host| Some(host.pair.as_ref()?.ends_at)).min()
    }
}

/// The pairs that lie in a folder, by host, and the names that are no host's or one too many, with why.
fn listed(path: &Path) -> io::Result<(BTreeMap<String, Files>, BTreeMap<String, String>)> {
    let (mut found, mut odd, mut folders) = (BTreeMap::new(), BTreeMap::new(), Vec::new());
    for entry in fs::read_dir(path)? {
        let name = entry?.file_name();
        // Kubernetes keeps what it mounts behind names with a dot in front.
        let Some(name) = name.to_str().filter(|name| !name.starts_with('.')) else { continue };
        let Some(stem) = name.strip_suffix(".crt").or_else(|| name.strip_suffix(".key")) else {
            folders.push(name.to_owned());
            continue;
        };
        let file = |end: &str| path.join(format!("{stem}{end}"));
        add(&mut found, &mut odd, stem, Files { cert: file(".crt"), key: file(".key") });
    }
    for name in folders {
        let inside = path.join(&name);
        let pair = LAYOUTS.map(|(cert, key)| Files { cert: inside.join(cert), key: inside.join(key) });
        // One of the two is enough: a pair of which half is written is not gone.
        if let Some(files) = pair.into_iter().find(|files| files.cert.exists() || files.key.exists()) {
            add(&mut found, &mut odd, &name, files);
        }
    }
    Ok((found, odd))
}

fn add(found: &mut BTreeMap<String, Files>, odd: &mut BTreeMap<String, String>, stem: &str, files: Files) {
    match host_of(stem) {
        Some(host) if found.contains_key(&host) || found.len() < MAX_HOSTS => {
            found.entry(host).or_insert(files);
        }
        Some(host) => {
            odd.insert(host, format!("the folder has more than {MAX_HOSTS} certificates"));
        }
        None => {
            odd.insert(stem.to_owned(), "is no name of a host".to_owned());
        }
    }
}

/// The host that files of this name are for.
fn host_of(stem: &str) -> Option<String> {
    let stem = stem.to_ascii_lowercase();
    let (wildcard, name) = stem.strip_prefix(WILDCARD).map_or(("", stem.as_str()), |below| ("*.", below));
    DnsName::try_from(name).ok()?;
    Some(format!("{wildcard}{name}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn year(year: i32) -> DateTime<Utc> {
        format!("{year}-06-01T00:00:00Z").parse().unwrap()
    }

    /// Puts a pair of the tests' own there.
    fn put(folder: &Path, host: &str, pair: &str) {
        for (from, to) in [("pem", "crt"), ("key", "key")] {
            let from = format!("{}/tests/certs/{pair}.{from}", env!("CARGO_MANIFEST_DIR"));
            fs::write(folder.join(format!("{host}.{to}")), fs::read(from).unwrap()).unwrap();
        }
    }

    #[test]
    fn what_is_refused_is_told_once_and_taken_when_its_time_has_come() {
        let root = tempfile::tempdir().unwrap();
        let mut folder = Folder::new(root.path().to_owned());
        put(root.path(), "api.acme.test", "acme-1");
        let news = folder.look(year(2030), false).unwrap();
        assert_eq!((news.read.len(), news.refused.len(), folder.by_name().len()), (1, 0, 2));
        let first = folder.by_name()["api.acme.test"].clone();
        fs::remove_file(root.path().join("api.acme.test.crt")).unwrap();
        let news = folder.look(year(2030), false).unwrap();
        assert_eq!((news.read.len(), news.refused.len(), news.gone.len()), (0, 1, 0), "half of a pair is not gone");
        put(root.path(), "api.acme.test", "acme-later");
        let news = folder.look(year(2030), false).unwrap();
        assert!(news.refused[0].1.contains("does not hold before 2100-01-01"), "{:?}", news.refused);
        assert!(Arc::ptr_eq(&folder.by_name()["api.acme.test"], &first), "the one of before is shown still");
        assert!(folder.look(year(2101), false).unwrap().read.is_empty(), "nothing has changed");
        assert!(folder.look(year(2030), true).unwrap().refused.is_empty(), "it is told once");
        assert_eq!(folder.look(year(2101), true).unwrap().read, ["api.acme.test"]);
        assert!(!Arc::ptr_eq(&folder.by_name()["api.acme.test"], &first));
        put(root.path(), "api.acme.test", "below");
        let news = folder.look(year(2101), false).unwrap();
        assert!(news.refused[0].1.contains("is not for api.acme.test but for *.globex.test"), "{:?}", news.refused);
        for end in ["crt", "key"] {
            fs::remove_file(root.path().join(format!("api.acme.test.{end}"))).unwrap();
        }
        assert_eq!(folder.look(year(2101), false).unwrap().gone, ["api.acme.test"]);
        assert!(folder.by_name().is_empty());
    }

    #[test]
    fn files_are_named_by_their_host() {
        for (stem, expected) in [
            ("api.acme.com", Some("api.acme.com")),
            ("API.Acme.com", Some("api.acme.com")),
            ("_wildcard.acme.com", Some("*.acme.com")),
            ("xn--bcher-kva.example", Some("xn--bcher-kva.example")),
            ("_wildcard.", None),
            ("*.acme.com", None),
            ("a b", None),
            ("", None),
        ] {
            assert_eq!(host_of(stem).as_deref(), expected, "{stem}");
        }
    }
}
