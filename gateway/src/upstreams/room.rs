//! How many calls may be in flight: what is beyond is refused at once, while there is still time to try elsewhere.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

/// Places for calls.
pub(crate) struct Room {
    taken: Arc<AtomicUsize>,
    most: usize,
}

/// A place, until it is dropped.
pub(crate) struct Place(Arc<AtomicUsize>);

impl Room {
    pub(crate) fn new(most: usize) -> Self {
        Self { taken: Arc::default(), most }
    }

    /// A place, if there is one.
    pub(crate) fn enter(&self) -> Option<Place> {
        let place = Place(self.taken.clone());
        // Counted first: of two that come at once only one may find the last place.
        (place.0.fetch_add(1, Ordering::Relaxed) < self.most).then_some(place)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
