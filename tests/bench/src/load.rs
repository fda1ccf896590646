//! The load on HTTP servers ([`round`]): connections that are kept open, each with one request on its way at a time. Lean, because it
//! shares the machine with what it measures: one thread, the request is made once, of an answer only what frames it is
//! parsed, and nothing is allocated once it runs.
//!
//! In an open loop the thread never sleeps: to be woken takes the system longer than a request takes the server. And what it
//! says of latency begins when a request *was to be* sent. A server that stands still for a moment makes those wait that come
//! meanwhile, and they would be missing if only the request that is under way were counted (coordinated omission).

mod answer;
mod ask;
mod connection;
mod pace;

use std::{
    collections::VecDeque,
    net::SocketAddr,
    os::fd::OwnedFd,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, bail, ensure};
use hdrhistogram::Histogram;
use rustix::{
    buffer::spare_capacity,
    event::{Timespec, epoll},
    io::Errno,
};

use self::{connection::Connection, pace::Schedule};
use crate::machine::{bound_to, places, process_cpu_time, thread_cpu_time};

pub(crate) use ask::Asker;
pub(crate) use pace::Pace;

/// How long after a round the last answers may take.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);

/// The part of a round that goes by before measuring begins.
pub(crate) const WARM_UP: f64 = 0.2;

/// How many connections are looked at at once.
const EVENTS: usize = 64;

/// What is sent to whom, and what has to come back.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) address: SocketAddr,
    /// The whole request, as it goes over the wire. At most some KiB.
    pub(crate) request: Vec<u8>,
    /// The body of every answer.
    pub(crate) expected: Vec<u8>,
    pub(crate) connections: usize,
    pub(crate) pace: Pace,
    /// For how long, without the time for warming up.
    pub(crate) round: Duration,
    /// The process that serves, whose processor time is told.
    pub(crate) server: u32,
    /// A process that works on the load's processor for the server, if there is one.
    pub(crate) helper: Option<u32>,
}

/// What one round says of the requests that began in it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sample {
    /// Answers a second.
    pub(crate) per_second: f64,
    /// From when a request was to be sent to having the whole answer, in microseconds.
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
    pub(crate) p999_us: f64,
    /// Processor time of the server for one request, in microseconds.
    pub(crate) cpu_us: f64,
    /// The share of the time that the load, with its helper, used its processor. Always all of it in an open loop.
    pub(crate) load_busy: f64,
    /// How late the load itself was in an open loop, at the same quantile as `p999_us`; 0 in a closed one.
    pub(crate) load_late_p999_us: f64,
    /// How many requests were answered, those of the warm-up included.
    pub(crate) requests: u64,
}

/// Loads a server for one round, from a thread on the load's processor.
///
/// # Errors
/// When an answer is not the right one, does not come, or a connection fails.
pub(crate) fn round(plan: &Plan) -> Result<Sample> {
    // A thread of its own, so that what it takes of a processor can be told.
    thread::scope(|scope| {
        let load = scope.spawn(|| bound_to(places().load, || Load::open(plan)?.run())?);
        load.join().map_err(|_| anyhow!("the load panicked"))?
    })
}

/// A load that is under way.
struct Load<'a> {
    plan: &'a Plan,
    epoll: OwnedFd,
    connections: Vec<Connection>,
    /// Those with nothing on its way.
    idle: Vec<usize>,
    schedule: Option<Schedule>,
    /// What was to be sent and found no idle connection.
    waiting: VecDeque<Instant>,
    begins: Instant,
    ends: Instant,
    latencies: Histogram<u64>,
    late: Histogram<u64>,
    answered: u64,
}

/// Processor time that was used so far.
struct Used {
    at: Instant,
    server: Duration,
    load: Duration,
}

impl<'a> Load<'a> {
    fn open(plan: &'a Plan) -> Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let mut connections = Vec::with_capacity(plan.connections);
        for number in 0..plan.connections {
            let connection = Connection::open(plan.address, plan.expected.len())?;
            let number = epoll::EventData::new_u64(u64::try_from(number)?);
            epoll::add(&epoll, connection.stream(), number, epoll::EventFlags::IN)?;
            connections.push(connection);
        }
        let now = Instant::now();
        let begins = now + plan.round.mul_f64(WARM_UP);
        let ends = begins + plan.round;
        let schedule = match plan.pace {
            Pace::Answers => None,
            Pace::PerSecond(rate) => Some(Schedule::new(rate, now, ends)),
        };
        Ok(Self {
            plan,
            epoll,
            idle: (0..connections.len()).collect(),
            connections,
            schedule,
            waiting: VecDeque::new(),
            begins,
            ends,
            latencies: histogram()?,
            late: histogram()?,
            answered: 0,
        })
    }

    fn run(mut self) -> Result<Sample> {
        let mut events = Vec::with_capacity(EVENTS);
        let (mut at_begin, mut at_end) = (None, None);
        loop {
            let now = Instant::now();
            if at_begin.is_none() && now >= self.begins {
                at_begin = Some(self.used()?);
            }
            if at_end.is_none() && now >= self.ends {
                at_end = Some(self.used()?);
            }
            if now < self.ends {
                self.send_what_is_due(now)?;
            }
            if let (Some(begin), Some(end)) = (&at_begin, &at_end)
                && self.waiting.is_empty()
                && self.idle.len() == self.connections.len()
            {
                ensure!(!self.latencies.is_empty(), "nothing was sent: the load did not get its processor");
                return Ok(self.sample(begin, end));
            }
            if now > self.ends + ANSWER_LIMIT {
                bail!(
                    "{} answers are missing",
                    self.connections.len() - self.idle.len() + self.waiting.len()
                );
            }
            match epoll::wait(&self.epoll, spare_capacity(&mut events), Some(&self.patience(now))) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(error).context("cannot wait for answers"),
            }
            for event in events.drain(..) {
                self.receive(usize::try_from({ event.data }.u64())?)?;
            }
        }
    }

    fn send_what_is_due(&mut self, now: Instant) -> Result<()> {
        if let Some(schedule) = &mut self.schedule {
            while let Some(begun) = schedule.due(now) {
                self.late.saturating_record(nanoseconds(begun, now));
                self.waiting.push_back(begun);
            }
        } else {
            self.waiting.extend(self.idle.iter().map(|_| now));
        }
        while let Some(&begun) = self.waiting.front()
            && let Some(number) = self.idle.pop()
        {
            self.waiting.pop_front();
            let connection = self.connections.get_mut(number).context("no such connection")?;
            connection.send(&self.plan.request, begun)?;
        }
        Ok(())
    }

    fn receive(&mut self, number: usize) -> Result<()> {
        let connection = self.connections.get_mut(number).context("no such connection")?;
        let Some(begun) = connection.receive(&self.plan.expected)? else { return Ok(()) };
        let now = Instant::now();
        self.answered += 1;
        if begun >= self.begins {
            self.latencies.saturating_record(nanoseconds(begun, now));
        }
        // The next at once: the other connections that have something may take a while.
        let next = match self.plan.pace {
            Pace::Answers if now < self.ends => Some(now),
            Pace::Answers => None,
            Pace::PerSecond(_) => self.waiting.pop_front(),
        };
        match next {
            Some(begun) => connection.send(&self.plan.request, begun),
            None => {
                self.idle.push(number);
                Ok(())
            }
        }
    }

    /// How long it may sleep.
    fn patience(&self, now: Instant) -> Timespec {
        if self.schedule.is_some() {
            return Timespec::default();
        }
        let until = [self.begins, self.ends, self.ends + ANSWER_LIMIT].into_iter().find(|until| *until > now);
        let wait = until.map_or(Duration::ZERO, |until| until - now);
        Timespec::try_from(wait).unwrap_or_default()
    }

    fn used(&self) -> Result<Used> {
        let helper = self.plan.helper.map(process_cpu_time).transpose()?.unwrap_or_default();
        Ok(Used {
            at: Instant::now(),
            server: process_cpu_time(self.plan.server)?,
            load: thread_cpu_time() + helper,
        })
    }

    fn sample(&self, begin: &Used, end: &Used) -> Sample {
        let answers = self.latencies.len() as f64;
        let quantile = |of: &Histogram<u64>, q| of.value_at_quantile(q) as f64 / 1e3;
        let server = end.server.saturating_sub(begin.server).as_secs_f64();
        let load = end.load.saturating_sub(begin.load).as_secs_f64();
        Sample {
            per_second: answers / self.plan.round.as_secs_f64(),
            p50_us: quantile(&self.latencies, 0.5),
            p99_us: quantile(&self.latencies, 0.99),
            p999_us: quantile(&self.latencies, 0.999),
            cpu_us: server * 1e6 / answers.max(1.0),
            load_busy: load / (end.at - begin.at).as_secs_f64(),
            load_late_p999_us: quantile(&self.late, 0.999),
            requests: self.answered,
        }
    }
}

/// Up to a minute in nanoseconds, with three digits.
fn histogram() -> Result<Histogram<u64>> {
    Ok(Histogram::new_with_bounds(1, 60_000_000_000, 3)?)
}

/// More than half a millennium is not to be expected.
fn nanoseconds(from: Instant, to: Instant) -> u64 {
    u64::try_from(to.saturating_duration_since(from).as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read as _, Write as _},
        net::{SocketAddr, TcpListener},
    };

    use super::*;

    const REQUEST: &[u8] = b"GET / HTTP/1.1\r\n\r\n";
    const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nbody";

    /// Answers on one connection, with what `answer` gives for each request by its number.
    fn server(mut answer: impl FnMut(usize) -> &'static [u8] + Send + 'static) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = [0; REQUEST.len()];
            for number in 0.. {
                // The load closes the connection when it is done.
                if stream.read_exact(&mut request).is_err() {
                    return;
                }
                assert_eq!(request, REQUEST);
                stream.write_all(answer(number)).unwrap();
            }
        });
        address
    }

    fn plan(address: SocketAddr, pace: Pace) -> Plan {
        Plan {
            address,
            request: REQUEST.to_vec(),
            expected: b"body".to_vec(),
            connections: 1,
            pace,
            round: Duration::from_millis(200),
            server: std::process::id(),
            helper: None,
        }
    }

    #[test]
    fn a_closed_loop_counts_what_is_answered() {
        let sample = round(&plan(server(|_| ANSWER), Pace::Answers)).unwrap();
        assert!(sample.per_second > 0.0 && sample.requests as f64 > sample.per_second * 0.2);
        assert!(sample.p50_us > 0.0 && sample.p50_us <= sample.p99_us && sample.p99_us <= sample.p999_us);
        assert!(sample.load_late_p999_us.abs() < f64::EPSILON);
    }

    #[test]
    fn those_that_were_to_be_sent_while_the_server_stood_still_have_waited() {
        // It stands still once, for half of the round.
        let stands_still = |number| {
            if number == 60 {
                thread::sleep(Duration::from_millis(100));
            }
            ANSWER
        };
        let sample = round(&plan(server(stands_still), Pace::PerSecond(1000.0))).unwrap();
        // All that were to be sent are there, and not one of them but most that were sent meanwhile were late.
        assert!((sample.per_second - 1000.0).abs() < 10.0, "{sample:?}");
        assert!(sample.p99_us > 80_000.0, "{sample:?}");
    }

    #[test]
    fn a_wrong_answer_ends_the_round() {
        let wrong =
            |number| if number == 3 { b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n" } else { ANSWER };
        let error = round(&plan(server(wrong), Pace::Answers)).unwrap_err();
        assert!(error.to_string().contains("a wrong answer"), "{error:#}");
    }
}
