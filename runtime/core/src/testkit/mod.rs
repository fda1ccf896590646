//! Doubles for tests: a clock to hold, a scripted source, a recording sink, a plugin made of a closure; and the contract
//! suite that every adapter's tests run.

mod clock;

pub use clock::ManualClock;
