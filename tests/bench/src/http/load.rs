//! The load: connections that are kept open, each with one request on its way at a time. Lean, because it shares the machine
//! with what it measures: the request is made once, and of an answer only what frames it is parsed.

use std::{
    net::SocketAddr,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, bail, ensure};
use hdrhistogram::Histogram;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    task::JoinSet,
};

use crate::machine::{bound_to, places, process_cpu_time, thread_cpu_time};

/// How long a connection may wait for an answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);

/// The part of a round that goes by before measuring begins.
const WARM_UP: f64 = 0.2;

/// The most headers of an answer.
const MAX_HEADERS: usize = 32;

/// The most bytes of an answer, head and body.
const MAX_ANSWER_BYTES: usize = 16 << 20;

/// What is sent to whom, and what has to come back.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) address: SocketAddr,
    /// The whole request, as it goes over the wire.
    pub(crate) request: Vec<u8>,
    /// The body of every answer.
    pub(crate) expected: Vec<u8>,
    pub(crate) connections: usize,
    /// For how long, without the time for warming up.
    pub(crate) round: Duration,
}

/// What one round says.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sample {
    /// Answers a second.
    pub(crate) per_second: f64,
    /// From sending a request to having the whole answer, in microseconds.
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
    /// Processor time of the server for one request, in microseconds.
    pub(crate) cpu_us: f64,
    /// The share of the time that the load itself used a processor.
    pub(crate) load_busy: f64,
}

/// When answers count.
#[derive(Debug, Clone, Copy)]
struct Window {
    begins: Instant,
    ends: Instant,
}

/// Loads the server, which is the process `server`, for one round.
///
/// # Errors
/// When an answer is not the right one, does not come, or a connection fails.
pub(crate) fn closed_loop(plan: &Plan, server: u32) -> Result<Sample> {
    // A thread of its own, so that what it takes of a processor can be told.
    thread::scope(|scope| {
        let load = scope.spawn(|| {
            bound_to(places().load, || {
                tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build()?
                    .block_on(round(plan, server))
            })?
        });
        load.join().map_err(|_| anyhow!("the load panicked"))?
    })
}

async fn round(plan: &Plan, server: u32) -> Result<Sample> {
    let plan = Arc::new(plan.clone());
    let mut streams = Vec::new();
    for _ in 0..plan.connections {
        let stream = TcpStream::connect(plan.address).await.context("cannot connect")?;
        stream.set_nodelay(true)?;
        streams.push(stream);
    }
    let begins = Instant::now() + plan.round.mul_f64(WARM_UP);
    let window = Window { begins, ends: begins + plan.round };
    let mut connections = JoinSet::new();
    for stream in streams {
        connections.spawn(converse(stream, Arc::clone(&plan), window));
    }
    tokio::time::sleep_until(window.begins.into()).await;
    let (began, server_began, load_began) = (Instant::now(), process_cpu_time(server)?, thread_cpu_time());
    tokio::time::sleep_until(window.ends.into()).await;
    let took = began.elapsed();
    let (server_took, load_took) = (
        process_cpu_time(server)?.saturating_sub(server_began),
        thread_cpu_time().saturating_sub(load_began),
    );
    let mut latencies = histogram()?;
    while let Some(ended) = connections.join_next().await {
        latencies.add(ended??)?;
    }
    let answers = latencies.len() as f64;
    let quantile = |q| latencies.value_at_quantile(q) as f64 / 1e3;
    Ok(Sample {
        per_second: answers / plan.round.as_secs_f64(),
        p50_us: quantile(0.5),
        p99_us: quantile(0.99),
        cpu_us: server_took.as_secs_f64() * 1e6 / answers.max(1.0),
        load_busy: load_took.as_secs_f64() / took.as_secs_f64(),
    })
}

/// Up to a minute in nanoseconds, with three digits.
fn histogram() -> Result<Histogram<u64>> {
    Ok(Histogram::new_with_bounds(1, 60_000_000_000, 3)?)
}

/// One connection, until the window ends.
async fn converse(mut stream: TcpStream, plan: Arc<Plan>, window: Window) -> Result<Histogram<u64>> {
    let mut latencies = histogram()?;
    let mut answer = Vec::with_capacity(plan.expected.len() + 4096);
    loop {
        let sent = Instant::now();
        if sent >= window.ends {
            return Ok(latencies);
        }
        let exchange = async {
            stream.write_all(&plan.request).await?;
            read_answer(&mut stream, &mut answer, &plan.expected).await
        };
        tokio::time::timeout(ANSWER_LIMIT, exchange)
            .await
            .with_context(|| format!("no answer within {} s", ANSWER_LIMIT.as_secs()))??;
        let has = Instant::now();
        if (window.begins..window.ends).contains(&has) {
            latencies.record(u64::try_from(has.duration_since(sent).as_nanos())?)?;
        }
    }
}

/// Reads one answer and holds it against the right one.
async fn read_answer(
    stream: &mut (impl tokio::io::AsyncRead + Unpin),
    answer: &mut Vec<u8>,
    expected: &[u8],
) -> Result<()> {
    answer.clear();
    loop {
        ensure!(answer.len() < MAX_ANSWER_BYTES, "an answer is too long");
        ensure!(stream.read_buf(answer).await? > 0, "the server closed the connection");
        if let Some(body) = whole_body(answer)? {
            ensure!(body == expected, "a wrong answer: {}", String::from_utf8_lossy(answer));
            return Ok(());
        }
    }
}

/// The body of an answer (RFC 9112), once all of it is there. Only what both servers do is understood: a status 200 and a
/// `content-length`.
fn whole_body(answer: &[u8]) -> Result<Option<&[u8]>> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut head = httparse::Response::new(&mut headers);
    let httparse::Status::Complete(head_bytes) = head.parse(answer)? else { return Ok(None) };
    let shown = || String::from_utf8_lossy(answer).into_owned();
    ensure!(head.code == Some(200), "an answer that is not 200: {}", shown());
    let Some(length) = head.headers.iter().find(|h| h.name.eq_ignore_ascii_case("content-length")) else {
        bail!("an answer without content-length: {}", shown());
    };
    let length: usize = std::str::from_utf8(length.value)?.parse()?;
    let body = answer.get(head_bytes..).unwrap_or_default();
    ensure!(body.len() <= length, "more came than one answer: {}", shown());
    Ok((body.len() == length).then_some(body))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nbody";

    async fn read(mut wire: &[u8]) -> Result<()> {
        read_answer(&mut wire, &mut Vec::new(), b"body").await
    }

    #[tokio::test]
    async fn the_right_answer_is_read_in_pieces() {
        read(ANSWER).await.unwrap();
        for cut in 1..ANSWER.len() {
            let (first, second) = ANSWER.split_at(cut);
            read_answer(&mut first.chain(second), &mut Vec::new(), b"body").await.unwrap();
        }
    }

    #[tokio::test]
    async fn whatever_is_not_the_right_answer_fails_the_bench() {
        for (wire, says) in [
            (&b"HTTP/1.1 503 Busy\r\ncontent-length: 4\r\n\r\nbody"[..], "not 200"),
            (b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nbodi", "a wrong answer"),
            (b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nbody", "more came"),
            (b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nbody", "closed"),
            (b"HTTP/1.1 200 OK\r\n\r\n", "without content-length"),
            (b"", "closed"),
        ] {
            let error = read(wire).await.unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
        }
    }
}
