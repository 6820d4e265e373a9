//! How many streams one tenant, or one address without a tenant, may hold open at once.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use tonic::Code;

use crate::errors::Refusal;

/// Open streams by who holds them. An entry goes with its last stream, so there are no more of them than of streams.
#[derive(Debug, Clone, Default)]
pub(super) struct Slots(Arc<Mutex<HashMap<String, usize>>>);

/// One open stream, until it is dropped.
#[derive(Debug)]
pub(super) struct Slot {
    slots: Slots,
    holder: String,
}

impl Slots {
    /// Takes one of `most`.
    ///
    /// # Errors
    /// RESOURCE_EXHAUSTED when all are taken.
    pub(super) fn take(&self, holder: String, most: usize) -> Result<Slot, Refusal> {
        let mut open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = open.entry(holder.clone()).or_default();
        if *count >= most {
            let why = format!("{most} streams are open already; close one first");
            return Err(Refusal::new(Code::ResourceExhausted, "TOO_MANY_STREAMS", why));
        }
        *count += 1;
        Ok(Slot { slots: self.clone(), holder })
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut open = self.slots.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = open.get_mut(&self.holder) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.holder);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_is_free_again_when_its_stream_ends() {
        let slots = Slots::default();
        let first = slots.take("a".to_owned(), 2).unwrap();
        let second = slots.take("a".to_owned(), 2).unwrap();
        assert!(slots.take("a".to_owned(), 2).is_err() && slots.take("b".to_owned(), 2).is_ok());
        drop(first);
        assert!(slots.take("a".to_owned(), 2).is_ok());
        drop(second);
        assert!(slots.0.lock().unwrap().is_empty());
    }
}
