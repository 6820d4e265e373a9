//! Reading the upstreams, at the start and again whenever they change.

use std::{path::PathBuf, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use futures::future::try_join_all;
use tenon_proto::{foreign, policy::Contract};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    task::spawn_blocking,
    time::sleep,
};

use super::{
    Ground, Target,
    compare::compare,
    file::{self, Entry, Source, Stamps},
    loaded::{Foreign, Loaded, Own},
    reflect::{self, Silent},
};
use crate::Error;

/// How often the files are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Breaking changes of one reload that are logged.
const MAX_TOLD: usize = 20;
/// How soon a service that could not tell is asked again, at first and at last.
const ASK_AGAIN: Duration = Duration::from_secs(1);
const ASK_AGAIN_MOST: Duration = Duration::from_secs(30);

/// Reads what is to be served.
pub(crate) struct Loader {
    pub(crate) ground: Ground,
    pub(crate) own: Own,
    /// The file of `--upstreams`.
    pub(crate) path: Option<PathBuf>,
}

impl Loader {
    /// Reads everything anew. What is as it was before keeps its connections.
    ///
    /// `files` is what has been looked at, also when something in it is wrong.
    pub(crate) async fn load(&self, before: Option<&Loaded>, files: &mut Stamps) -> Result<Loaded, Error> {
        let Some(path) = self.path.clone() else { return Loaded::new(&self.own, Vec::new()) };
        let (entries, read) = spawn_blocking(move || {
            let mut read = Stamps::new();
            (file::read(&path, &mut read), read)
        })
        .await
        .map_err(|error| Error::Upstreams(error.to_string()))?;
        *files = read;
        // At once: who does not answer must not hold the others up.
        let read = entries.map_err(Error::Upstreams)?.into_iter().map(|entry| self.foreign(entry, before));
        Loaded::new(&self.own, try_join_all(read).await?)
    }

    async fn foreign(&self, entry: Entry, before: Option<&Loaded>) -> Result<Foreign, Error> {
        let name = entry.dial.name.clone();
        let refuse = |why| Error::Upstream { name: name.clone(), why };
        let mut known = before.iter().flat_map(|loaded| &loaded.foreign);
        let known = known.find(|known| known.entry.dial.name == entry.dial.name);
        if let Some(same) =
            known.filter(|known| *known.entry == entry && matches!(entry.source, Source::Descriptors(_)))
        {
            return Ok(same.clone());
        }
        let target = match known.filter(|known| known.entry.dial == entry.dial) {
            Some(known) => known.target.clone(),
            None => Arc::new(Target::new(&self.ground, entry.dial.clone()).map_err(refuse)?),
        };
        let contract = match told(&target, &entry).await {
            Ok(contract) => Some(Arc::new(contract)),
            Err(Silent::Refuses(why)) => return Err(refuse(why)),
            Err(Silent::Away(why)) => {
                // What it said when it was there still holds.
                let last = known.and_then(|known| known.contract.clone());
                let state =
                    if last.is_some() { "it is served as it was" } else { "its routes are absent until it answers" };
                tracing::warn!(
                    upstream.name = name,
                    error = why,
                    "upstream does not tell its methods, {state}: start it, or give descriptors instead of reflection"
                );
                last
            }
        };
        Ok(Foreign { entry: Arc::new(entry), target, contract })
    }
}

/// The contract of an upstream, from its file or from itself.
pub(crate) async fn told(target: &Target, entry: &Entry) -> Result<Contract, Silent> {
    let set = match &entry.source {
        Source::Descriptors(set) => set.clone(),
        Source::Reflection => reflect::descriptors(target, entry.rules.services.as_deref()).await?,
    };
    let rules = entry.rules.clone();
    let read = spawn_blocking(move || foreign::load(&set, &rules)).await;
    read.map_err(|error| Silent::Refuses(error.to_string()))?.map_err(Silent::Refuses)
}

/// Reads the upstreams again on SIGHUP, when a file changes, and while a service has not told its methods. An error
/// leaves everything as it was.
pub(crate) async fn watch(loader: Loader, loaded: Arc<ArcSwap<Loaded>>, mut files: Stamps) {
    let mut hangup = signal(SignalKind::hangup()).map_err(|error| tracing::warn!(%error, "SIGHUP is not watched")).ok();
    let mut patience = ASK_AGAIN;
    loop {
        let is_waiting = loaded.load().foreign.iter().any(|foreign| foreign.contract.is_none());
        let why = tokio::select! {
            () = hung_up(&mut hangup) => "signal",
            () = changed(&files) => "file",
            () = sleep(patience), if is_waiting => "reflection",
        };
        let before = loaded.load_full();
        let result = match loader.load(Some(&before), &mut files).await {
            Ok(new) => {
                let is_same = why == "reflection" && new.foreign.iter().any(|foreign| foreign.contract.is_none());
                patience = if is_same { (patience * 2).min(ASK_AGAIN_MOST) } else { ASK_AGAIN };
                let (routes, methods) = (new.routes.iter().count(), new.contract.methods().count());
                let changes = compare(&before.contract, &new.contract);
                loaded.store(Arc::new(new));
                for change in changes.iter().filter(|change| change.is_breaking).take(MAX_TOLD) {
                    tracing::warn!(change.what, change.how, "a change of an upstream breaks clients of before");
                }
                if !is_same {
                    let changes = changes.len();
                    tracing::info!(reason = why, routes, methods, changes, "upstreams are read anew");
                }
                "ok"
            }
            Err(error) => {
                patience = (patience * 2).min(ASK_AGAIN_MOST);
                tracing::error!(%error, "upstreams cannot be read anew; what was served before is still served");
                "refused"
            }
        };
        metrics::counter!("tenon_edge_reloads_total", "result" => result).increment(1);
    }
}

async fn hung_up(hangup: &mut Option<Signal>) {
    match hangup {
        Some(hangup) => drop(hangup.recv().await),
        None => std::future::pending().await,
    }
}

async fn changed(files: &Stamps) {
    loop {
        sleep(LOOK_EVERY).await;
        // A handful of calls that the kernel answers from memory.
        if files.iter().any(|(path, before)| file::stamp(path) != *before) {
            return;
        }
    }
}
