//! The engine: owns partitions of the runs, and moves them on. What arrived during one commit goes into the next, tasks
//! are called once the step that scheduled them is on disk, and every write checks that its partition is still owned.

mod active;
pub(crate) mod births;
mod change;
mod crowd;
mod family;
mod lease;
mod load;
mod step;
mod store;
mod time;
mod upkeep;
mod writer;

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap, HashSet},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use chrono::{DateTime, Utc};
use tenon_chassis::{Db, Mesh, TenantId, directory::Directory, id, pulse::Beat, telemetry};
use tokio::{
    sync::{Notify, broadcast, mpsc, oneshot, watch},
    time::{Instant, Interval, MissedTickBehavior, interval, sleep, sleep_until},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::Instrument;
use uuid::Uuid;

use crate::{
    asl::Input,
    config::Config,
    error::Error,
    fair::Fair,
    quotas::{self, Quotas},
    runs::{
        model::{NewRun, Run, RunId},
        template::Templates,
    },
    tasks::Tasks,
};
pub(crate) use active::Hold;
use active::{Active, Key, Work};
use births::{Awaited, Birth, Born, Bustle, Delivery, Ground, NotBorn, Nursery};
use crowd::Crowd;
use time::{Pace, Time};
use writer::{Epochs, Writer};

/// The channel that tells engines of new and cancelled runs; the chassis listens to it.
pub const CHANNEL: &str = "tenon_runs";
/// The channel that tells of tasks that wait for an answer from outside.
pub const TASKS: &str = "tenon_tasks";
/// How often an engine looks for due runs when nothing tells it to: what a lost beat costs at most.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// The pause before a start that failed is tried again.
const PREPARE_AGAIN: Duration = Duration::from_millis(250);
/// How often the runs of each tenant are counted at least while there is something to do.
const COUNT_EVERY: Duration = Duration::from_millis(100);
/// Answers that one transaction takes in at most; as many again may wait.
const BATCH: usize = 500;
/// Turns of births that an engine may lag behind.
const BORN: usize = 16;
/// Runs that wait to be started at most; more are told to come back.
const BIRTHS: usize = 2_000;
/// Those of one tenant.
const BIRTHS_OF_ONE: usize = 1_000;
/// Changes of runs that a listener may lag behind.
const CHANGES: usize = 4_096;

/// Tells engines that there is something to do: the one in this process at once, the others by the database.
pub struct Waker {
    db: Db,
    pub(crate) quotas: Quotas,
    pub(crate) crowd: Crowd,
    here: Notify,
    /// Tasks that were opened in this process.
    opened: Notify,
    changes: broadcast::Sender<(TenantId, RunId)>,
    births: mpsc::Sender<Birth>,
    /// The engine's end; it is taken when the engine starts.
    cradle: Mutex<Option<mpsc::Receiver<Birth>>>,
    /// Whether the engine of this process owns anything.
    works: AtomicBool,
    /// Whether what it writes comes through.
    writes: AtomicBool,
}

impl Waker {
    #[must_use]
    pub fn new(db: Db, quotas: Quotas) -> Self {
        let (births, cradle) = mpsc::channel(BIRTHS);
        let (changes, cradle) = (broadcast::channel(CHANGES).0, Mutex::new(Some(cradle)));
        let (works, writes) = (AtomicBool::new(false), AtomicBool::new(true));
        Self {
            db,
            quotas,
            crowd: Crowd::default(),
            here: Notify::new(),
            opened: Notify::new(),
            changes,
            births,
            cradle,
            works,
            writes,
        }
    }

    /// Starts a run in this process, if its engine can.
    pub(crate) async fn start(
        &self,
        (tenant, weight): (TenantId, u32),
        new: NewRun,
        meter: Option<String>,
        delivery: Option<Delivery>,
    ) -> Result<Run, NotBorn> {
        if !self.works.load(Ordering::Relaxed) || !self.writes.load(Ordering::Relaxed) {
            return Err(NotBorn::Elsewhere(Box::new(new)));
        }
        self.quotas.admit_run(tenant).map_err(NotBorn::Refused)?;
        let (reply, born) = oneshot::channel();
        match self.births.try_send(Birth { tenant, weight, new, meter, delivery, reply }) {
            Ok(()) => born.await.unwrap_or_else(|_| Err(NotBorn::Refused(births::unavailable()))),
            Err(mpsc::error::TrySendError::Closed(birth)) => Err(NotBorn::Elsewhere(Box::new(birth.new))),
            Err(mpsc::error::TrySendError::Full(_)) => Err(NotBorn::Refused(Error::EngineBusy)),
        }
    }

    pub fn wake(&self) {
        self.here.notify_one();
        self.db.pulse().beat(CHANNEL);
    }

    /// Says whether runs can be started in this process.
    fn takes_starts(&self, writes: bool) {
        self.writes.store(writes, Ordering::Relaxed);
    }

    /// Tells whoever hands tasks out that there are some.
    pub fn opened(&self) {
        self.opened.notify_one();
        self.db.pulse().beat(TASKS);
    }

    /// Returns once tasks were opened in this process.
    pub(crate) async fn opening(&self) {
        self.opened.notified().await;
    }

    /// Runs that the engine of this process has just written; a hint, as others have engines too.
    #[must_use]
    pub fn changes(&self) -> broadcast::Receiver<(TenantId, RunId)> {
        self.changes.subscribe()
    }

    fn changed(&self, tenant: TenantId, run: RunId) {
        // Nobody listens when this fails.
        let _ = self.changes.send((tenant, run));
    }
}

/// What a call or a timer came to.
type Answer = (Key, Input);

/// The engine of one process.
pub struct Engine {
    id: Uuid,
    db: Db,
    config: Config,
    waker: Arc<Waker>,
    tasks: Arc<Tasks>,
    time: Time,
    /// Epochs of the partitions that this engine owns.
    owned: Epochs,
    runs: HashMap<Key, Box<Active>>,
    timers: BinaryHeap<Reverse<(DateTime<Utc>, Key, u64)>>,
    /// When the first run that sleeps in the database has to be woken, as far as is known.
    next_due: Option<DateTime<Utc>>,
    /// Runs that wait for something to be left of a meter, and are to be parked.
    short: Vec<(Key, String)>,
    /// The tenant whose turn was last to have its due runs claimed.
    turn: Uuid,
    /// Whether the last claim left due runs behind.
    behind: bool,
    /// Whether runs may have been claimed without this engine hearing of it.
    doubts: bool,
    writer: Writer,
    answers: (mpsc::Sender<Answer>, mpsc::Receiver<Answer>),
    /// What the lane of births is told, and what it tells.
    ground: watch::Sender<Ground>,
    born: mpsc::Receiver<Born>,
    bustle: watch::Receiver<Bustle>,
    awaited: Awaited,
    /// The lane, until it runs.
    nursery: Option<Nursery>,
    directory: Arc<Directory>,
    pace: Pace,
    /// When to delete what is past its time.
    purge_at: Instant,
    /// When to count the runs of each tenant again.
    count_at: Instant,
    calls: TaskTracker,
}

impl Engine {
    /// An engine that owns nothing yet, and works until `stop`.
    #[must_use]
    pub fn new(
        mesh: &Mesh,
        (db, config): (Db, Config),
        waker: Arc<Waker>,
        templates: Templates,
        stop: CancellationToken,
    ) -> Self {
        let tasks = Arc::new(Tasks::new(mesh.clone(), db.clone(), &config));
        // Set again before any work is done.
        let time = Time::new(db.clock().clone());
        let writer = Writer {
            db: db.clone(),
            config: config.clone(),
            templates,
            time: time.clone(),
            waker: waker.clone(),
            stop,
        };
        let cradle = waker.cradle.lock().expect("no holder panics").take();
        let births = cradle.unwrap_or_else(|| mpsc::channel(1).1);
        let (ground, seen) = watch::channel(Ground::default());
        let (sender, born) = mpsc::channel(BORN);
        let (bustling, bustle) = watch::channel(Bustle::default());
        let awaited = Arc::new(Mutex::new(HashSet::new()));
        let nursery = Nursery {
            writer: writer.clone(),
            births,
            waiting: Fair::default(),
            ground: seen,
            born: sender,
            bustle: bustling,
            awaited: awaited.clone(),
            directory: mesh.directory.clone(),
        };
        Self {
            id: id::uuid_v7(db.clock()),
            db,
            config,
            ground,
            born,
            bustle,
            awaited,
            nursery: Some(nursery),
            directory: mesh.directory.clone(),
            pace: Pace::new(),
            purge_at: Instant::now(),
            count_at: Instant::now(),
            waker,
            tasks,
            time,
            owned: Epochs::new(),
            runs: HashMap::new(),
            timers: BinaryHeap::new(),
            next_due: None,
            short: Vec::new(),
            turn: Uuid::nil(),
            behind: false,
            doubts: false,
            writer,
            answers: mpsc::channel(BATCH),
            calls: TaskTracker::new(),
        }
    }

    /// Works until stopped; then finishes the commit at hand and gives its partitions back.
    pub async fn run(mut self) {
        let stop = self.writer.stop.clone();
        while !stop.is_cancelled() && !self.prepared().await {
            stop.run_until_cancelled(sleep(PREPARE_AGAIN)).await;
        }
        let heart = TaskTracker::new();
        let beating = CancellationToken::new();
        // An engine that ends in any way, by a panic too, shows no more signs of life.
        let _ends = beating.clone().drop_guard();
        let lease = Duration::from_millis(self.config.workflow_lease_ms.into());
        heart.spawn(lease::heartbeat(self.db.clone(), self.id, lease, beating.clone()));
        self.nursery.take().into_iter().for_each(|nursery| drop(tokio::spawn(nursery.run())));
        let (mut balance, mut look) = (every(lease / 4), every(LOOK_EVERY));
        let mut beats = self.db.pulse().subscribe();
        let waker = self.waker.clone();
        while !stop.is_cancelled() {
            let mut inputs = Vec::new();
            let mut looks = false;
            let next_timer = self.next_timer();
            tokio::select! {
                () = stop.cancelled() => break,
                answer = self.answers.1.recv() => inputs.extend(answer.map(work)),
                Some(born) = self.born.recv() => self.take_in(born),
                _ = balance.tick() => looks = self.balance().instrument(telemetry::quiet()).await,
                _ = look.tick() => {
                    self.tend().instrument(telemetry::quiet()).await;
                    looks = true;
                }
                () = waker.here.notified() => looks = true,
                () = woken(&mut beats) => looks = true,
                () = sleep_until(next_timer) => {}
                () = std::future::ready(()), if !self.short.is_empty() => {}
            }
            while inputs.len() < BATCH
                && let Ok(answer) = self.answers.1.try_recv()
            {
                inputs.push(work(answer));
            }
            while let Ok(born) = self.born.try_recv() {
                self.take_in(born);
            }
            let parks = self.short.drain(..).map(|(key, meter)| (key, Work::Park(format!("{}{meter}", quotas::HELD))));
            inputs.extend(parks);
            self.due_timers(&mut inputs);
            if looks || self.next_due.is_some_and(|due| due <= self.time.now()) {
                self.next_due = None;
                self.load(&mut inputs).instrument(telemetry::quiet()).await;
            }
            if !inputs.is_empty() {
                self.step(inputs).await;
            }
            self.tell_ground();
            metrics::gauge!("tenon_workflow_active_runs").set(u32::try_from(self.runs.len()).unwrap_or(u32::MAX));
        }
        self.end().await;
        beating.cancel();
        heart.close();
        heart.wait().await;
        self.leave().await;
    }

    /// Lets go of everything, so that others need not wait for the lease to end.
    async fn end(&mut self) {
        self.waker.works.store(false, Ordering::Relaxed);
        // Ends with the lane.
        while self.born.recv().await.is_some() {}
        self.runs.clear();
        self.calls.close();
        self.calls.wait().await;
        self.give_back().await;
    }

    /// Lets the lane of births know what is owned, and how many runs there is room for.
    fn tell_ground(&mut self) {
        if Instant::now() >= self.count_at {
            self.count_at = Instant::now() + COUNT_EVERY;
            self.count_crowd();
        }
        self.waker.works.store(!self.owned.is_empty(), Ordering::Relaxed);
        let room = self.config.workflow_active_runs.saturating_sub(self.runs.len());
        self.ground.send_modify(|ground| {
            ground.room = room;
            if *ground.owned != self.owned {
                ground.owned = Arc::new(self.owned.clone());
            }
        });
    }

    fn next_timer(&self) -> Instant {
        let first = self.timers.peek().map(|Reverse((due, ..))| *due);
        match first.into_iter().chain(self.next_due).min() {
            Some(due) => self.time.instant(due),
            None => Instant::now() + LOOK_EVERY,
        }
    }

    fn due_timers(&mut self, inputs: &mut Vec<(Key, Work)>) {
        let now = self.time.now();
        while inputs.len() < BATCH
            && let Some(Reverse((due, key, token))) = self.timers.peek().copied()
            && due <= now
        {
            self.timers.pop();
            if self.runs.contains_key(&key) {
                inputs.push((key, Work::Input(Input::TimerFired { token })));
            }
        }
    }

    /// Forgets partitions that went to another engine, with their runs and calls.
    fn lose(&mut self, partitions: &[i16]) {
        if partitions.is_empty() {
            return;
        }
        tracing::warn!(count = partitions.len(), "partitions were taken over by another engine");
        self.owned.retain(|id, _| !partitions.contains(id));
        self.runs.retain(|_, active| !partitions.contains(&active.about.partition));
    }

    /// The ids and epochs of some of the partitions that are owned.
    fn epochs(&self, partitions: impl IntoIterator<Item = i16>) -> (Vec<i16>, Vec<i64>) {
        partitions.into_iter().filter_map(|id| self.owned.get(&id).map(|epoch| (id, *epoch))).unzip()
    }
}

fn every(period: Duration) -> Interval {
    let mut interval = interval(period);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    interval
}

fn work((key, input): Answer) -> (Key, Work) {
    (key, Work::Input(input))
}

/// Returns on a beat of the engines' channel, and when beats may have been missed.
async fn woken(beats: &mut broadcast::Receiver<Beat>) {
    loop {
        match beats.recv().await {
            Ok(Beat::Notified { channel, .. }) if channel != CHANNEL => {}
            Ok(_) | Err(broadcast::error::RecvError::Lagged(_)) => return,
            Err(broadcast::error::RecvError::Closed) => std::future::pending().await,
        }
    }
}
