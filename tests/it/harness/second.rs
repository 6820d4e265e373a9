//! The second within which every part must know what one of them was told.

use std::{
    cell::Cell,
    time::{Duration, Instant},
};

const SPAN: Duration = Duration::from_secs(1);
/// As many answers as a second has on a machine that keeps up: one that stands still for a second gives none meanwhile, and is
/// not taken for a mesh that is late.
const ANSWERS: u32 = 40;

/// Begins when the mesh has said that something is so. It is over by the clock and by what was answered since.
#[derive(Debug)]
pub struct Second {
    began: Instant,
    asked: Cell<u32>,
}

/// When somebody asked.
#[derive(Debug, Clone, Copy)]
pub struct Asked {
    after: Duration,
    before: u32,
}

impl Second {
    pub fn begins() -> Self {
        Self { began: Instant::now(), asked: Cell::new(0) }
    }

    /// To be called before each question.
    pub fn ask(&self) -> Asked {
        let before = self.asked.replace(self.asked.get() + 1);
        Asked { after: self.began.elapsed(), before }
    }
}

impl Asked {
    /// The answer was that of before: it may be within the second, and fails after it.
    #[track_caller]
    pub fn may_be_old(self, answer: &str) {
        let Self { after, before } = self;
        assert!(after < SPAN || before < ANSWERS, "asked {after:?} and {before} questions after: {answer}");
    }
}
