//! The delivery bench: the real binary between real brokers, sockets and files, everything around it broken again and
//! again, and an oracle that counts what came out. `README.md` beside says what is proved and how.
//!
//! | module | holds |
//! |---|---|
//! | `oracle` | the judgement: pure, with tests of its own |
//! | `message`, `dice` | messages and chance, both out of a seed |
//! | `ledger`, `feed` | what happened when; who says what is sent next |
//! | `endpoint` | who sends and who receives, by protocol; `http` and `mqtt` are its clients |
//! | `spec`, `plugins` | the flow under test, out of a seed; its plugins, good and bad |
//! | `schedule` | which fault strikes when, out of a seed |
//! | `runtime`, `proxy`, `disk`, `brokers` | what is broken |
//! | `stage`, `scenario` | all of it set up; one scenario from beginning to verdict |
//! | `report` | lines, tables, JSON |
//!
//! It reads wall time and sleeps: a bench of faults lets time pass. What is waited for at the end is an event.

pub mod brokers;
pub mod dice;
pub mod disk;
pub mod endpoint;
pub mod feed;
pub mod http;
pub mod ledger;
pub mod message;
pub mod mqtt;
pub mod oracle;
pub mod plugins;
pub mod proxy;
pub mod report;
pub mod runtime;
pub mod scenario;
pub mod schedule;
pub mod spec;
pub mod stage;
